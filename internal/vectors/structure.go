package vectors

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// structure is how statements hang together: length, depth, order, splices, loops, certificates of the frame.
func structure(w *world) *File {
	g := newGroup(w, "structure", algMixed)
	g.valid()
	g.depths()
	g.links(algEd25519)
	g.with(algP256).links(algP256)
	g.roots()
	g.loops()
	g.frames()
	g.names()
	return g.f
}

// valid is row 1.
func (g *group) valid() {
	for _, alg := range []string{algEd25519, algP256, algMixed} {
		s := g.with(alg)
		for _, n := range []int{1, 2, 4, 8} {
			s.allow(1, fmt.Sprintf("valid-%d-%s", n, alg), fmt.Sprintf("%d hops, %s", n, alg), s.hops(n))
		}
	}
	a, b := g.agent("a"), g.agent("b")
	g.allow(1, "valid-last-depth", "the last hop is at the maximum depth and names no delegates", show{
		chain: g.chain(a).to(b).to(g.agent("c")).to(g.agent("d")).to(g.agent("e"), func(p *v1.HopPayload) { p.Delegates = nil }).c,
		by:    g.agent("d"), self: g.agent("e"),
	})
	g.allow(1, "valid-bare", "a hop without capabilities", g.hop1(func(p *v1.HopPayload) { p.Capabilities = nil }))
	g.allow(1, "valid-grant", "a grant alone, presented by the authority", show{chain: g.chain(a).c, by: g.authority(), self: a})
	g.allow(1, "valid-to-service", "to a service that is named exactly", show{
		chain: g.chain(a).to(g.authority()).c, by: a, self: g.authority(),
	})
	g.allow(1, "valid-from-service", "from a service, in the tenant of the grant", show{
		chain: g.chain(g.authority()).to(b).c, by: g.authority(), self: b,
	})
	g.allow(1, "valid-minimal", "a grant without task and policy epoch", g.grant1(func(p *v1.GrantPayload) {
		p.TaskId, p.PolicyEpoch = "", 0
	}))
}

// depths is rows 15 to 18.
func (g *group) depths() {
	limit := func(limit, used uint32) func(*v1.GrantPayload) {
		return func(p *v1.GrantPayload) {
			p.MaxDepth, p.DepthUsed = limit, used
			for _, c := range p.GetCapabilities() {
				c.Reach = limit
			}
		}
	}
	two := func(change func(*v1.GrantPayload)) show {
		return show{chain: g.chain(g.agent("a"), change).to(g.agent("b")).to(g.agent("c")).c, by: g.agent("b"), self: g.agent("c")}
	}
	one := "structure/valid-1-mixed"
	deepest := g.allow(15, "depth-at-limit", "two hops under a maximum of two", two(limit(2, 0)))
	g.deny(15, "depth-over-limit", "two hops under a maximum of one", deepest, tooDeep, two(limit(1, 0)))
	hard := g.allow(15, "depth-hard-limit", "a maximum of 8", g.grant1(limit(8, 0)))
	g.deny(15, "depth-over-hard-limit", "a maximum of 9", hard, tooDeep, g.grant1(limit(9, 0)))
	g.deny(15, "depth-limit-huge", "a maximum of 2^32-1", hard, tooDeep, g.grant1(limit(1<<32-1, 0)))
	g.deny(15, "depth-limit-zero", "a maximum of 0 under one hop", one, tooDeep, g.grant1(func(p *v1.GrantPayload) { p.MaxDepth = 0 }))
	g.deny(15, "depth-used-over-limit", "a grant has used more than it has", one, tooDeep, g.grant1(limit(4, 5)))
	hop := func(change func(*v1.HopPayload)) show { return g.hop1(change) }
	g.deny(16, "depth-skipped", "depth 2 in the first hop", one, tooDeep, hop(func(p *v1.HopPayload) { p.Depth = 2 }))
	g.deny(16, "depth-zero", "depth 0 in the first hop", one, tooDeep, hop(func(p *v1.HopPayload) { p.Depth = 0 }))
	g.deny(16, "depth-huge", "depth 2^32-1 in the first hop", one, tooDeep, hop(func(p *v1.HopPayload) { p.Depth = 1<<32 - 1 }))
	g.deny(16, "depth-repeated", "depth 1 in the second hop", "structure/valid-2-mixed", tooDeep,
		g.hop2(func(p *v1.HopPayload) { p.Depth = 1 }))
	g.deny(16, "depth-repeated-at-limit", "depth 4 in the fifth hop", "structure/valid-last-depth", tooDeep, g.fifthHop())
	g.deny(17, "maximum-raised", "the first hop raises the maximum", one, tooDeep, hop(func(p *v1.HopPayload) { p.MaxDepth = 5 }))
	lowered := g.allow(17, "maximum-lowered", "the second hop lowers the maximum", g.lowered(3, 3))
	g.deny(17, "maximum-raised-again", "the second hop raises what the first lowered", lowered, tooDeep, g.lowered(3, 4))
	g.renewals(limit)
}

