package delegation

import (
	"errors"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// The rules of this file read unverified claims. They can only deny. Verify, Append and NewGrant share them, which is what
// makes a producer refuse what a verifier would.

// checkStructure is step 7: how a statement hangs on the one before it. Removing, swapping or splicing statements breaks the
// parent id first.
func (d *draft) checkStructure() error {
	if d.parent == nil {
		return d.checkTenant()
	}
	parent := d.parent
	switch {
	case (string(d.parentID) != string(parent.id[:]) || d.chainID != parent.chainID) && !mutant.Off(mutant.SplicedChain), d.issuer != parent.delegate:
		return refusef(d.position, v1.Reason_REASON_CHAIN_PARENT_MISMATCH, "does not continue the statement before it")
	case uint64(d.depth) != uint64(parent.depth)+1 && !mutant.Off(mutant.RenewalDepth):
		return refusef(d.position, v1.Reason_REASON_CHAIN_DEPTH, "the depth is not one more than the depth before it")
	case d.tenant != parent.tenant:
		return refusef(d.position, v1.Reason_REASON_CHAIN_TENANT, "another tenant than the statement before it")
	case d.purpose != parent.purpose:
		return refusef(d.position, v1.Reason_REASON_CHAIN_PURPOSE, "another purpose than the statement before it")
	}
	for at := parent; at != nil; at = at.parent {
		if at.delegate == d.delegate {
			return refusef(d.position, v1.Reason_REASON_CHAIN_LOOP, "a delegate twice")
		}
	}
	return d.checkTenant()
}

// checkTenant keeps every delegate, and so every issuer of a hop, inside the tenant of the grant. Services of the trust domain
// have no tenant and act in the grant's. A grant minted at a border names its origin; without bridges there are none.
func (d *draft) checkTenant() error {
	inside := d.delegate.TrustDomain().Name() == d.root.trustDomain &&
		(d.delegate.IsService() || d.delegate.Tenant().Name() == d.tenant)
	if !inside || d.origin {
		return refusef(d.position, v1.Reason_REASON_CHAIN_TENANT, "the delegate is outside the tenant")
	}
	return nil
}

// checkLifetime is the part of step 9 that needs no clock. Comparisons between statements are exact.
func (d *draft) checkLifetime(lineage time.Duration) error {
	lifetime := func(text string) error { return refuse(d.position, v1.Reason_REASON_CHAIN_LIFETIME, errors.New(text)) }
	for _, t := range []int64{d.issued, d.notBefore, d.expires} {
		if t <= 0 || t >= endOfTime {
			return lifetime("a time is out of range")
		}
	}
	switch {
	case d.notBefore > d.expires, d.issued > d.expires:
		return lifetime("ends before it begins")
	case d.parent != nil && (d.notBefore < d.parent.notBefore || d.expires > d.parent.expires):
		return lifetime("outside the life of the statement before it")
	case d.parent != nil:
		return nil
	case d.expires-d.issued > MaxGrantLife.Milliseconds():
		return lifetime("a grant that lives too long")
	case d.root.lineage <= 0 || d.root.lineage > d.issued || d.issued-d.root.lineage > lineage.Milliseconds() && !mutant.Off(mutant.Lineage):
		return lifetime("the lineage is over")
	}
	return nil
}

// checkTime is the part of step 9 that needs the clock. Lives are nested, so the last statement speaks for all of them.
func (x *Leaf) checkTime(now int64) error {
	latest := now + Skew.Milliseconds()
	if x.lastIssued > latest || x.notBefore > latest || now >= x.expires && !mutant.Off(mutant.ExpiredGrant) {
		return refusef(x.position, v1.Reason_REASON_CHAIN_TIME, "not begun or over")
	}
	return nil
}

// checkNarrowing is step 10: depth, delegates and capabilities may only shrink.
func (d *draft) checkNarrowing() error {
	parent := d.parent
	if d.maxDepth > MaxDepth || d.depth > d.maxDepth || (parent != nil && d.maxDepth > parent.maxDepth) {
		return refusef(d.position, v1.Reason_REASON_CHAIN_DEPTH, "deeper than allowed")
	}
	if parent == nil {
		return nil
	}
	if all(parent.delegates, func(pattern string) bool { return !identity.MatchDelegate(pattern, d.delegate) }) {
		return refusef(d.position, notDelegable, "no delegate of the statement before it")
	}
	for i, c := range d.caps {
		if reason := attenuates(parent.caps, c, d.depth, d.maxDepth); reason != none && !mutant.Off(mutant.WidenedScope) {
			return refusef(d.position, reason, "capability %d", i)
		}
	}
	for i, child := range d.delegates {
		if all(parent.delegates, func(pattern string) bool { return !identity.CoversDelegate(pattern, child) }) {
			return refusef(d.position, amplified, "delegate pattern %d", i)
		}
	}
	return nil
}
