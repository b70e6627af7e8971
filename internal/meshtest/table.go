package meshtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// Table is the capability table of a World. Every change signs it again with the next serial and activates it at every engine of
// the World. It is safe for concurrent use.
type Table struct {
	w     *World
	tb    testing.TB
	key   ed25519.PrivateKey
	keyID string

	mu    sync.Mutex
	table *v1.CapabilityTable
}

func newTable(w *World, tb testing.TB) *Table {
	tb.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatalf("creating a policy key: %v", err)
	}
	id, err := delegation.KeyID(pub)
	if err != nil {
		tb.Fatalf("naming a policy key: %v", err)
	}
	return &Table{w: w, tb: tb, key: priv, keyID: id, table: &v1.CapabilityTable{
		Version: 1, TrustDomain: w.TD.Name(), Serial: 1, IssuedAtMs: w.Now().UnixMilli(),
	}}
}

// Allow adds a row and returns its id: agents of the class may do action on resource, or with subtree on everything strictly
// below it, at the peers, which are SPIFFE IDs or patterns.
func (t *Table) Allow(tenant, class, action string, resource []string, subtree bool, peers ...string) string {
	t.tb.Helper()
	t.mu.Lock()
	id := fmt.Sprintf("row-%d", t.table.GetSerial())
	t.table.Rows = append(t.table.Rows, &v1.CapabilityRow{
		Id: id, Tenant: tenant, AgentClass: class, Peers: peers,
		Capability: &v1.Capability{Action: action, Resource: slices.Clone(resource), Subtree: subtree},
	})
	t.table.Serial++
	t.mu.Unlock()
	t.activate()
	return id
}

// RemoveRow takes a row out.
func (t *Table) RemoveRow(id string) {
	t.tb.Helper()
	t.mu.Lock()
	t.table.Rows = slices.DeleteFunc(t.table.GetRows(), func(r *v1.CapabilityRow) bool { return r.GetId() == id })
	t.table.Serial++
	t.mu.Unlock()
	t.activate()
}

// Proto returns a copy of the table.
func (t *Table) Proto() *v1.CapabilityTable {
	t.mu.Lock()
	defer t.mu.Unlock()
	return proto.CloneOf(t.table)
}

// Dsse returns the table as its signer publishes it.
func (t *Table) Dsse(tb testing.TB) *v1.Dsse {
	tb.Helper()
	return t.Sign(tb, t.Proto())
}

// Sign signs another table with the World's policy key, without putting it in force.
func (t *Table) Sign(tb testing.TB, table *v1.CapabilityTable) *v1.Dsse {
	tb.Helper()
	d, err := policy.SignTable(table, t.key)
	if err != nil {
		tb.Fatalf("signing a capability table: %v", err)
	}
	return d
}

// PolicyKey finds the World's policy key, as ParseTable asks for it.
func (t *Table) PolicyKey(keyID string) (ed25519.PublicKey, bool) {
	pub, ok := t.key.Public().(ed25519.PublicKey)
	return pub, ok && keyID == t.keyID
}

// Signed returns the table verified.
func (t *Table) Signed(tb testing.TB) *policy.Table {
	tb.Helper()
	out, err := policy.ParseTable(t.Dsse(tb), t.PolicyKey)
	if err != nil {
		tb.Fatalf("parsing a capability table: %v", err)
	}
	return out
}

func (t *Table) activate() {
	t.tb.Helper()
	table := t.Signed(t.tb)
	t.w.mu.Lock()
	defer t.w.mu.Unlock()
	for id, e := range t.w.engines {
		if err := e.Activate(table); err != nil {
			t.tb.Fatalf("activating a table at %s: %v", id, err)
		}
	}
}

// allowOnce adds a row for exactly what is asked unless one has it already.
func (w *World) allowOnce(tenant, class, action string, resource []string, self identity.AgentID) {
	w.tb.Helper()
	table := w.Table.Signed(w.tb)
	ids, below := table.Permits(tenant, class, action, resource, self)
	if len(ids) == 0 {
		w.Table.Allow(tenant, class, action, resource, false, self.String())
	}
	if !below {
		w.Table.Allow(tenant, class, action, resource, true, self.String())
	}
}