// fifthHop repeats the depth of the fourth hop.
func (g *group) fifthHop() show {
	line := g.line(5)
	b := g.chain(line[0])
	for _, next := range line[1:5] {
		b.to(next)
	}
	b.to(line[5], func(p *v1.HopPayload) { p.Depth = 4 })
	return show{chain: b.c, by: line[4], self: line[5]}
}

func (g *group) lowered(first, second uint32) show {
	set := func(n uint32) func(*v1.HopPayload) {
		return func(p *v1.HopPayload) {
			p.MaxDepth = n
			for _, c := range p.GetCapabilities() {
				c.Reach = min(c.GetReach(), n)
			}
		}
	}
	b := g.chain(g.agent("a")).to(g.agent("b"), set(first)).to(g.agent("c"), set(second))
	return show{chain: b.c, by: g.agent("b"), self: g.agent("c")}
}

// renewals is row 18.
func (g *group) renewals(limit func(limit, used uint32) func(*v1.GrantPayload)) {
	renewed := func(used uint32, change ...func(*v1.HopPayload)) show {
		b := g.chain(g.agent("a"), limit(4, used), func(p *v1.GrantPayload) {
			p.PreviousLeaf, p.LineageStartMs = seed("previous leaf"), startMs-hourMs
			p.History = []*v1.PastActor{{Actor: agentID("x"), LeafId: seed("past leaf"), Depth: 1}}
		})
		return show{chain: b.to(g.agent("b"), change...).c, by: g.agent("a"), self: g.agent("b")}
	}
	depth := func(n uint32) func(*v1.HopPayload) { return func(p *v1.HopPayload) { p.Depth = n } }
	goesOn := g.allow(18, "renewed-goes-on", "a renewed grant that used 2 hops goes on at depth 3", renewed(2))
	g.deny(18, "renewed-reset", "a hop under a renewed grant that used 2 starts again at depth 1", goesOn, tooDeep, renewed(2, depth(1)))
	g.deny(18, "renewed-back-one", "a hop under a renewed grant that used 2 repeats depth 2", goesOn, tooDeep, renewed(2, depth(2)))
	last := g.allow(18, "renewed-last", "a renewed grant that used 3 of 4", renewed(3))
	g.deny(18, "renewed-used-up", "a renewed grant that used 4 of 4 cannot be delegated", last, tooDeep, renewed(4))
	g.deny(18, "renewed-used-up-reset", "the same, with a hop that starts again", last, tooDeep, renewed(4, depth(1)))
}

