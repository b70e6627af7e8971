package agenttest

import (
	"context"
	"errors"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/runtime"
)

var _ runtime.Renewer = (*trust)(nil)

var errNoAuthority = errors.New("the authority does not answer")

// RenewGrant implements runtime.Renewer.
func (t *trust) RenewGrant(_ context.Context, chain *v1.DelegationChain) (*v1.SignedStatement, error) {
	t.w.mu.Lock()
	down := t.w.unrenewed
	t.w.mu.Unlock()
	if down {
		return nil, errNoAuthority
	}
	return t.w.mesh.Renew(chain, t.self, 0)
}

// StopRenewals makes the authority of the World renew nothing from now on: grants end when they end.
func (w *World) StopRenewals() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unrenewed = true
}
