package plane

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/authority"
	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

var errNotAnnounced = errors.New("has not announced where it serves")

// localTrust is runtime.Trust for services in the authority's own process.
type localTrust struct {
	a    *authority.Authority
	self identity.AgentID

	mu     sync.Mutex
	serial uint64
	table  *policy.Table
}

// Agent implements identity.Registry.
func (t *localTrust) Agent(id identity.AgentID) *identity.Record { return t.a.Registry().Agent(id) }

// Generation implements identity.Registry.
func (t *localTrust) Generation() uint64 { return t.a.Registry().Generation() }

// Keys implements runtime.Trust.
func (t *localTrust) Keys() delegation.KeyView { return t.a.Keys() }

// Table implements runtime.Trust. The signature is verified here too: the table in force is the one that was signed.
func (t *localTrust) Table() *policy.Table {
	var b v1.TrustBundle
	if proto.Unmarshal(t.a.Bundle().GetPayload(), &b) != nil || b.GetTable() == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if b.GetSerial() == t.serial {
		return t.table
	}
	table, err := policy.ParseTable(b.GetTable(), t.a.PolicyKey)
	if err != nil {
		return t.table
	}
	t.serial, t.table = b.GetSerial(), table
	return table
}

// Changed implements runtime.Trust.
func (t *localTrust) Changed() <-chan struct{} { return t.a.BundleChanged() }

// Locate implements runtime.Trust.
func (t *localTrust) Locate(_ context.Context, id identity.AgentID) (string, error) {
	if addr := t.a.Locate(id); addr != "" {
		return addr, nil
	}
	return "", fmt.Errorf("%s %w", id, errNotAnnounced)
}

// Announce implements runtime.Trust.
func (t *localTrust) Announce(_ context.Context, address string) error {
	return t.a.Announce(t.self, address)
}

// Close implements runtime.Trust.
func (*localTrust) Close() error { return nil }
