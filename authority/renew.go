package authority

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// renewalBudget bounds what one agent may ask: a renewal costs a signature, the verification of a chain, and a record that waits
// for the disk. An agent renews a chain once in ten minutes, so this is 6,000 chains at a time.
var renewalBudget = conduct.Budget{Rate: 10, Burst: 100}

// renewals is what the authority needs to renew grants. It holds no state of a chain: two renewals of one chain are two grants.
type renewals struct {
	verifier *delegation.Verifier
	meter    *conduct.Meter // one account per active agent, so bounded by the registry
}

// openRenewals makes the verifier that chains to be renewed pass. It is the authority's own and not the enforcement core's: the chains
// are shown to it and not used towards it.
func (a *Authority) openRenewals() error {
	meter := conduct.NewMeter(renewalBudget, conduct.Budget{})
	bundles := &watchedBundle{td: a.td, src: func() x509bundle.Source { return a.ca.bundle() }}
	if a.cfg.Issuer != nil {
		bundles.src = func() x509bundle.Source { return a.cfg.Issuer() }
	}
	v, err := delegation.NewVerifier(delegation.Config{
		Self: a.self, Keys: a.Keys(), Bundles: bundles, BundleGeneration: bundles.generation, Now: a.cfg.Now,
		Limits: delegation.Limits{
			Lineage: a.cfg.Lineage,
			Allow: func(peer identity.AgentID, signatures int) bool {
				return meter.Cold(peer, a.cfg.Now(), signatures)
			},
		},
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	a.renewals = renewals{verifier: v, meter: meter}
	return nil
}

// watchedBundle counts the changes of a bundle by looking: renewals are rare, so nobody has to be woken.
type watchedBundle struct {
	src func() x509bundle.Source
	td  spiffeid.TrustDomain

	mu      sync.Mutex
	last    *x509bundle.Bundle
	changes uint64
}

// GetX509BundleForTrustDomain implements x509bundle.Source.
func (w *watchedBundle) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return w.src().GetX509BundleForTrustDomain(td)
}

// generation moves when the roots differ from those of the last look.
func (w *watchedBundle) generation() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, err := w.src().GetX509BundleForTrustDomain(w.td)
	if err != nil {
		now = nil // nothing verifies under it
	}
	if w.changes == 0 || (now == nil) != (w.last == nil) || now != nil && !now.Equal(w.last) {
		w.last = nil
		if now != nil {
			w.last = now.Clone()
		}
		w.changes++
	}
	return w.changes
}

// RenewGrant mints the grant by which the caller goes on with a chain whose last delegate it is. Registry, capability table and the
// rules of chains are asked again. A refusal leaves as the enforcement core's refusals do: a stable reason, with its cause in the
// log only.
func (s *authorityService) RenewGrant(ctx context.Context, r *rpcv1.RenewGrantRequest) (*rpcv1.RenewGrantResponse, error) {
	grant, err := s.renew(ctx, r)
	if err != nil {
		return nil, renewalRefused(err)
	}
	return &rpcv1.RenewGrantResponse{Grant: grant}, nil
}

func renewalRefused(err error) error {
	reason := delegation.ReasonOf(err)
	if reason == v1.Reason_REASON_UNSPECIFIED {
		reason = classify(err).reason
	}
	return interceptors.Refuse(reason, fmt.Errorf("renewing a grant: %w", err))
}

func (s *authorityService) renew(ctx context.Context, r *rpcv1.RenewGrantRequest) (*v1.SignedStatement, error) {
	if err := s.a.open(); err != nil {
		return nil, err
	}
	if _, err := s.peer(ctx); err != nil {
		return nil, err
	}
	holder, _ := s.a.cfg.PeerFrom(ctx) // found above
	switch life := r.GetLifetimeMs(); {
	case holder.Agent.IsService():
		return nil, fmt.Errorf("%w: a service is given no grants, so it renews none", ErrInvalid)
	case life < 0 || life > maxGrantLife.Milliseconds():
		return nil, fmt.Errorf("%w: lifetime_ms is 1 to %d, or 0 for the most", ErrInvalid, maxGrantLife.Milliseconds())
	}
	if _, ok := s.a.renewals.meter.Agent(holder.Agent).Rate.Take(s.a.cfg.Now(), 1); !ok {
		return nil, fmt.Errorf("%w: renewals of %s", errRenewalRate, holder.Agent)
	}
	// Before the chain is verified: when its grant key is withdrawn meanwhile, what is signed here is worth nothing either.
	key := s.a.grantSigner()
	leaf, err := s.a.renewals.verifier.VerifyHeld(r.GetChain(), holder)
	if err != nil {
		return nil, err
	}
	return s.a.renewGrant(ctx, leaf, time.Duration(r.GetLifetimeMs())*time.Millisecond, key)
}

