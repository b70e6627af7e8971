package policy_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/policy"
)

const anyAgent = "spiffe://" + meshtest.TrustDomain + "/tenant/acme/agent/*"

func row(change ...func(*v1.CapabilityRow)) *v1.CapabilityRow {
	r := &v1.CapabilityRow{
		Id: "r1", Tenant: "acme", AgentClass: "worker", Peers: []string{anyAgent},
		Capability: &v1.Capability{Action: "memory.read", Resource: []string{"notes"}},
	}
	for _, f := range change {
		f(r)
	}
	return r
}

func table(rows ...*v1.CapabilityRow) *v1.CapabilityTable {
	return &v1.CapabilityTable{Version: 1, TrustDomain: meshtest.TrustDomain, Serial: 1, Rows: rows}
}

func TestParseTableRefusals(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	capability := func(f func(*v1.Capability)) func(*v1.CapabilityRow) {
		return func(r *v1.CapabilityRow) { f(r.Capability) }
	}
	var rows4097 []*v1.CapabilityRow
	for i := range policy.MaxTableRows + 1 {
		rows4097 = append(rows4097, row(func(r *v1.CapabilityRow) { r.Id = fmt.Sprintf("r%d", i) }))
	}
	var peers17 []string
	for i := range 17 {
		peers17 = append(peers17, fmt.Sprintf("spiffe://%s/tenant/acme/agent/a%d", meshtest.TrustDomain, i))
	}
	tests := []struct {
		name  string
		input *v1.CapabilityTable
	}{
		{"version 0", &v1.CapabilityTable{TrustDomain: meshtest.TrustDomain, Serial: 1}},
		{"version 2", &v1.CapabilityTable{Version: 2, TrustDomain: meshtest.TrustDomain, Serial: 1}},
		{"no trust domain", &v1.CapabilityTable{Version: 1, Serial: 1}},
		{"no serial", &v1.CapabilityTable{Version: 1, TrustDomain: meshtest.TrustDomain}},
		{"4097 rows", table(rows4097...)},
		{"id twice", table(row(), row())},
		{"no id", table(row(func(r *v1.CapabilityRow) { r.Id = "" }))},
		{"id of capitals", table(row(func(r *v1.CapabilityRow) { r.Id = "R1" }))},
		{"id of 65 bytes", table(row(func(r *v1.CapabilityRow) { r.Id = long(65) }))},
		{"no tenant", table(row(func(r *v1.CapabilityRow) { r.Tenant = "" }))},
		{"tenant with a slash", table(row(func(r *v1.CapabilityRow) { r.Tenant = "a/b" }))},
		{"no class", table(row(func(r *v1.CapabilityRow) { r.AgentClass = "" }))},
		{"class of 64 bytes", table(row(func(r *v1.CapabilityRow) { r.AgentClass = long(64) }))},
		{"no capability", table(row(func(r *v1.CapabilityRow) { r.Capability = nil }))},
		{"action with a wildcard", table(row(capability(func(c *v1.Capability) { c.Action = "memory.*" })))},
		{"action of capitals", table(row(capability(func(c *v1.Capability) { c.Action = "Memory.read" })))},
		{"action ends in a dot", table(row(capability(func(c *v1.Capability) { c.Action = "memory." })))},
		{"action starts with a digit", table(row(capability(func(c *v1.Capability) { c.Action = "1m.read" })))},
		{"action of 65 bytes", table(row(capability(func(c *v1.Capability) { c.Action = long(65) })))},
		{"no resource", table(row(capability(func(c *v1.Capability) { c.Resource = nil })))},
		{"empty segment", table(row(capability(func(c *v1.Capability) { c.Resource = []string{"a", ""} })))},
		{"dot dot", table(row(capability(func(c *v1.Capability) { c.Resource = []string{"a", ".."} })))},
		{"dot", table(row(capability(func(c *v1.Capability) { c.Resource = []string{"."} })))},
		{"control character", table(row(capability(func(c *v1.Capability) { c.Resource = []string{"a\nb"} })))},
		{"segment of 129 bytes", table(row(capability(func(c *v1.Capability) { c.Resource = []string{long(129)} })))},
		{"18 segments", table(row(capability(func(c *v1.Capability) { c.Resource = strings.Split(long(18), "") })))},
		{"constraint", table(row(capability(func(c *v1.Capability) { c.Constraints = []*v1.Constraint{{Key: "amount"}} })))},
		{"reach", table(row(capability(func(c *v1.Capability) { c.Reach = 1 })))},
		{"no peers", table(row(func(r *v1.CapabilityRow) { r.Peers = nil }))},
		{"17 peers", table(row(func(r *v1.CapabilityRow) { r.Peers = peers17 }))},
		{"peer is a star", table(row(func(r *v1.CapabilityRow) { r.Peers = []string{"*"} }))},
		{"peer is every tenant", table(row(func(r *v1.CapabilityRow) { r.Peers = []string{"spiffe://mesh.test/*"} }))},
		{"peer is every service", table(row(func(r *v1.CapabilityRow) { r.Peers = []string{"spiffe://mesh.test/service/*"} }))},
	}
	w := meshtest.New(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			payload, err := proto.Marshal(tt.input)
			if err != nil {
				t.Fatal(err)
			}
			// Sealed past SignTable, which refuses what ParseTable refuses.
			pub, priv, _ := ed25519.GenerateKey(nil)
			d, err := delegation.SealDsse(delegation.TypeTable, payload, priv)
			if err != nil {
				t.Fatal(err)
			}
			key := func(string) (ed25519.PublicKey, bool) { return pub, true }
			if got, err := policy.ParseTable(d, key); !errors.Is(err, policy.ErrTable) || got != nil {
				t.Errorf("ParseTable() = %v, %v, want ErrTable", got, err)
			}
			if _, err := policy.SignTable(tt.input, priv); !errors.Is(err, policy.ErrTable) {
				t.Errorf("SignTable() = %v, want ErrTable", err)
			}
		})
	}
	t.Run("signatures", func(t *testing.T) {
		good := w.Table.Sign(t, table(row()))
		if _, err := policy.ParseTable(good, w.Table.PolicyKey); err != nil {
			t.Fatalf("ParseTable(good) = %v", err)
		}
		for name, change := range map[string]func(*v1.Dsse){
			"payload changed": func(d *v1.Dsse) { d.Payload[len(d.Payload)-1] ^= 1 },
			"other type":      func(d *v1.Dsse) { d.PayloadType = delegation.TypeBundle },
			"other key":       func(d *v1.Dsse) { d.Signatures[0].KeyId = "00" },
			"no signature":    func(d *v1.Dsse) { d.Signatures = nil },
			"5 signatures": func(d *v1.Dsse) {
				for len(d.Signatures) < 5 {
					d.Signatures = append(d.Signatures, d.Signatures[0])
				}
			},
			"too large": func(d *v1.Dsse) { d.Payload = make([]byte, policy.MaxTableBytes+1) },
		} {
			bad := proto.CloneOf(good)
			change(bad)
			if _, err := policy.ParseTable(bad, w.Table.PolicyKey); !errors.Is(err, policy.ErrTable) {
				t.Errorf("%s: ParseTable() = %v, want ErrTable", name, err)
			}
		}
		if _, err := policy.ParseTable(nil, w.Table.PolicyKey); !errors.Is(err, policy.ErrTable) {
			t.Errorf("ParseTable(nil) = %v, want ErrTable", err)
		}
	})
}

