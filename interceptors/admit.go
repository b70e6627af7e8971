package interceptors

import (
	"bytes"
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/mutant"
	"github.com/safeconduct/safeconduct/policy"
)

// Admit passes one received message: every one of a stream, before anyone else sees it. The envelope is the message's own
// `envelope` field or, failing that, the call's metadata.
func (in *Interaction) Admit(ctx context.Context, msg any) (Admitted, error) {
	m, _ := msg.(proto.Message)
	env, d := in.findEnvelope(msg)
	if d != nil {
		return Admitted{}, in.refuse(d)
	}
	return in.admit(ctx, env, m, false)
}

// AdmitBare passes a message that by its nature carries no envelope, such as a health check. The method must be open.
func (in *Interaction) AdmitBare(ctx context.Context) error {
	if in.method == nil || in.call.Session == nil || !in.method.Intent.GetOpen() {
		return in.refuse(denyf(v1.Reason_REASON_NO_ENVELOPE, "%q is not open", in.call.Procedure))
	}
	now := in.e.cfg.Now()
	first, refused := in.count(nil)
	switch {
	case refused != nil:
		return refused
	case !first:
		return nil
	}
	in.until = now.Add(maxDeadline)
	if d := in.recordIntent(ctx, audit.Buffered, nil); d != nil {
		return in.refuse(d)
	}
	return nil
}

// AdmitCarried passes a message that came inside an Envelope, decoded to req.
func (in *Interaction) AdmitCarried(ctx context.Context, env *v1.Envelope, req proto.Message) (Admitted, error) {
	if inner, ok := req.(interface{ GetEnvelope() *v1.Envelope }); ok && inner.GetEnvelope() != nil {
		return Admitted{}, in.refuse(denyf(v1.Reason_REASON_MALFORMED, "an envelope inside the request inside an envelope"))
	}
	return in.admit(ctx, env, req, true)
}

// CheckCarried holds the bounds of a carried Envelope, so that a payload is decoded only when they are kept.
func (in *Interaction) CheckCarried(env *v1.Envelope) error {
	if d := checkShape(env); d != nil {
		return in.refuse(d)
	}
	if d := checkCarried(env, in.method); d != nil {
		return in.refuse(d)
	}
	in.sound = env
	return nil
}

func (in *Interaction) findEnvelope(msg any) (*v1.Envelope, *Denial) {
	var env *v1.Envelope
	if own, ok := msg.(interface{ GetEnvelope() *v1.Envelope }); ok {
		env = own.GetEnvelope()
	}
	if len(in.call.Metadata) == 0 {
		if env == nil && in.in.messages > 0 && in.env != nil {
			return in.env, nil // later messages of a stream ride on the first one's envelope
		}
		if env == nil && !mutant.Off(mutant.NoEnvelope) {
			return nil, denyf(v1.Reason_REASON_NO_ENVELOPE, "neither the request nor the metadata carries an envelope")
		}
		return env, nil
	}
	if len(in.call.Metadata) > MaxMetadata {
		return nil, denyf(v1.Reason_REASON_LIMIT, "envelope of %d bytes in metadata", len(in.call.Metadata))
	}
	var meta v1.Envelope
	if err := proto.Unmarshal(in.call.Metadata, &meta); err != nil {
		return nil, denyf(v1.Reason_REASON_MALFORMED, "envelope in metadata: %w", err)
	}
	if env != nil && !proto.Equal(env, &meta) {
		return nil, denyf(v1.Reason_REASON_MALFORMED, "two different envelopes")
	}
	return &meta, nil
}

