package delegation

import (
	"crypto/sha256"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// Intent is what a message asks for, as the enforcement point derived it from the decoded request. Nothing in it is the
// caller's claim about itself.
type Intent struct {
	Action   string
	Resource []string
	Purpose  string
	// Facts are the request fields that constraints may name. A fact that is missing satisfies no constraint.
	Facts []Fact
}

// Fact is one typed field of a request.
type Fact struct {
	Key   string
	Value *v1.Value
}

// Recheck is step 17, less the replay store: it holds a verified leaf against one message of peer. It is to be called for every
// message, however the leaf was come by. Refusals are *Error: CHAIN_TIME, CHAIN_HANDLE_REVOKED, CHAIN_UNKNOWN when keys or
// bundles have changed or x is not a leaf of v, CHAIN_PRESENTER, CHAIN_AUDIENCE, CHAIN_TENANT, CHAIN_INTERSECTION when the leaf
// does not cover the intent, CHAIN_CONSTRAINT_UNMET and CHAIN_PURPOSE.
func (v *Verifier) Recheck(x *Leaf, peer identity.Peer, in Intent) error {
	if x == nil || x.owner != v {
		return refusef(whole, v1.Reason_REASON_CHAIN_UNKNOWN, "not a leaf of this verifier")
	}
	now, err := v.now()
	if err != nil {
		return err
	}
	if err := x.checkTime(now); err != nil {
		return err
	}
	if err := v.checkRevoked(x); err != nil {
		return err
	}
	if err := v.checkGeneration(x); err != nil {
		return err
	}
	if err := v.checkPresenter(x, peer.Agent); err != nil {
		return err
	}
	if !peer.Agent.IsService() && peer.Tenant.Name() != x.tenant {
		return refusef(whole, v1.Reason_REASON_CHAIN_TENANT, "tenant %s presents a chain of tenant %q", peer.Tenant, x.tenant)
	}
	if reason := x.allows(in); reason != none && !mutant.Off(mutant.ForeignNamespace) {
		return refusef(x.position, reason, "intent %s", in.Action)
	}
	if sha256.Sum256([]byte(in.Purpose)) != x.purpose {
		return refusef(x.position, v1.Reason_REASON_CHAIN_PURPOSE, "the purpose is not the authorised one")
	}
	return nil
}

// allows looks for one capability that covers the intent with all its constraints.
func (x *Leaf) allows(in Intent) v1.Reason {
	reason := v1.Reason_REASON_CHAIN_INTERSECTION
	for _, c := range x.caps {
		if c.GetAction() != in.Action || !CoversResource(c, in.Resource) {
			continue
		}
		if met(c.GetConstraints(), in.Facts) {
			return none
		}
		reason = v1.Reason_REASON_CHAIN_CONSTRAINT_UNMET
	}
	return reason
}

// met reports whether every constraint has a fact of its key, and every such fact passes.
func met(constraints []*v1.Constraint, facts []Fact) bool {
	for _, c := range constraints {
		found := false
		for _, f := range facts {
			if f.Key != c.GetKey() {
				continue
			}
			if !passes(c, f.Value) {
				return false
			}
			found = true
		}
		if !found {
			return false
		}
	}
	return true
}
