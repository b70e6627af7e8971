package delegation_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// TestReferenceIsTheLinkAtTheCallee: at every depth the sender names the chain as its callee does.
func TestReferenceIsTheLinkAtTheCallee(t *testing.T) {
	s := newScene(t)
	path := []*agent{s.a, s.b, s.c, s.d}
	leaf := s.root(s.a)
	for i, from := range path[:3] {
		to := path[i+1]
		c, err := delegation.Append(leaf, delegation.HopSpec{Delegate: to.id}, from.signer, s.now())
		if err != nil {
			t.Fatal(err)
		}
		ref, ok := delegation.Reference(leaf, c)
		next, err := s.verifier(to).Verify(c, from.peer)
		if err != nil {
			t.Fatal(err)
		}
		if !ok || ref != next.Link() {
			t.Errorf("hop %d: Reference() = %x, %t, the callee calls it %x", i+1, ref, ok, next.Link())
		}
		leaf = next
	}
}

func TestReferenceOfNoAppendedChain(t *testing.T) {
	s := newScene(t)
	root := s.root(s.a)
	good, err := delegation.Append(root, delegation.HopSpec{Delegate: s.b.id}, s.a.signer, s.now())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		parent *delegation.Leaf
		change func(*v1.DelegationChain)
	}{
		{"no parent", nil, nil},
		{"a parent that nobody verified", new(delegation.Leaf), nil},
		{"no hop", root, func(c *v1.DelegationChain) { c.Hops = nil }},
		{"a hop too many", root, func(c *v1.DelegationChain) { c.Hops = append(c.Hops, c.GetHops()[0]) }},
		{"the certificate of the connection", root, func(c *v1.DelegationChain) { c.Hops[0].CertRef = 0 }},
		{"a certificate that is not there", root, func(c *v1.DelegationChain) { c.Certs = nil }},
		{"a payload over the limit", root, func(c *v1.DelegationChain) { c.Hops[0].Payload = make([]byte, delegation.MaxPayloadBytes+1) }},
	}
	for _, tt := range tests {
		c := proto.CloneOf(good)
		if tt.change != nil {
			tt.change(c)
		}
		if ref, ok := delegation.Reference(tt.parent, c); ok || ref != [32]byte{} {
			t.Errorf("%s: %x, %t", tt.name, ref, ok)
		}
	}
}

func TestCoversBelow(t *testing.T) {
	s := newScene(t)
	sub := func(action string, resource ...string) *v1.Capability {
		c := capability(action, resource...)
		c.Subtree = true
		return c
	}
	x := s.root(s.a, func(p *v1.GrantPayload) {
		p.Capabilities = []*v1.Capability{
			sub("below", "a"), exactly(capability("exact", "a")), constrained(sub("bound", "a"), &v1.Constraint{Key: "k", Rule: &v1.Constraint_Range{Range: &v1.Range{Max: proto.Int64(1)}}}),
		}
	})
	tests := []struct {
		action   string
		resource []string
		want     bool
	}{
		{"below", []string{"a"}, true},
		{"below", []string{"a", "b"}, true},
		{"below", []string{"b"}, false},
		{"below", nil, false},
		{"exact", []string{"a"}, false},
		{"bound", []string{"a"}, false},
		{"other", []string{"a"}, false},
	}
	for _, tt := range tests {
		if got := x.CoversBelow(tt.action, tt.resource); got != tt.want {
			t.Errorf("CoversBelow(%s, %q) = %t", tt.action, tt.resource, got)
		}
	}
}
