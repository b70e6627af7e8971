package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/chaintext"
	"github.com/safeconduct/safeconduct/internal/meshtest"
)

// chainWorld is a chain alice -> planner -> analyst -> memory, and the files to verify it with.
type chainWorld struct {
	*world
	mesh                     *meshtest.World
	planner, analyst, memory identity.AgentID
	chain                    *v1.DelegationChain
	file, roots              string
}

func (w *chainWorld) write(name string, data []byte) string {
	w.t.Helper()
	path := filepath.Join(w.bin, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func (w *chainWorld) writeChain(name string, c *v1.DelegationChain) string {
	w.t.Helper()
	raw, err := proto.Marshal(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.write(name, raw)
}

func newChainWorld(t *testing.T) *chainWorld {
	t.Helper()
	w := &chainWorld{world: newWorld(t), mesh: meshtest.New(t)}
	w.planner, w.analyst, w.memory = w.mesh.Agent("acme", "planner"), w.mesh.Agent("acme", "analyst"), w.mesh.Service("memory")
	least := int64(1)
	bound := meshtest.Capability("payments.transfer", "accounts", "7")
	bound.Constraints = []*v1.Constraint{{Key: "amount", Rule: &v1.Constraint_Range{Range: &v1.Range{Min: &least}}}}
	w.chain = w.mesh.Chain(t, []identity.AgentID{w.planner, w.analyst, w.memory},
		meshtest.Capabilities(meshtest.Below("memory.read", "notes"), bound), meshtest.Purpose("weekly report"))
	w.file = w.writeChain("chain.pb", w.chain)
	spki, err := x509.MarshalPKIXPublicKey(w.mesh.Keys.Private().Public())
	if err != nil {
		t.Fatal(err)
	}
	w.roots = w.write("trust.pem", append(
		pem.EncodeToMemory(&pem.Block{Type: chaintext.PEMCertificate, Bytes: w.mesh.CA.Certificate().Raw}),
		pem.EncodeToMemory(&pem.Block{Type: chaintext.PEMPublicKey, Bytes: spki})...))
	return w
}

// changed writes a copy of the chain that something was done to.
func (w *chainWorld) changed(name string, change func(*v1.DelegationChain)) string {
	c := proto.CloneOf(w.chain)
	change(c)
	return w.writeChain(name, c)
}

func TestChainVerify(t *testing.T) {
	w := newChainWorld(t)
	read := []string{"--intent", "memory.read", "--resource", "notes/today", "--purpose", "weekly report"}
	pay := []string{"--intent", "payments.transfer", "--resource", "accounts/7", "--purpose", "weekly report"}
	later := w.mesh.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	svid, err := w.mesh.Identity(w.analyst).GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	bare := w.changed("bare.pb", func(c *v1.DelegationChain) { c.GetHops()[1].CertRef, c.Certs = 0, c.GetCerts()[:1] })
	cert := w.write("analyst.pem", pem.EncodeToMemory(&pem.Block{Type: chaintext.PEMCertificate, Bytes: svid.Certificates[0].Raw}))
	tests := []struct {
		name   string
		file   string
		args   []string
		reason v1.Reason
		step   int
	}{
		{"alone", w.file, nil, 0, 0},
		{"with a message", w.file, read, 0, 0},
		{"with a fact", w.file, append(pay, "--fact", "amount=5"), 0, 0},
		{"presenter's certificate", bare, []string{"--presenter-cert", cert}, 0, 0},
		{"presenter's certificate missing", bare, nil, v1.Reason_REASON_CHAIN_MALFORMED, 7},
		{"too large", w.changed("a", func(c *v1.DelegationChain) { c.Hops = append(c.GetHops(), slices.Repeat(c.GetHops(), 4)...) }), nil, v1.Reason_REASON_CHAIN_TOO_LARGE, 1},
		{"changed payload", w.changed("b", func(c *v1.DelegationChain) { c.GetGrant().Payload[len(c.GetGrant().GetPayload())-1] ^= 1 }), nil, v1.Reason_REASON_CHAIN_PARENT_MISMATCH, 7},
		{"changed signature", w.changed("c", func(c *v1.DelegationChain) { c.GetGrant().Signature[3] ^= 1 }), nil, v1.Reason_REASON_CHAIN_BAD_SIGNATURE, 13},
		{"swapped", w.changed("d", func(c *v1.DelegationChain) { c.Hops[0], c.Hops[1] = c.GetHops()[1], c.GetHops()[0] }), nil, v1.Reason_REASON_CHAIN_PARENT_MISMATCH, 7},
		{"no grant", w.changed("e", func(c *v1.DelegationChain) { c.Grant = nil }), nil, v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT, 1},
		{"stolen", w.file, []string{"--presenter", w.planner.String()}, v1.Reason_REASON_CHAIN_PRESENTER, 8},
		{"elsewhere", w.file, []string{"--self", w.planner.String()}, v1.Reason_REASON_CHAIN_AUDIENCE, 8},
		{"over", w.file, []string{"--at", later}, v1.Reason_REASON_CHAIN_TIME, 9},
		{"not covered", w.file, append(read[2:], "--intent", "memory.write"), v1.Reason_REASON_CHAIN_INTERSECTION, 17},
		{"no fact", w.file, pay, v1.Reason_REASON_CHAIN_CONSTRAINT_UNMET, 17},
		{"fact of another kind", w.file, append(pay, "--fact", `amount="5"`), v1.Reason_REASON_CHAIN_CONSTRAINT_UNMET, 17},
		{"other purpose", w.file, append(read[:4:4], "--purpose", "mine"), v1.Reason_REASON_CHAIN_PURPOSE, 17},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{tt.file, "--trust", w.roots, "--json"}, tt.args...)
			r := w.here(append([]string{"chain", "verify"}, args...)...)
			got := decode[chainVerdict](t, r.out)
			if tt.reason == 0 {
				if r.code != 0 || got.Verdict != "allowed" || got.Reason != "" || got.ChainID == "" {
					t.Errorf("exit code %d, %+v, %s", r.code, got, r.err)
				}
				return
			}
			if r.code != exitFailed || got.Verdict != "refused" || "REASON_"+got.Reason != tt.reason.String() || got.Step != tt.step {
				t.Errorf("exit code %d, %+v, want %s at step %d", r.code, got, tt.reason, tt.step)
			}
			if got.Depth == nil || got.Cause == "" || got.Otherwise == "" || got.WireReason == "" || got.WireReason == "INTERNAL" {
				t.Errorf("incomplete: %+v", got)
			}
			text := w.here(append([]string{"chain", "explain"}, append(args[:3:3], tt.args...)...)...)
			if text.code != exitFailed || !strings.HasPrefix(text.out, "REFUSED  "+got.Reason) || !strings.Contains(text.out, "FAILED") {
				t.Errorf("explain: %d\n%s%s", text.code, text.out, text.err)
			}
		})
	}
}