func (in *Interaction) admit(ctx context.Context, env *v1.Envelope, req proto.Message, carried bool) (_ Admitted, err error) {
	defer func() {
		if r := recover(); r != nil { // a bug in the core must deny, not end the process
			err = in.refuse(denyf(v1.Reason_REASON_INTERNAL, "panic in admission: %v", r))
		}
	}()
	if in.method == nil || in.call.Session == nil {
		return Admitted{}, in.refuse(denyf(v1.Reason_REASON_PEER_UNVERIFIED, "admission without an opened call"))
	}
	now := in.e.cfg.Now()
	first, refused := in.count(req)
	if refused != nil {
		return Admitted{}, refused // a handler that reads on after a refusal gets no further message
	}
	if first {
		in.env, in.purpose = env, env.GetIntent().GetPurpose()
	} else if d := in.later(env, now); d != nil {
		return Admitted{}, in.refuse(d)
	}
	if d := in.decide(ctx, env, req, carried, first, now); d != nil {
		return Admitted{}, in.refuse(d)
	}
	return Admitted{in}, nil
}

// count notes one received message. It reports whether it is the call's first, and the refusal that stands already.
func (in *Interaction) count(req proto.Message) (first bool, refused error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.denial != nil {
		return false, in.denial
	}
	first = in.in.messages == 0
	in.in.messages++
	if req != nil {
		in.in.bytes += uint64(proto.Size(req)) //nolint:gosec // G115: a size is never negative.
	}
	return first, nil
}

// later runs what every further message of a stream must pass again before its own checks.
func (in *Interaction) later(env *v1.Envelope, now time.Time) *Denial {
	if env != in.env && (!bytes.Equal(env.GetId(), in.env.GetId()) || !bytes.Equal(env.GetConversation(), in.env.GetConversation()) ||
		!bytes.Equal(env.GetCausation(), in.env.GetCausation())) {
		return denyf(v1.Reason_REASON_MALFORMED, "a later message carries another envelope")
	}
	if d := in.call.Session.refresh(in.e, now); d != nil {
		return d
	}
	if d := in.call.Session.second(); d != nil {
		return d
	}
	return in.call.Session.gate(now)
}

// decide is the ordered list of checks for one message.
func (in *Interaction) decide(ctx context.Context, env *v1.Envelope, req proto.Message, carried, first bool, now time.Time) *Denial {
	self, peer := in.e.cfg.Self, in.call.Session.peer
	sound := carried && env == in.sound // the same object, checked before its payload was decoded
	if !sound {
		if d := checkShape(env); d != nil {
			return d
		}
	}
	if env.GetMethod() != in.call.Procedure {
		return denyf(v1.Reason_REASON_MALFORMED, "envelope names method %q", env.GetMethod())
	}
	var d *Denial
	switch {
	case sound:
	case carried:
		d = checkCarried(env, in.method)
	default:
		d = checkGuard(env)
	}
	if d != nil {
		return d
	}
	if d := in.checkProofRule(env, carried); d != nil {
		return d
	}
	if r := env.GetRecipient(); r != "" && r != self.String() {
		return denyf(v1.Reason_REASON_CHAIN_AUDIENCE, "recipient %q", r)
	}
	if t := peer.Tenant; !t.IsZero() && env.GetTenant() != t.Name() && !mutant.Off(mutant.CrossTenant) {
		return denyf(v1.Reason_REASON_TENANT_MISMATCH, "envelope claims tenant %q, the peer is of %s", env.GetTenant(), t)
	}
	deadline, d := checkTime(env, now)
	if d != nil && first {
		return d
	}
	key := directKey(peer.Agent, env.GetId())
	if first && in.e.replay.seen(key, now) && !mutant.Off(mutant.Replay) {
		return denyf(v1.Reason_REASON_REPLAYED, "envelope id was admitted before")
	}
	if first { // a later message cannot stretch the call
		in.until = runUntil(env, deadline, now)
	}
	if in.method.Intent.GetOpen() {
		return in.admitOpen(ctx, env, key, first, now)
	}
	permit, d := in.authorize(env, req, now)
	if d != nil {
		return d
	}
	if first {
		if d := in.commit(ctx, key, now); d != nil {
			return d
		}
	}
	in.converse(env, permit.Control(), now)
	if first {
		in.first = permit
		in.permit.Store(&in.first)
	} else {
		later := permit // so that permit itself need not lie in memory of its own
		in.permit.Store(&later)
	}
	return nil
}

