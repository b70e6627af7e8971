package vectors

import (
	"crypto/elliptic"
	"crypto/x509"
	"slices"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// states is rows 52 and 60 for what a verifier remembers between messages: chains, the trust they were verified against, the clock.
func (g *group) states() {
	sh := g.hop2()
	sh.intent = readIntent()
	link := []byte(g.leaf(sh.chain, sh.by).Link)
	present := func(change ...func(*Step)) *Step {
		st := g.step(sh, Allow)
		st.Connection = "1"
		for _, f := range change {
			f(st)
		}
		if st.Expect != Allow {
			st.Leaf = nil
		}
		return st
	}
	resolve := func(change ...func(*Step)) *Step {
		st := g.resolve("1", link, sh.by, Allow)
		for _, f := range change {
			f(st)
		}
		return st
	}
	run := func(row int, name, title string, steps ...*Step) {
		g.sequence(row, name, title, "", "base", sh.self, steps...)
	}
	expect := func(code string) func(*Step) { return func(st *Step) { st.Expect = code } }
	at := func(ms int64) func(*Step) { return func(st *Step) { st.NowMs = startMs + ms } }
	trust := func(name string) func(*Step) { return func(st *Step) { st.Trust = name } }
	purpose := func(st *Step) { st.Intent = readIntent(); st.Intent.Purpose = "own task" }
	stranger := func(st *Step) { st.Presenter = g.presenter(g.agent("e")) }
	gone := func(st *Step) { st.Revoked = []Hex{handle("agent", agentID("b"))} }

	run(60, "trust-and-back", "a change of the bundle and a change back are changes", present(), resolve(trust("overlap"), expect(unknownChain)),
		resolve(trust("base"), expect(unknownChain)), present(), resolve())
	run(60, "trust-and-back-unseen", "the same when nothing was asked in between but another chain", present(),
		present(trust("overlap"), func(st *Step) { st.Connection = "2" }), resolve(trust("base"), expect(unknownChain)))
	run(60, "trust-same", "the trust that is in force, named again", present(), resolve(trust("base")))
	run(60, "refused-intent", "a chain that is accepted is remembered, although its message is refused", present(purpose, expect(badPurpose)), resolve())
	run(60, "refused-chain", "a chain that is refused is not remembered", present(trust("no-keys"), expect(badKey)),
		resolve(trust("base"), expect(unknownChain)))
	run(60, "no-connection", "a chain without a connection is not remembered on any", present(func(st *Step) { st.Connection = "" }), resolve(expect(unknownChain)))
	ended := g.baseTrust()
	ended.GrantKeys[0].NotAfterMs = startMs + minuteMs
	g.f.Trust["ended"] = ended
	run(60, "key-ended", "the grant key's validity ends", present(trust("ended")), resolve(at(minuteMs-1)), resolve(at(minuteMs), expect(unknownChain)),
		present(at(minuteMs), expect(badKey)))
	run(60, "key-withdrawn", "the grant key is withdrawn", present(), resolve(trust("no-keys"), expect(unknownChain)), present(expect(badKey)))

	run(60, "order-clock-unknown", "the clock stepped back, and a reference that is not known", present(at(10_000)),
		resolve(func(st *Step) { st.Reference = make([]byte, 32) }, at(4_999), expect(badTime)))
	run(60, "order-time-trust", "the chain is over, and the trust has changed", present(), resolve(at(grantLifeMs), trust("overlap"), expect(badTime)))
	run(60, "order-time-key", "the chain is over, and so is the grant key", present(trust("ended")), resolve(at(grantLifeMs), expect(badTime)))
	run(60, "order-trust-presenter", "the trust has changed, and another peer", present(), resolve(trust("overlap"), stranger, expect(unknownChain)))
	run(60, "order-key-presenter", "the grant key is over, and another peer", present(trust("ended")), resolve(at(minuteMs), stranger, expect(unknownChain)))
	run(60, "order-trust-revoked", "the trust has changed, and an agent is revoked", present(), resolve(trust("overlap"), gone, expect(unknownChain)))
	run(60, "order-key-revoked", "the grant key is over, and revoked", present(trust("ended")), resolve(at(minuteMs), expect(unknownChain), func(st *Step) {
		st.Revoked = []Hex{digest(g.spki(g.grant.Public()))}
	}))
	run(60, "order-presenter-revoked", "another peer, and an agent is revoked", present(), resolve(stranger, gone, expect(notPresenter)))
	run(60, "order-revoked-intersection", "an agent is revoked, and an action that is not covered", present(), resolve(gone, expect(revoked), func(st *Step) {
		st.Intent.Action = "memory.delete"
	}))
	run(60, "order-presenter-intersection", "another peer, and an action that is not covered", present(), resolve(stranger, expect(notPresenter), func(st *Step) {
		st.Intent.Action = "memory.delete"
	}))
	claimed := &party{label: "b.claimed-red", id: agentID("b"), tenant: "red", leaf: g.agent("b").leaf}
	run(60, "order-revoked-tenant", "an agent is revoked, and a peer of another tenant", present(), resolve(gone, expect(revoked), func(st *Step) {
		st.Presenter = g.presenter(claimed)
	}))

	over := func(st *Step) {
		st.Chain = g.step(show{chain: sh.chain, by: sh.by, self: sh.self, bytes: make([]byte, 16<<10+1)}, tooLarge).Chain
	}
	run(52, "clock-restart", "a restart forgets the highest clock", present(at(60_000)), present(at(0), func(st *Step) { st.Restart = true }))
	run(52, "clock-refused-purpose", "a message that is refused for its purpose has moved the clock", present(at(60_000), purpose, expect(badPurpose)), present(expect(badTime)))
	run(52, "clock-refused-presenter", "a chain that is refused after its frame has moved the clock", present(at(60_000), stranger, expect(notPresenter)), present(expect(badTime)))
	run(52, "clock-refused-reference", "a reference that is not known has moved the clock", resolve(at(60_000), expect(unknownChain)), present(expect(badTime)))
	run(52, "clock-refused-frame", "a chain that is refused for its frame has not moved the clock", present(at(60_000), over, expect(tooLarge)), present())
	run(52, "clock-refused-clock", "a clock that is refused has moved nothing", present(at(10_000)), present(at(4_999), expect(badTime)), present(at(5_000)),
		present(at(4_999), expect(badTime)))
}

// endings is row 60 for the certificates above a signer's: a reference ends with them.
func (g *group) endings() {
	life := func(label string, by *ca) *ca {
		return g.newCA(label, g.curveKey(elliptic.P256(), label), by, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = at(startMs-hourMs), at(startMs+minuteMs)
		})
	}
	inter, root := life("ending", g.root), life("ending root", nil)
	long := g.newCA("ending root", root.key, nil)
	trust := func(name string, roots ...*ca) {
		t := g.baseTrust()
		for _, r := range roots {
			t.Bundles[0].Roots = append(t.Bundles[0].Roots, r.cert.Raw)
		}
		g.f.Trust[name] = t
	}
	trust("ending-root", root)
	trust("two-roots", root, long)
	first := func(label string, opts ...certOption) show {
		p := g.party("a."+label, agentID("a"), g.alg, opts...)
		return show{chain: g.chain(p).to(g.agent("b")).to(g.agent("c")).c, by: g.agent("b"), self: g.agent("c"), intent: readIntent()}
	}
	for _, tc := range []struct {
		name, title, trust string
		sh                 show
		after              string
	}{
		{"intermediate", "the intermediate of its first signer", "base", first("ending", issuedBy(inter, inter)), unknownChain},
		{"root", "the root of its first signer", "ending-root", first("ending-root", issuedBy(root)), unknownChain},
		{"one-root", "one of two roots of its first signer, of which the other stays", "two-roots", first("ending-root", issuedBy(root)), Allow},
	} {
		present := func(ms int64, code string) *Step {
			st := g.step(tc.sh, Allow)
			if st.Connection, st.NowMs, st.Expect = "1", startMs+ms, code; code != Allow {
				st.Leaf = nil
			}
			return st
		}
		resolve := func(ms int64, code string) *Step {
			st := g.resolve("1", g.leaf(tc.sh.chain, tc.sh.by).Link, tc.sh.by, code)
			st.NowMs = startMs + ms
			return st
		}
		code := badSVID
		if tc.after == Allow {
			code = Allow
		}
		g.sequence(60, "ended-"+tc.name, "in the last millisecond of "+tc.title+", and after it", "", tc.trust, tc.sh.self, present(0, Allow),
			resolve(minuteMs, Allow), resolve(minuteMs+1, tc.after), present(minuteMs+1, code))
	}
}

