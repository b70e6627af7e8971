package authority_test

import (
	"errors"
	"strconv"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/authority"
	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

func TestRegisterAgentValidates(t *testing.T) {
	cfg, log := config(t)
	a := start(t, cfg)
	for _, tt := range []struct {
		name   string
		change func(*v1.Agent)
		ok     bool
	}{
		{"minimal", func(*v1.Agent) {}, true},
		{"no id", func(g *v1.Agent) { g.SpiffeId = "" }, false},
		{"a service", func(g *v1.Agent) { g.SpiffeId = memory }, false},
		{"foreign trust domain", func(g *v1.Agent) { g.SpiffeId = "spiffe://other.example/tenant/acme/agent/x" }, false},
		{"upper case", func(g *v1.Agent) { g.SpiffeId = "spiffe://dev.example/tenant/acme/agent/Alice" }, false},
		{"name of 64 bytes", func(g *v1.Agent) { g.SpiffeId = "spiffe://dev.example/tenant/acme/agent/" + strings.Repeat("a", 64) }, false},
		{"tenant of another path", func(g *v1.Agent) { g.Tenant = "globex" }, false},
		{"tenant and name of the path", func(g *v1.Agent) { g.Tenant, g.Name = "acme", "tenant-and-name-of-the-path" }, true},
		{"no class", func(g *v1.Agent) { g.AgentClass = "" }, false},
		{"class of a service", func(g *v1.Agent) { g.AgentClass = "service" }, false},
		{"no owner", func(g *v1.Agent) { g.Owner = "" }, false},
		{"owner over 128 bytes", func(g *v1.Agent) { g.Owner = strings.Repeat("o", 129) }, false},
		{"owner with a newline", func(g *v1.Agent) { g.Owner = "a\nb" }, false},
		{"owner not UTF-8", func(g *v1.Agent) { g.Owner = "\xff" }, false},
		{"no purpose", func(g *v1.Agent) { g.Purpose = "" }, false},
		{"purpose of 512 bytes", func(g *v1.Agent) { g.Purpose = strings.Repeat("p", 512) }, true},
		{"purpose over 512 bytes", func(g *v1.Agent) { g.Purpose = strings.Repeat("p", 513) }, false},
		{"no integrity cap", func(g *v1.Agent) { g.IntegrityCap = 0 }, false},
		{"integrity cap of the operator", func(g *v1.Agent) { g.IntegrityCap = v1.Integrity_INTEGRITY_SYSTEM }, false},
		{"unknown integrity cap", func(g *v1.Agent) { g.IntegrityCap = 99 }, false},
		{"unmediated and attested", func(g *v1.Agent) { g.UnmediatedTools = true }, false},
		{"unmediated and untrusted", func(g *v1.Agent) {
			g.UnmediatedTools, g.IntegrityCap = true, v1.Integrity_INTEGRITY_UNTRUSTED
		}, true},
		{"born suspended", func(g *v1.Agent) { g.State = v1.AgentState_AGENT_STATE_SUSPENDED }, false},
		{"own generation", func(g *v1.Agent) { g.Generation = 7 }, false},
		{"own revision", func(g *v1.Agent) { g.Revision = 7 }, false},
		{"capabilities nobody enforces", func(g *v1.Agent) { g.Capabilities = []*v1.Capability{{Action: "a"}} }, false},
		{"unknown selector", func(g *v1.Agent) { g.Selectors = []*v1.AgentSelector{{Type: "vibe", Value: "good"}} }, false},
		{"selector uid", func(g *v1.Agent) { g.Selectors = []*v1.AgentSelector{{Type: "uid", Value: "0"}} }, true},
		{"selector digest in upper case", func(g *v1.Agent) {
			g.Selectors = []*v1.AgentSelector{{Type: "exe_sha256", Value: strings.Repeat("A", 64)}}
		}, false},
		{"nine selectors", func(g *v1.Agent) {
			for range 9 {
				g.Selectors = append(g.Selectors, &v1.AgentSelector{Type: "uid", Value: "0"})
			}
		}, false},
		{"model name over 128 bytes", func(g *v1.Agent) { g.Model = &v1.Model{Name: strings.Repeat("m", 129)} }, false},
		{"unknown field", func(g *v1.Agent) { g.ProtoReflect().SetUnknown([]byte{0xf8, 0x7f, 1}) }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newAgent("spiffe://dev.example/tenant/acme/agent/" + strings.ReplaceAll(strings.ToLower(tt.name), " ", "-"))
			tt.change(g)
			before := a.Status().GetBundleSerial()
			got, err := a.RegisterAgent(t.Context(), g)
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, authority.ErrInvalid) {
				t.Fatalf("RegisterAgent() = %v, want ok %v", err, tt.ok)
			}
			if !tt.ok {
				if after := a.Status().GetBundleSerial(); after != before {
					t.Errorf("bundle serial moved from %d to %d", before, after)
				}
				return
			}
			id := agentID(t, g.GetSpiffeId())
			if got.GetState() != v1.AgentState_AGENT_STATE_ACTIVE || got.GetTenant() != "acme" || got.GetName() != id.Name() || got.GetGeneration() != 1 {
				t.Errorf("RegisterAgent() = %v", got)
			}
			if r := a.Registry().Agent(id); r == nil || r.State != identity.StateActive || r.IntegrityCap != int32(g.GetIntegrityCap()) {
				t.Errorf("Registry().Agent() = %v", r)
			}
		})
	}
	if got, want := len(log.allowed(v1.EventKind_EVENT_KIND_REGISTRY_CHANGED)), len(a.Agents()); got != want {
		t.Errorf("%d registrations recorded, want %d", got, want)
	}
}

