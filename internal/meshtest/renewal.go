package meshtest

import (
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Renew is what an authority does when its registry and its policy have no objection: it verifies chain as its holder shows it, and
// returns the grant by which the holder goes on. lifetime is what the holder asks for, 0 as much as there is.
func (w *World) Renew(chain *v1.DelegationChain, holder identity.AgentID, lifetime time.Duration) (*v1.SignedStatement, error) {
	w.tb.Helper()
	authority, err := identity.NewServiceID(w.TD, "authority")
	if err != nil {
		return nil, err
	}
	leaf, err := w.Verifier(authority).VerifyHeld(chain, identity.Peer{ID: holder.ID(), Agent: holder, Tenant: holder.Tenant()})
	if err != nil {
		return nil, err
	}
	p, err := delegation.NewRenewal(leaf, lifetime, w.Now())
	if err != nil {
		return nil, err
	}
	return delegation.NewGrant(p, w.Keys.Private())
}