// links is rows 20 to 24.
func (g *group) links(alg string) {
	s := g.with(alg)
	four, two, one := "structure/valid-4-"+alg, "structure/valid-2-"+alg, "structure/valid-1-"+alg
	removed := func(at int) show {
		sh := s.hops(4)
		c := sh.chain
		c.Hops, c.Certs = slices.Delete(c.GetHops(), at, at+1), slices.Delete(c.GetCerts(), at, at+1)
		for i, h := range c.GetHops() {
			h.CertRef = uint32(i + 1)
		}
		return sh
	}
	for at, name := range []string{"first", "second", "third"} {
		if alg == algEd25519 || at == 1 {
			g.deny(20, name+"-hop-removed-"+alg, "the "+name+" of 4 hops removed", four, parentMismatch, removed(at))
		}
	}
	dropped := s.hops(2)
	dropped.chain.Hops, dropped.chain.Certs = dropped.chain.GetHops()[:1], dropped.chain.GetCerts()[:1]
	g.deny(22, "last-hop-dropped-"+alg, "the last hop dropped, presented by the agent that had signed it", two, notPresenter, dropped)
	bare := s.hops(1)
	bare.chain.Hops, bare.chain.Certs = nil, nil
	g.deny(22, "only-hop-dropped-"+alg, "the only hop dropped: a grant presented by its delegate", one, notPresenter, bare)
	for at := range 3 {
		if alg != algEd25519 && at != 1 {
			continue
		}
		sh := s.hops(4)
		h := sh.chain.GetHops()
		h[at], h[at+1] = h[at+1], h[at]
		g.deny(23, fmt.Sprintf("hops-%d-%d-swapped-%s", at+1, at+2, alg), "two neighbours of 4 hops swapped", four, parentMismatch, sh)
	}
	other := func(p *v1.GrantPayload) { p.ChainId, p.StatementNonce = seed("chain Y")[:16], seed("nonce Y")[:16] }
	y := s.chain(s.agent("a"), other).to(s.agent("b")).to(s.agent("c")).c
	splice := s.hops(2)
	splice.chain.Hops[1] = y.GetHops()[1]
	g.deny(24, "spliced-tail-"+alg, "the last hop of chain Y on the head of chain X, same agents", two, parentMismatch, splice)
	head := s.hops(2)
	head.chain.Grant = y.GetGrant()
	g.deny(24, "spliced-grant-"+alg, "the hops of chain X on the grant of chain Y", two, parentMismatch, head)
	sibling := s.chain(s.agent("a")).to(s.agent("b"), func(p *v1.HopPayload) { p.StatementNonce = seed("nonce Z")[:16] }).c
	twin := s.hops(2)
	twin.chain.Hops[0] = sibling.GetHops()[0]
	g.deny(24, "spliced-sibling-"+alg, "a sibling of the first hop under the second: another nonce only", two, parentMismatch, twin)
	g.deny(24, "other-chain-id-"+alg, "a hop names another chain", one, parentMismatch,
		s.hop1(func(p *v1.HopPayload) { p.ChainId = seed("chain Y")[:16] }))
	g.deny(24, "other-issuer-"+alg, "a hop names another issuer than the delegate before it", one, parentMismatch,
		s.hop1(func(p *v1.HopPayload) { p.Issuer = agentID("c") }))
	g.deny(24, "no-parent-"+alg, "a hop without a parent id", one, parentMismatch, s.hop1(func(p *v1.HopPayload) { p.ParentId = nil }))
}

// roots is rows 21 and 25.
func (g *group) roots() {
	one := "structure/valid-1-mixed"
	sh := g.hop1()
	sh.chain.Grant = nil
	g.deny(21, "no-root", "the grant removed", one, untrusted, sh)
	sh = g.hop1()
	sh.chain = &v1.DelegationChain{}
	sh.bytes = []byte{}
	g.deny(21, "nothing", "a chain of no bytes", one, untrusted, sh)
	sh = g.hop2()
	sh.chain.Grant, sh.chain.Hops, sh.chain.Certs = sh.chain.GetHops()[0], sh.chain.GetHops()[1:], sh.chain.GetCerts()[1:]
	sh.chain.Grant.CertRef, sh.chain.Hops[0].CertRef = 0, 1
	g.deny(21, "hop-as-root", "the first hop in the place of the grant", "structure/valid-2-mixed", nonCanonical, sh)
	issuer := func(id string) show { return g.grant1(func(p *v1.GrantPayload) { p.Issuer = id }) }
	g.deny(25, "foreign-authority", "a grant that the authority of another trust domain issues", one, untrusted,
		issuer("spiffe://"+foreign+"/service/authority"))
	g.deny(25, "other-service", "a grant that another service issues", one, untrusted, issuer("spiffe://"+domain+"/service/other"))
	g.deny(25, "agent-as-authority", "a grant that an agent called authority issues", one, untrusted, issuer(agentID("authority")))
	g.deny(25, "unknown-key", "a key id that the authority does not have", one, badKey,
		g.grant1(func(p *v1.GrantPayload) { p.KeyId = "00000000000000000000000000000000" }))
	g.deny(25, "no-key-id", "no key id", one, badKey, g.grant1(func(p *v1.GrantPayload) { p.KeyId = "" }))
	sh = g.hop1()
	sh.chain.Grant.Signature = g.sign(ed25519Key("forged grant"), encoding(typeGrant, sh.chain.GetGrant().GetPayload()))
	g.deny(25, "forged-grant", "the same grant, signed with another Ed25519 key", one, badSignature, sh)
	forged := g.newAuthority()
	g.deny(25, "foreign-key", "the same chain id, signed by a trusted authority of another trust domain under its own name", one,
		untrusted, forged)
	keys := g.keyWindow(startMs+1, startMs+hourMs)
	g.deny(25, "key-not-yet-valid", "the grant key becomes valid in a millisecond", one, badKey, g.trusting("key-ahead", keys))
	g.deny(25, "key-over", "the grant key ends now", one, badKey, g.trusting("key-over", g.keyWindow(startMs-hourMs, startMs)))
	g.allow(25, "key-valid", "the grant key becomes valid now and ends in a millisecond",
		g.trusting("key-valid", g.keyWindow(startMs, startMs+1)))
}

