package policy_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/policy"
)

func parse(t *testing.T, s string) identity.AgentID {
	t.Helper()
	id, err := identity.ParseAgent(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestZeroValuesDeny(t *testing.T) {
	var p policy.Permit
	var d policy.Decision
	if !p.IsZero() || !errors.Is(p.Check(time.Time{}), policy.ErrNoPermit) || p.Allows("", nil) || p.Allows("memory.read", []string{"a"}) {
		t.Error("the zero Permit opens something")
	}
	if d.Allowed() {
		t.Error("the zero Decision allows")
	}
	if p.DecisionID() != [16]byte{} || p.Action() != "" || p.Resource() != nil || !p.Tenant().IsZero() || !p.Peer().IsZero() || p.Leaf() != nil ||
		p.Principal() != nil || p.ChainID() != [16]byte{} || p.LeafID() != [32]byte{} || p.Conversation() != nil || p.Purpose() != "" ||
		!p.Control().Equal(policy.Label{}) || p.IntegrityCap() != v1.Integrity_INTEGRITY_UNTRUSTED || !p.NotAfter().IsZero() {
		t.Error("an accessor of the zero Permit says something")
	}
}

func TestPermitAllows(t *testing.T) {
	w := meshtest.New(t)
	peer, store := w.Agent("acme", "relay"), w.Service("memory")
	notes := []string{"acme", "notes"}
	exact, below := meshtest.Capability("memory.read", notes...), meshtest.Below("memory.read", notes...)
	bounded := meshtest.Below("memory.read", notes...)
	bounded.Constraints = []*v1.Constraint{{Key: "amount", Rule: &v1.Constraint_Eq{Eq: &v1.Value{Kind: &v1.Value_Number{Number: 1}}}}}
	tests := []struct {
		name  string
		chain []*v1.Capability
		table []bool // subtree of the rows
		want  bool   // whether the permit covers what is below
	}{
		{"both cover it", []*v1.Capability{exact, below}, []bool{false, true}, true},
		{"only the chain covers it", []*v1.Capability{exact, below}, []bool{false}, false},
		{"only the table covers it", []*v1.Capability{exact}, []bool{false, true}, false},
		{"the chain's cover has a constraint", []*v1.Capability{exact, bounded}, []bool{false, true}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := meshtest.New(t)
			peer, store := w.Agent("acme", "relay"), w.Service("memory")
			for _, subtree := range tt.table {
				w.Table.Allow("acme", meshtest.DefaultClass, "memory.read", notes, subtree, store.String())
			}
			p := w.Permit(t, peer, store, "memory.read", notes, meshtest.NoRow(), meshtest.Capabilities(tt.chain...))
			for _, c := range []struct {
				action string
				path   []string
				want   bool
			}{
				{"memory.read", notes, true},
				{"memory.read", append(slices.Clone(notes), "a"), tt.want},
				{"memory.read", append(slices.Clone(notes), "a", "b"), tt.want},
				{"memory.read", notes[:1], false},
				{"memory.read", nil, false},
				{"memory.read", []string{"acme", "notes2"}, false},
				{"memory.read", []string{"acme", "note"}, false},
				{"memory.read", []string{"globex", "notes"}, false},
				{"memory.write", notes, false},
				{"memory", notes, false},
				{"", notes, false},
			} {
				if got := p.Allows(c.action, c.path); got != c.want {
					t.Errorf("Allows(%q, %q) = %v, want %v", c.action, c.path, got, c.want)
				}
			}
		})
	}
	conversation := make([]byte, 16)
	p := w.Permit(t, peer, store, "memory.read", notes, meshtest.Conversation(conversation), meshtest.User("bob"))
	if p.Action() != "memory.read" || !slices.Equal(p.Resource(), notes) || p.Tenant().Name() != "acme" || p.Principal().GetSubject() != "bob" ||
		p.Purpose() != meshtest.DefaultPurpose || len(p.Conversation()) != 16 || p.Leaf() == nil || p.ChainID() != p.Leaf().ChainID() ||
		p.LeafID() != p.Leaf().ID() || p.IntegrityCap() != v1.Integrity_INTEGRITY_TRUSTED || p.DecisionID() == [16]byte{} ||
		p.Control().Integrity != v1.Integrity_INTEGRITY_ATTESTED || !p.NotAfter().Equal(p.Leaf().Expires()) {
		t.Errorf("an accessor of %+v is wrong", p)
	}
}

func TestEngineDeniesByDefault(t *testing.T) {
	w := meshtest.New(t)
	peer, self := w.Agent("acme", "relay"), w.Agent("acme", "writer")
	resource := []string{"agent", "writer"}
	if _, d := w.Decide(t, peer, self, "agent.invoke", resource, meshtest.NoRow()); d.Allowed() || d.Reason != v1.Reason_REASON_POLICY_NO_ROW {
		t.Errorf("Decide(no row) = %v %s, want POLICY_NO_ROW", d.Allowed(), d.Reason)
	}
	empty, err := policy.NewEngine(policy.Config{Self: self, Registry: w.Registry, Now: w.Now})
	if err != nil {
		t.Fatal(err)
	}
	if empty.Table() != nil {
		t.Error("a new engine has a table")
	}
	req := w.Request(t, peer, self, meshtest.Capabilities(meshtest.Capability("agent.invoke", resource...)))
	req.Action, req.Resource = "agent.invoke", resource
	if p, d := empty.Decide(req); d.Allowed() || !p.IsZero() || d.Reason != v1.Reason_REASON_POLICY_NO_TABLE {
		t.Errorf("Decide(no table) = %v %s, want POLICY_NO_TABLE", d.Allowed(), d.Reason)
	}
	id := w.Table.Allow("acme", meshtest.DefaultClass, "agent.invoke", resource, false, self.String())
	if _, d := w.Engine(self).Decide(req); !d.Allowed() || len(d.Policies) != 1 || d.Policies[0] != id || d.Serial != 2 || d.SHA256 == [32]byte{} {
		t.Errorf("Decide(row) = %+v", d)
	}
	w.Table.RemoveRow(id)
	if p, d := w.Engine(self).Decide(req); d.Allowed() || !p.IsZero() {
		t.Error("Decide(row removed) allows")
	}
	for _, cfg := range []policy.Config{{}, {Self: self}, {Self: self, Registry: w.Registry}, {Registry: w.Registry, Now: w.Now}} {
		if _, err := policy.NewEngine(cfg); err == nil {
			t.Errorf("NewEngine(%+v) succeeds", cfg)
		}
	}
}

func TestActivateRefusesRollback(t *testing.T) {
	w := meshtest.New(t)
	self := w.Agent("acme", "writer")
	e := w.Engine(self)
	old := w.Table.Signed(t)
	w.Table.Allow("acme", "worker", "memory.read", []string{"notes"}, false, anyAgent)
	current := w.Table.Signed(t)
	parse := func(tab *v1.CapabilityTable) *policy.Table {
		out, err := policy.ParseTable(w.Table.Sign(t, tab), w.Table.PolicyKey)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	sameSerial := w.Table.Proto()
	sameSerial.Rows = nil
	foreign := w.Table.Proto()
	foreign.TrustDomain, foreign.Serial = "other.test", 99
	for name, tab := range map[string]*policy.Table{
		"older serial": old, "same serial, other content": parse(sameSerial), "other trust domain": parse(foreign), "none": nil,
	} {
		if err := e.Activate(tab); !errors.Is(err, policy.ErrTable) {
			t.Errorf("%s: Activate() = %v, want ErrTable", name, err)
		}
		if e.Table().SHA256() != current.SHA256() {
			t.Errorf("%s: the table in force changed", name)
		}
	}
	if err := e.Activate(current); err != nil {
		t.Errorf("Activate(same table) = %v", err)
	}
}

func TestDeriveNeverExceedsItsPermit(t *testing.T) {
	w := meshtest.New(t)
	peer, self := w.Agent("acme", "relay"), w.Service("memory")
	e := w.Engine(self)
	bounded := meshtest.Capability("memory.admin", "notes")
	bounded.Constraints = []*v1.Constraint{{Key: "amount", Rule: &v1.Constraint_Eq{Eq: &v1.Value{Kind: &v1.Value_Number{Number: 1}}}}}
	caps := meshtest.Capabilities(
		meshtest.Capability("memory.admin", "free"), bounded,
		meshtest.Capability("memory.read", "notes"), meshtest.Below("memory.read", "notes"), meshtest.Capability("memory.write", "notes"))
	for _, action := range []string{"memory.read", "memory.list", "memory.admin"} {
		w.Table.Allow("acme", meshtest.DefaultClass, action, []string{"notes"}, false, self.String())
		w.Table.Allow("acme", meshtest.DefaultClass, action, []string{"notes"}, true, self.String())
	}
	p := w.Permit(t, peer, self, "memory.read", []string{"notes"}, meshtest.NoRow(), caps)
	tests := []struct {
		name, action string
		resource     []string
		want         v1.Reason
	}{
		{"the same", "memory.read", []string{"notes"}, 0},
		{"below", "memory.read", []string{"notes", "a"}, 0},
		{"beyond the chain", "memory.list", []string{"notes"}, v1.Reason_REASON_SCOPE_MISSING},
		{"beyond the table", "memory.write", []string{"notes"}, v1.Reason_REASON_POLICY_NO_ROW},
		{"beside", "memory.read", []string{"other"}, v1.Reason_REASON_SCOPE_MISSING},
		{"a constraint that nobody can meet", "memory.admin", []string{"notes"}, v1.Reason_REASON_SCOPE_MISSING},
		{"no resource", "memory.read", nil, v1.Reason_REASON_SCOPE_MISSING},
		{"traversal", "memory.read", []string{"notes", ".."}, v1.Reason_REASON_SCOPE_MISSING},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, d := e.Derive(p, tt.action, tt.resource)
			if d.Reason != tt.want || d.Allowed() != (tt.want == 0) || got.IsZero() != (tt.want != 0) {
				t.Errorf("Derive() = %v %s: %s, want %s", d.Allowed(), d.Reason, d.Cause, tt.want)
			}
			if tt.want == 0 && (!got.NotAfter().Equal(p.NotAfter()) || got.DecisionID() != p.DecisionID() || got.LeafID() != p.LeafID()) {
				t.Errorf("Derive() = %+v, not of the same call", got)
			}
		})
	}
	t.Run("zero permit", func(t *testing.T) {
		if got, d := e.Derive(policy.Permit{}, "memory.read", []string{"notes"}); d.Allowed() || !got.IsZero() {
			t.Error("Derive(zero) allows")
		}
	})
	t.Run("permit of another engine", func(t *testing.T) {
		other := w.Service("other")
		w.Table.Allow("acme", meshtest.DefaultClass, "memory.read", []string{"notes"}, false, other.String())
		if got, d := w.Engine(other).Derive(p, "memory.read", []string{"notes"}); d.Allowed() || !got.IsZero() {
			t.Error("Derive at another engine allows")
		}
	})
	t.Run("agent suspended", func(t *testing.T) {
		w.Registry.SetState(peer, identity.StateSuspended)
		defer w.Registry.SetState(peer, identity.StateActive)
		if got, d := e.Derive(p, "memory.read", []string{"notes"}); d.Allowed() || !got.IsZero() {
			t.Error("Derive for a suspended agent allows")
		}
	})
	t.Run("expired", func(t *testing.T) {
		w.Advance(meshtest.DefaultLife)
		if got, d := e.Derive(p, "memory.read", []string{"notes"}); d.Allowed() || !got.IsZero() {
			t.Error("Derive after the end allows")
		}
	})
}