// admitOpen finishes a method that needs no chain.
func (in *Interaction) admitOpen(ctx context.Context, env *v1.Envelope, key [32]byte, first bool, now time.Time) *Denial {
	if env.GetChain() != nil || len(env.GetChainRef()) != 0 {
		return denyf(v1.Reason_REASON_MALFORMED, "a chain on an open method")
	}
	if !first {
		return nil
	}
	return in.commit(ctx, key, now)
}

// authorize verifies the chain, derives the intent from the request, and asks the policy for a Permit.
func (in *Interaction) authorize(env *v1.Envelope, req proto.Message, now time.Time) (none policy.Permit, _ *Denial) {
	peer := in.call.Session.peer
	leaf := in.leaf
	if leaf == nil {
		var d *Denial
		if leaf, d = in.verify(env.GetChain(), env.GetChainRef()); d != nil {
			return none, d
		}
		in.setLeaf(leaf)
	}
	if d := in.checkMembers(leaf); d != nil {
		return none, d
	}
	resource, err := in.method.ResourceOf(req, in.e.resource)
	if err != nil {
		return none, denyf(v1.Reason_REASON_MALFORMED, "resource: %w", err)
	}
	if !policy.ValidResource(resource) { // before it can reach a record
		return none, denyf(v1.Reason_REASON_MALFORMED, "resource of the request is not well formed")
	}
	facts, err := in.method.factsOf(req)
	if err != nil {
		return none, denyf(v1.Reason_REASON_MALFORMED, "facts: %w", err)
	}
	claim, action := env.GetIntent(), in.method.Intent.GetAction()
	in.mu.Lock()
	in.resource = resource
	in.mu.Unlock()
	if claim.GetAction() != action {
		return none, denyf(v1.Reason_REASON_INTENT_MISMATCH, "envelope claims action %q, the method is %q", claim.GetAction(), action)
	}
	if len(claim.GetResource()) > 0 && !equalPath(claim.GetResource(), resource) {
		return none, denyf(v1.Reason_REASON_INTENT_MISMATCH, "envelope claims resource %q, the request is for %q", claim.GetResource(), resource)
	}
	claimed, err := policy.LabelFromProto(env.GetControl())
	if err != nil {
		return none, deny(v1.Reason_REASON_LABEL_UNKNOWN, err)
	}
	in.mu.Lock()
	in.claimed = claimed
	in.mu.Unlock()
	err = in.e.cfg.Verifier.Recheck(leaf, peer, delegation.Intent{Action: action, Resource: resource, Purpose: claim.GetPurpose(), Facts: facts})
	if err != nil {
		return none, denialOf(err, v1.Reason_REASON_CHAIN_INVALID)
	}
	for _, scope := range in.method.Intent.GetScopes() {
		if !leaf.Covers(scope, resource) {
			return none, denyf(v1.Reason_REASON_SCOPE_MISSING, "the method needs %s on %q", scope, resource)
		}
	}
	if d := in.checkProof(env); d != nil {
		return none, d
	}
	return in.askPolicy(env, resource, now)
}

// checkMembers refuses a chain in which an agent that acted before the peer is no longer active: what a contained agent has handed
// on ends with it. Members are looked up once for each chain, connection and state of the registry.
func (in *Interaction) checkMembers(leaf *delegation.Leaf) *Denial {
	s, link := in.call.Session, leaf.Link()
	generation := in.e.cfg.Registry.Generation()
	if s.cleared(link, generation) {
		return nil
	}
	for _, id := range leaf.Members() {
		if id == in.e.cfg.Self {
			continue // the last delegate is this endpoint
		}
		rec := in.e.cfg.Registry.Agent(id)
		if rec == nil || policy.StateReason(rec.State) != 0 {
			return denyf(v1.Reason_REASON_CHAIN_HANDLE_REVOKED, "%s in the chain is not active", id)
		}
	}
	s.clear(link, generation)
	return nil
}

