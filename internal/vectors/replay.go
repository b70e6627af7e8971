package vectors

import (
	"crypto/elliptic"
	"math/big"
)

// replays is row 45, and the replay half of row 33.
func replays(w *world) *File {
	g := newGroup(w, "replay", algMixed)
	for _, alg := range []string{algEd25519, algP256} {
		g.with(alg).again()
	}
	g.ids()
	g.with(algP256).twins()
	return g.f
}

// message is hop1 with an intent and a message id.
func (g *group) message(sh show, id, via, code string) *Step {
	sh.intent = readIntent()
	st := g.step(sh, code)
	st.Message = &Message{EnvelopeID: seed("message " + id)[:16], DeadlineMs: startMs + minuteMs, Via: via}
	st.Message.Key = replayKey(replayDirect, sh.by.id, st.Message.EnvelopeID)
	return st
}

// The kinds of replay keys that vectors use.
const (
	replayDirect     = 1
	replayInvocation = 2
)

func replayKey(kind byte, issuer string, id []byte) []byte {
	key := append([]byte("safeconduct/replay/v1"), kind)
	return digest(append(append(append(key, issuer...), 0), id...))
}

// again repeats one message in every way.
func (g *group) again() {
	self := g.agent("b")
	run := func(name, title string, steps ...*Step) {
		g.sequence(45, name+"-"+g.alg, title, "", "base", self, steps...)
	}
	sent := func(via, code string) *Step { return g.message(g.hop1(), "1", via, code) }
	on := func(connection string, st *Step) *Step { st.Connection = connection; return st }
	run("same-connection", "on the same connection", on("1", sent("grpc", Allow)), on("1", sent("grpc", replayed)))
	run("new-connection", "on a new connection", on("1", sent("grpc", Allow)), on("2", sent("grpc", replayed)))
	run("other-transports", "over other transports", sent("grpc", Allow), sent("connect", replayed), sent("http-json", replayed))
	restarted := sent("grpc", replayed)
	restarted.Restart = true
	run("restart", "after a restart: caches and connections are gone, the replay store is not", sent("grpc", Allow), restarted)
	var pressed []*Step
	pressed = append(pressed, sent("grpc", Allow))
	for i := range 8 {
		pressed = append(pressed, g.message(g.hop1(), "pressure "+string(rune('a'+i)), "grpc", Allow))
	}
	run("pressure", "after other messages", append(pressed, sent("grpc", replayed))...)
	many := sent("grpc", Allow)
	many.Times = 100
	run("concurrent", "100 times at once: exactly one passes, the others are replays", many, sent("grpc", replayed))
	later := sent("grpc", replayed)
	later.NowMs = startMs + minuteMs + 30_000 - 1
	run("last-ms", "in the last millisecond that its key must be remembered: deadline and 30 s", sent("grpc", Allow), later)
	run("ids", "another id passes", sent("grpc", Allow), g.message(g.hop1(), "2", "grpc", Allow), sent("grpc", replayed))
}

// ids is whose id is burnt, and by what.
func (g *group) ids() {
	self := g.agent("c")
	one, two := g.hop2(), show{chain: g.chain(g.agent("a")).to(g.agent("c")).c, by: g.agent("a"), self: self}
	g.sequence(45, "senders", "the same id from two senders is two messages", "", "base", self,
		g.message(one, "1", "grpc", Allow), g.message(two, "1", "grpc", Allow), g.message(one, "1", "grpc", replayed), g.message(two, "1", "grpc", replayed))
	refused := g.message(one, "1", "grpc", badPurpose)
	refused.Intent.Purpose = "own task"
	g.sequence(45, "refused-first", "a refused message does not burn its id", "", "base", self,
		refused, g.message(one, "1", "grpc", Allow), g.message(one, "1", "grpc", replayed))
	stolen := one
	stolen.by = g.agent("e")
	g.sequence(45, "stolen-first", "a thief does not burn an id, neither the victim's nor its own", "", "base", self,
		g.message(stolen, "1", "grpc", notPresenter), g.message(one, "1", "grpc", Allow), g.message(stolen, "1", "grpc", notPresenter))
	other := show{chain: g.chain(g.agent("a")).to(g.agent("b")).to(self).c, by: g.agent("b"), self: self}
	other.nowMs = startMs + 1
	g.sequence(45, "other-intent", "the id decides, not what is asked", "", "base", self,
		g.message(one, "1", "grpc", Allow), writing(g.message(other, "1", "grpc", replayed)))
}

func writing(st *Step) *Step {
	st.Intent = &Intent{Action: "memory.write", Resource: []string{"ns", "a"}, Purpose: purpose}
	return st
}

// twins is row 33: the twin of an ECDSA signature is the same message.
func (g *group) twins() {
	sh := g.hop1()
	sig := sh.chain.GetHops()[0].GetSignature()
	s := new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[32:]))
	sh.chain.Hops[0].Signature = append(append([]byte{}, sig[:32]...), s.FillBytes(make([]byte, 32))...)
	g.sequence(33, "twin", "the twin of an ECDSA signature does not make a message new", "", "base", g.agent("b"),
		g.message(g.hop1(), "1", "grpc", Allow), g.message(sh, "1", "grpc", replayed), g.message(sh, "2", "grpc", Allow))
}

// references is row 60.
func references(w *world) *File {
	g := newGroup(w, "reference", algMixed)
	for _, alg := range []string{algEd25519, algP256} {
		g.with(alg).resolved()
	}
	noKeys := g.baseTrust()
	noKeys.GrantKeys = []*GrantKey{}
	g.f.Trust["no-keys"] = noKeys
	g.states()
	g.endings()
	g.pasts()
	return g.f
}