func TestRegistrationIsIdempotent(t *testing.T) {
	a, log := world(t)
	records, serial, generation := len(log.allowed(v1.EventKind_EVENT_KIND_REGISTRY_CHANGED)), a.Status().GetBundleSerial(), a.Registry().Generation()
	if _, err := a.RegisterAgent(t.Context(), newAgent(alice)); err != nil {
		t.Fatal(err)
	}
	other := newAgent(alice)
	other.IntegrityCap = v1.Integrity_INTEGRITY_TRUSTED
	if _, err := a.RegisterAgent(t.Context(), other); !errors.Is(err, authority.ErrConflict) {
		t.Errorf("RegisterAgent() with other content = %v, want ErrConflict", err)
	}
	if got := len(log.allowed(v1.EventKind_EVENT_KIND_REGISTRY_CHANGED)); got != records {
		t.Errorf("%d registrations recorded, want %d", got, records)
	}
	if a.Status().GetBundleSerial() != serial || a.Registry().Generation() != generation {
		t.Error("a registration without effect changed the bundle")
	}
}

func TestConcurrentRegistration(t *testing.T) {
	cfg, _ := config(t)
	a := start(t, cfg)
	op := operator(t, a)
	const agents, callers = 8, 4
	var wg sync.WaitGroup
	for i := range agents * callers {
		wg.Go(func() {
			id := "spiffe://dev.example/tenant/acme/agent/a" + strconv.Itoa(i%agents)
			if _, err := op.RegisterAgent(t.Context(), &rpcv1.RegisterAgentRequest{Agent: newAgent(id)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := a.Agents()
	if len(got) != agents {
		t.Fatalf("%d agents, want %d", len(got), agents)
	}
	seen := map[uint64]bool{}
	for _, g := range got {
		if g.GetRevision() < 1 || g.GetRevision() > agents || seen[g.GetRevision()] {
			t.Errorf("revision %d twice or out of range", g.GetRevision())
		}
		seen[g.GetRevision()] = true
	}
	list, err := op.ListAgents(t.Context(), &rpcv1.ListAgentsRequest{})
	if err != nil || len(list.GetAgents()) != agents {
		t.Errorf("ListAgents() = %d agents, %v", len(list.GetAgents()), err)
	}
}

func TestNothingIsRegisteredUnrecorded(t *testing.T) {
	cfg, log := config(t)
	a := start(t, cfg)
	before := a.Status().GetBundleSerial()
	log.stop(true)
	if _, err := a.RegisterAgent(t.Context(), newAgent(alice)); !errors.Is(err, authority.ErrAudit) {
		t.Errorf("RegisterAgent() without a log = %v, want ErrAudit", err)
	}
	if a.Registry().Agent(agentID(t, alice)) != nil || a.Status().GetBundleSerial() != before {
		t.Error("an unrecorded registration took effect")
	}
}

func TestServicesAreBuiltIn(t *testing.T) {
	cfg, _ := config(t)
	a := start(t, cfg)
	for _, id := range []string{self, memory} {
		if r := a.Registry().Agent(agentID(t, id)); r == nil || r.State != identity.StateActive || r.Class != "service" {
			t.Errorf("Registry().Agent(%s) = %v", id, r)
		}
	}
	if _, err := a.Source(agentID(t, "spiffe://dev.example/service/other")); !errors.Is(err, authority.ErrUnknownAgent) {
		t.Errorf("Source() of an unknown service = %v, want ErrUnknownAgent", err)
	}
}

// openBundle verifies a signed bundle as a runtime would.
func openBundle(t *testing.T, a *authority.Authority, d *v1.Dsse) *v1.TrustBundle {
	t.Helper()
	payload, err := delegation.OpenDsse(d, delegation.TypeBundle, a.FeedKey)
	if err != nil {
		t.Fatal(err)
	}
	b := &v1.TrustBundle{}
	if err := proto.Unmarshal(payload, b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBundle(t *testing.T) {
	a, _ := world(t)
	b := openBundle(t, a, a.Bundle())
	if b.GetVersion() != 1 || b.GetTrustDomain() != domain || b.GetSerial() != a.Status().GetBundleSerial() || len(b.GetAgents()) != 5 {
		t.Errorf("bundle: version %d, trust domain %q, serial %d, %d agents", b.GetVersion(), b.GetTrustDomain(), b.GetSerial(), len(b.GetAgents()))
	}
	for _, g := range b.GetAgents() {
		if g.GetOwner()+g.GetPurpose()+g.GetSponsor() != "" || len(g.GetSelectors()) > 0 || g.GetModel() != nil {
			t.Errorf("bundle says too much of %v", g)
		}
		if g.GetState() != v1.AgentState_AGENT_STATE_ACTIVE || g.GetAgentClass() == "" || g.GetIntegrityCap() == 0 {
			t.Errorf("bundle says too little of %v", g)
		}
	}
	uses := map[v1.KeyUse]int{}
	for _, k := range b.GetKeys() {
		uses[k.GetUse()]++
		if len(k.GetSpki()) == 0 || len(k.GetKeyId()) != 32 || k.GetNotBeforeMs() == 0 {
			t.Errorf("published key %v", k)
		}
	}
	if len(uses) != 3 || len(b.GetKeys()) != 3 {
		t.Errorf("published keys %v, want one of each use", uses)
	}
}

func TestSerialsRiseAcrossRestarts(t *testing.T) {
	cfg, _ := config(t)
	var last uint64
	for i := range 4 {
		a := start(t, cfg)
		for _, name := range []string{"x", "y"} {
			id := "spiffe://dev.example/tenant/acme/agent/" + name + strconv.Itoa(i)
			if _, err := a.RegisterAgent(t.Context(), newAgent(id)); err != nil {
				t.Fatal(err)
			}
			if b := openBundle(t, a, a.Bundle()); b.GetSerial() <= last {
				t.Errorf("bundle serial %d after %d", b.GetSerial(), last)
			} else {
				last = b.GetSerial()
			}
		}
		if got := len(a.Agents()); got != 2*(i+1) {
			t.Errorf("%d agents after start %d, want %d", got, i, 2*(i+1))
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
