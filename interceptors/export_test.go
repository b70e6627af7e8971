package interceptors

import (
	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// WholeRecord returns what a record of the call would say if nothing were left to other records or other fields: the yardstick for
// audit.Expander. Times, ids of the log and what only the end of a call knows are left out.
func (in *Interaction) WholeRecord(phase v1.EventPhase) *v1.AuditEvent {
	ev := &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_CALL, Phase: phase, Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND,
		InteractionId: in.id[:], DecisionId: in.id[:], Method: clip(in.call.Procedure), Transport: in.call.Transport.String(),
		Peer: &v1.Party{SpiffeId: in.e.cfg.Self.String()}, Tenant: in.e.cfg.Self.Tenant().Name(),
	}
	intent := phase == v1.EventPhase_EVENT_PHASE_INTENT
	if s := in.call.Session; s != nil {
		record, _ := s.record()
		ev.Actor = &v1.Party{SpiffeId: s.peer.ID.String(), CertSha256: s.peer.CertID[:], Serial: s.peer.Serial, AgentClass: record.Class}
		ev.PeerTenant = s.peer.Tenant.Name()
	}
	if in.method != nil {
		ev.Action = in.method.Intent.GetAction()
	}
	in.fromEnvelope(ev)
	if leaf := in.leaf; leaf != nil {
		ev.ChainId, ev.ChainRef, ev.Depth, ev.MaxDepth = in.chainID[:], in.link[:], leaf.Depth(), leaf.MaxDepth()
		ev.Origin, ev.TaskId = leaf.Principal(), leaf.TaskID()
		if intent {
			ev.Chain = leaf.Links()
		}
	}
	ev.Resource = in.resource
	if intent {
		ev.Resource = in.recorded
	}
	if intent && in.question.asked {
		ev.DecisionInput = in.wholeInput(ev.GetResource())
		ev.ControlClaimed, ev.ControlEffective = in.claimed.Proto(), in.decision.Effective.Proto()
		ev.Policies, ev.PolicySerial = in.decision.Policies, in.decision.Serial
		if in.decision.Serial != 0 {
			ev.PolicySha256 = in.decision.SHA256[:]
		}
	}
	return ev
}

// wholeInput is everything that the policy was asked.
func (in *Interaction) wholeInput(resource []string) *v1.DecisionInput {
	s, links := in.call.Session, in.leaf.Links()
	out := &v1.DecisionInput{
		Principal: s.peer.ID.String(), Action: in.method.Intent.GetAction(), Resource: resource, Callee: in.e.cfg.Self.String(),
		Tenant: s.peer.Tenant.Name(), Origin: in.leaf.Principal().GetSubject(), Purpose: in.env.GetIntent().GetPurpose(),
		Capabilities: links[len(links)-1].GetCapabilities(), Control: in.claimed.Proto(),
		MinIntegrity: in.question.floor, Depth: in.leaf.Depth(), MaxDepth: in.leaf.MaxDepth(), NowUnixMs: in.question.at.UnixMilli(),
	}
	if r := in.question.registered; r != nil {
		out.PrincipalClass, out.PrincipalState, out.IntegrityCap = r.Class, r.State.String(), v1.Integrity(r.IntegrityCap)
	}
	return out
}

// WholeOutgoing is WholeRecord for a call that this endpoint makes.
func (o *Outgoing) WholeOutgoing(env *v1.Envelope, leaf *delegation.Leaf, callee identity.AgentID, phase v1.EventPhase) *v1.AuditEvent {
	chainID := leaf.ChainID()
	ev := &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_CALL, Phase: phase, Direction: v1.EventDirection_EVENT_DIRECTION_OUTBOUND,
		InteractionId: o.id[:], DecisionId: o.id[:], EnvelopeId: env.GetId(), CausationId: env.GetCausation(), ConversationId: env.GetConversation(),
		Method: env.GetMethod(), Action: env.GetIntent().GetAction(), Resource: env.GetIntent().GetResource(), Purpose: env.GetIntent().GetPurpose(),
		Tenant: o.e.cfg.Self.Tenant().Name(), PeerTenant: callee.Tenant().Name(), Transport: "deliver",
		Actor: &v1.Party{SpiffeId: o.e.cfg.Self.String(), AgentClass: o.e.cfg.Registry.Agent(o.e.cfg.Self).Class}, Peer: &v1.Party{SpiffeId: callee.String()},
		Decision: v1.EventDecision_EVENT_DECISION_ALLOW, DeadlineUnixMs: env.GetDeadlineUnixMs(), RequestBytes: uint64(len(env.GetPayload())),
		ChainId: chainID[:], Depth: leaf.Depth() + 1, MaxDepth: leaf.MaxDepth(), Origin: leaf.Principal(), TaskId: leaf.TaskID(),
	}
	if phase == v1.EventPhase_EVENT_PHASE_INTENT {
		ev.ControlClaimed = env.GetControl()
	}
	return ev
}