// resolve refers to a chain that was presented before.
func (g *group) resolve(connection string, link []byte, by *party, code string) *Step {
	return &Step{
		Op: OpResolve, NowMs: startMs, Presenter: g.presenter(by), Connection: connection, Reference: link, Intent: readIntent(), Expect: code,
	}
}

func (g *group) resolved() {
	sh := g.hop2()
	link := []byte(g.leaf(sh.chain, sh.by).Link)
	first := func() *Step {
		st := g.step(sh, Allow)
		st.Connection = "1"
		return st
	}
	run := func(name, title string, steps ...*Step) {
		g.sequence(60, name+"-"+g.alg, title, "", "base", sh.self, append([]*Step{first()}, steps...)...)
	}
	b, e := g.agent("b"), g.agent("e")
	same := func(change func(*Step)) *Step {
		st := g.resolve("1", link, b, Allow)
		change(st)
		return st
	}
	run("same-connection", "on the same connection, twice", same(func(*Step) {}), same(func(*Step) {}))
	run("other-connection", "on another connection of the same peer", g.resolve("2", link, b, unknownChain))
	run("other-peer", "by another peer on that connection", g.resolve("1", link, e, notPresenter))
	run("other-peer-other-connection", "by another peer on its own connection", g.resolve("2", link, e, unknownChain))
	run("short", "31 bytes of it", g.resolve("1", link[:31], b, unknownChain))
	run("long", "with a byte behind it", g.resolve("1", append(append([]byte{}, link...), 0), b, unknownChain))
	run("zero", "32 zeros", g.resolve("1", make([]byte, 32), b, unknownChain))
	run("empty", "no bytes", g.resolve("1", nil, b, unknownChain))
	run("statement-id", "the statement id instead", g.resolve("1", g.leaf(sh.chain, sh.by).StatementID, b, unknownChain))
	grant := show{chain: g.chain(g.agent("a")).c, by: g.authority(), self: g.agent("a")}
	run("grant-link", "the link of the grant, which is in the chain", g.resolve("1", g.leaf(grant.chain, grant.by).Link, b, unknownChain))
	run("expired", "in the last millisecond and after the end", same(func(st *Step) { st.NowMs = startMs + grantLifeMs - 1 }),
		same(func(st *Step) { st.NowMs, st.Expect = startMs+grantLifeMs, badTime }))
	rotated := g.baseTrust()
	rotated.Bundles[0].Roots = append(rotated.Bundles[0].Roots, g.newCA("next root", ed25519Key("next root"), nil).cert.Raw)
	g.f.Trust["overlap"] = rotated
	again := first()
	run("bundle-changed", "after a change of the bundle the chain must be presented again",
		same(func(st *Step) { st.Trust, st.Expect = "overlap", unknownChain }), again, same(func(*Step) {}))
	leaf := g.leaf(sh.chain, sh.by)
	for _, tc := range []struct {
		name, title string
		handle      []byte
		code        string
	}{
		{"last-hop", "its last statement", leaf.StatementID, revoked},
		{"grant", "its grant", statementID(typeGrant, sh.chain.GetGrant().GetPayload()), revoked},
		{"first-hop", "its first hop", statementID(typeHop, sh.chain.GetHops()[0].GetPayload()), revoked},
		{"certificate", "the certificate of its first signer", digest(g.agent("a").leaf), revoked},
		{"agent", "an agent in the middle", handle("agent", b.id), revoked},
		{"callee", "the callee", handle("agent", sh.self.id), revoked},
		{"chain", "its chain id", handle("chain", string(leaf.ChainID)), revoked},
		{"tenant", "its tenant", handle("tenant", domain, "blue"), revoked},
		{"principal", "its principal", handle("principal", "TYPE_USER", "https://login.acme.test", "ada"), revoked},
		{"grant-key", "the grant key", digest(g.spki(g.grant.Public())), revoked},
		{"other-tenant", "another tenant", handle("tenant", domain, "red"), Allow},
		{"other-agent", "an agent that is not in it", handle("agent", e.id), Allow},
	} {
		run("revoked-"+tc.name, "after the revocation of "+tc.title,
			same(func(st *Step) { st.Revoked, st.Expect = []Hex{tc.handle}, tc.code }))
	}
	run("clock-step-back", "after the clock has stepped back by more than 5 s", same(func(st *Step) { st.NowMs = startMs + 10_000 }),
		same(func(st *Step) { st.NowMs = startMs + 5_000 }), same(func(st *Step) { st.NowMs, st.Expect = startMs+4_999, badTime }))
	restarted := same(func(st *Step) { st.Restart, st.Expect = true, unknownChain })
	run("restart", "after a restart of the callee", restarted)
	purposes := same(func(st *Step) { st.Intent.Purpose, st.Expect = "own task", badPurpose })
	run("own-task", "for another purpose: a reference is held against every message", purposes, same(func(*Step) {}))
}

// handle is what revokes an agent, a tenant, a principal or a chain.
func handle(parts ...string) []byte {
	buf := []byte("safeconduct/handle/v1\x00")
	for _, p := range parts {
		buf = append(buf, byte(len(p)>>24), byte(len(p)>>16), byte(len(p)>>8), byte(len(p))) //nolint:gosec // G115: short names of this generator.
		buf = append(buf, p...)
	}
	return digest(buf)
}
