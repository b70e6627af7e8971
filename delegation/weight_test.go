package delegation_test

import (
	"testing"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// heavy fills a hop with rules: in memory they are 15 times what they are on the wire, and whoever signs the hop picks them.
func heavy(p *v1.HopPayload) {
	base := p.GetCapabilities()[0]
	p.Capabilities = nil
	for range 17 {
		c := &v1.Capability{Action: base.GetAction(), Resource: base.GetResource(), Subtree: base.GetSubtree(), Reach: base.GetReach()}
		for _, key := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			c.Constraints = append(c.Constraints, &v1.Constraint{Key: key, Rule: &v1.Constraint_Eq{Eq: &v1.Value{Kind: &v1.Value_Number{Number: 1}}}})
		}
		p.Capabilities = append(p.Capabilities, c)
	}
}

// A peer that hands in the largest hops it can sign gets no more memory for it.
func TestHeavyChainsCountForSeveral(t *testing.T) {
	const links, chains = 64 * 8, 600
	s := newScene(t)
	v := s.verifier(s.b, func(c *delegation.Config) { c.Limits.CachedLinks = links })
	grant, table := s.chain(s.a).c.GetGrant(), delegation.NewConnTable()
	var last *delegation.Leaf
	for range chains {
		c := s.chainFrom(grant, s.a).to(s.b, heavy).c
		x, err := v.Verify(c, s.a.peer)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(c.GetHops()[0].GetPayload()); n < 1800 {
			t.Fatalf("a payload of %d bytes is not heavy", n)
		}
		table.Remember(x)
		table.Remember(x)
		last = x
	}
	if n, _ := v.Cached(); n > links/4+1 {
		t.Errorf("%d heavy prefixes are kept, where %d usual ones would be", n, links)
	}
	if n := table.Remembered(); n != delegation.MaxRemembered/4 {
		t.Errorf("%d heavy chains are remembered, want %d", n, delegation.MaxRemembered/4)
	}
	link := last.Link()
	if _, err := v.Resolve(table, link[:], s.a.peer); err != nil {
		t.Errorf("the newest: %v", err)
	}
	for range delegation.MaxRemembered {
		x, err := v.Verify(s.chainFrom(grant, s.a).to(s.b).c, s.a.peer)
		if err != nil {
			t.Fatal(err)
		}
		table.Remember(x)
	}
	if n := table.Remembered(); n != delegation.MaxRemembered {
		t.Errorf("%d usual chains are remembered after heavy ones, want %d", n, delegation.MaxRemembered)
	}
}