func (in *Interaction) setLeaf(leaf *delegation.Leaf) {
	in.leaf, in.chainID, in.link = leaf, leaf.ChainID(), leaf.Link()
}

func (in *Interaction) askPolicy(env *v1.Envelope, resource []string, now time.Time) (policy.Permit, *Denial) {
	s, m := in.call.Session, in.method.Intent
	record, generation := s.record()
	req := &policy.Request{
		DecisionID: in.id, Peer: s.peer, Record: record, Generation: generation, Leaf: in.leaf,
		Action: m.GetAction(), Resource: resource, Claimed: in.claimed,
		MinIntegrity: m.GetMinIntegrity(), MaxDepth: m.GetMaxDepth(),
		Conversation: env.GetConversation(), Purpose: env.GetIntent().GetPurpose(), NotAfter: in.until,
	}
	if req.NotAfter.After(s.peer.NotAfter) {
		req.NotAfter = s.peer.NotAfter
	}
	permit, decision := in.e.cfg.Engine.Decide(req)
	in.mu.Lock()
	in.decision, in.question = decision, ask(req, now)
	in.mu.Unlock()
	if !decision.Allowed() {
		return policy.Permit{}, deny(decision.Reason, errors.New(decision.Cause))
	}
	return permit, nil
}

// converse joins the message's label into the conversation, once the message is admitted. The conversation of a call never changes.
func (in *Interaction) converse(env *v1.Envelope, l policy.Label, now time.Time) {
	if talk := in.talk.Load(); talk != nil {
		talk.Taint(l)
		return
	}
	if in.e.cfg.Self.IsService() {
		// A service works for many agents in one conversation; what it read for one must not taint what it answers another.
		in.talk.Store(&Conversation{id: env.GetConversation(), label: l})
		return
	}
	in.talk.Store(in.e.talks.join(in.leaf, env.GetConversation(), l, now, in.call.Session.peer.Agent))
}

// commit spends the message's id and writes the intent record: last, so that a refused message burns nothing.
func (in *Interaction) commit(ctx context.Context, key [32]byte, now time.Time) *Denial {
	until := time.UnixMilli(in.env.GetDeadlineUnixMs()).Add(clockSkew)
	switch fresh, err := in.e.replay.insert(in.call.Session.tenantName, key, until, now); {
	case err != nil:
		return replayDenial(err)
	case !fresh && !mutant.Off(mutant.Replay):
		return denyf(v1.Reason_REASON_REPLAYED, "envelope id was admitted before")
	}
	if d := in.spend(ctx); d != nil {
		return d
	}
	return in.recordIntent(ctx, classOf(in.method), nil)
}

// verify resolves a chain by reference, or verifies and remembers a whole one.
func (in *Interaction) verify(chain *v1.DelegationChain, ref []byte) (*delegation.Leaf, *Denial) {
	s, v := in.call.Session, in.e.cfg.Verifier
	if (chain == nil) == (len(ref) == 0) {
		return nil, denyf(v1.Reason_REASON_MALFORMED, "exactly one of chain and chain reference is required")
	}
	if chain == nil {
		leaf, err := v.Resolve(s.chains, ref, s.peer)
		if err != nil {
			return nil, denialOf(err, v1.Reason_REASON_CHAIN_UNKNOWN)
		}
		return leaf, nil
	}
	leaf, err := v.Verify(chain, s.peer)
	if err != nil {
		return nil, denialOf(err, v1.Reason_REASON_CHAIN_INVALID)
	}
	s.chains.Remember(leaf)
	return leaf, nil
}