func TestPermitEndsWithItsAgentAndItsTime(t *testing.T) {
	w := meshtest.New(t)
	peer, self := w.Agent("acme", "relay"), w.Service("memory")
	ends := w.Now().Add(time.Minute)
	p := w.Permit(t, peer, self, "memory.read", []string{"notes"}, meshtest.NotAfter(ends))
	if err := p.Check(ends.Add(-time.Nanosecond)); err != nil {
		t.Errorf("Check(before the end) = %v", err)
	}
	if err := p.Check(ends); !errors.Is(err, policy.ErrPermitExpired) {
		t.Errorf("Check(at the end) = %v, want ErrPermitExpired", err)
	}
	w.Agent("acme", "unrelated")
	w.Registry.Touch()
	if err := p.Check(w.Now()); err != nil {
		t.Errorf("Check(after a change of others) = %v", err)
	}
	for _, s := range []identity.State{identity.StatePending, identity.StateSuspended, identity.StateQuarantined, identity.StateRetired, identity.StateUnknown} {
		w.Registry.SetState(peer, s)
		if err := p.Check(w.Now()); !errors.Is(err, policy.ErrPermitRevoked) {
			t.Errorf("Check(%s) = %v, want ErrPermitRevoked", s, err)
		}
	}
	w.Registry.SetState(peer, identity.StateActive)
	if err := p.Check(w.Now()); err != nil {
		t.Errorf("Check(active again) = %v", err)
	}
	w.Registry.Remove(peer)
	if err := p.Check(w.Now()); !errors.Is(err, policy.ErrPermitRevoked) {
		t.Errorf("Check(removed) = %v, want ErrPermitRevoked", err)
	}
}

