package runtime

import (
	"testing"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
)

// A kept hop serves calls of the same narrowing only: "none" and "whatever the parent has" are told apart in every field.
func TestNarrowingKeys(t *testing.T) {
	seen := map[[32]byte]int{}
	for i, n := range []Narrowing{
		{MaxDepth: 2},
		{MaxDepth: 2, Delegates: []string{}},
		{MaxDepth: 2, Capabilities: []*v1.Capability{}},
		{MaxDepth: 2, Capabilities: []*v1.Capability{}, Delegates: []string{}},
		{MaxDepth: 2, Delegates: []string{"spiffe://acme.test/tenant/blue/agent/a"}},
		{MaxDepth: 3},
		{MaxDepth: 2, Lifetime: time.Second},
		{MaxDepth: 2, Lifetime: time.Second + time.Microsecond},
		{MaxDepth: 2, Lifetime: time.Microsecond},
	} {
		k := n.key()
		if other, taken := seen[k]; taken {
			t.Errorf("narrowings %d and %d share a hop", other, i)
		}
		seen[k] = i
	}
}

// A service of the control plane acts by itself: what it is given ends with it, whatever the author narrows.
func TestHopToAServiceEndsThere(t *testing.T) {
	t.Parallel()
	w := meshtest.New(t)
	leaf := w.Root(t, w.Agent("acme", "planner"))
	m := &interceptors.Method{Intent: &v1.MethodIntent{Action: "memory.read"}}
	service, agent := &Conn{peer: w.Service("memory")}, &Conn{peer: w.Agent("acme", "writer")}
	wide := Narrowing{MaxDepth: 5, Delegates: []string{w.Agent("acme", "other").String()}}
	for name, c := range map[string]*Conn{"plain": service, "narrowed by less": service.With(wide)} {
		n, err := c.narrowing(leaf, m, nil, []string{"shared"})
		if err != nil || n.MaxDepth != leaf.Depth()+1 || n.Delegates != nil {
			t.Errorf("%s: narrowing() = %+v, %v; want the depth of the hop itself and no delegates", name, n.Narrowing, err)
		}
	}
	if n, err := agent.With(wide).narrowing(leaf, m, nil, nil); err != nil || n.MaxDepth != 5 || len(n.Delegates) != 1 {
		t.Errorf("an agent: narrowing() = %+v, %v; want what With said", n.Narrowing, err)
	}
}
