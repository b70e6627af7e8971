package chaintext_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/chaintext"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden holds a text against its file.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	checkPage(t, got)
	path := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs:\n%s", path, got)
	}
}

func TestShow(t *testing.T) {
	given, other := purpose, "monthly report"
	tests := []struct {
		name  string
		chain func(*world) *builder
		at    time.Time
		want  *string
	}{
		{"show-good", (*world).good, noon, &given},
		{"show-grant", func(w *world) *builder { return w.grant() }, start.Add(-time.Minute), nil},
		{"show-wider", wider, noon.Add(20 * time.Minute), &other},
		{"show-hostile", hostile, noon, nil},
		{"show-forms", forms, start.Add(-100 * time.Hour), nil},
		{"show-rootless", func(w *world) *builder {
			b := w.good()
			b.c.Grant = nil
			b.c.GetHops()[1].CertRef = 0
			b.c.GetCerts()[0].Leaf = []byte("no certificate")
			return b
		}, noon, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			v := chaintext.Describe(tt.chain(w).found(), chaintext.Options{At: tt.at, Purpose: tt.want, GrantKey: w.keyNow})
			var out bytes.Buffer
			if err := v.Text(&out); err != nil {
				t.Fatal(err)
			}
			golden(t, tt.name, out.Bytes())
		})
	}
}

func TestVerdictTexts(t *testing.T) {
	intent := &delegation.Intent{Action: "memory.read", Resource: []string{"notes", "week-9", "monday"}, Purpose: purpose}
	tests := []struct {
		name   string
		chain  func(*world) *builder
		change func(*chaintext.Question)
	}{
		{"allowed", (*world).good, func(q *chaintext.Question) { q.Intent = intent }},
		{"grant", func(w *world) *builder { return w.grant() }, func(*chaintext.Question) {}},
		{"wider", wider, func(*chaintext.Question) {}},
		{"stolen", (*world).good, func(q *chaintext.Question) {
			q.Presenter, q.Self, q.At = id(t, executor), id(t, planner), noon.Add(time.Hour)
		}},
		{"uncovered", (*world).good, func(q *chaintext.Question) {
			q.Intent = &delegation.Intent{Action: "payments.transfer", Resource: []string{"accounts", "7"}, Purpose: purpose}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			f, q := tt.chain(w).found(), w.question()
			tt.change(&q)
			v, err := chaintext.Verify(f, q)
			if err != nil {
				t.Fatal(err)
			}
			wire := func(v1.Reason) string { return "CHAIN_INVALID" }
			var out bytes.Buffer
			if err := chaintext.WriteVerdict(&out, f, v, wire); err != nil {
				t.Fatal(err)
			}
			golden(t, "verify-"+tt.name, out.Bytes())
			out.Reset()
			if err := chaintext.WriteChecklist(&out, f, v, wire); err != nil {
				t.Fatal(err)
			}
			golden(t, "explain-"+tt.name, out.Bytes())
		})
	}
}

// wider is a chain whose second hop takes more than it got.
func wider(w *world) *builder {
	return w.grant().hop(analyst, func(h *v1.HopPayload) {
		h.Capabilities = []*v1.Capability{
			subtree("memory.read", 4, "notes", "week-9"),
			where(exact("payments.transfer", 3, "accounts", "7"), atMost("amount", 100), equals("currency", text("EUR"))),
		}
	}).hop(memory, func(h *v1.HopPayload) {
		h.Capabilities = []*v1.Capability{
			subtree("memory.read", 3, "notes"), exact("memory.delete", 2, "notes"),
			where(exact("payments.transfer", 3, "accounts", "7"), atMost("amount", 5000)),
		}
	})
}

// hostile claims what would act on a terminal, or pass for words of the page.
func hostile(w *world) *builder {
	return w.grant(func(g *v1.GrantPayload) {
		g.Principal.Subject = "\x1b[2J\x1b[31mroot\u202e -> VERIFIED"
		g.TaskId = "task\nGRANT verified by authority"
		g.Tenant = "blue, which is verified"
		g.ExpiresAtMs = -1
		g.Capabilities = []*v1.Capability{
			where(exact("memory.read on x", 4, "a where b = 1", "\x07"), equals("k\x00", text("\" or \"1\" = \"1"))), {Action: "", Resource: nil},
		}
	}).hop("spiffe://acme.test/tenant/blue/agent/a\x1b]0;title\x07 -> service/authority", func(h *v1.HopPayload) {
		h.Depth, h.ChainId, h.ParentId, h.MaxDepth, h.Delegates = 1<<31, []byte("short"), nil, 1<<31, []string{"\u200b\u0301"}
	})
}

// forms has every form of a condition, and a past.
func forms(w *world) *builder {
	least, most := int64(-5), int64(5)
	span := func(r *v1.Range) *v1.Constraint {
		return &v1.Constraint{Key: "amount", Rule: &v1.Constraint_Range{Range: r}}
	}
	return w.grant(func(g *v1.GrantPayload) {
		g.DepthUsed, g.PreviousLeaf, g.TaskId = 2, digest("before"), ""
		g.History = []*v1.PastActor{{Actor: analyst, Depth: 1}, {Actor: memory, Depth: 2}}
		g.Principal.Type, g.ExpiresAtMs = v1.Principal_TYPE_SELF, g.GetIssuedAtMs()+2*3600_000
		g.Origin = &v1.Origin{TrustDomain: "other.test", Tenant: "red"}
		g.Capabilities = []*v1.Capability{
			where(exact("pay", 0, "a"), span(&v1.Range{Min: &least})), where(exact("pay", 1, "b"), span(&v1.Range{Min: &least, Max: &most})),
			where(exact("pay", 1, "c"), span(&v1.Range{})), where(exact("pay", 1, "d"), &v1.Constraint{Key: "path", Rule: &v1.Constraint_Prefix{Prefix: "a b/"}}),
			where(exact("pay", 1, "e/f", "*", "50%, g"), &v1.Constraint{Key: "new"}, equals("flag", &v1.Value{Kind: &v1.Value_Flag{Flag: true}})),
			where(exact("pay", 1, "g"), equals("new", &v1.Value{})),
		}
	}).hop("spiffe://acme.test/tenant/red/agent/spy", func(h *v1.HopPayload) {
		h.Capabilities, h.Tenant, h.ExpiresAtMs = nil, "red", 1
	}).hop("spiffe://other.test/service/memory", func(h *v1.HopPayload) { h.Critical = []string{"x"} })
}