// A record read before a suspension must not make a Permit that never looks again.
func TestPermitOfAnOldRecordLooksAgain(t *testing.T) {
	w := meshtest.New(t)
	peer, self := w.Agent("acme", "relay"), w.Agent("acme", "writer")
	w.Table.Allow("acme", meshtest.DefaultClass, "agent.invoke", []string{"agent", "writer"}, false, self.String())
	req := w.Request(t, peer, self, meshtest.Capabilities(meshtest.Capability("agent.invoke", "agent", "writer")))
	req.Action, req.Resource = "agent.invoke", []string{"agent", "writer"}
	w.Registry.SetState(peer, identity.StateSuspended)
	p, d := w.Engine(self).Decide(req)
	if !d.Allowed() {
		t.Fatalf("Decide() = %s", d.Reason)
	}
	if err := p.Check(w.Now()); !errors.Is(err, policy.ErrPermitRevoked) {
		t.Errorf("Check() = %v, want ErrPermitRevoked", err)
	}
}

func TestInvariantsRefuse(t *testing.T) {
	resource := []string{"agent", "writer"}
	caps := meshtest.Capabilities(meshtest.Capability("agent.invoke", resource...))
	w := meshtest.New(t)
	peer, self, other, service := w.Agent("acme", "relay"), w.Agent("acme", "writer"), w.Agent("acme", "other"), w.Service("memory")
	foreigner := w.Agent("globex", "relay")
	w.Table.Allow("acme", meshtest.DefaultClass, "agent.invoke", resource, false, self.String(), service.String(), other.String())
	w.Table.Allow("globex", meshtest.DefaultClass, "agent.invoke", resource, false, self.String(), service.String())
	set := func(s identity.State) func(*policy.Request) {
		return func(r *policy.Request) { rec := *r.Record; rec.State = s; r.Record = &rec }
	}
	tests := []struct {
		name   string
		change func(*policy.Request)
		want   v1.Reason
	}{
		{"nothing changed", func(*policy.Request) {}, 0},
		{"no peer", func(r *policy.Request) { r.Peer = identity.Peer{} }, v1.Reason_REASON_PEER_NO_TLS},
		{"not registered", func(r *policy.Request) { r.Record = nil }, v1.Reason_REASON_PEER_UNREGISTERED},
		{"pending", set(identity.StatePending), v1.Reason_REASON_AGENT_PENDING},
		{"suspended", set(identity.StateSuspended), v1.Reason_REASON_AGENT_SUSPENDED},
		{"quarantined", set(identity.StateQuarantined), v1.Reason_REASON_AGENT_QUARANTINED},
		{"retired", set(identity.StateRetired), v1.Reason_REASON_AGENT_RETIRED},
		{"state unknown", set(identity.StateUnknown), v1.Reason_REASON_PEER_UNREGISTERED},
		{"state of a later version", set(17), v1.Reason_REASON_PEER_UNREGISTERED},
		{"certificate expired", func(r *policy.Request) { r.Peer.NotAfter = w.Now() }, v1.Reason_REASON_PEER_EXPIRED},
		{"no chain", func(r *policy.Request) { r.Leaf = nil }, v1.Reason_REASON_CHAIN_PRESENTER},
		{"empty chain", func(r *policy.Request) { r.Leaf = &delegation.Leaf{} }, v1.Reason_REASON_CHAIN_PRESENTER},
		{"chain to another agent", func(r *policy.Request) {
			r.Leaf = w.Leaf(t, w.Chain(t, []identity.AgentID{peer, other}, caps), peer, other)
		}, v1.Reason_REASON_CHAIN_PRESENTER},
		{"chain of another presenter", func(r *policy.Request) {
			r.Leaf = w.Leaf(t, w.Chain(t, []identity.AgentID{other, self}, caps), other, self)
		}, v1.Reason_REASON_CHAIN_PRESENTER},
		{"peer of another tenant", func(r *policy.Request) { r.Peer.Tenant = foreigner.Tenant() }, v1.Reason_REASON_CHAIN_TENANT},
		{"four hops at a method for three", func(r *policy.Request) {
			path := []identity.AgentID{w.Agent("acme", "x"), w.Agent("acme", "y"), w.Agent("acme", "z"), peer, self}
			r.Leaf, r.MaxDepth = w.Leaf(t, w.Chain(t, path, caps), peer, self), 3
		}, v1.Reason_REASON_METHOD_DEPTH},
		{"four hops at a method that says nothing", func(r *policy.Request) {
			path := []identity.AgentID{w.Agent("acme", "x"), w.Agent("acme", "y"), w.Agent("acme", "z"), peer, self}
			r.Leaf, r.MaxDepth = w.Leaf(t, w.Chain(t, path, caps), peer, self), 0
		}, 0},
		{"five hops at a method that says nothing", func(r *policy.Request) {
			path := []identity.AgentID{w.Agent("acme", "v"), w.Agent("acme", "x"), w.Agent("acme", "y"), w.Agent("acme", "z"), peer, self}
			r.Leaf, r.MaxDepth = w.Leaf(t, w.Chain(t, path, caps), peer, self), 0
		}, v1.Reason_REASON_METHOD_DEPTH},
		{"no action", func(r *policy.Request) { r.Action = "" }, v1.Reason_REASON_INTENT_MISMATCH},
		{"wildcard action", func(r *policy.Request) { r.Action = "agent.*" }, v1.Reason_REASON_INTENT_MISMATCH},
		{"no resource", func(r *policy.Request) { r.Resource = nil }, v1.Reason_REASON_INTENT_MISMATCH},
		{"traversal", func(r *policy.Request) { r.Resource = []string{"agent", ".."} }, v1.Reason_REASON_INTENT_MISMATCH},
		{"action outside the chain", func(r *policy.Request) { r.Action = "agent.delete" }, v1.Reason_REASON_SCOPE_MISSING},
		{"resource outside the chain", func(r *policy.Request) { r.Resource = []string{"agent", "other"} }, v1.Reason_REASON_SCOPE_MISSING},
		{"integrity under the floor", func(r *policy.Request) { r.MinIntegrity = v1.Integrity_INTEGRITY_TRUSTED }, v1.Reason_REASON_INTEGRITY_FLOOR},
		{"floor unspecified is ATTESTED", func(r *policy.Request) { r.MinIntegrity, r.Claimed = 0, policy.Label{} }, v1.Reason_REASON_INTEGRITY_FLOOR},
		{"floor of UNTRUSTED takes anything", func(r *policy.Request) { r.MinIntegrity, r.Claimed = v1.Integrity_INTEGRITY_UNTRUSTED, policy.Label{} }, 0},
		{"floor of SYSTEM takes nothing from agents", func(r *policy.Request) {
			r.MinIntegrity, r.Claimed = v1.Integrity_INTEGRITY_SYSTEM, policy.Label{Integrity: v1.Integrity_INTEGRITY_SYSTEM}
		}, v1.Reason_REASON_INTEGRITY_FLOOR},
		{"claim above the cap", func(r *policy.Request) {
			rec := *r.Record
			rec.IntegrityCap = 0
			r.Record, r.MinIntegrity, r.Claimed = &rec, v1.Integrity_INTEGRITY_ATTESTED, policy.Label{Integrity: v1.Integrity_INTEGRITY_SYSTEM}
		}, v1.Reason_REASON_INTEGRITY_FLOOR},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := w.Request(t, peer, self, caps)
			req.Action, req.Resource = "agent.invoke", resource
			tt.change(req)
			p, d := w.Engine(self).Decide(req)
			if d.Reason != tt.want || d.Allowed() != (tt.want == 0) || p.IsZero() != (tt.want != 0) {
				t.Errorf("Decide() = %v %s: %s, want %s", d.Allowed(), d.Reason, d.Cause, tt.want)
			}
			if rec := req.Record; rec != nil && d.Effective.Integrity > v1.Integrity(max(rec.IntegrityCap, 1)) {
				t.Errorf("effective integrity %s is above the cap %d", d.Effective, rec.IntegrityCap)
			}
		})
	}
	elsewhere, err := identity.RegisteredTenant(spiffeid.RequireTrustDomainFromString("other.test"), "globex")
	if err != nil {
		t.Fatal(err)
	}
	for name, tenant := range map[string]identity.Tenant{"another tenant": self.Tenant(), "a tenant of that name elsewhere": elsewhere} {
		t.Run("at a service, a peer of "+name, func(t *testing.T) {
			req := w.Request(t, foreigner, service, caps)
			req.Action, req.Resource, req.Peer.Tenant = "agent.invoke", resource, tenant
			if p, d := w.Engine(service).Decide(req); d.Reason != v1.Reason_REASON_CHAIN_TENANT || !p.IsZero() {
				t.Errorf("Decide() = %s: %s, want CHAIN_TENANT", d.Reason, d.Cause)
			}
		})
	}
	t.Run("between services, which have no tenant", func(t *testing.T) {
		req := w.Request(t, foreigner, service, caps)
		req.Action, req.Resource, req.Peer.Tenant = "agent.invoke", resource, identity.Tenant{}
		if p, d := w.Engine(service).Decide(req); d.Reason != v1.Reason_REASON_CHAIN_TENANT || !p.IsZero() {
			t.Errorf("Decide() = %s: %s, want CHAIN_TENANT", d.Reason, d.Cause)
		}
	})
	t.Run("a service takes the tenant of the chain", func(t *testing.T) {
		req := w.Request(t, foreigner, service, caps)
		req.Action, req.Resource = "agent.invoke", resource
		if p, d := w.Engine(service).Decide(req); !d.Allowed() || p.Tenant().Name() != "globex" {
			t.Errorf("Decide() = %s: %s", d.Reason, d.Cause)
		}
	})
}
