package policy

import (
	"fmt"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// Hop bounds of a method that declares none, and of any method.
const (
	DefaultDepth = 4
	MaxDepth     = 8
)

// invariants holds what no policy file can switch off. It returns the tenant in which the call acts, or a reason.
func invariants(self identity.AgentID, r *Request, effective Label, now time.Time) (identity.Tenant, v1.Reason, string) {
	none := identity.Tenant{}
	if r.Peer.IsZero() {
		return none, v1.Reason_REASON_PEER_NO_TLS, "no verified peer"
	}
	if r.Record == nil {
		return none, v1.Reason_REASON_PEER_UNREGISTERED, fmt.Sprintf("%s is not registered", r.Peer.ID)
	}
	if reason := StateReason(r.Record.State); reason != 0 {
		return none, reason, fmt.Sprintf("%s is %s", r.Peer.ID, r.Record.State)
	}
	if !now.Before(r.Peer.NotAfter) {
		return none, v1.Reason_REASON_PEER_EXPIRED, "the peer's certificate has expired on an open connection"
	}
	if r.Leaf == nil || r.Leaf.Delegate() != self || r.Leaf.Issuer() != r.Peer.Agent {
		return none, v1.Reason_REASON_CHAIN_PRESENTER, "the chain is not from this peer to this agent"
	}
	tenant, ok := actingTenant(self, r)
	if !ok {
		return none, v1.Reason_REASON_CHAIN_TENANT,
			fmt.Sprintf("peer tenant %s, chain tenant %q, own tenant %s", r.Peer.Tenant, r.Leaf.Tenant(), self.Tenant())
	}
	if depth, most := r.Leaf.Depth(), methodDepth(r.MaxDepth); depth > most {
		return none, v1.Reason_REASON_METHOD_DEPTH, fmt.Sprintf("%d hops, the method admits %d", depth, most)
	}
	if !ValidAction(r.Action) || !ValidResource(r.Resource) {
		return none, v1.Reason_REASON_INTENT_MISMATCH, "action or resource is not well formed"
	}
	if !r.Leaf.Covers(r.Action, r.Resource) && !mutant.Off(mutant.ForeignNamespace) {
		return none, v1.Reason_REASON_SCOPE_MISSING, fmt.Sprintf("the chain does not cover %s on %q", r.Action, r.Resource)
	}
	if p := r.Leaf.Principal(); p.GetSubject() == "" || p.GetType() == v1.Principal_TYPE_UNSPECIFIED {
		return none, v1.Reason_REASON_CHAIN_PRINCIPAL, "the chain names no principal"
	}
	floor := r.MinIntegrity
	if floor == v1.Integrity_INTEGRITY_UNSPECIFIED {
		floor = v1.Integrity_INTEGRITY_ATTESTED
	}
	if effective.Integrity < floor && !mutant.Off(mutant.PromptInjection) {
		return none, v1.Reason_REASON_INTEGRITY_FLOOR,
			fmt.Sprintf("control label is %s (claimed %s), the method's floor is %s; sources %q",
				effective.Integrity, r.Claimed.norm().Integrity, floor, effective.Sources)
	}
	return tenant, 0, ""
}

// actingTenant is the tenant of the peer, the chain and this agent, which must all be one. A service has no tenant and takes
// the chain's, whose agents the verifier has held to one tenant.
func actingTenant(self identity.AgentID, r *Request) (identity.Tenant, bool) {
	tenant := r.Peer.Tenant
	if tenant.IsZero() {
		tenant = self.Tenant()
	}
	if tenant.IsZero() || tenant.Name() != r.Leaf.Tenant() || tenant.TrustDomain() != self.TrustDomain() {
		return identity.Tenant{}, false
	}
	return tenant, self.IsService() || self.Tenant() == tenant
}

func methodDepth(declared uint32) uint32 {
	if declared == 0 {
		return DefaultDepth
	}
	return min(declared, MaxDepth)
}

// StateReason returns why an agent in this state is refused, 0 when it is active.
func StateReason(s identity.State) v1.Reason {
	switch s {
	case identity.StateActive:
		return 0
	case identity.StatePending:
		return v1.Reason_REASON_AGENT_PENDING
	case identity.StateSuspended:
		return v1.Reason_REASON_AGENT_SUSPENDED
	case identity.StateQuarantined:
		return v1.Reason_REASON_AGENT_QUARANTINED
	case identity.StateRetired:
		return v1.Reason_REASON_AGENT_RETIRED
	case identity.StateUnknown:
	}
	return v1.Reason_REASON_PEER_UNREGISTERED
}
