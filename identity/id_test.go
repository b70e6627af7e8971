package identity_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/safeconduct/safeconduct/identity"
)

func TestParseAgentRefusals(t *testing.T) {
	tests := []struct{ name, input string }{
		{"empty", ""},
		{"no scheme", "mesh.test/tenant/acme/agent/relay"},
		{"other scheme", "https://mesh.test/tenant/acme/agent/relay"},
		{"no path", "spiffe://mesh.test"},
		{"slash only", "spiffe://mesh.test/"},
		{"no trust domain", "spiffe:///tenant/acme/agent/relay"},
		{"port", "spiffe://mesh.test:443/tenant/acme/agent/relay"},
		{"user", "spiffe://root@mesh.test/tenant/acme/agent/relay"},
		{"query", "spiffe://mesh.test/tenant/acme/agent/relay?x=1"},
		{"fragment", "spiffe://mesh.test/tenant/acme/agent/relay#x"},
		{"tenant only", "spiffe://mesh.test/tenant/acme"},
		{"agent without a name", "spiffe://mesh.test/tenant/acme/agent"},
		{"empty name", "spiffe://mesh.test/tenant/acme/agent/"},
		{"empty tenant", "spiffe://mesh.test/tenant//agent/relay"},
		{"below an agent", "spiffe://mesh.test/tenant/acme/agent/relay/x"},
		{"below a service", "spiffe://mesh.test/service/memory/x"},
		{"service without a name", "spiffe://mesh.test/service"},
		{"another word", "spiffe://mesh.test/tenant/acme/robot/relay"},
		{"another kind", "spiffe://mesh.test/user/alice"},
		{"kubernetes shape", "spiffe://mesh.test/ns/default/sa/web"},
		{"traversal", "spiffe://mesh.test/tenant/acme/agent/../../globex/agent/x"},
		{"dot", "spiffe://mesh.test/tenant/./agent/relay"},
		{"encoded slash", "spiffe://mesh.test/tenant/acme%2Fagent/agent/relay"},
		{"encoded letter", "spiffe://mesh.test/tenant/%61cme/agent/relay"},
		{"capital in the trust domain", "spiffe://Mesh.test/tenant/acme/agent/relay"},
		{"capital in the tenant", "spiffe://mesh.test/tenant/Acme/agent/relay"},
		{"capital in the name", "spiffe://mesh.test/tenant/acme/agent/Relay"},
		{"capital in a word", "spiffe://mesh.test/Tenant/acme/agent/relay"},
		{"underscore", "spiffe://mesh.test/tenant/acme/agent/re_lay"},
		{"dot in the name", "spiffe://mesh.test/tenant/acme/agent/re.lay"},
		{"leading hyphen", "spiffe://mesh.test/tenant/acme/agent/-relay"},
		{"trailing hyphen", "spiffe://mesh.test/tenant/acme/agent/relay-"},
		{"star", "spiffe://mesh.test/tenant/acme/agent/*"},
		{"Cyrillic a", "spiffe://mesh.test/tenant/\u0430cme/agent/relay"},
		{"newline", "spiffe://mesh.test/tenant/acme/agent/relay\n"},
		{"NUL", "spiffe://mesh.test/tenant/acme/agent/relay\x00"},
		{"name of 64 bytes", "spiffe://mesh.test/tenant/acme/agent/" + strings.Repeat("a", 64)},
		{"tenant of 64 bytes", "spiffe://mesh.test/tenant/" + strings.Repeat("a", 64) + "/agent/relay"},
		{"overlong", "spiffe://mesh.test/tenant/acme/agent/" + strings.Repeat("a", 2048)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := identity.ParseAgent(tt.input)
			if !errors.Is(err, identity.ErrNotAnIdentity) || !got.IsZero() {
				t.Errorf("ParseAgent(%q) = %v, %v, want ErrNotAnIdentity", tt.input, got, err)
			}
		})
	}
	if _, err := identity.ParseAgentID(spiffeid.ID{}); !errors.Is(err, identity.ErrNotAnIdentity) {
		t.Errorf("ParseAgentID(zero) = %v", err)
	}
}

