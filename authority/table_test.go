package authority_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/authority"
	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

func row(id, tenant, action string, subtree bool, resource ...string) *v1.CapabilityRow {
	return &v1.CapabilityRow{
		Id: id, Tenant: tenant, AgentClass: "assistant", Peers: []string{memory},
		Capability: &v1.Capability{Action: action, Resource: resource, Subtree: subtree},
	}
}

// policyKey reads the key that cmd would sign tables with.
func policyKey(t *testing.T, cfg authority.Config) ed25519.PrivateKey {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(cfg.Dir, "policy.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return key.(ed25519.PrivateKey)
}

func TestTableSerials(t *testing.T) {
	cfg, log := config(t)
	a := start(t, cfg)
	op := operator(t, a)
	table := func(serial uint64, key ed25519.PrivateKey) *v1.Dsse {
		return must(policy.SignTable(&v1.CapabilityTable{
			Version: 1, TrustDomain: domain, Serial: serial, Rows: []*v1.CapabilityRow{row("r", "acme", "memory.read", true, "notes")},
		}, key))
	}
	key := policyKey(t, cfg)
	_, strange, _ := ed25519.GenerateKey(nil)
	foreign := must(policy.SignTable(&v1.CapabilityTable{Version: 1, TrustDomain: "other.example", Serial: 99}, key))
	wrongType := must(delegation.SealDsse(delegation.TypeBundle, table(98, key).GetPayload(), key))
	for _, tt := range []struct {
		name  string
		table *v1.Dsse
		want  codes.Code
		now   uint64 // serial in force afterwards
	}{
		{"nothing", nil, codes.FailedPrecondition, 0},
		{"another key", table(5, strange), codes.FailedPrecondition, 0},
		{"first", table(5, key), codes.OK, 5},
		{"the same again", table(5, key), codes.FailedPrecondition, 5},
		{"lower", table(4, key), codes.FailedPrecondition, 5},
		{"another trust domain", foreign, codes.FailedPrecondition, 5},
		{"another payload type", wrongType, codes.FailedPrecondition, 5},
		{"higher", table(7, key), codes.OK, 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(log.denied(v1.EventKind_EVENT_KIND_TABLE_REJECTED))
			_, err := op.ActivateTable(t.Context(), &rpcv1.ActivateTableRequest{Table: tt.table})
			if status.Code(err) != tt.want || a.Status().GetTableSerial() != tt.now {
				t.Errorf("ActivateTable() = %v, serial %d, want %v, serial %d", err, a.Status().GetTableSerial(), tt.want, tt.now)
			}
			if got := len(log.denied(v1.EventKind_EVENT_KIND_TABLE_REJECTED)) - before; tt.want != codes.OK && got != 1 {
				t.Errorf("%d rejections recorded, want 1", got)
			}
		})
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = start(t, cfg)
	if _, err := a.ActivateTable(t.Context(), table(7, key)); !errors.Is(err, policy.ErrTable) {
		t.Errorf("ActivateTable() of an old serial after a restart = %v, want ErrTable", err)
	}
	b := openBundle(t, a, a.Bundle())
	if parsed, err := policy.ParseTable(b.GetTable(), a.PolicyKey); err != nil || parsed.Serial() != 7 {
		t.Errorf("table in the bundle: %v", err)
	}
}

func TestEditTable(t *testing.T) {
	a, log := world(t)
	one, two := row("one", "acme", "memory.read", true, "notes"), row("two", "acme", "memory.write", true, "notes")
	changed := proto.CloneOf(one)
	changed.Peers = []string{self}
	for _, tt := range []struct {
		name   string
		add    []*v1.CapabilityRow
		remove []string
		want   uint64
		err    error
	}{
		{"add two", []*v1.CapabilityRow{one, two}, nil, 1, nil},
		{"add again", []*v1.CapabilityRow{one}, nil, 1, nil},
		{"nothing", nil, nil, 1, nil},
		{"change without removing", []*v1.CapabilityRow{changed}, nil, 0, authority.ErrInvalid},
		{"replace", []*v1.CapabilityRow{changed}, []string{"one"}, 2, nil},
		{"remove the unknown", nil, []string{"three"}, 0, authority.ErrInvalid},
		{"invalid row", []*v1.CapabilityRow{row("bad", "acme", "Memory", false, "x")}, nil, 0, policy.ErrTable},
		{"remove all", nil, []string{"one", "two"}, 3, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := a.EditTable(t.Context(), tt.add, tt.remove)
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("EditTable() = %d, %v, want %d, %v", got, err, tt.want, tt.err)
			}
		})
	}
	if got := len(log.allowed(v1.EventKind_EVENT_KIND_TABLE_ACTIVATED)); got != 3 {
		t.Errorf("%d activations recorded, want 3", got)
	}
	log.stop(true)
	if _, err := a.EditTable(t.Context(), []*v1.CapabilityRow{one}, nil); !errors.Is(err, authority.ErrAudit) {
		t.Errorf("EditTable() without a log = %v, want ErrAudit", err)
	}
	if got := a.Status().GetTableSerial(); got != 3 {
		t.Errorf("table serial %d after an unrecorded edit, want 3", got)
	}
}