// pasts is row 60 for what a grant names beside its chain: its issuer, and the chains that it renews.
func (g *group) pasts() {
	sh := g.grant1(func(p *v1.GrantPayload) {
		p.PreviousLeaf = seed("previous leaf")
		p.History = []*v1.PastActor{{Actor: agentID("x"), LeafId: seed("past leaf x"), Depth: 1}, {Actor: agentID("y"), LeafId: seed("past leaf y"), Depth: 2}}
	})
	control := g.allow(60, "renewed", "a renewed grant that names the chains before it", sh)
	ended := g.baseTrust()
	ended.GrantKeys[0].NotAfterMs = startMs
	g.f.Trust["key-over"] = ended
	keyHash := digest(g.spki(g.grant.Public()))
	for _, tc := range []struct {
		name, title string
		handle      []byte
		trust, code string
	}{
		{"history-actor", "an agent of a chain before it", handle("agent", agentID("x")), "base", revoked},
		{"history-last-actor", "the last agent of the chains before it", handle("agent", agentID("y")), "base", revoked},
		{"history-leaf", "a statement of a chain before it", seed("past leaf x"), "base", revoked},
		{"history-last-leaf", "the last statement that its history names", seed("past leaf y"), "base", revoked},
		{"previous-leaf", "the chain that it renews", seed("previous leaf"), "base", revoked},
		{"authority", "the authority that issued it", handle("agent", authorityID), "base", revoked},
		{"key", "the grant key", keyHash, "base", revoked},
		{"key-over", "a grant key that is over: no handle of the chain", keyHash, "key-over", badKey},
		{"history-not-statement", "an agent's id in the place of a statement", digest([]byte(agentID("x"))), "base", Allow},
	} {
		st := g.step(sh, Allow)
		if st.Expect = tc.code; tc.code != Allow {
			st.Leaf = nil
		}
		st.Revoked = []Hex{tc.handle}
		of := control
		if tc.code == Allow {
			of = ""
		}
		g.sequence(60, "present-revoked-"+tc.name, "after the revocation of "+tc.title, of, tc.trust, sh.self, st)
	}
	other := g.baseTrust()
	stranger := "spiffe://" + domain + "/service/other"
	other.GrantKeys[0].Issuer = stranger
	g.f.Trust["key-of-another"] = other
	both := g.baseTrust()
	wrong := g.grantKey(stranger, ed25519Key("grant of another"))
	wrong.KeyID = both.GrantKeys[0].KeyID
	both.GrantKeys = slices.Insert(both.GrantKeys, 0, wrong)
	g.f.Trust["key-of-both"] = both
	one := g.hop1()
	one.trust = "key-of-both"
	found := g.allow(25, "key-of-both", "two grant keys of one id, of two issuers", one)
	one.trust = "key-of-another"
	g.deny(25, "key-of-another", "the grant key under another issuer", found, badKey, one)
}
