package vectors

import (
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// orders is chains with two faults: the check that comes first gives the code.
func orders(w *world) *File {
	g := newGroup(w, "order", algMixed)
	g.allow(1, "one", "one hop, nothing wrong", g.hop1())
	g.allow(1, "two", "two hops, nothing wrong", g.hop2())
	g.frameOrder()
	g.claimOrder()
	g.lifeOrder()
	g.signatureOrder()
	g.recheckOrder()
	return g.f
}

// twoHops changes the grant, the hops and the finished chain of hop2.
func (s *scene) twoHops(grant func(*v1.GrantPayload), first, second func(*v1.HopPayload), chain func(*v1.DelegationChain)) show {
	b := s.chain(s.agent("a"), func(p *v1.GrantPayload) {
		if grant != nil {
			grant(p)
		}
	})
	hop := func(f func(*v1.HopPayload)) func(*v1.HopPayload) {
		return func(p *v1.HopPayload) {
			if f != nil {
				f(p)
			}
		}
	}
	b.to(s.agent("b"), hop(first)).to(s.agent("c"), hop(second))
	if chain != nil {
		chain(b.c)
	}
	return show{chain: b.c, by: s.agent("b"), self: s.agent("c")}
}

// both adds a chain of one hop that two changes have touched, the first one deciding.
func (g *group) both(row int, name, title, code string, changes ...func(*v1.HopPayload)) {
	g.deny(row, name, title, "order/one", code, g.hop1(func(p *v1.HopPayload) {
		for _, f := range changes {
			f(p)
		}
	}))
}

// frameOrder is the frame before the parts, the parts before the statements, and statement by statement.
func (g *group) frameOrder() {
	sh := g.hop1()
	sh.chain.Grant = nil
	sh.bytes = append(g.marshal(sh.chain), varint(4, 1)...)
	g.deny(37, "frame-parts", "an unknown field of the frame, and no grant", "order/one", nonCanonical, sh)
	sh = g.hop1()
	g.pad(sh.chain, 16<<10+1)
	sh.bytes = append(g.marshal(sh.chain), varint(4, 1)...)
	g.deny(19, "size-frame", "too large, and an unknown field", "order/one", tooLarge, sh)
	sh = g.rawHop(func(p []byte) []byte { return append(p, varint(17, 1)...) })
	sh.chain.Hops[0].Signature = nil
	g.deny(30, "parts-statements", "a hop without a signature whose payload has an unknown field", "order/one", malformed, sh)
	sh = g.hop1()
	sh.chain.Grant.CertRef, sh.chain.Hops[0].Signature = 1, append(sh.chain.GetHops()[0].GetSignature(), 0)
	g.deny(30, "scan-parts", "a reference on the grant, and a long signature of the hop: one code", "order/one", malformed, sh)
	p := g.grantPayload(g.agent("a"))
	p.Version = 2
	b := g.under(p, g.marshal(p), g.agent("a"))
	payload := append(g.marshal(b.next(g.agent("b"))), varint(17, 1)...)
	g.deny(37, "grant-hop", "a grant of version 2, and a hop with an unknown field", "order/one", badVersion,
		show{chain: b.raw(g.agent("b"), payload).c, by: g.agent("a"), self: g.agent("b")})
	b = g.chain(g.agent("a")).to(g.agent("b"), func(p *v1.HopPayload) { p.Version = 2 })
	payload = append(g.marshal(b.next(g.agent("c"))), varint(17, 1)...)
	g.deny(37, "hop-hop", "a first hop of version 2, and a second with an unknown field", "order/two", badVersion,
		show{chain: b.raw(g.agent("c"), payload).c, by: g.agent("b"), self: g.agent("c")})
}

// claimOrder is steps 6.6 to 6.9.
func (g *group) claimOrder() {
	parent := func(p *v1.HopPayload) { p.ParentId = seed("other") }
	depth := func(p *v1.HopPayload) { p.Depth = 2 }
	tenant := func(p *v1.HopPayload) { p.Tenant = "red" }
	task := func(p *v1.HopPayload) { p.PurposeDigest = seed("other") }
	circle := func(p *v1.HopPayload) { p.Delegate = agentID("a") }
	g.both(37, "nonce-issuer", "no nonce, and an action with a star: one code", malformed, func(p *v1.HopPayload) { p.StatementNonce = nil },
		func(p *v1.HopPayload) { p.Capabilities[0].Action = "*" })
	g.both(37, "version-nonce", "version 2, and no nonce", badVersion, func(p *v1.HopPayload) { p.Version = 2 }, func(p *v1.HopPayload) { p.StatementNonce = nil })
	g.both(8, "capability-pattern", "a constraint without a rule, and a delegate that is no pattern", unknownRule,
		func(p *v1.HopPayload) { p.Capabilities[0].Constraints = []*v1.Constraint{{Key: "n"}} }, func(p *v1.HopPayload) { p.Delegates = []string{"*"} })
	g.both(10, "pattern-parent", "a delegate that is no pattern, and another parent", malformed, func(p *v1.HopPayload) { p.Delegates = []string{"*"} }, parent)
	g.both(24, "parent-depth", "another parent, and a depth too many", parentMismatch, parent, depth)
	g.both(16, "depth-tenant", "a depth too many, and another tenant", tooDeep, depth, tenant)
	g.both(50, "tenant-purpose", "another tenant, and another purpose", badTenant, tenant, task)
	g.both(40, "purpose-loop", "another purpose, and a loop", badPurpose, task, circle)
	g.deny(59, "loop-presenter", "a loop, and another presenter", "order/one", loop, func() show {
		sh := g.hop1(circle)
		sh.by = g.agent("e")
		return sh
	}())
	g.deny(16, "second-structure-first-life", "the second hop has a wrong depth, the first ends too late: structure is checked in all statements first",
		"order/two", tooDeep, g.twoHops(nil, func(p *v1.HopPayload) { p.ExpiresAtMs++ }, func(p *v1.HopPayload) { p.Depth = 5 }, nil))
	twice := func(c *v1.DelegationChain) { c.Certs[1] = c.GetCerts()[0] }
	g.deny(16, "structure-references", "a wrong depth, and a certificate twice", "order/two", tooDeep,
		g.twoHops(nil, nil, func(p *v1.HopPayload) { p.Depth = 5 }, twice))
	sh := g.twoHops(nil, nil, nil, twice)
	sh.by = g.agent("e")
	g.deny(62, "references-presenter", "a certificate twice, and another presenter", "order/two", malformed, sh)
	sh = g.twoHops(nil, nil, nil, nil)
	sh.by, sh.self = g.agent("e"), g.agent("d")
	g.deny(41, "presenter-audience", "another presenter, and another callee", "order/two", notPresenter, sh)
	sh = g.twoHops(nil, nil, func(p *v1.HopPayload) { p.ExpiresAtMs++ }, nil)
	sh.self = g.agent("d")
	g.deny(42, "audience-life", "another callee, and a hop that ends too late", "order/two", notAudience, sh)
}

// lifeOrder is steps 6.10 to 6.13.
func (g *group) lifeOrder() {
	sh := g.twoHops(nil, nil, func(p *v1.HopPayload) { p.NotBeforeMs-- }, nil)
	sh.nowMs = startMs + grantLifeMs
	g.deny(12, "life-time", "a hop that begins before its parent, and is over", "order/two", badLife, sh)
	sh = g.twoHops(nil, nil, func(p *v1.HopPayload) { p.MaxDepth = 5 }, nil)
	sh.nowMs = startMs + grantLifeMs
	g.deny(52, "time-depth", "a chain that is over, and a maximum depth that rises", "order/two", badTime, sh)
	only := func(id string) func(*v1.GrantPayload) { return func(p *v1.GrantPayload) { p.Delegates = []string{id} } }
	g.deny(17, "depth-delegate", "a maximum depth that rises, and a delegate that nobody named", "order/two", tooDeep,
		g.twoHops(only(agentID("x")), func(p *v1.HopPayload) { p.MaxDepth = 5 }, nil, nil))
	more := func(p *v1.HopPayload) { p.Capabilities = append(p.Capabilities, capability("memory.delete")) }
	g.deny(10, "delegate-capability", "a delegate that nobody named, and one more capability", "order/two", notDelegable,
		g.twoHops(only(agentID("x")), more, nil, nil))
	g.deny(7, "capability-delegates", "a dropped constraint, and one more delegate", "order/two", loosened, g.twoHops(func(p *v1.GrantPayload) {
		p.Capabilities[0].Constraints = []*v1.Constraint{equal("n", number(1))}
		p.Delegates = []string{agentID("b"), agentID("c")}
	}, func(p *v1.HopPayload) {
		p.Capabilities[0].Constraints = nil
		p.Delegates = append(p.Delegates, agentID("d"))
	}, nil, nil))
	g.deny(2, "capability-capability", "of two capabilities, the first decides: another action, then a dropped constraint", "order/two", amplified,
		g.twoHops(func(p *v1.GrantPayload) { p.Capabilities[1].Constraints = []*v1.Constraint{equal("n", number(1))} }, func(p *v1.HopPayload) {
			p.Capabilities[0].Action = "memory.delete"
			p.Capabilities[1].Constraints = nil
		}, nil, nil))
	g.deny(2, "first-narrowing-second", "the first hop adds a capability, the second raises the maximum depth", "order/two", amplified,
		g.twoHops(nil, more, func(p *v1.HopPayload) { p.MaxDepth = 5 }, nil))
	g.ranks()
	sh = g.twoHops(nil, more, nil, nil)
	st := g.step(sh, amplified)
	st.Revoked = []Hex{handle("agent", agentID("b"))}
	g.sequence(2, "narrowing-revoked", "one more capability, and a revoked agent", "order/two", "base", sh.self, st)
	sh = g.twoHops(nil, nil, nil, func(c *v1.DelegationChain) { c.Grant.Signature = make([]byte, sigBytes) })
	st = g.step(sh, revoked)
	st.Revoked = []Hex{handle("agent", agentID("b"))}
	g.sequence(60, "revoked-signature", "a revoked agent, and a grant whose signature is zero", "order/two", "base", sh.self, st)
}

// ranks is several parents that miss a child in different ways: the nearest miss gives the code.
func (g *group) ranks() {
	parent := func(reach uint32, constraints ...*v1.Constraint) *v1.Capability {
		return &v1.Capability{Action: "x", Resource: []string{"ns"}, Reach: reach, Constraints: constraints}
	}
	for _, tc := range []struct {
		name, title, code string
		child             *v1.Capability
		parents           []*v1.Capability
	}{
		{"rank-0-1", "one of another action, one with a constraint", loosened, parent(1), []*v1.Capability{{Action: "y", Reach: 4}, parent(4, equal("n", number(1)))}},
		{"rank-1-0", "the same in the other order", loosened, parent(1), []*v1.Capability{parent(4, equal("n", number(1))), {Action: "y", Reach: 4}}},
		{"rank-1-2", "one with a constraint, one of less reach", amplified, parent(3), []*v1.Capability{parent(4, equal("n", number(1))), parent(2)}},
		{"rank-2-3", "one of less reach, one that may not travel", notDelegable, parent(0), []*v1.Capability{parent(0, equal("n", number(1))), parent(0)}},
		{"rank-none", "none at all", amplified, parent(1), nil},
	} {
		b := g.chain(g.agent("a"), func(p *v1.GrantPayload) { p.Capabilities = tc.parents })
		b.to(g.agent("b"), func(p *v1.HopPayload) { p.Capabilities = []*v1.Capability{tc.child} })
		g.deny(2, tc.name, "parents: "+tc.title, "order/one", tc.code, show{chain: b.c, by: g.agent("a"), self: g.agent("b")})
	}
}

// signatureOrder is step 6.14 and section 8.
func (g *group) signatureOrder() {
	other := func(p *v1.GrantPayload) { p.Issuer, p.KeyId = "spiffe://"+domain+"/service/other", "none" }
	g.deny(25, "issuer-key", "another issuer, and an unknown key", "order/two", untrusted, g.twoHops(other, nil, nil, nil))
	g.deny(25, "key-signature", "an unknown key, and a signature of zeros", "order/two", badKey, g.twoHops(func(p *v1.GrantPayload) { p.KeyId = "none" }, nil, nil,
		func(c *v1.DelegationChain) { c.Grant.Signature = make([]byte, sigBytes) }))
	zero := func(c *v1.DelegationChain, at int) { c.Hops[at].Signature = make([]byte, sigBytes) }
	certs := func(c *v1.DelegationChain, at int, p *party) { c.Certs[at] = certsOf(p) }
	g.deny(30, "grant-signer", "a grant whose signature is zero, and a first hop certified by another agent", "order/two", badSignature,
		g.twoHops(nil, nil, nil, func(c *v1.DelegationChain) { c.Grant.Signature = make([]byte, sigBytes); certs(c, 0, g.agent("d")) }))
	g.deny(30, "first-second", "a first hop whose signature is zero, and a second certified by another agent", "order/two", badSignature,
		g.twoHops(nil, nil, nil, func(c *v1.DelegationChain) { zero(c, 0); certs(c, 1, g.agent("d")) }))
	g.deny(26, "signer-signature", "a hop certified by another agent, and a signature of zeros", "order/two", badSigner,
		g.twoHops(nil, nil, nil, func(c *v1.DelegationChain) { zero(c, 1); certs(c, 1, g.agent("d")) }))
	expired := g.party("a.expired", agentID("a"), algEd25519, lives(startMs-hourMs, startMs-minuteMs))
	g.deny(53, "expired-outlives", "an expired certificate, which the hop outlives", "order/two", badSVID,
		g.twoHops(nil, nil, nil, func(c *v1.DelegationChain) { certs(c, 0, expired) }))
	short := g.party("a.short", agentID("a"), algEd25519, lives(startMs-minuteMs, startMs+5*minuteMs))
	g.deny(13, "outlives-signature", "a certificate that the hop outlives, whose key did not sign it", "order/two", badLife,
		g.twoHops(nil, nil, nil, func(c *v1.DelegationChain) { certs(c, 0, short) }))
	late := g.party("c.expired", agentID("c"), algEd25519, lives(startMs-hourMs, startMs-minuteMs))
	g.deny(26, "signer-expired", "an expired certificate of another agent", "order/two", badSigner,
		g.twoHops(nil, nil, nil, func(c *v1.DelegationChain) { certs(c, 0, late) }))
	unreadable := func(c *v1.DelegationChain) { c.Certs[0].Intermediates = [][]byte{[]byte("ca")} }
	g.f.Trust["removed"] = &Trust{Bundles: []*Bundle{}, GrantKeys: g.baseTrust().GrantKeys}
	sh := g.twoHops(nil, nil, nil, unreadable)
	sh.trust = "removed"
	g.deny(53, "intermediate-bundle", "an intermediate that is no certificate, and no bundle", "order/two", badSVID, sh)
}

// recheckOrder is section 9.
func (g *group) recheckOrder() {
	claimed := func(in *Intent) show {
		sh := g.hop1()
		sh.by = &party{label: "a.claimed-red", id: agentID("a"), tenant: "red", leaf: g.agent("a").leaf}
		sh.intent = in
		return sh
	}
	in := readIntent()
	in.Action = "memory.delete"
	g.deny(50, "tenant-intersection", "a presenter of another tenant, and an action that is not covered", "order/one", badTenant, claimed(in))
	sh := g.grant1(func(p *v1.GrantPayload) { p.Capabilities[0].Constraints = []*v1.Constraint{equal("size", number(1))} })
	sh.intent = readIntent()
	sh.intent.Purpose = "own task"
	g.deny(64, "unmet-purpose", "a constraint that is not met, and another purpose", "order/one", unmet, sh)
	sh = g.hop1()
	sh.intent = readIntent()
	sh.intent.Action = "memory.delete"
	first := g.message(g.hop1(), "1", "grpc", Allow)
	again := g.message(sh, "1", "grpc", intersection)
	again.Intent = sh.intent
	g.sequence(45, "intersection-replay", "an id that was used, and an action that is not covered: replay is checked last", "", "base", g.agent("b"), first, again)
}