func grantRequest() *rpcv1.IssueGrantRequest {
	return &rpcv1.IssueGrantRequest{
		Principal: "alice@dev.example", Delegate: alice, Purpose: "answer a question",
		Capabilities: []*v1.Capability{{Action: "memory.read", Resource: []string{"notes"}, Subtree: true, Reach: 4}},
	}
}

func TestIssueGrant(t *testing.T) {
	a, log := world(t)
	op := operator(t, a)
	if _, err := op.IssueGrant(t.Context(), grantRequest()); errorInfo(t, err).GetReason() != "SCOPE" {
		t.Errorf("IssueGrant() without a table = %v, want SCOPE", err)
	}
	if _, err := a.EditTable(t.Context(), []*v1.CapabilityRow{row("r", "acme", "memory.read", true, "notes")}, nil); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	r, err := op.IssueGrant(t.Context(), grantRequest())
	if err != nil {
		t.Fatal(err)
	}
	var p v1.GrantPayload
	if err := proto.Unmarshal(r.GetGrant().GetPayload(), &p); err != nil {
		t.Fatal(err)
	}
	purpose := sha256.Sum256([]byte("answer a question"))
	key, ok := a.Keys().GrantKey(p.GetIssuer(), p.GetKeyId(), time.UnixMilli(p.GetIssuedAtMs()))
	switch {
	case !ok || !ed25519.Verify(key, delegation.PAE(delegation.TypeGrant, r.GetGrant().GetPayload()), r.GetGrant().GetSignature()):
		t.Error("grant does not verify under the published key")
	case p.GetIssuer() != self || p.GetTrustDomain() != domain || p.GetTenant() != "acme" || p.GetDelegate() != alice:
		t.Errorf("grant of %v", &p)
	case p.GetPrincipal().GetType() != v1.Principal_TYPE_USER || p.GetPrincipal().GetSubject() != "alice@dev.example" || p.GetPrincipal().GetIssuer() != self:
		t.Errorf("principal %v", p.GetPrincipal())
	case strings.Join(p.GetDelegates(), " ") != "spiffe://dev.example/tenant/acme/agent/* "+memory && strings.Join(p.GetDelegates(), " ") != memory+" spiffe://dev.example/tenant/acme/agent/*":
		t.Errorf("delegates %v", p.GetDelegates())
	case p.GetMaxDepth() != 4 || p.GetDepthUsed() != 0 || string(p.GetPurposeDigest()) != string(purpose[:]):
		t.Errorf("depth %d, purpose %x", p.GetMaxDepth(), p.GetPurposeDigest())
	case p.GetExpiresAtMs() != r.GetExpiresAtMs() || time.UnixMilli(p.GetExpiresAtMs()).After(time.Now().Add(15*time.Minute)) ||
		time.UnixMilli(p.GetExpiresAtMs()).Before(before.Add(14*time.Minute)):
		t.Errorf("expires at %s", time.UnixMilli(p.GetExpiresAtMs()))
	case len(r.GetChainId()) != 16 || string(r.GetChainId()) != string(p.GetChainId()) || len(p.GetStatementNonce()) != 16:
		t.Errorf("chain id %x, nonce %x", p.GetChainId(), p.GetStatementNonce())
	}
	verifier, err := delegation.NewVerifier(delegation.Config{
		Self: agentID(t, alice), Keys: a.Keys(), Bundles: must(a.Source(agentID(t, alice))), Now: time.Now,
		BundleGeneration: a.Registry().Generation,
	})
	if err != nil {
		t.Fatal(err)
	}
	if leaf, err := verifier.VerifyGrant(r.GetGrant()); err != nil || leaf.Tenant() != "acme" || !leaf.Covers("memory.read", []string{"notes", "x"}) {
		t.Errorf("VerifyGrant() = %v, %v", leaf, err)
	}
	issued := log.allowed(v1.EventKind_EVENT_KIND_GRANT_ISSUED)
	if len(issued) != 1 || string(issued[0].GetChainId()) != string(r.GetChainId()) || issued[0].GetOrigin().GetSubject() != "alice@dev.example" ||
		!strings.HasPrefix(issued[0].GetDetail(), "operator pid ") {
		t.Errorf("grants recorded: %v", issued)
	}
	log.stop(true)
	if r, err := a.IssueGrant(t.Context(), grantRequest()); r != nil || !errors.Is(err, authority.ErrAudit) {
		t.Errorf("IssueGrant() without a log = %v, %v, want ErrAudit", r, err)
	}
}

