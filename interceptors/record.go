package interceptors

import (
	"context"
	"errors"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// maxCause bounds the words of a cause in a record.
const maxCause = 256

// recordTimeout bounds the wait for an outcome record whose call has no context left.
const recordTimeout = 10 * time.Second

// classOf maps the class that a method declares onto that of the log.
func classOf(m *Method) audit.Class {
	switch m.audit() {
	case v1.AuditClass_AUDIT_CLASS_BUFFERED:
		return audit.Buffered
	case v1.AuditClass_AUDIT_CLASS_DURABLE_BEFORE_REPLY:
		return audit.Reply
	default:
		return audit.Effect
	}
}

// recordIntent writes the intent record of an allowed call, or, with why, of a refused one. The handler runs only when it
// returns nil.
func (in *Interaction) recordIntent(ctx context.Context, class audit.Class, why *Denial) *Denial {
	d := in.e.draft()
	defer in.e.discard(d)
	ev := in.intentEvent(d)
	ev.Decision = v1.EventDecision_EVENT_DECISION_ALLOW
	if why != nil {
		ev.Decision, ev.Reason, ev.WireReason, ev.Cause = v1.EventDecision_EVENT_DECISION_DENY, why.Reason, why.Wire(), causeOf(why.Err)
	}
	if class == audit.Reply {
		class = audit.Buffered // the durable outcome makes its intent durable too
	}
	var chain audit.Speller
	if in.leaf != nil {
		chain = (*spelling)(in)
	}
	pos, err := in.e.append(ctx, class, ev, chain)
	if pos != (audit.Position{}) {
		in.pos = pos
		in.intent.Store(&in.pos) // also with an error: the record was accepted and must not be written twice
	}
	if err != nil {
		reason := v1.Reason_REASON_AUDIT_FULL
		switch {
		case errors.Is(err, audit.ErrPoisoned):
			reason = v1.Reason_REASON_AUDIT_POISONED
		case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			reason = v1.Reason_REASON_CANCELLED
		}
		return deny(reason, err)
	}
	return nil
}

// recordOutcome writes the outcome record, after an intent record where refusal came before one. The context of the call may be
// over; the record is not.
func (in *Interaction) recordOutcome(err error) error {
	in.mu.Lock()
	why := in.denial
	in.mu.Unlock()
	if in.atGate && why != nil && !in.e.countRefusal(in.who(), why.Reason) {
		return nil // one of a flood: it is a number in the next record of its kind
	}
	class := classOf(in.method)
	if why != nil || in.method == nil {
		class = in.denialClass(why)
	}
	admitted := in.intent.Load() != nil
	if !admitted {
		if why == nil {
			why = &Denial{Code: CodeOf(err), Reason: reasonOfHandler(err), Err: err}
		}
		ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
		defer cancel()
		if d := in.recordIntent(ctx, audit.Buffered, why); d != nil {
			return d
		}
	}
	d := in.e.draft()
	defer in.e.discard(d)
	ev := in.outcomeEvent(d, err)
	ev.Decision = v1.EventDecision_EVENT_DECISION_ALLOW
	switch {
	case why != nil:
		ev.Reason, ev.WireReason, ev.Cause = why.Reason, why.Wire(), causeOf(why.Err)
		if !admitted || why.Reason != v1.Reason_REASON_HANDLER_PANIC { // a panic after admission does not undo the decision
			ev.Decision = v1.EventDecision_EVENT_DECISION_DENY
		}
		ev.Outcome.Code = uint32(why.Code)
	case err != nil:
		ev.Reason, ev.Cause = reasonOfHandler(err), causeOf(err)
	}
	return in.e.settle(class, ev)
}

// denialClass makes the first refusals of one peer and reason in a second durable; a flood is recorded, but buys no fsyncs.
func (in *Interaction) denialClass(why *Denial) audit.Class {
	k := refusalKey{peer: in.who()}
	if why != nil {
		k.reason = why.Reason
	}
	own, _ := in.e.denials.single(k, in.e.cfg.Now())
	if own {
		return audit.Effect
	}
	return audit.Buffered
}

// who is the peer that refusals are counted against.
func (in *Interaction) who() string {
	if in.call.Session != nil {
		return in.call.Session.peer.ID.String()
	}
	return in.call.Peer
}

func reasonOfHandler(err error) v1.Reason {
	switch {
	case errors.Is(err, ErrUnfinished):
		return v1.Reason_REASON_HANDLER_UNFINISHED
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return v1.Reason_REASON_CANCELLED
	}
	var d *Denial
	if errors.As(err, &d) {
		return d.Reason
	}
	return v1.Reason_REASON_HANDLER_ERROR
}

// CodeOf returns the code that a peer sees for err.
func CodeOf(err error) Code {
	if err == nil {
		return CodeOK // before the variables below, which errors.As moves to the heap
	}
	var d *Denial
	var p *PublicError
	c, own := err.(interface{ WireCode() Code }) // only the error itself: what it wraps is not what the peer sees.
	switch {
	case errors.As(err, &d):
		return d.Code
	case errors.As(err, &p):
		if p.Code == CodeOK || p.Code > CodeUnauthenticated {
			return CodeInternal // an error never looks like success
		}
		return p.Code
	case own:
		return c.WireCode()
	case errors.Is(err, context.Canceled):
		return CodeCanceled
	case errors.Is(err, context.DeadlineExceeded):
		return CodeDeadlineExceeded
	}
	return CodeInternal
}

// head fills what both records of the call say.
func (in *Interaction) head(ev *v1.AuditEvent, phase v1.EventPhase) {
	ev.Kind, ev.Phase, ev.Direction = v1.EventKind_EVENT_KIND_CALL, phase, v1.EventDirection_EVENT_DIRECTION_INBOUND
	ev.InteractionId, ev.DecisionId = in.id[:], in.id[:]
	ev.Tenant = in.e.cfg.Self.Tenant().Name()
	if s := in.call.Session; s != nil && ev.Tenant == "" {
		ev.Tenant = s.peer.Tenant.Name()
	}
}

// intentEvent fills what the intent record says. What follows from the chain is left to spelling, the callee too: its last delegate.
func (in *Interaction) intentEvent(d *draft) *v1.AuditEvent {
	ev := &d.ev
	in.head(ev, v1.EventPhase_EVENT_PHASE_INTENT)
	ev.Method, ev.Transport = clip(in.call.Procedure), in.call.Transport.String()
	if s := in.call.Session; s != nil {
		ev.Actor, ev.PeerTenant = s.party(), s.peer.Tenant.Name()
	}
	if in.method != nil {
		ev.Action = in.method.Intent.GetAction()
	}
	in.fromEnvelope(ev)
	in.recordProof(ev)
	if in.leaf != nil {
		ev.ChainRef = in.link[:]
	} else {
		ev.Peer = in.e.party
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	ev.Resource, in.recorded = in.resource, in.resource
	if in.question.asked {
		in.question.fill(d, in.claimed, in.decision.Effective)
		ev.Policies, ev.PolicySerial = in.decision.Policies, in.decision.Serial
		if in.decision.Serial != 0 {
			ev.PolicySha256 = in.decision.SHA256[:]
		}
	}
	return ev
}

// outcomeEvent fills what the outcome record says and the intent record does not. It names the caller too, which makes it worth
// something where the segment of its intent is not there any more.
func (in *Interaction) outcomeEvent(d *draft, err error) *v1.AuditEvent {
	ev := &d.ev
	in.head(ev, v1.EventPhase_EVENT_PHASE_OUTCOME)
	if s := in.call.Session; s != nil {
		ev.Actor = s.name
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if !equalPath(in.resource, in.recorded) { // a later message of a stream asked for another one
		ev.Resource = in.resource
	}
	out := d.end()
	out.Code, out.BytesIn, out.BytesOut = uint32(CodeOf(err)), in.in.bytes, in.out.bytes
	out.MessagesIn, out.MessagesOut = in.in.messages-min(in.ahead, in.in.messages), in.out.messages
	out.DurationUs = uint64(max(in.e.cfg.Now().Sub(in.started), 0).Microseconds()) //nolint:gosec // G115: clamped at zero.
	ev.Outcome = out
	in.receipt.record(ev)
	return ev
}

// spelling adds what follows from the chain of an interaction.
type spelling Interaction

// Spell implements audit.Speller.
func (s *spelling) Spell(ev *audit.Event) {
	ev.Chain, ev.Presented = s.leaf.Links(), s.leaf.Chain()
	ev.ChainId, ev.Depth, ev.MaxDepth = s.chainID[:], s.leaf.Depth(), s.leaf.MaxDepth()
	ev.Origin, ev.TaskId, ev.Peer = s.leaf.Principal(), s.leaf.TaskID(), s.e.party
}

// fromEnvelope copies what the envelope claims, each part only when it keeps its bounds: the record must hold for hostile input.
func (in *Interaction) fromEnvelope(ev *v1.AuditEvent) {
	env := in.env
	if env == nil {
		return
	}
	for _, f := range []struct {
		dst *[]byte
		src []byte
		n   int
	}{
		{&ev.EnvelopeId, env.GetId(), 16},
		{&ev.CausationId, env.GetCausation(), 16},
		{&ev.ConversationId, env.GetConversation(), 16},
		{&ev.TraceId, env.GetTrace().GetTraceId(), 16},
		{&ev.SpanId, env.GetTrace().GetSpanId(), 8},
	} {
		if len(f.src) == f.n {
			*f.dst = f.src
		}
	}
	ev.DeadlineUnixMs = env.GetDeadlineUnixMs()
	ev.RequestBytes = uint64(len(env.GetPayload()))
	if p := env.GetIntent().GetPurpose(); len(p) <= maxPurpose && printable(p) {
		ev.Purpose = p
	}
	if a := env.GetIntent().GetAction(); ev.Action == "" && policy.ValidAction(a) {
		ev.Action = a
	}
}

// recordRefusal writes one record of a refusal before any call; n counts further ones like it.
func (e *Enforcer) recordRefusal(peer string, d *Denial, n uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	ev := &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED, Phase: v1.EventPhase_EVENT_PHASE_OUTCOME,
		Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND, DecisionId: d.DecisionID[:], InteractionId: d.DecisionID[:],
		Tenant: e.cfg.Self.Tenant().Name(), Actor: &v1.Party{SpiffeId: peer}, Peer: &v1.Party{SpiffeId: e.cfg.Self.String()},
		Decision: v1.EventDecision_EVENT_DECISION_DENY, Reason: d.Reason, WireReason: d.Wire(), Cause: causeOf(d.Err), RepeatedCount: n,
	}
	// A refusal stands whether or not its record does: nothing was let through.
	_, _ = e.cfg.Audit.Append(ctx, audit.Buffered, ev)
}

func causeOf(err error) string {
	if err == nil {
		return ""
	}
	return clip(err.Error())
}

// clip bounds a string and makes its control characters harmless.
func clip(s string) string {
	if len(s) > maxCause {
		s = s[:maxCause]
	}
	if printable(s) {
		return s
	}
	out := []rune(s)
	for i, r := range out {
		if unicode.IsControl(r) || r == utf8.RuneError {
			out[i] = '?'
		}
	}
	return string(out)
}
