package interceptors

import (
	"context"
	"crypto/rand"
	"errors"
	"sync/atomic"
	"time"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// Root returns a context for work that no incoming call caused: it acts under leaf, in a new conversation that starts at l, or
// worse when ctx is that of a handler that has read worse.
// Calls made with it extend leaf's chain.
func (e *Enforcer) Root(ctx context.Context, leaf *delegation.Leaf, purpose string, l policy.Label) (context.Context, *Interaction) {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	in := &Interaction{e: e, id: randomID(), started: e.cfg.Now(), leaf: leaf, purpose: purpose}
	if cause, ok := From(ctx); ok { // a grant of its own does not wash off what the handler has read
		in.env = cause.env
		if talk := cause.Conversation(); talk != nil {
			l = policy.Join(l, talk.Label())
		}
	}
	in.talk.Store(&Conversation{id: id, label: l, used: e.cfg.Now(), peer: e.cfg.Self})
	return context.WithValue(ctx, interactionKey{}, in), in
}

// Outgoing is one call that this endpoint makes: an intent record before it is sent, an outcome record when it has ended.
type Outgoing struct {
	e       *Enforcer
	id      [16]byte
	started time.Time
	callee  identity.AgentID
	chainID [16]byte
	sent    uint64 // bytes of the request
	class   audit.Class
	pos     audit.Position
	receipt *signedReceipt
	closed  atomic.Bool
}

// OpenOutgoing records the intent to send env to callee. Nothing may be sent when it returns an error.
func (e *Enforcer) OpenOutgoing(ctx context.Context, callee identity.AgentID, env *v1.Envelope, leaf *delegation.Leaf, m *Method) (*Outgoing, error) {
	o := &Outgoing{e: e, id: randomID(), started: e.cfg.Now(), callee: callee, sent: uint64(len(env.GetPayload())), class: classOf(m)}
	d := e.draft()
	defer e.discard(d)
	ev := o.head(d, v1.EventPhase_EVENT_PHASE_INTENT)
	ev.EnvelopeId, ev.CausationId, ev.ConversationId = env.GetId(), env.GetCausation(), env.GetConversation()
	ev.Method, ev.Action, ev.Purpose, ev.Resource = env.GetMethod(), env.GetIntent().GetAction(), env.GetIntent().GetPurpose(), env.GetIntent().GetResource()
	ev.PeerTenant, ev.Transport, ev.Actor = callee.Tenant().Name(), TransportDeliver.String(), e.ownParty()
	ev.Decision, ev.ControlClaimed = v1.EventDecision_EVENT_DECISION_ALLOW, env.GetControl()
	ev.DeadlineUnixMs, ev.RequestBytes = env.GetDeadlineUnixMs(), o.sent
	if p := env.GetProof(); p != nil {
		ev.InvocationJti = delegation.ClaimedJTI(p)
	}
	if leaf != nil {
		o.chainID = leaf.ChainID()
		ev.ChainId, ev.Depth, ev.MaxDepth, ev.Origin, ev.TaskId = o.chainID[:], leaf.Depth()+1, leaf.MaxDepth(), leaf.Principal(), leaf.TaskID()
	}
	class := o.class
	if class == audit.Reply {
		class = audit.Buffered
	}
	pos, err := e.cfg.Audit.Append(ctx, class, ev)
	if err != nil {
		d := denyf(v1.Reason_REASON_AUDIT_UNAVAILABLE, "intent record of an outgoing call: %w", err)
		d.DecisionID = o.id
		return nil, d
	}
	o.pos = pos
	return o, nil
}

// head fills what both records of the call say. The callee's name makes an outcome worth something where the segment of its intent
// is not there any more.
func (o *Outgoing) head(d *draft, phase v1.EventPhase) *v1.AuditEvent {
	ev := &d.ev
	ev.Kind, ev.Phase, ev.Direction = v1.EventKind_EVENT_KIND_CALL, phase, v1.EventDirection_EVENT_DIRECTION_OUTBOUND
	ev.InteractionId, ev.DecisionId, ev.Tenant = o.id[:], o.id[:], o.e.cfg.Self.Tenant().Name()
	ev.Peer = d.other(o.callee.String())
	return ev
}

// ownParty returns the endpoint as the records of its own calls name it.
func (e *Enforcer) ownParty() *v1.Party {
	generation := e.cfg.Registry.Generation()
	pin := e.own.Load()
	if pin == nil || pin.generation != generation {
		pin = &pinnedRecord{generation: generation, record: e.cfg.Registry.Agent(e.cfg.Self)}
		pin.party = &v1.Party{SpiffeId: e.cfg.Self.String()}
		if pin.record != nil {
			pin.party.AgentClass = pin.record.Class
		}
		e.own.Store(pin)
	}
	return pin.party
}

// Position returns where the intent record stands.
func (o *Outgoing) Position() audit.Position { return o.pos }

// RemoteError is a refusal or failure that the callee answered with.
type RemoteError interface {
	error
	WireCode() Code
	WireReason() v1.Reason
	RemoteDecision() []byte
}

// Close records how the call ended, once: err as the caller saw it, and the callee's coordinates.
func (o *Outgoing) Close(err error, receipt *v1.AuditReceipt, bytesIn int) error {
	if o.closed.Swap(true) {
		return nil
	}
	d := o.e.draft()
	defer o.e.discard(d)
	ev := o.head(d, v1.EventPhase_EVENT_PHASE_OUTCOME)
	ev.Decision, ev.PeerReceipt = v1.EventDecision_EVENT_DECISION_ALLOW, receipt
	out := d.end()
	out.Code, out.BytesOut, out.BytesIn = uint32(CodeOf(err)), o.sent, uint64(bytesIn) //nolint:gosec // G115: a length.
	out.DurationUs = uint64(max(o.e.cfg.Now().Sub(o.started), 0).Microseconds())       //nolint:gosec // G115: clamped at zero.
	ev.Outcome = out
	o.receipt.record(ev)
	if err != nil {
		ev.Cause = causeOf(err)
		var re RemoteError
		if errors.As(err, &re) && re.WireReason() != 0 {
			ev.Decision, ev.Reason, ev.WireReason = v1.EventDecision_EVENT_DECISION_DENY, re.WireReason(), re.WireReason()
			if d := re.RemoteDecision(); len(d) == 16 {
				ev.DecisionId = d
			}
		}
	}
	if aerr := o.e.settle(o.class, ev); aerr != nil {
		d := denyf(v1.Reason_REASON_OUTCOME_UNKNOWN, "outcome record of an outgoing call: %w", aerr)
		d.DecisionID = o.id
		return d
	}
	return nil
}