func TestIssueGrantRefusals(t *testing.T) {
	a, log := world(t)
	if _, err := a.EditTable(t.Context(), []*v1.CapabilityRow{row("r", "acme", "memory.read", true, "notes")}, nil); err != nil {
		t.Fatal(err)
	}
	op := operator(t, a)
	capability := func(action string, subtree bool, resource ...string) []*v1.Capability {
		return []*v1.Capability{{Action: action, Resource: resource, Subtree: subtree, Reach: 1}}
	}
	for _, tt := range []struct {
		name   string
		change func(*rpcv1.IssueGrantRequest)
		want   codes.Code
	}{
		{"below the ceiling", func(r *rpcv1.IssueGrantRequest) { r.Capabilities = capability("memory.read", false, "notes", "x") }, codes.OK},
		{"action not in the table", func(r *rpcv1.IssueGrantRequest) { r.Capabilities = capability("memory.write", true, "notes") }, codes.PermissionDenied},
		{"resource above the table's", func(r *rpcv1.IssueGrantRequest) { r.Capabilities = capability("memory.read", true, "n") }, codes.PermissionDenied},
		{"resource beside the table's", func(r *rpcv1.IssueGrantRequest) { r.Capabilities = capability("memory.read", true, "notes2") }, codes.PermissionDenied},
		{"the row of another tenant", func(r *rpcv1.IssueGrantRequest) { r.Delegate = mallory }, codes.PermissionDenied},
		{"one of two beyond the table", func(r *rpcv1.IssueGrantRequest) {
			r.Capabilities = append(r.Capabilities, capability("memory.write", true, "notes")...)
		}, codes.PermissionDenied},
		{"no capability", func(r *rpcv1.IssueGrantRequest) { r.Capabilities = nil }, codes.InvalidArgument},
		{"33 capabilities", func(r *rpcv1.IssueGrantRequest) {
			for range 32 {
				r.Capabilities = append(r.Capabilities, r.Capabilities[0])
			}
		}, codes.InvalidArgument},
		{"no principal", func(r *rpcv1.IssueGrantRequest) { r.Principal = "" }, codes.InvalidArgument},
		{"principal with a control character", func(r *rpcv1.IssueGrantRequest) { r.Principal = "a\x00" }, codes.InvalidArgument},
		{"no purpose", func(r *rpcv1.IssueGrantRequest) { r.Purpose = "" }, codes.InvalidArgument},
		{"delegate unknown", func(r *rpcv1.IssueGrantRequest) { r.Delegate = "spiffe://dev.example/tenant/acme/agent/eve" }, codes.NotFound},
		{"delegate a service", func(r *rpcv1.IssueGrantRequest) { r.Delegate = memory }, codes.InvalidArgument},
		{"delegate foreign", func(r *rpcv1.IssueGrantRequest) { r.Delegate = "spiffe://other.example/tenant/acme/agent/alice" }, codes.InvalidArgument},
		{"delegates of another tenant", func(r *rpcv1.IssueGrantRequest) { r.Delegates = []string{mallory} }, codes.InvalidArgument},
		{"delegates of every agent of another tenant", func(r *rpcv1.IssueGrantRequest) {
			r.Delegates = []string{"spiffe://dev.example/tenant/globex/agent/*"}
		}, codes.InvalidArgument},
		{"delegates of every service", func(r *rpcv1.IssueGrantRequest) { r.Delegates = []string{"spiffe://dev.example/service/*"} }, codes.InvalidArgument},
		{"17 delegates", func(r *rpcv1.IssueGrantRequest) {
			for range 17 {
				r.Delegates = append(r.Delegates, bob)
			}
		}, codes.InvalidArgument},
		{"exact delegates", func(r *rpcv1.IssueGrantRequest) { r.Delegates = []string{memory, bob} }, codes.OK},
		{"depth nine", func(r *rpcv1.IssueGrantRequest) { r.MaxDepth = 9 }, codes.InvalidArgument},
		{"negative ttl", func(r *rpcv1.IssueGrantRequest) { r.TtlS = -1 }, codes.InvalidArgument},
		{"ttl over 15 minutes", func(r *rpcv1.IssueGrantRequest) { r.TtlS = 901 }, codes.InvalidArgument},
		{"ttl of 15 minutes", func(r *rpcv1.IssueGrantRequest) { r.TtlS = 900 }, codes.OK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(log.denied(v1.EventKind_EVENT_KIND_GRANT_ISSUED))
			r := grantRequest()
			tt.change(r)
			if _, err := op.IssueGrant(t.Context(), r); status.Code(err) != tt.want {
				t.Fatalf("IssueGrant() = %v, want %v", err, tt.want)
			}
			refused := log.denied(v1.EventKind_EVENT_KIND_GRANT_ISSUED)
			if tt.want == codes.PermissionDenied && (len(refused) != before+1 || refused[before].GetReason() != v1.Reason_REASON_GRANT_OUTSIDE_CEILING) {
				t.Errorf("refusals recorded: %v", refused[before:])
			}
		})
	}
}

func TestGrantKeyView(t *testing.T) {
	cfg, _ := config(t)
	a := start(t, cfg)
	var id string
	for _, k := range openBundle(t, a, a.Bundle()).GetKeys() {
		if k.GetUse() == v1.KeyUse_KEY_USE_GRANT {
			id = k.GetKeyId()
		}
	}
	now := time.Now()
	for _, tt := range []struct {
		name, issuer, key string
		at                time.Time
		want              bool
	}{
		{"ours", self, id, now, true},
		{"another issuer", memory, id, now, false},
		{"another key", self, strings.Repeat("0", 32), now, false},
		{"no key", self, "", now, false},
		{"before it was published", self, id, now.Add(-time.Hour), false},
	} {
		if _, ok := a.Keys().GrantKey(tt.issuer, tt.key, tt.at); ok != tt.want {
			t.Errorf("%s: GrantKey() = %v, want %v", tt.name, ok, tt.want)
		}
	}
}