func TestParseAgent(t *testing.T) {
	long := strings.Repeat("a", 63)
	tests := []struct {
		input, tenant, name, dns string
		service                  bool
	}{
		{"spiffe://mesh.test/tenant/acme/agent/relay", "acme", "relay", "relay.acme.mesh.test", false},
		{"spiffe://mesh.test/tenant/tenant/agent/agent", "tenant", "agent", "agent.tenant.mesh.test", false},
		{"spiffe://mesh.test/tenant/a-1/agent/0", "a-1", "0", "0.a-1.mesh.test", false},
		{"spiffe://mesh.test/tenant/" + long + "/agent/" + long, long, long, long + "." + long + ".mesh.test", false},
		{"spiffe://mesh.test/service/authority", "", "authority", "authority.service.mesh.test", true},
	}
	for _, tt := range tests {
		t.Run(tt.input, func(t *testing.T) {
			got, err := identity.ParseAgent(tt.input)
			if err != nil {
				t.Fatal(err)
			}
			if got.Tenant().Name() != tt.tenant || got.Name() != tt.name || got.DNSName() != tt.dns || got.IsService() != tt.service ||
				got.String() != tt.input || got.ID().String() != tt.input || got.TrustDomain().Name() != "mesh.test" {
				t.Errorf("ParseAgent() = %q of %s, %s", got.Name(), got.Tenant(), got.DNSName())
			}
			made, err := identity.NewServiceID(got.TrustDomain(), got.Name())
			if !tt.service {
				made, err = identity.NewAgentID(got.Tenant(), got.Name())
			}
			if err != nil || made != got {
				t.Errorf("the constructor makes %v, %v, the parser %v", made, err, got)
			}
		})
	}
}

func TestConstructorsRefuse(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("mesh.test")
	acme, err := identity.RegisteredTenant(td, "acme")
	if err != nil {
		t.Fatal(err)
	}
	if acme.String() != "mesh.test/acme" || acme.TrustDomain() != td || acme.IsZero() || (identity.Tenant{}).String() != "-" {
		t.Errorf("tenant %s", acme)
	}
	for _, bad := range []string{"", "A", "a/b", "..", "a.b", strings.Repeat("a", 64)} {
		if _, err := identity.RegisteredTenant(td, bad); !errors.Is(err, identity.ErrNotAnIdentity) {
			t.Errorf("RegisteredTenant(%q) = %v", bad, err)
		}
		if _, err := identity.NewAgentID(acme, bad); !errors.Is(err, identity.ErrNotAnIdentity) {
			t.Errorf("NewAgentID(%q) = %v", bad, err)
		}
		if _, err := identity.NewServiceID(td, bad); !errors.Is(err, identity.ErrNotAnIdentity) {
			t.Errorf("NewServiceID(%q) = %v", bad, err)
		}
	}
	if _, err := identity.RegisteredTenant(spiffeid.TrustDomain{}, "acme"); !errors.Is(err, identity.ErrNotAnIdentity) {
		t.Errorf("RegisteredTenant(no trust domain) = %v", err)
	}
	if _, err := identity.NewAgentID(identity.Tenant{}, "relay"); !errors.Is(err, identity.ErrNotAnIdentity) {
		t.Errorf("NewAgentID(no tenant) = %v", err)
	}
	if _, err := identity.NewServiceID(spiffeid.TrustDomain{}, "memory"); !errors.Is(err, identity.ErrNotAnIdentity) {
		t.Errorf("NewServiceID(no trust domain) = %v", err)
	}
	if zero := (identity.AgentID{}); !zero.IsZero() || zero.IsService() || zero.String() != "" {
		t.Error("the zero AgentID is somebody")
	}
}

