package vectors

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// bombs is row 19 and the bounds of the format: each bound just kept, and just broken.
func bombs(w *world) *File {
	g := newGroup(w, "bounds", algMixed)
	one := g.allow(19, "control", "one hop", g.hops(1))
	change := func(f func(*v1.DelegationChain)) show {
		sh := g.hop1()
		f(sh.chain)
		return sh
	}
	for _, tc := range []struct {
		name, title string
		do          func(*v1.DelegationChain)
	}{
		{"hops-10000", "10,000 hops", func(c *v1.DelegationChain) { c.Hops = slices.Repeat([]*v1.SignedStatement{{}}, 10_000) }},
		{"hops-100", "100 hops in less than 16 KiB", func(c *v1.DelegationChain) { c.Hops = slices.Repeat([]*v1.SignedStatement{{}}, 100) }},
		{"hops-9", "9 hops", func(c *v1.DelegationChain) { c.Hops = slices.Repeat(c.GetHops()[:1], 9) }},
		{"certs-9", "9 certificates", func(c *v1.DelegationChain) { c.Certs = slices.Repeat([]*v1.CertChain{{Leaf: []byte{1}}}, 9) }},
		{"chain-16k-1", "a chain of 16 KiB and a byte", func(c *v1.DelegationChain) { g.pad(c, 16<<10+1) }},
		{"hop-64k", "a hop of 64 KiB", func(c *v1.DelegationChain) { c.Hops[0].Payload = make([]byte, 64<<10) }},
		{"hop-2k-1", "a hop of 2 KiB and a byte, all zero", func(c *v1.DelegationChain) { c.Hops[0].Payload = make([]byte, 2<<10+1) }},
		{"cert-2k-1", "a certificate of 2 KiB and a byte", func(c *v1.DelegationChain) { c.Certs[0].Leaf = make([]byte, 2<<10+1) }},
		{"intermediate-2k-1", "an intermediate of 2 KiB and a byte", func(c *v1.DelegationChain) {
			c.Certs[0].Intermediates = [][]byte{make([]byte, 2<<10+1)}
		}},
		{"intermediates-3", "three intermediates", func(c *v1.DelegationChain) { c.Certs[0].Intermediates = [][]byte{{1}, {2}, {3}} }},
	} {
		g.deny(19, tc.name, tc.title, one, tooLarge, change(tc.do))
	}
	g.deny(19, "chain-16k", "a chain of exactly 16 KiB, filled with certificates that no hop refers to", one, malformed,
		change(func(c *v1.DelegationChain) { g.pad(c, 16<<10) }))
	nested := change(func(c *v1.DelegationChain) {
		var deep []byte
		for range 500 {
			deep = protowire.AppendBytes(protowire.AppendTag(nil, 8, protowire.BytesType), deep)
		}
		c.Hops[0].Payload = deep
	})
	g.deny(19, "nested-500", "500 messages inside each other", one, nonCanonical, nested)
	g.counts()
	g.payloads()
	return g.f
}

// pad fills c with certificates up to exactly n bytes.
func (g *group) pad(c *v1.DelegationChain, n int) {
	c.Certs = nil
	each := (n-proto.Size(c))/8 - 6 // and the tags and lengths around it
	for i := range 8 {
		c.Certs = append(c.Certs, &v1.CertChain{Leaf: slices.Repeat([]byte{byte(i)}, each)})
	}
	last := c.GetCerts()[7]
	last.Leaf = append(last.GetLeaf(), make([]byte, n-proto.Size(c))...)
}