// renewGrant decides on a chain that its holder has shown, signs, and makes the record durable before it returns.
func (a *Authority) renewGrant(ctx context.Context, leaf *delegation.Leaf, lifetime time.Duration, key ed25519.PrivateKey) (*v1.SignedStatement, error) {
	if err := a.checkMembers(leaf); err != nil {
		return nil, err
	}
	p, err := delegation.NewRenewal(leaf, lifetime, a.cfg.Now())
	if err != nil {
		return nil, err
	}
	table := a.table.Load()
	p.PolicyEpoch = table.highest
	p.Capabilities = slices.DeleteFunc(p.GetCapabilities(), func(c *v1.Capability) bool {
		return table.parsed == nil || !table.parsed.Ceiling(leaf.Tenant(), c)
	})
	if len(p.GetCapabilities()) == 0 {
		return nil, fmt.Errorf("%w: nothing of the chain is allowed any longer", ErrCeiling)
	}
	signed, err := delegation.NewGrant(p, key)
	if err != nil {
		return nil, err
	}
	if err := a.trail.allow(ctx, a.renewalRecord(ctx, leaf, signed)); err != nil {
		return nil, err
	}
	return signed, nil
}

// checkMembers refuses to go on with what an agent has handed on that is no longer active, however many renewals ago: a contained
// agent ends its descendants.
func (a *Authority) checkMembers(leaf *delegation.Leaf) error {
	for _, id := range leaf.Members() {
		rec := a.Registry().Agent(id)
		if rec == nil || policy.StateReason(rec.State) != 0 {
			return fmt.Errorf("%w: %s", errInactiveMember, id)
		}
	}
	return nil
}

// renewalRecord names what was renewed by its last statement, and what came of it.
func (a *Authority) renewalRecord(ctx context.Context, leaf *delegation.Leaf, signed *v1.SignedStatement) *v1.AuditEvent {
	var made v1.GrantPayload
	_ = proto.Unmarshal(signed.GetPayload(), &made) // NewGrant has read it
	id, previous := delegation.StatementID(delegation.TypeGrant, signed.GetPayload()), leaf.ID()
	e := &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_GRANT_RENEWED, Tenant: made.GetTenant(), Peer: a.party(leaf.Delegate()), Origin: made.GetPrincipal(),
		ChainId: made.GetChainId(), Depth: made.GetDepthUsed(), MaxDepth: made.GetMaxDepth(), TaskId: made.GetTaskId(),
		PolicySerial: made.GetPolicyEpoch(), Transport: "grpc", Method: rpcv1.AuthorityService_RenewGrant_FullMethodName,
		Chain: []*v1.ChainLink{
			{
				Delegator: leaf.Issuer().String(), Delegate: leaf.Delegate().String(), StatementId: previous[:], Depth: leaf.Depth(),
				ExpiresAtMs: leaf.Expires().UnixMilli(),
			},
			{
				Delegator: made.GetIssuer(), Delegate: made.GetDelegate(), StatementId: id[:], Depth: made.GetDepthUsed(),
				ExpiresAtMs: made.GetExpiresAtMs(), Capabilities: made.GetCapabilities(),
			},
		},
		Detail: clip("renewed by its holder; lineage since " + time.UnixMilli(made.GetLineageStartMs()).UTC().Format(time.RFC3339)),
	}
	if in, ok := interceptors.From(ctx); ok {
		decision := in.ID()
		e.DecisionId = decision[:]
	}
	return e
}