func TestDelegatePatterns(t *testing.T) {
	const globex = "spiffe://mesh.test/tenant/globex/agent/"
	tests := []struct {
		pattern, id string
		valid, want bool
	}{
		{globex + "a", globex + "a", true, true},
		{globex + "a", globex + "ab", true, false},
		{globex + "ab", globex + "a", true, false},
		{globex + "*", globex + "a", true, true},
		{globex + "*", "spiffe://mesh.test/tenant/globex-evil/agent/a", true, false},
		{"spiffe://mesh.test/tenant/globex/*", globex + "a", false, false},
		{"spiffe://mesh.test/tenant/*", globex + "a", false, false},
		{"spiffe://mesh.test/*", globex + "a", false, false},
		{"*", globex + "a", false, false},
		{"/*", globex + "a", false, false},
		{globex + "a*", globex + "ab", false, false},
		{globex + "*/*", globex + "a", false, false},
		{"spiffe://mesh.test/tenant/globex/agent", globex + "a", false, false},
		{"spiffe://mesh.test.evil/tenant/globex/agent/*", globex + "a", true, false},
		{"spiffe://mesh.test/service/memory", "spiffe://mesh.test/service/memory", true, true},
		{"spiffe://mesh.test/service/*", "spiffe://mesh.test/service/memory", false, false},
		{"spiffe://mesh.test/tenant/globex/agent/*", "spiffe://mesh.test/service/memory", true, false},
		{"", globex + "a", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.pattern+" "+tt.id, func(t *testing.T) {
			id, err := identity.ParseAgent(tt.id)
			if err != nil {
				t.Fatal(err)
			}
			if got := identity.MatchDelegate(tt.pattern, id); got != tt.want {
				t.Errorf("MatchDelegate() = %v, want %v", got, tt.want)
			}
			if got := identity.ValidDelegatePattern(tt.pattern); got != tt.valid {
				t.Errorf("ValidDelegatePattern() = %v, want %v", got, tt.valid)
			}
			if got := identity.CoversDelegate(tt.pattern, tt.id); got != tt.want {
				t.Errorf("CoversDelegate() = %v, want %v", got, tt.want)
			}
			if tt.valid && identity.CoversDelegate(tt.id, tt.pattern) && tt.pattern != tt.id {
				t.Error("one identity covers a wider pattern")
			}
		})
	}
	if !identity.CoversDelegate(globex+"*", globex+"*") || identity.CoversDelegate(globex+"*", "spiffe://mesh.test/tenant/globex-evil/agent/*") ||
		identity.CoversDelegate(globex+"*", "nonsense") {
		t.Error("CoversDelegate of patterns")
	}
	if identity.MatchDelegate(globex+"*", identity.AgentID{}) || identity.MatchDelegate("spiffe:///tenant//agent/*", identity.AgentID{}) {
		t.Error("nobody is matched")
	}
}

func TestStateStrings(t *testing.T) {
	want := []string{"unknown", "pending", "active", "suspended", "quarantined", "retired", "unknown"}
	for i, w := range want {
		if got := identity.State(i).String(); got != w {
			t.Errorf("State(%d) = %q, want %q", i, got, w)
		}
	}
}

func FuzzParseAgent(f *testing.F) {
	for _, s := range []string{
		"spiffe://mesh.test/tenant/acme/agent/relay", "spiffe://mesh.test/service/memory", "spiffe://mesh.test/tenant/acme/agent/../x",
		"spiffe://mesh.test/tenant/acme/agent/*", "spiffe://mesh.test", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := identity.ParseAgent(s)
		if err != nil {
			if !id.IsZero() {
				t.Errorf("ParseAgent(%q) returns an identity with an error", s)
			}
			return
		}
		if id.String() != s {
			t.Errorf("ParseAgent(%q) reads as %q", s, id)
		}
		if id.IsService() == !id.Tenant().IsZero() {
			t.Errorf("%q is a service and has a tenant, or neither", s)
		}
		want := "spiffe://" + id.TrustDomain().Name() + "/service/" + id.Name()
		if !id.IsService() {
			want = "spiffe://" + id.TrustDomain().Name() + "/tenant/" + id.Tenant().Name() + "/agent/" + id.Name()
		}
		if s != want {
			t.Errorf("ParseAgent(%q) has the parts of %q", s, want)
		}
		if !identity.MatchDelegate(s, id) || !identity.ValidDelegatePattern(s) {
			t.Errorf("%q does not match itself", s)
		}
	})
}
