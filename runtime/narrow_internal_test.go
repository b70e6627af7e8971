package runtime

import (
	"testing"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
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
