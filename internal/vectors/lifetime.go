package vectors

import (
	"crypto/elliptic"
	"crypto/x509"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// endOfTime is 2100-01-01, the first time that is out of range.
const endOfTime = 4102444800000

// lifetimes is rows 11, 12, 14 and 52.
func lifetimes(w *world) *File {
	g := newGroup(w, "lifetime", algMixed)
	g.nested()
	g.ranges()
	g.lineages()
	g.skew()
	g.clock()
	g.century()
	return g.f
}

// hop and issued build hop1 and grant1 with other times.
type change = func(*v1.HopPayload)

// nested is rows 11 and 12.
func (g *group) nested() {
	hop := func(f change) show { return g.hop1(f) }
	one := g.allow(11, "expires-with-parent", "a hop ends with its parent", g.hop1())
	g.deny(11, "expires-after-parent", "a hop ends a millisecond after its parent", one, badLife, hop(func(p *v1.HopPayload) { p.ExpiresAtMs++ }))
	g.deny(12, "begins-before-parent", "a hop begins a millisecond before its parent", one, badLife, hop(func(p *v1.HopPayload) { p.NotBeforeMs-- }))
	within := func(first, second change) show {
		return show{
			chain: g.chain(g.agent("a")).to(g.agent("b"), first).to(g.agent("c"), second).c, by: g.agent("b"), self: g.agent("c"),
		}
	}
	shorter := func(p *v1.HopPayload) { p.NotBeforeMs, p.ExpiresAtMs = startMs-0, startMs+minuteMs }
	two := g.allow(11, "second-hop-inside", "the second hop lives as long as the first", within(shorter, func(*v1.HopPayload) {}))
	g.deny(11, "second-hop-after", "the second hop ends with the grant, after the first", two, badLife,
		within(shorter, func(p *v1.HopPayload) { p.ExpiresAtMs = startMs + grantLifeMs }))
	later := func(p *v1.HopPayload) { p.NotBeforeMs = startMs + 1000 }
	begun := g.allow(12, "second-hop-begins", "the second hop begins with the first", within(later, func(*v1.HopPayload) {}))
	g.deny(12, "second-hop-before", "the second hop begins with the grant, before the first", begun, badLife,
		within(later, func(p *v1.HopPayload) { p.NotBeforeMs = startMs }))
	g.allow(12, "issued-before-parent", "a hop is issued before its parent: only its life is compared",
		hop(func(p *v1.HopPayload) { p.IssuedAtMs -= 60_000 }))
}

// ranges is row 14.
func (g *group) ranges() {
	one := "lifetime/expires-with-parent"
	for _, tc := range []struct {
		name, title string
		do          change
	}{
		{"expires-overflow", "a hop ends at 2^63-1", func(p *v1.HopPayload) { p.ExpiresAtMs = 1<<63 - 1 }},
		{"expires-negative", "a hop ends at -1", func(p *v1.HopPayload) { p.ExpiresAtMs = -1 }},
		{"expires-lowest", "a hop ends at -2^63", func(p *v1.HopPayload) { p.ExpiresAtMs = -1 << 63 }},
		{"expires-zero", "a hop ends at 0", func(p *v1.HopPayload) { p.ExpiresAtMs = 0 }},
		{"expires-far", "a hop ends in 2100", func(p *v1.HopPayload) { p.ExpiresAtMs = endOfTime }},
		{"begins-negative", "a hop begins at -1", func(p *v1.HopPayload) { p.NotBeforeMs = -1 }},
		{"begins-zero", "a hop begins at 0", func(p *v1.HopPayload) { p.NotBeforeMs = 0 }},
		{"issued-negative", "a hop is issued at -1", func(p *v1.HopPayload) { p.IssuedAtMs = -1 }},
		{"issued-zero", "a hop is issued at 0", func(p *v1.HopPayload) { p.IssuedAtMs = 0 }},
		{"ends-before-it-begins", "a hop begins a millisecond after its end", func(p *v1.HopPayload) { p.NotBeforeMs = p.GetExpiresAtMs() + 1 }},
		{"issued-after-its-end", "a hop is issued a millisecond after its end", func(p *v1.HopPayload) { p.IssuedAtMs = p.GetExpiresAtMs() + 1 }},
	} {
		g.deny(14, tc.name, tc.title, one, badLife, g.hop1(tc.do))
	}
	for _, tc := range []struct {
		name, title string
		do          func(*v1.GrantPayload)
	}{
		{"grant-far", "a grant ends in 2100", func(p *v1.GrantPayload) { p.ExpiresAtMs = endOfTime }},
		{"grant-overflow", "a grant ends at 2^63-1", func(p *v1.GrantPayload) { p.ExpiresAtMs = 1<<63 - 1 }},
		{"grant-zero", "a grant ends at 0", func(p *v1.GrantPayload) { p.ExpiresAtMs = 0 }},
		{"grant-issued-negative", "a grant is issued at -1", func(p *v1.GrantPayload) { p.IssuedAtMs = -1 }},
		{"grant-over-15-minutes", "a grant lives a millisecond over 15 minutes", func(p *v1.GrantPayload) { p.ExpiresAtMs++ }},
		{"grant-issued-earlier", "a grant is issued a millisecond earlier and so lives over 15 minutes", func(p *v1.GrantPayload) {
			p.IssuedAtMs--
			p.LineageStartMs--
		}},
	} {
		g.deny(14, tc.name, tc.title, one, badLife, g.grant1(tc.do))
	}
}

// lineages is the rest of row 14: how long a grant may be renewed.
func (g *group) lineages() {
	lineage := func(ms int64) show { return g.grant1(func(p *v1.GrantPayload) { p.LineageStartMs = ms }) }
	oldest := g.allow(14, "lineage-8-hours", "a lineage of exactly 8 hours", lineage(startMs-8*hourMs))
	g.deny(14, "lineage-over-8-hours", "a lineage of 8 hours and a millisecond", oldest, badLife, lineage(startMs-8*hourMs-1))
	g.deny(14, "lineage-missing", "no start of the lineage", oldest, badLife, lineage(0))
	g.deny(14, "lineage-negative", "a lineage that starts at -1", oldest, badLife, lineage(-1))
	g.deny(14, "lineage-ahead", "a lineage that starts after the grant is issued", oldest, badLife, lineage(startMs+1))
}

// skew is row 52.
func (g *group) skew() {
	one := "lifetime/expires-with-parent"
	both := func(by int64) change {
		return func(p *v1.HopPayload) { p.IssuedAtMs += by; p.NotBeforeMs += by }
	}
	root := func(issued, begins int64) show {
		return g.grant1(func(p *v1.GrantPayload) { p.IssuedAtMs += issued; p.NotBeforeMs += begins })
	}
	g.allow(52, "hop-29s-ahead", "a hop is issued and begins 29 s ahead", g.hop1(both(29_000)))
	limit := g.allow(52, "hop-30s-ahead", "a hop is issued and begins 30 s ahead", g.hop1(both(30_000)))
	g.deny(52, "hop-30s-1-ahead", "a hop is issued and begins 30 s and a millisecond ahead", limit, badTime, g.hop1(both(30_001)))
	g.deny(52, "hop-31s-ahead", "a hop is issued and begins 31 s ahead", limit, badTime, g.hop1(both(31_000)))
	g.deny(52, "hop-10m-ahead", "a hop begins 10 minutes ahead", limit, badTime, g.hop1(func(p *v1.HopPayload) { p.NotBeforeMs += 600_000 }))
	g.deny(52, "hop-issued-31s-ahead", "a hop is issued 31 s ahead", one, badTime, g.hop1(func(p *v1.HopPayload) { p.IssuedAtMs += 31_000 }))
	g.deny(52, "hop-begins-31s-ahead", "a hop begins 31 s ahead", one, badTime, g.hop1(func(p *v1.HopPayload) { p.NotBeforeMs += 31_000 }))
	ahead := g.allow(52, "grant-29s-ahead", "a grant is issued and begins 29 s ahead", root(29_000, 29_000))
	g.deny(52, "grant-31s-ahead", "a grant is issued and begins 31 s ahead", ahead, badTime, root(31_000, 31_000))
	g.deny(52, "grant-issued-31s-ahead", "a grant is issued 31 s ahead", ahead, badTime, root(31_000, 0))
	g.deny(52, "grant-10m-ahead", "a grant is issued and begins 10 minutes ahead", ahead, badTime, root(600_000, 600_000))
	middle := func(by int64) show {
		issue := func(ms int64) change { return func(p *v1.HopPayload) { p.IssuedAtMs = ms } }
		return show{
			chain: g.chain(g.agent("a")).to(g.agent("b"), issue(startMs+by)).to(g.agent("c"), issue(startMs)).c,
			by:    g.agent("b"), self: g.agent("c"),
		}
	}
	inner := g.allow(52, "middle-29s-ahead", "a middle hop is issued 29 s ahead", middle(29_000))
	g.deny(52, "middle-31s-ahead", "a middle hop is issued 31 s ahead", inner, badTime, middle(31_000))
	expires := func(ms int64) show { return g.hop1(func(p *v1.HopPayload) { p.ExpiresAtMs = ms }) }
	last := g.allow(52, "expires-in-1ms", "a hop ends in a millisecond", expires(startMs+1))
	g.deny(52, "expires-now", "a hop ends now: the end is exclusive and has no skew", last, badTime, expires(startMs))
}

// clock presents one chain while the clock moves.
func (g *group) clock() {
	moved := func(ms int64) show {
		sh := g.hop1()
		sh.nowMs = startMs + ms
		return sh
	}
	g.allow(52, "clock-last-ms", "presented in the last millisecond of its life", moved(grantLifeMs-1))
	g.deny(52, "clock-end", "presented at its end", "lifetime/clock-last-ms", badTime, moved(grantLifeMs))
	g.deny(52, "clock-10m-late", "presented 10 minutes after its end", "lifetime/clock-last-ms", badTime, moved(grantLifeMs+600_000))
	behind := g.allow(52, "clock-29s-behind", "presented to a verifier whose clock is 29 s behind", moved(-29_000))
	g.deny(52, "clock-31s-behind", "presented to a verifier whose clock is 31 s behind", behind, badTime, moved(-31_000))
	g.deny(52, "clock-10m-behind", "presented to a verifier whose clock is 10 minutes behind", behind, badTime, moved(-600_000))
	self := g.agent("b")
	g.sequence(52, "clock-step-back", "the clock steps back between messages: 5 s are let pass, more is not, and it may catch up", "",
		"base", self, g.step(moved(60_000), Allow), g.step(moved(55_000), Allow), g.step(moved(54_999), badTime), g.step(moved(55_000), Allow))
	g.sequence(52, "clock-step-over-end", "a chain that passed is over when the clock steps on", "", "base", self,
		g.step(moved(0), Allow), g.step(moved(grantLifeMs-1), Allow), g.step(moved(grantLifeMs), badTime))
	intent := func(sh show) show { sh.intent = readIntent(); return sh }
	g.sequence(52, "clock-step-over-end-intent", "the same with an intent", "", "base", self,
		g.step(intent(moved(0)), Allow), g.step(intent(moved(grantLifeMs)), badTime))
}

// century is rows 14 and 52 for the last millisecond that is in range. Its roots, keys and certificates live as long.
func (g *group) century() {
	const issued = endOfTime - grantLifeMs
	until := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = at(startMs-hourMs), at(endOfTime+hourMs) }
	root := g.newCA("century root", g.curveKey(elliptic.P256(), "century root"), nil, until)
	t := g.baseTrust()
	t.Bundles[0].Roots = []Hex{root.cert.Raw}
	t.GrantKeys[0].NotAfterMs = endOfTime + hourMs
	g.f.Trust["century"] = t
	a := g.party("a.century", agentID("a"), algEd25519, lives(startMs, endOfTime+hourMs), issuedBy(root))
	ends := func(expires int64) show {
		return show{chain: g.chain(a, func(p *v1.GrantPayload) {
			p.IssuedAtMs, p.NotBeforeMs, p.LineageStartMs, p.ExpiresAtMs = issued, issued, issued, expires
		}).to(g.agent("b")).c, by: a, self: g.agent("b"), nowMs: issued, trust: "century"}
	}
	last := g.allow(14, "century-last-ms", "a chain that ends in the last millisecond of 2099", ends(endOfTime-1))
	g.deny(14, "century", "a chain that ends with 2099, a millisecond later", last, badLife, ends(endOfTime))
	late := ends(endOfTime - 1)
	late.nowMs = endOfTime - 2
	g.allow(52, "century-late", "the same chain in its own last millisecond", late)
	late.nowMs = endOfTime - 1
	g.deny(52, "century-over", "the same chain at its end", last, badTime, late)
}