// What cannot be asked is told from what is refused.
func TestChainUsage(t *testing.T) {
	w := newChainWorld(t)
	prose := w.write("prose", []byte("this is no chain"))
	huge := w.write("huge", bytes.Repeat([]byte("A"), 1<<20))
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(otherKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	wrongKey := w.write("wrong.pem", pem.EncodeToMemory(&pem.Block{Type: chaintext.PEMPublicKey, Bytes: spki}))
	secret := w.write("secret.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))
	onlyRoots := w.write("roots.pem", pem.EncodeToMemory(&pem.Block{Type: chaintext.PEMCertificate, Bytes: w.mesh.CA.Certificate().Raw}))
	trust := []string{"--trust", w.roots}
	tests := []struct {
		name string
		args []string
		says string
	}{
		{"nothing", nil, "name a file"},
		{"two", []string{"a", "b"}, "at most one chain"},
		{"file and record", []string{w.file, "--id", strings.Repeat("0", 32)}, "not both"},
		{"no file", []string{"/nowhere/chain"}, "no such file"},
		{"no chain", []string{prose}, "no delegation chain"},
		{"too large", []string{huge}, "too large"},
		{"no trust", []string{w.file}, trustName},
		{"no grant key", []string{w.file, "--trust", onlyRoots}, "no trust file holds a grant key"},
		{"trust is no trust", []string{w.file, "--trust", prose}, "neither PEM nor a trust bundle"},
		{"trust is a private key", []string{w.file, "--trust", secret}, "without a certificate or a public key"},
		{"trust of another kind of key", []string{w.file, "--trust", wrongKey}, "not Ed25519"},
		{"no time", append(trust, w.file, "--at", "yesterday"), "--at yesterday"},
		{"no self", append(trust, w.file, "--self", "me"), "--self"},
		{"half a message", append(trust, w.file, "--intent", "memory.read"), "required: --resource, --purpose"},
		{"a subtree", append(trust, w.file, "--intent", "a", "--purpose", "b", "--resource", "notes/*"), "one resource"},
		{"no fact", append(trust, w.file, "--intent", "a", "--purpose", "b", "--resource", "c", "--fact", "x"), "KEY=VALUE"},
		{"no certificate", append(trust, w.file, "--presenter-cert", prose), "no certificate"},
		{"a CA presents", append(trust, w.file, "--presenter-cert", w.roots), "CA"},
		{"seq of nothing", []string{"--seq", "3"}, "--audit DIR"},
		{"id and seq", []string{"--seq", "3", "--id", "00"}, "name the record"},
		{"no id", []string{"--audit", w.bin, "--id", "xyz"}, "id"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := w.here(append([]string{"chain", "verify"}, tt.args...)...)
			if r.code != exitUsage || !strings.Contains(r.err, tt.says) || r.out != "" {
				t.Errorf("got %d, %s%s; want %q", r.code, r.out, r.err, tt.says)
			}
		})
	}
}

func TestChainShow(t *testing.T) {
	w := newChainWorld(t)
	raw, err := os.ReadFile(w.file)
	if err != nil {
		t.Fatal(err)
	}
	encoded := base64.StdEncoding.EncodeToString(raw)
	for name, arg := range map[string]string{"file": w.file, "base64 file": w.write("c.b64", []byte(encoded)), "text": encoded} {
		t.Run(name, func(t *testing.T) {
			r := w.here("chain", "show", arg, "--purpose", "weekly report", "--trust", w.roots)
			if r.code != 0 || !strings.HasPrefix(r.out, "UNVERIFIED") || !strings.Contains(r.out, "user alice -> planner -> analyst -> service/memory") ||
				!strings.Contains(r.out, "as given") || strings.Contains(r.out, "not known") {
				t.Errorf("%d, %s%s", r.code, r.out, r.err)
			}
		})
	}
	t.Run("standard input, as JSON, without trust", func(t *testing.T) {
		r := w.feed(strings.NewReader(encoded), "chain", "show", "-", "--json")
		got := decode[struct {
			Verified   bool
			Statements []struct{ Issuer string }
		}](t, r.out)
		if r.code != 0 || got.Verified || len(got.Statements) != 3 || got.Statements[2].Issuer != w.analyst.String() {
			t.Errorf("%d, %+v, %s", r.code, got, r.err)
		}
	})
}

// record appends one event and returns its number.
func record(t *testing.T, l *audit.Log, e *audit.Event) uint64 {
	t.Helper()
	pos, err := l.Append(t.Context(), audit.Effect, e)
	if err != nil {
		t.Fatal(err)
	}
	return pos.Seq
}

func TestChainFromAudit(t *testing.T) {
	w := newChainWorld(t)
	leaf := w.mesh.Leaf(t, w.chain, w.analyst, w.memory)
	link := leaf.Link()
	dir := filepath.Join(w.dir, "audit", "memory")
	l, err := audit.Open(dir, audit.Config{Origin: "td/safeconduct/memory"})
	if err != nil {
		t.Fatal(err)
	}
	id := func(b byte) []byte { return bytes.Repeat([]byte{b}, 16) }
	call := func(decision byte) *audit.Event {
		return &audit.Event{
			Kind: v1.EventKind_EVENT_KIND_CALL, Phase: v1.EventPhase_EVENT_PHASE_INTENT, Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND,
			InteractionId: id(decision + 100), DecisionId: id(decision), ConversationId: id(99), ChainRef: link[:],
		}
	}
	first := call(1)
	first.Chain, first.Presented = leaf.Links(), leaf.Chain()
	record(t, l, first)
	named := record(t, l, call(2))
	other := call(3)
	other.ChainRef, other.Chain = id(7), leaf.Links()
	other.ChainRef = append(other.ChainRef, id(8)...)
	record(t, l, other)
	lost := call(4)
	lost.ChainRef = append(id(5), id(6)...)
	record(t, l, lost)
	chainless := record(t, l, &audit.Event{Kind: v1.EventKind_EVENT_KIND_REGISTRY_CHANGED})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	for name, args := range map[string][]string{
		"the record that spells it out":       {"--id", fmt.Sprintf("%x", id(1))},
		"a record that names it":              {"--id", fmt.Sprintf("%x", id(2))},
		"a record that names it, by number":   {"--audit", dir, "--seq", fmt.Sprint(named)},
		"at a time of one's own, with folder": {"--audit", dir, "--id", fmt.Sprintf("%x", id(2)), "--at", time.Now().UTC().Format(time.RFC3339)},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.here(append([]string{"chain", "verify", "--trust", w.roots}, args...)...)
			if r.code != 0 || !strings.HasPrefix(r.out, "ALLOWED") || !strings.Contains(r.out, fmt.Sprintf("%x", link)) {
				t.Errorf("%d, %s%s", r.code, r.out, r.err)
			}
		})
	}
	t.Run("only links", func(t *testing.T) {
		if r := w.here("chain", "show", "--id", fmt.Sprintf("%x", id(3))); r.code != 0 || !strings.HasPrefix(r.out, "FROM THE LOG") {
			t.Errorf("%d, %s%s", r.code, r.out, r.err)
		}
		if r := w.here("chain", "show", "--id", fmt.Sprintf("%x", id(3)), "--json"); r.code != 0 || !strings.Contains(r.out, `"verified": false`) {
			t.Errorf("%d, %s%s", r.code, r.out, r.err)
		}
		if r := w.here("chain", "verify", "--id", fmt.Sprintf("%x", id(3)), "--trust", w.roots); r.code != exitUsage || !strings.Contains(r.err, "not its bytes") {
			t.Errorf("%d, %s%s", r.code, r.out, r.err)
		}
	})
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"spelled out nowhere": {[]string{"--id", fmt.Sprintf("%x", id(4))}, exitUsage, "spells it out"},
		"several chains":      {[]string{"--id", fmt.Sprintf("%x", id(99))}, exitUsage, "different chains"},
		"no chain":            {[]string{"--audit", dir, "--seq", fmt.Sprint(chainless)}, exitUsage, "under no chain"},
		"no such record":      {[]string{"--audit", dir, "--seq", "999"}, exitUsage, "no record 999"},
		"no such id":          {[]string{"--id", strings.Repeat("ab", 16)}, exitFailed, "no record with that id"},
	} {
		t.Run(name, func(t *testing.T) {
			if r := w.here(append([]string{"chain", "show"}, tt.args...)...); r.code != tt.code || !strings.Contains(r.err, tt.says) {
				t.Errorf("%d, %s%s", r.code, r.out, r.err)
			}
		})
	}
}

