package interceptors

import (
	"context"
	"errors"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
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
	ev := in.event(v1.EventPhase_EVENT_PHASE_INTENT)
	ev.Decision = v1.EventDecision_EVENT_DECISION_ALLOW
	if why != nil {
		ev.Decision, ev.Reason, ev.WireReason, ev.Cause = v1.EventDecision_EVENT_DECISION_DENY, why.Reason, why.Wire(), causeOf(why.Err)
	}
	if class == audit.Reply {
		class = audit.Buffered // the durable outcome makes its intent durable too
	}
	pos, err := in.append(ctx, class, ev)
	if pos != (audit.Position{}) {
		in.intent.Store(&pos) // also with an error: the record was accepted and must not be written twice
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
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
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
		if d := in.recordIntent(ctx, audit.Buffered, why); d != nil {
			return d
		}
	}
	ev := in.event(v1.EventPhase_EVENT_PHASE_OUTCOME)
	ev.Decision = v1.EventDecision_EVENT_DECISION_ALLOW
	ev.Outcome = in.outcome(err)
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
	_, aerr := in.append(ctx, class, ev)
	return aerr
}

// append writes a record, and a shorter one where the log cannot take the whole: a refusal must leave a trace whatever the peer sent.
func (in *Interaction) append(ctx context.Context, class audit.Class, ev *v1.AuditEvent) (audit.Position, error) {
	pos, err := in.e.cfg.Audit.Append(ctx, class, ev)
	if errors.Is(err, audit.ErrTooLarge) || errors.Is(err, audit.ErrInvalid) {
		ev.Resource, ev.Policies, ev.DecisionInput, ev.Chain, ev.ControlClaimed, ev.ControlEffective = nil, nil, nil, nil, nil, nil
		ev.Method, ev.Purpose = clip(ev.GetMethod()), clip(ev.GetPurpose())
		return in.e.cfg.Audit.Append(ctx, class, ev)
	}
	return pos, err
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

func (in *Interaction) outcome(err error) *v1.Outcome {
	in.mu.Lock()
	defer in.mu.Unlock()
	return &v1.Outcome{
		Code: uint32(CodeOf(err)), BytesIn: in.in.bytes, BytesOut: in.out.bytes, MessagesIn: in.in.messages - min(in.ahead, in.in.messages), MessagesOut: in.out.messages,
		DurationUs: uint64(max(in.e.cfg.Now().Sub(in.started), 0).Microseconds()), //nolint:gosec // G115: clamped at zero.
	}
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

// event fills what every record of the call says.
func (in *Interaction) event(phase v1.EventPhase) *v1.AuditEvent {
	ev := &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_CALL, Phase: phase, Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND,
		InteractionId: in.id[:], DecisionId: in.id[:], Method: clip(in.call.Procedure), Transport: in.call.Transport.String(),
		Peer: in.e.party,
	}
	if s := in.call.Session; s != nil {
		record, _ := s.record()
		ev.Actor = party(&s.peer, record)
		ev.PeerTenant = s.peer.Tenant.Name()
	}
	ev.Tenant = in.e.cfg.Self.Tenant().Name()
	if ev.Tenant == "" {
		ev.Tenant = ev.PeerTenant
	}
	if in.method != nil {
		ev.Action = in.method.Intent.GetAction()
	}
	in.fromEnvelope(ev)
	if leaf := in.leaf; leaf != nil {
		ev.ChainId, ev.ChainRef, ev.Depth, ev.MaxDepth = in.chainID[:], in.link[:], leaf.Depth(), leaf.MaxDepth()
		ev.Origin, ev.TaskId = in.origin, leaf.TaskID()
		if phase == v1.EventPhase_EVENT_PHASE_INTENT {
			ev.Chain = leaf.Links()
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	ev.Resource = in.resource
	if phase == v1.EventPhase_EVENT_PHASE_INTENT && in.input != nil {
		ev.DecisionInput, ev.ControlClaimed, ev.ControlEffective = in.input, in.input.GetControl(), in.decision.Effective.Proto()
		ev.Policies, ev.PolicySerial = in.decision.Policies, in.decision.Serial
		if in.decision.Serial != 0 {
			sum := in.decision.SHA256
			ev.PolicySha256 = sum[:]
		}
	}
	return ev
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

func party(p *identity.Peer, rec *identity.Record) *v1.Party {
	out := &v1.Party{SpiffeId: p.ID.String(), CertSha256: p.CertID[:], Serial: p.Serial}
	if rec != nil {
		out.AgentClass = rec.Class
	}
	return out
}

func decisionInput(r *policy.Request, self identity.AgentID, now time.Time) *v1.DecisionInput {
	links := r.Leaf.Links()
	in := &v1.DecisionInput{
		Principal: r.Peer.ID.String(), Action: r.Action, Resource: r.Resource, Callee: self.String(), Tenant: r.Peer.Tenant.Name(),
		Origin: r.Leaf.Principal().GetSubject(), Purpose: r.Purpose, Capabilities: links[len(links)-1].GetCapabilities(), Control: r.Claimed.Proto(),
		MinIntegrity: r.MinIntegrity, Depth: r.Leaf.Depth(), MaxDepth: r.Leaf.MaxDepth(), NowUnixMs: now.UnixMilli(),
	}
	if in.MinIntegrity == v1.Integrity_INTEGRITY_UNSPECIFIED {
		in.MinIntegrity = v1.Integrity_INTEGRITY_ATTESTED
	}
	if r.Record != nil {
		in.PrincipalClass, in.PrincipalState, in.IntegrityCap = r.Record.Class, r.Record.State.String(), v1.Integrity(r.Record.IntegrityCap)
	}
	return in
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
