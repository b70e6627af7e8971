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
	ev      *v1.AuditEvent
	class   audit.Class
	pos     audit.Position
	closed  atomic.Bool
}

// OpenOutgoing records the intent to send env to callee. Nothing may be sent when it returns an error.
func (e *Enforcer) OpenOutgoing(ctx context.Context, callee identity.AgentID, env *v1.Envelope, leaf *delegation.Leaf, m *Method) (*Outgoing, error) {
	o := &Outgoing{e: e, id: randomID(), started: e.cfg.Now(), class: classOf(m)}
	o.ev = &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_CALL, Phase: v1.EventPhase_EVENT_PHASE_INTENT, Direction: v1.EventDirection_EVENT_DIRECTION_OUTBOUND,
		InteractionId: o.id[:], DecisionId: o.id[:], EnvelopeId: env.GetId(), CausationId: env.GetCausation(), ConversationId: env.GetConversation(),
		Method: env.GetMethod(), Action: env.GetIntent().GetAction(), Purpose: env.GetIntent().GetPurpose(), Resource: env.GetIntent().GetResource(),
		Tenant: e.cfg.Self.Tenant().Name(), PeerTenant: callee.Tenant().Name(), Transport: "deliver",
		Actor: &v1.Party{SpiffeId: e.cfg.Self.String()}, Peer: &v1.Party{SpiffeId: callee.String()},
		Decision: v1.EventDecision_EVENT_DECISION_ALLOW, ControlClaimed: env.GetControl(), DeadlineUnixMs: env.GetDeadlineUnixMs(),
		RequestBytes: uint64(len(env.GetPayload())),
	}
	if rec := e.cfg.Registry.Agent(e.cfg.Self); rec != nil {
		o.ev.Actor.AgentClass = rec.Class
	}
	if leaf != nil {
		chainID := leaf.ChainID()
		o.ev.ChainId, o.ev.Depth, o.ev.MaxDepth, o.ev.Origin, o.ev.TaskId = chainID[:], leaf.Depth()+1, leaf.MaxDepth(), leaf.Principal(), leaf.TaskID()
	}
	class := o.class
	if class == audit.Reply {
		class = audit.Buffered
	}
	pos, err := e.cfg.Audit.Append(ctx, class, o.ev)
	if err != nil {
		d := denyf(v1.Reason_REASON_AUDIT_UNAVAILABLE, "intent record of an outgoing call: %w", err)
		d.DecisionID = o.id
		return nil, d
	}
	o.pos = pos
	return o, nil
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
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	ev := &v1.AuditEvent{
		Kind: o.ev.GetKind(), Phase: v1.EventPhase_EVENT_PHASE_OUTCOME, Direction: o.ev.GetDirection(), InteractionId: o.id[:], DecisionId: o.id[:],
		EnvelopeId: o.ev.GetEnvelopeId(), CausationId: o.ev.GetCausationId(), ConversationId: o.ev.GetConversationId(), Method: o.ev.GetMethod(),
		Action: o.ev.GetAction(), Resource: o.ev.GetResource(), Tenant: o.ev.GetTenant(), PeerTenant: o.ev.GetPeerTenant(),
		Transport: o.ev.GetTransport(), Actor: o.ev.GetActor(), Peer: o.ev.GetPeer(), Origin: o.ev.GetOrigin(), ChainId: o.ev.GetChainId(),
		Decision: v1.EventDecision_EVENT_DECISION_ALLOW, PeerReceipt: receipt,
		Outcome: &v1.Outcome{
			Code: uint32(CodeOf(err)), BytesOut: o.ev.GetRequestBytes(), BytesIn: uint64(bytesIn), //nolint:gosec // G115: a length.
			DurationUs: uint64(max(o.e.cfg.Now().Sub(o.started), 0).Microseconds()), //nolint:gosec // G115: clamped at zero.
		},
	}
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
	if _, aerr := o.e.cfg.Audit.Append(ctx, o.class, ev); aerr != nil {
		d := denyf(v1.Reason_REASON_OUTCOME_UNKNOWN, "outcome record of an outgoing call: %w", aerr)
		d.DecisionID = o.id
		return d
	}
	return nil
}