// newAuthority is a chain of this trust domain under a grant that the authority of the other one has signed. Its key is trusted.
func (g *group) newAuthority() show {
	key := ed25519Key("foreign grant")
	issuer := "spiffe://" + foreign + "/service/authority"
	trust := g.baseTrust()
	trust.GrantKeys = append(trust.GrantKeys, g.grantKey(issuer, key))
	p := g.grantPayload(g.agent("a"))
	p.Issuer, p.KeyId = issuer, trust.GrantKeys[1].KeyID
	payload := g.marshal(p)
	b := g.under(p, payload, g.agent("a")).to(g.agent("b"))
	b.c.Grant.Signature = g.sign(key, encoding(typeGrant, payload))
	g.f.Trust["two-authorities"] = trust
	return show{chain: b.c, by: g.agent("a"), self: g.agent("b"), trust: "two-authorities"}
}

func (g *group) keyWindow(fromMs, toMs int64) *Trust {
	t := g.baseTrust()
	t.GrantKeys[0].NotBeforeMs, t.GrantKeys[0].NotAfterMs = fromMs, toMs
	return t
}

// trusting is hop1 before a verifier that trusts something else.
func (g *group) trusting(name string, t *Trust) show {
	g.f.Trust[name] = t
	sh := g.hop1()
	sh.trust = name
	return sh
}

// loops is row 59.
func (g *group) loops() {
	a, b, c, d := g.agent("a"), g.agent("b"), g.agent("c"), g.agent("d")
	g.deny(59, "loop-3", "A to B to C to A", "structure/valid-4-mixed", loop, show{chain: g.chain(a).to(b).to(c).to(a).c, by: c, self: a})
	g.deny(59, "loop-2", "A to B to A", "structure/valid-2-mixed", loop, show{chain: g.chain(a).to(b).to(a).c, by: b, self: a})
	g.deny(59, "loop-1", "A to A", "structure/valid-1-mixed", loop, show{chain: g.chain(a).to(a).c, by: a, self: a})
	g.deny(59, "loop-inner", "A to B to C to B to D", "structure/valid-4-mixed", loop, show{
		chain: g.chain(a).to(b).to(c).to(b).to(d).c, by: b, self: d,
	})
}

