package agenttest

import (
	"context"
	"fmt"

	"github.com/safeconduct/safeconduct/delegation"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/runtime"
)

// trust is what one process knows of the World.
type trust struct {
	w    *World
	self identity.AgentID
}

var _ runtime.Trust = (*trust)(nil)

// Agent implements identity.Registry.
func (t *trust) Agent(id identity.AgentID) *identity.Record { return t.w.mesh.Registry.Agent(id) }

// Generation implements identity.Registry.
func (t *trust) Generation() uint64 { return t.w.mesh.Registry.Generation() }

// Keys implements runtime.Trust.
func (t *trust) Keys() delegation.KeyView { return t.w.mesh.Keys }

// Table implements runtime.Trust.
func (t *trust) Table() *policy.Table {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	return t.w.table
}

// Changed implements runtime.Trust.
func (t *trust) Changed() <-chan struct{} {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	return t.w.changed
}

// Locate implements runtime.Trust.
func (t *trust) Locate(_ context.Context, id identity.AgentID) (string, error) {
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	address := t.w.addresses[id]
	if address == "" {
		return "", fmt.Errorf("%s does not serve", id)
	}
	if tap := t.w.taps[id]; tap != "" {
		return tap, nil
	}
	return address, nil
}

// Announce implements runtime.Trust.
func (t *trust) Announce(_ context.Context, address string) error {
	t.w.mu.Lock()
	see := t.w.see
	t.w.mu.Unlock()
	if see != nil {
		t.w.tap(t.self)
	}
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	t.w.addresses[t.self] = address
	return nil
}

// Close implements runtime.Trust.
func (*trust) Close() error { return nil }
