package vectors

import (
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// tenants is rows 40, 41, 42 and 50.
func tenants(w *world) *File {
	g := newGroup(w, "tenant", algMixed)
	for _, alg := range []string{algEd25519, algP256} {
		g := g.with(alg)
		g.stolen()
	}
	g.deputies()
	g.walls()
	return g.f
}

// stolen is rows 41 and 42.
func (g *group) stolen() {
	control := g.allow(41, "presented-"+g.alg, "two hops, presented by the agent that signed the last to the one it names", g.hop2())
	for _, thief := range []*party{g.agent("e"), g.agent("a"), g.agent("c"), g.authority(), g.party("red-b", "spiffe://acme.test/tenant/red/agent/b", g.alg)} {
		sh := g.hop2()
		sh.by = thief
		g.deny(41, "stolen-by-"+thief.label+"-"+g.alg, "the same, presented by "+thief.id, control, notPresenter, sh)
	}
	for _, callee := range []*party{g.agent("e"), g.agent("a"), g.agent("b"), g.authority()} {
		sh := g.hop2()
		sh.self = callee
		g.deny(42, "taken-to-"+callee.label+"-"+g.alg, "the same, presented to "+callee.id, control, notAudience, sh)
	}
	both := g.hop2()
	both.by, both.self = g.agent("c"), g.agent("d")
	g.deny(41, "forwarded-"+g.alg, "the callee presents it to the next agent: the presenter is checked first", control, notPresenter, both)
	left := g.hop2()
	left.chain.Hops[1].CertRef, left.chain.Certs = 0, left.chain.GetCerts()[:1]
	left.by = g.agent("e")
	g.deny(41, "stolen-without-certificate-"+g.alg, "with the last certificate left out, the thief's own stands in", control, notPresenter, left)
}

// deputies is row 40, and what else an intent is held against.
func (g *group) deputies() {
	with := func(in *Intent) show {
		sh := g.hop1()
		sh.intent = in
		return sh
	}
	intent := func(change func(*Intent)) *Intent {
		in := readIntent()
		change(in)
		return in
	}
	control := g.allow(40, "intent", "an intent that the chain covers", with(readIntent()))
	g.allow(40, "intent-exact", "an intent on the one resource that may be written", with(&Intent{
		Action: "memory.write", Resource: []string{"ns", "a"}, Purpose: purpose,
	}))
	for _, tc := range []struct {
		name, title, code string
		in                *Intent
	}{
		{"own-task", "another purpose: the callee spends the chain on its own task", badPurpose, intent(func(in *Intent) { in.Purpose = "own task" })},
		{"no-purpose", "no purpose", badPurpose, intent(func(in *Intent) { in.Purpose = "" })},
		{"purpose-case", "the purpose in another case", badPurpose, intent(func(in *Intent) { in.Purpose = "Quarterly report" })},
		{"purpose-space", "the purpose with a space behind it", badPurpose, intent(func(in *Intent) { in.Purpose += " " })},
		{"own-rights", "an action that only the presenter's own rights would cover", intersection, intent(func(in *Intent) { in.Action = "memory.delete" })},
		{"action-prefix", "a prefix of the action", intersection, intent(func(in *Intent) { in.Action = "memory" })},
		{"action-case", "the action in another case", intersection, intent(func(in *Intent) { in.Action = "memory.Read" })},
		{"other-resource", "a resource beside the subtree", intersection, intent(func(in *Intent) { in.Resource = []string{"ns2", "a"} })},
		{"subtree-root", "the root of the subtree itself", intersection, intent(func(in *Intent) { in.Resource = []string{"ns"} })},
		{"no-resource", "no resource", intersection, intent(func(in *Intent) { in.Resource = []string{} })},
		{"joined", "the segments joined", intersection, intent(func(in *Intent) { in.Resource = []string{"ns/a"} })},
		{"below-exact", "below the one resource that may be written", intersection, &Intent{
			Action: "memory.write", Resource: []string{"ns", "a", "b"}, Purpose: purpose,
		}},
		{"beside-exact", "beside the one resource that may be written", intersection, &Intent{
			Action: "memory.write", Resource: []string{"ns", "b"}, Purpose: purpose,
		}},
		{"nothing", "an empty intent", intersection, &Intent{Resource: []string{}}},
		{"own-rights-own-task", "both: the action is checked first", intersection, &Intent{
			Action: "memory.delete", Resource: []string{"ns", "a"}, Purpose: "own task",
		}},
	} {
		g.deny(40, tc.name, tc.title, control, tc.code, with(tc.in))
	}
	weak := g.hop1(func(p *v1.HopPayload) { p.Capabilities = p.GetCapabilities()[1:] })
	weak.intent = readIntent()
	g.deny(40, "weak-chain", "a right that the grant has and the hop left out", control, intersection, weak)
	bare := g.hop1(func(p *v1.HopPayload) { p.Capabilities = nil })
	bare.intent = readIntent()
	g.deny(40, "bare-chain", "a hop without capabilities", control, intersection, bare)
	nothing := with(readIntent())
	nothing.bytes = []byte{}
	g.deny(40, "no-chain", "no chain at all", control, untrusted, nothing)
	g.deny(40, "purpose-in-hop", "a hop of another purpose than the grant", "tenant/intent", badPurpose,
		g.hop1(func(p *v1.HopPayload) { p.PurposeDigest = digest([]byte("own task")) }))
	g.deny(40, "purpose-in-second-hop", "a second hop of another purpose", g.allow(40, "purpose-kept", "two hops of one purpose", g.hop2()), badPurpose,
		g.hop2(func(p *v1.HopPayload) { p.PurposeDigest = digest([]byte("own task")) }))
	second := with(intent(func(in *Intent) { in.Purpose = "own task" }))
	g.sequence(40, "own-task-after", "the chain passes for its purpose and not for another", "", "base", g.agent("b"),
		g.step(with(readIntent()), Allow), g.step(second, badPurpose), g.step(with(readIntent()), Allow))
}

// walls is row 50: the tenant in each place.
func (g *group) walls() {
	a, b := g.agent("a"), g.agent("b")
	redB := g.party("red-b", "spiffe://acme.test/tenant/red/agent/b", algEd25519)
	redA := g.party("red-a", "spiffe://acme.test/tenant/red/agent/a", algEd25519)
	evilB := g.party("evil-b", "spiffe://evil.test/tenant/blue/agent/b", algEd25519)
	evilA := g.party("evil-a", "spiffe://evil.test/tenant/blue/agent/a", algEd25519)
	sh := g.hop1()
	sh.intent = readIntent()
	control := g.allow(50, "one-tenant", "one tenant in every place", sh)
	to := func(first, second *party, grant func(*v1.GrantPayload), hop func(*v1.HopPayload)) show {
		return show{chain: g.chain(first, grant).to(second, hop).c, by: first, self: second, intent: readIntent()}
	}
	asIs, same := func(*v1.GrantPayload) {}, func(*v1.HopPayload) {}
	everyone := func(p *v1.GrantPayload) {
		p.Delegates = append(p.Delegates, "spiffe://acme.test/tenant/red/agent/*", "spiffe://evil.test/tenant/blue/agent/*")
	}
	for _, tc := range []struct {
		name, title string
		sh          show
	}{
		{"hop", "another tenant in the hop", to(a, b, asIs, func(p *v1.HopPayload) { p.Tenant = "red" })},
		{"no-hop", "no tenant in the hop", to(a, b, asIs, func(p *v1.HopPayload) { p.Tenant = "" })},
		{"grant", "another tenant in the grant and its hop", to(a, b, func(p *v1.GrantPayload) { p.Tenant = "red" }, same)},
		{"grant-only", "another tenant in the grant only", to(a, b, func(p *v1.GrantPayload) { p.Tenant = "red" }, func(p *v1.HopPayload) {
			p.Tenant = "blue"
		})},
		{"domain", "another trust domain in the grant", to(a, b, func(p *v1.GrantPayload) { p.TrustDomain = foreign }, same)},
		{"delegate", "a hop to an agent of another tenant", to(a, redB, asIs, same)},
		{"delegate-named", "a hop to an agent of another tenant that the grant names", to(a, redB, everyone, same)},
		{"delegate-domain", "a hop to an agent of another trust domain that the grant names", to(a, evilB, everyone, same)},
		{"first-delegate", "a grant to an agent of another tenant", to(redA, b, everyone, same)},
		{"first-delegate-domain", "a grant to an agent of another trust domain", to(evilA, b, everyone, same)},
		{"origin", "a grant that names an origin, without a bridge", to(a, b, func(p *v1.GrantPayload) { p.Origin = &v1.Origin{TrustDomain: foreign, Tenant: "blue"} }, same)},
		{"origin-same", "a grant that names its own tenant as origin", to(a, b, func(p *v1.GrantPayload) {
			p.Origin = &v1.Origin{TrustDomain: domain, Tenant: "blue"}
		}, same)},
	} {
		g.deny(50, "other-"+tc.name, tc.title, control, badTenant, tc.sh)
	}
	third := show{
		chain: g.chain(a, everyone).to(b).to(redB).c, by: b, self: redB, intent: readIntent(),
	}
	g.deny(50, "other-second-delegate", "a second hop out of the tenant", control, badTenant, third)
	back := show{chain: g.chain(a, everyone).to(redB).to(g.agent("c")).c, by: redB, self: g.agent("c"), intent: readIntent()}
	g.deny(50, "other-through", "through an agent of another tenant and back", control, badTenant, back)
	claimed := g.hop1()
	claimed.intent = readIntent()
	claimed.by = &party{label: "a.claimed-red", id: a.id, tenant: "red", leaf: a.leaf}
	g.deny(50, "other-presenter", "the presenter's connection belongs to another tenant", control, badTenant, claimed)
	red := show{chain: g.chain(redA, func(p *v1.GrantPayload) {
		p.Tenant, p.Delegates = "red", []string{"spiffe://acme.test/tenant/red/agent/*"}
	}).to(redB).c, by: redA, self: redB, intent: readIntent()}
	g.allow(50, "red", "the same names in another tenant are another chain", red)
	red.self = b
	g.deny(50, "red-to-blue", "a chain of another tenant at this tenant's agent of the same name", "tenant/red", notAudience, red)
	auth := g.authority()
	service := show{chain: g.chain(auth).to(b).c, by: auth, self: b, intent: readIntent()}
	g.allow(50, "service-presents", "a service, which has no tenant, presents a chain of the tenant", service)
}