// counts holds every list and string of a statement against its bound.
func (g *group) counts() {
	hop := func(f func(p *v1.HopPayload, n int)) func(int) show {
		return func(n int) show { return g.hop1(func(p *v1.HopPayload) { f(p, n) }) }
	}
	carry := func(make func(n int) *v1.Capability) func(int) show {
		return func(n int) show {
			c := make(n)
			b := g.chain(g.agent("a"), func(p *v1.GrantPayload) { p.Capabilities = []*v1.Capability{c} })
			return show{chain: b.to(g.agent("b")).c, by: g.agent("a"), self: g.agent("b")}
		}
	}
	grant := func(f func(p *v1.GrantPayload, n int)) func(int) show {
		return func(n int) show { return g.grant1(func(p *v1.GrantPayload) { f(p, n) }) }
	}
	for _, tc := range []struct {
		name  string
		bound int
		make  func(int) show
	}{
		{"capabilities", 32, hop(func(p *v1.HopPayload, n int) { p.Capabilities = slices.Repeat(p.GetCapabilities()[:1], n) })},
		{"delegates", 16, hop(func(p *v1.HopPayload, n int) { p.Delegates = slices.Repeat(p.GetDelegates()[1:], n) })},
		{"constraints", 8, carry(func(n int) *v1.Capability {
			c := capability("x")
			for i := range n {
				c.Constraints = append(c.Constraints, equal(string(rune('a'+i)), number(1)))
			}
			return c
		})},
		{"values", 32, carry(func(n int) *v1.Capability {
			var values []*v1.Value
			for i := range n {
				values = append(values, number(int64(i)))
			}
			return constrained(capability("x"), oneOf("n", values...))
		})},
		{"segments", 17, carry(func(n int) *v1.Capability { return capability("x", slices.Repeat([]string{"s"}, n)...) })},
		{"segment-bytes", 128, carry(func(n int) *v1.Capability { return capability("x", strings.Repeat("s", n)) })},
		{"action-bytes", 256, carry(func(n int) *v1.Capability { return capability(strings.Repeat("x", n)) })},
		{"key-bytes", 64, carry(func(n int) *v1.Capability {
			return constrained(capability("x"), equal(strings.Repeat("k", n), number(1)))
		})},
		{"text-bytes", 256, carry(func(n int) *v1.Capability {
			return constrained(capability("x"), equal("t", text(strings.Repeat("t", n))))
		})},
		{"prefix-bytes", 256, carry(func(n int) *v1.Capability {
			return constrained(capability("x"), prefix("t", strings.Repeat("t", n-1)+"/"))
		})},
		{"task-bytes", 256, grant(func(p *v1.GrantPayload, n int) { p.TaskId = strings.Repeat("t", n) })},
		{"subject-bytes", 256, grant(func(p *v1.GrantPayload, n int) { p.Principal.Subject = strings.Repeat("s", n) })},
		{"history", 8, grant(func(p *v1.GrantPayload, n int) {
			p.History = slices.Repeat([]*v1.PastActor{{Actor: agentID("x"), LeafId: seed("past leaf"), Depth: 1}}, n)
		})},
	} {
		control := g.allow(19, tc.name+"-at-bound", "as many as there may be", tc.make(tc.bound))
		g.deny(19, tc.name+"-over-bound", "one more than there may be", control, tooLarge, tc.make(tc.bound+1))
	}
	critical := hop(func(p *v1.HopPayload, n int) { p.Critical = slices.Repeat([]string{"x"}, n) })
	g.deny(19, "critical-at-bound", "8 critical extensions, which nobody knows", "bounds/control", badVersion, critical(8))
	g.deny(19, "critical-over-bound", "9 critical extensions", "bounds/control", tooLarge, critical(9))
}

// payloads fills a grant with capabilities, of which the hop takes none, up to the bound of a payload.
func (g *group) payloads() {
	sized := func(n int) show {
		b := g.chain(g.agent("a"), func(p *v1.GrantPayload) {
			for range 14 {
				p.Capabilities = append(p.Capabilities, capability("x", strings.Repeat("s", 100)))
			}
			last := p.GetCapabilities()[len(p.GetCapabilities())-1]
			last.Resource = []string{strings.Repeat("s", 100), ""}
			for proto.Size(p) < n {
				last.Resource[1] += "t"
			}
			if proto.Size(p) != n {
				g.fail(fmt.Errorf("a grant of %d bytes, want %d", proto.Size(p), n))
			}
		})
		return show{
			chain: b.to(g.agent("b"), func(p *v1.HopPayload) { p.Capabilities = nil }).c, by: g.agent("a"), self: g.agent("b"),
		}
	}
	full := g.allow(19, "payload-2k", "a grant of exactly 2 KiB", sized(2<<10))
	g.deny(19, "payload-2k-1", "a grant of 2 KiB and a byte, signed", full, tooLarge, sized(2<<10+1))
}