// A grant verifies against what up leaves in its state folder.
func TestChainOfUp(t *testing.T) {
	w := newWorld(t)
	w.up()
	w.must("agent", "register", "planner", "--tenant", "acme", "--class", "planner", "--owner", "o@acme.example", "--purpose", "plans")
	w.must("table", "allow", "mem", "--tenant", "acme", "--class", "planner", "--action", "memory.read", "--resource", "notes", "--peer", memoryID)
	grant := filepath.Join(w.bin, "report.grant")
	w.must("grant", "--principal", "alice@acme.example", "--to", "acme/planner", "--can", "memory.read:notes", "--purpose", "report", "-o", grant)
	if out := w.must("chain", "verify", grant); !strings.HasPrefix(out, "ALLOWED  user alice@acme.example -> planner\n") {
		t.Error(out)
	}
	raw, err := os.ReadFile(grant)
	if err != nil {
		t.Fatal(err)
	}
	s := new(v1.SignedStatement)
	if err := proto.Unmarshal(raw, s); err != nil {
		t.Fatal(err)
	}
	s.Signature[0] ^= 1
	if raw, err = proto.Marshal(s); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(grant, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := w.here("chain", "verify", grant); r.code != exitFailed || !strings.HasPrefix(r.out, "REFUSED  CHAIN_BAD_SIGNATURE at step 13") {
		t.Errorf("%d, %s%s", r.code, r.out, r.err)
	}
}

func TestFactValue(t *testing.T) {
	number := func(n int64) *v1.Value { return &v1.Value{Kind: &v1.Value_Number{Number: n}} }
	text := func(s string) *v1.Value { return &v1.Value{Kind: &v1.Value_Text{Text: s}} }
	for in, want := range map[string]*v1.Value{
		"500": number(500), "-1": number(-1), "1.5": text("1.5"), "true": {Kind: &v1.Value_Flag{Flag: true}}, "false": {Kind: &v1.Value_Flag{}},
		"EUR": text("EUR"), `"500"`: text("500"), `"`: text(`"`), "": text(""),
	} {
		if got := factValue(in); !proto.Equal(got, want) {
			t.Errorf("%q is %v, want %v", in, got, want)
		}
	}
}