func TestTablePermits(t *testing.T) {
	w := meshtest.New(t)
	callee, other, service := w.ID("acme", "writer"), w.ID("globex", "writer"), w.Service("memory")
	w.Table.Allow("acme", "worker", "memory.read", []string{"notes"}, false, anyAgent)
	w.Table.Allow("acme", "worker", "memory.read", []string{"notes"}, true, anyAgent)
	w.Table.Allow("acme", "worker", "memory.list", []string{"notes"}, true, service.String())
	tab := w.Table.Signed(t)
	if tab.Len() != 3 || tab.Serial() != 4 {
		t.Errorf("table has %d rows and serial %d", tab.Len(), tab.Serial())
	}
	tests := []struct {
		name, tenant, class, action string
		resource                    []string
		self                        int
		rows                        int
		below                       bool
	}{
		{"exact and below", "acme", "worker", "memory.read", []string{"notes"}, 0, 2, true},
		{"below", "acme", "worker", "memory.read", []string{"notes", "x"}, 0, 1, true},
		{"beside", "acme", "worker", "memory.read", []string{"note"}, 0, 0, false},
		{"above", "acme", "worker", "memory.list", []string{"notes"}, 2, 0, false},
		{"named service", "acme", "worker", "memory.list", []string{"notes", "x"}, 2, 1, true},
		{"another callee", "acme", "worker", "memory.list", []string{"notes", "x"}, 0, 0, false},
		{"callee of another tenant", "acme", "worker", "memory.read", []string{"notes"}, 1, 0, false},
		{"another tenant", "globex", "worker", "memory.read", []string{"notes"}, 0, 0, false},
		{"another class", "acme", "boss", "memory.read", []string{"notes"}, 0, 0, false},
		{"another action", "acme", "worker", "memory.write", []string{"notes"}, 0, 0, false},
		{"longer action", "acme", "worker", "memory.read.all", []string{"notes"}, 0, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			self := []string{callee.String(), other.String(), service.String()}[tt.self]
			id := parse(t, self)
			ids, below := tab.Permits(tt.tenant, tt.class, tt.action, tt.resource, id)
			if len(ids) != tt.rows || below != tt.below {
				t.Errorf("Permits() = %v, %v, want %d rows, %v", ids, below, tt.rows, tt.below)
			}
		})
	}
	if !tab.Ceiling("acme", meshtest.Below("memory.read", "notes", "x")) || tab.Ceiling("acme", meshtest.Below("memory.list", "")) ||
		tab.Ceiling("acme", meshtest.Capability("memory.list", "notes")) || tab.Ceiling("globex", meshtest.Capability("memory.read", "notes")) ||
		!tab.Ceiling("acme", meshtest.Capability("memory.read", "notes")) {
		t.Error("Ceiling differs from the rows")
	}
	var none *policy.Table
	if ids, _ := none.Permits("acme", "worker", "memory.read", []string{"notes"}, callee); ids != nil || none.Ceiling("acme", meshtest.Capability("memory.read", "notes")) {
		t.Error("no table permits something")
	}
}
