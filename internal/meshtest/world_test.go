package meshtest_test

import (
	"testing"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest"
)

func TestPermitComesFromARealChain(t *testing.T) {
	w := meshtest.New(t)
	relay, store := w.Agent("acme", "relay"), w.Service("memory")
	p := w.Permit(t, relay, store, "memory.read", []string{"notes"})
	if err := p.Check(w.Now()); err != nil {
		t.Fatalf("Check() = %v, want nil", err)
	}
	for _, tt := range []struct {
		action string
		path   []string
		want   bool
	}{
		{"memory.read", []string{"notes"}, true},
		{"memory.read", []string{"notes", "today"}, true},
		{"memory.read", []string{"note"}, false},
		{"memory.write", []string{"notes"}, false},
	} {
		if got := p.Allows(tt.action, tt.path); got != tt.want {
			t.Errorf("Allows(%s, %q) = %v, want %v", tt.action, tt.path, got, tt.want)
		}
	}
	if got := p.Peer().Agent; got != relay {
		t.Errorf("Peer() = %s, want %s", got, relay)
	}
}

func TestPermitOfAnUnregisteredPeerIsRefused(t *testing.T) {
	w := meshtest.New(t)
	relay, store := w.ID("acme", "relay"), w.Service("memory")
	if p, d := w.Decide(t, relay, store, "memory.read", []string{"notes"}); d.Allowed() || !p.IsZero() {
		t.Errorf("Decide(unregistered peer) = %v, want a denial", d)
	}
}

func TestChainOfSeveralHopsVerifiesAtTheLast(t *testing.T) {
	w := meshtest.New(t)
	var path []identity.AgentID
	for _, name := range []string{"a", "b", "c", "d"} {
		path = append(path, w.Agent("acme", name))
	}
	chain := w.Chain(t, path, meshtest.Capabilities(meshtest.Capability("agent.invoke", "agent", "d")))
	leaf := w.Leaf(t, chain, path[2], path[3])
	if leaf.Depth() != 3 || !leaf.Covers("agent.invoke", []string{"agent", "d"}) {
		t.Errorf("leaf: depth %d, capabilities %v", leaf.Depth(), leaf.Capabilities())
	}
	if w.Signatures() == 0 {
		t.Error("Signatures() = 0 after verifying chains")
	}
}