// frames is row 62.
func (g *group) frames() {
	two := "structure/valid-2-mixed"
	change := func(f func(*v1.DelegationChain)) show {
		sh := g.hops(2)
		f(sh.chain)
		return sh
	}
	left := func(c *v1.DelegationChain) { c.Hops[1].CertRef, c.Certs = 0, c.GetCerts()[:1] }
	direct := g.allow(62, "last-cert-left-out", "the certificate of the last hop is the presenter's", change(left))
	stored := change(left)
	stored.by = &party{label: "b.stored", id: g.agent("b").id, tenant: "blue"}
	g.deny(62, "stored", "the same without a connection: a stored or relayed chain", direct, malformed, stored)
	rotated := change(left)
	rotated.by = g.rotated("b")
	g.deny(62, "left-out-after-rotation", "the same over a connection with a newer certificate of the same agent", direct, badSignature, rotated)
	inlined := g.hops(2)
	inlined.by = g.rotated("b")
	g.allow(62, "inlined-after-rotation", "all certificates inlined, over a connection with a newer certificate", inlined)
	g.deny(62, "first-cert-left-out", "the certificate of the first hop is left out", two, malformed, change(func(c *v1.DelegationChain) {
		c.Hops[0].CertRef, c.Hops[1].CertRef, c.Certs = 0, 1, c.GetCerts()[1:]
	}))
	both := change(func(c *v1.DelegationChain) { c.Hops[0].CertRef, c.Hops[1].CertRef, c.Certs = 0, 0, nil })
	g.deny(62, "all-certs-left-out", "all certificates are left out", two, malformed, both)
	for _, tc := range []struct {
		name, title string
		do          func(*v1.DelegationChain)
	}{
		{"unreferenced-cert", "a certificate that no hop refers to", func(c *v1.DelegationChain) { c.Certs = append(c.Certs, certsOf(g.agent("d"))) }},
		{"duplicate-cert", "the same certificate twice", func(c *v1.DelegationChain) { c.Certs[1] = c.GetCerts()[0] }},
		{"duplicate-unreferenced-cert", "the last certificate again behind it", func(c *v1.DelegationChain) {
			c.Certs = append(c.Certs, c.GetCerts()[1])
		}},
		{"reference-twice", "two hops refer to the same certificate", func(c *v1.DelegationChain) { c.Hops[1].CertRef = 1 }},
		{"reference-out-of-range", "a reference beyond the last certificate", func(c *v1.DelegationChain) { c.Hops[1].CertRef = 3 }},
		{"reference-huge", "a reference of 2^32-1", func(c *v1.DelegationChain) { c.Hops[1].CertRef = 1<<32 - 1 }},
		{"reference-on-grant", "a reference on the grant", func(c *v1.DelegationChain) { c.Grant.CertRef = 1 }},
		{"cert-without-leaf", "a certificate entry without a leaf", func(c *v1.DelegationChain) { c.Certs[1].Leaf = nil }},
		{"empty-intermediate", "an intermediate of no bytes", func(c *v1.DelegationChain) { c.Certs[0].Intermediates = [][]byte{nil} }},
		{"empty-hop", "a hop of no bytes", func(c *v1.DelegationChain) { c.Hops[0] = &v1.SignedStatement{} }},
		{"empty-grant", "a grant of no bytes", func(c *v1.DelegationChain) { c.Grant = &v1.SignedStatement{} }},
	} {
		g.deny(62, tc.name, tc.title, two, malformed, change(tc.do))
	}
	refs := proto.CloneOf(g.hops(2).chain)
	refs.Certs[0], refs.Certs[1] = refs.GetCerts()[1], refs.GetCerts()[0]
	refs.Hops[0].CertRef, refs.Hops[1].CertRef = 2, 1
	g.allow(62, "references-in-any-order", "certificates in another order than the hops", show{chain: refs, by: g.agent("b"), self: g.agent("c")})
}

// rotated is an agent with a newer key and certificate.
func (s *scene) rotated(name string) *party {
	old := s.agent(name)
	alg := algEd25519
	if old.isP256() {
		alg = algP256
	}
	return s.party(name+".rotated", old.id, alg)
}

// names is row 1 for the longest name, row 37 for one that is longer, and row 62 for the presenter's leaf inside the chain.
func (g *group) names() {
	name := func(n int) string { return strings.Repeat("n", n) }
	long := func(tenant, agent int) show {
		id := "spiffe://" + domain + "/tenant/" + name(tenant) + "/agent/" + name(agent)
		b := g.party(fmt.Sprintf("name-%d-%d", tenant, agent), id, algEd25519)
		return show{chain: g.chain(g.agent("a")).to(b, func(p *v1.HopPayload) { p.Capabilities = nil }).c, by: g.agent("a"), self: g.agent("b")}
	}
	whole := func(n int) show {
		id := "spiffe://" + domain + "/tenant/" + name(n) + "/agent/"
		a, b := g.party(fmt.Sprintf("first-%d", n), id+name(n), algEd25519), g.party(fmt.Sprintf("second-%d", n), id+name(n-1)+"2", algEd25519)
		return show{chain: g.chain(a, func(p *v1.GrantPayload) {
			p.Tenant, p.Delegates = name(n), []string{id + "*"}
		}).to(b).c, by: a, self: b}
	}
	control := g.allow(1, "names-63", "a tenant and agents whose names have 63 letters", whole(63))
	g.deny(37, "name-64-agent", "a delegate whose name has 64 letters", control, malformed, long(4, 64))
	g.deny(37, "name-64-tenant", "a delegate whose tenant has 64 letters", control, malformed, long(64, 4))
	g.deny(50, "name-63-tenant", "a delegate whose tenant has 63 letters, and is another", control, badTenant, long(63, 4))
	sh := g.hop2()
	sh.chain.Hops[1].CertRef, sh.chain.Certs = 0, []*v1.CertChain{certsOf(g.agent("b"))}
	g.deny(62, "presenter-leaf-inside", "the first hop refers to the presenter's leaf, and the last leaves it to the connection: two references, of which one is wrong",
		"structure/valid-2-mixed", badSigner, sh)
}
