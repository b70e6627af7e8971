package delegation_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

func TestNewVerifierRefuses(t *testing.T) {
	s := newScene(t)
	for name, change := range map[string]func(*delegation.Config){
		"no self":          func(c *delegation.Config) { c.Self = identity.AgentID{} },
		"no keys":          func(c *delegation.Config) { c.Keys = nil },
		"no bundles":       func(c *delegation.Config) { c.Bundles = nil },
		"no generation":    func(c *delegation.Config) { c.BundleGeneration = nil },
		"no clock":         func(c *delegation.Config) { c.Now = nil },
		"lineage too long": func(c *delegation.Config) { c.Limits.Lineage = 24*time.Hour + 1 },
		"negative lineage": func(c *delegation.Config) { c.Limits.Lineage = -1 },
		"negative cache":   func(c *delegation.Config) { c.Limits.CachedLinks = -1 },
	} {
		cfg := s.config(s.a)
		change(&cfg)
		if v, err := delegation.NewVerifier(cfg); err == nil || v != nil {
			t.Errorf("%s: NewVerifier() = %v, %v, want an error", name, v, err)
		}
	}
}

// TestMutations is row 29 and the property that a cache decides nothing: every single-byte mutation of a valid chain is refused,
// with the same reason cold and against a warm cache.
func TestMutations(t *testing.T) {
	s := newScene(t)
	ca := newCA(t, s.ca)
	s.b = s.agent("b", withKey(p256Key()), issuedBy(ca, ca.cert))
	p := s.hop2()
	raw := marshal(t, p.chain)
	warm := s.verifier(s.c)
	if _, err := warm.Verify(p.chain, s.b.peer); err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		mutant := bytes.Clone(raw)
		mutant[i] ^= 1 << (i % 8)
		c := new(v1.DelegationChain)
		if proto.Unmarshal(mutant, c) != nil {
			continue
		}
		_, coldErr := s.verifier(s.c).Verify(c, s.b.peer)
		_, warmErr := warm.Verify(c, s.b.peer)
		if coldErr == nil || reason(coldErr) == 0 || reason(coldErr) != reason(warmErr) {
			t.Fatalf("byte %d of %d: cold %v, warm %v, want one refusal", i, len(raw), coldErr, warmErr)
		}
	}
	if _, err := warm.Verify(p.chain, s.b.peer); err != nil {
		t.Errorf("the chain itself after its mutations: %v", err)
	}
}

// TestTwin is row 33: the other signature is another link and the same statement.
func TestTwin(t *testing.T) {
	s := newScene(t)
	p := s.hop2()
	view := new(revoked)
	v := s.verifier(s.c, func(c *delegation.Config) { c.Revoked = view })
	x, err := v.Verify(p.chain, s.b.peer)
	if err != nil {
		t.Fatal(err)
	}
	p.chain.Hops[1].Signature = twin(p.chain.GetHops()[1].GetSignature())
	y, err := v.Verify(p.chain, s.b.peer)
	if err != nil {
		t.Fatal(err)
	}
	if x.ID() != y.ID() || x.Link() == y.Link() {
		t.Errorf("same id %v, same link %v, want true and false", x.ID() == y.ID(), x.Link() == y.Link())
	}
	view.revoke(x.ID())
	if _, err := v.Verify(p.chain, s.b.peer); reason(err) != gone {
		t.Errorf("Verify(twin of a revoked statement) = %v, want %v", err, gone)
	}
}

// TestRevocation revokes every handle of a chain that is cached and of one that is not.
func TestRevocation(t *testing.T) {
	s := newScene(t)
	p := s.hop2()
	x, err := s.verifier(s.c).Verify(p.chain, s.b.peer)
	if err != nil {
		t.Fatal(err)
	}
	keyHash := delegationKeyHash(t, s.world)
	handles := map[string][32]byte{
		"tenant": delegation.TenantHandle(domain, "blue"), "principal": delegation.PrincipalHandle(x.Principal()),
		"chain": delegation.ChainHandle(x.ChainID()), "authority": delegation.AgentHandle(s.as(authority).id),
		"first agent": delegation.AgentHandle(s.a.id), "middle agent": delegation.AgentHandle(s.b.id),
		"last agent": delegation.AgentHandle(s.c.id), "grant": delegation.StatementID(delegation.TypeGrant, p.chain.GetGrant().GetPayload()),
		"first hop": delegation.StatementID(delegation.TypeHop, p.chain.GetHops()[0].GetPayload()), "last hop": x.ID(),
		"first certificate": s.a.peer.CertID, "last certificate": s.b.peer.CertID, "grant key": keyHash,
	}
	for name, h := range handles {
		view := new(revoked)
		watch := func(c *delegation.Config) { c.Revoked = view }
		warm := s.verifier(s.c, watch)
		leaf, err := warm.Verify(p.chain, s.b.peer)
		if err != nil {
			t.Fatal(err)
		}
		if err := warm.Recheck(leaf, s.b.peer, readIntent()); err != nil {
			t.Fatal(err)
		}
		view.revoke(delegation.AgentHandle(s.e.id))
		if _, err := warm.Verify(p.chain, s.b.peer); err != nil {
			t.Errorf("%s: with a stranger revoked: %v", name, err)
		}
		view.revoke(h)
		if _, err := warm.Verify(p.chain, s.b.peer); reason(err) != gone {
			t.Errorf("%s: warm Verify() = %v, want %v", name, err, gone)
		}
		if err := warm.Recheck(leaf, s.b.peer, readIntent()); reason(err) != gone {
			t.Errorf("%s: Recheck() = %v, want %v", name, err, gone)
		}
		if _, err := s.verifier(s.c, watch).Verify(p.chain, s.b.peer); reason(err) != gone {
			t.Errorf("%s: cold Verify() = %v, want %v", name, err, gone)
		}
		// A new hop on a cached prefix inherits the handles of the prefix.
		if _, err := warm.Verify(s.chainFrom(p.chain.GetGrant(), s.a).to(s.c).c, s.a.peer); name == "chain" && reason(err) != gone {
			t.Errorf("%s: Verify(sibling) = %v, want %v", name, err, gone)
		}
	}
	x, err = s.verifier(s.c, func(c *delegation.Config) { c.Revoked = new(revoked) }).Verify(p.chain, s.b.peer)
	if err != nil || x == nil {
		t.Errorf("Verify(nothing revoked) = %v", err)
	}
}

func delegationKeyHash(tb testing.TB, w *world) [32]byte {
	tb.Helper()
	spki, err := x509.MarshalPKIXPublicKey(w.key.Public())
	if err != nil {
		tb.Fatal(err)
	}
	return [32]byte(digestOf(string(spki)))
}

// TestRevocationRace: once revoke has returned, no message passes, however many checks run meanwhile.
func TestRevocationRace(t *testing.T) {
	s := newScene(t)
	p := s.hop2()
	for range 50 {
		view := new(revoked)
		v := s.verifier(s.c, func(c *delegation.Config) { c.Revoked = view })
		x, err := v.Verify(p.chain, s.b.peer)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for v.Recheck(x, s.b.peer, readIntent()) == nil {
					if _, err := v.Verify(p.chain, s.b.peer); err != nil && reason(err) != gone {
						t.Errorf("Verify() = %v, want %v", err, gone)
					}
				}
			})
		}
		for i := range 20 {
			view.revoke([32]byte{byte(i)})
		}
		view.revoke(x.ID())
		if err := v.Recheck(x, s.b.peer, readIntent()); reason(err) != gone {
			t.Errorf("Recheck() after revoke = %v, want %v", err, gone)
		}
		wg.Wait()
	}
}

// TestPrefixCache: a cached prefix is not verified again, and one that changed keys, bundles or time have touched is.
func TestPrefixCache(t *testing.T) {
	s := newScene(t)
	var counts []int
	v := s.verifier(s.c, func(c *delegation.Config) {
		c.Limits.Allow = func(peer identity.AgentID, n int) bool { counts = append(counts, n); return true }
	})
	g := s.grant(s.a)
	b := s.chainFrom(g, s.a).to(s.b)
	prefix := proto.CloneOf(b.c)
	chain := b.to(s.c).c
	check := func(name string, c *v1.DelegationChain, want ...int) {
		t.Helper()
		counts = nil
		if _, err := v.Verify(c, s.b.peer); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if fmt.Sprint(counts) != fmt.Sprint(want) {
			t.Errorf("%s: signatures %v, want %v", name, counts, want)
		}
	}
	check("cold", chain, 5)
	check("warm", chain)
	again := &builder{w: s.world, c: prefix, last: s.b, payload: b.payload}
	again.parentID = delegation.StatementID(delegation.TypeHop, prefix.GetHops()[0].GetPayload())
	again.payload.Depth = 1
	check("new last hop", again.to(s.c).c, 1)
	s.keys.generation.Add(1)
	check("keys changed", chain, 3)
	s.bundle.Add(1)
	check("bundles changed", chain, 5)
	check("warm again", chain)
	s.keys.set(authority, s.keyID, s.agent("x").key.Public().(ed25519.PublicKey))
	if _, err := v.Verify(chain, s.b.peer); reason(err) != badSignature {
		t.Errorf("Verify(grant key replaced) = %v, want %v", err, badSignature)
	}
	s.keys.set(authority, s.keyID, nil)
	if _, err := v.Verify(chain, s.b.peer); reason(err) != badKey {
		t.Errorf("Verify(grant key emptied) = %v, want %v", err, badKey)
	}
	s.keys.set(authority, s.keyID, s.key.Public().(ed25519.PublicKey))
	check("grant key is back", chain)
	links, certs := v.Cached()
	if links != 4 || certs != 2 {
		t.Errorf("%d prefixes and %d certificates, want the grant, a hop and two last hops, of 2 signers", links, certs)
	}
	s.move(15 * time.Minute)
	if _, err := v.Verify(chain, s.b.peer); reason(err) != late {
		t.Errorf("Verify(expired) = %v, want %v", err, late)
	}
}

// TestHopExpiresBeforeGrant: an expired hop is dropped from the cache, and what is cached below it still serves.
func TestHopExpiresBeforeGrant(t *testing.T) {
	s := newScene(t)
	v := s.verifier(s.b)
	g := s.grant(s.a)
	short := s.chainFrom(g, s.a).to(s.b, func(p *v1.HopPayload) { p.ExpiresAtMs = p.GetIssuedAtMs() + 1000 }).c
	if _, err := v.Verify(short, s.a.peer); err != nil {
		t.Fatal(err)
	}
	before, _ := v.Cached()
	s.move(time.Second)
	if _, err := v.Verify(short, s.a.peer); reason(err) != late {
		t.Errorf("Verify(expired hop) = %v, want %v", err, late)
	}
	if after, _ := v.Cached(); after != before-1 {
		t.Errorf("%d prefixes, want one less than %d", after, before)
	}
	if _, err := v.Verify(s.chainFrom(g, s.a).to(s.b).c, s.a.peer); err != nil {
		t.Errorf("Verify(another hop on the cached grant) = %v", err)
	}
}

// TestRotation is row 53: a hop outlives the rotation of its signer's SVID and of the CA, and no longer.
func TestRotation(t *testing.T) {
	s := newScene(t)
	v := s.verifier(s.c)
	chain := s.hop2().chain
	s.b = s.agent("b")
	if _, err := v.Verify(chain, s.b.peer); err != nil {
		t.Errorf("Verify(signer rotated) = %v", err)
	}
	td := spiffeid.RequireTrustDomainFromString(domain)
	next := newCA(t, nil)
	s.bundles.Add(x509bundle.FromX509Authorities(td, []*x509.Certificate{s.ca.cert, next.cert}))
	s.bundle.Add(1)
	if _, err := v.Verify(chain, s.b.peer); err != nil {
		t.Errorf("Verify(CA rotated with overlap) = %v", err)
	}
	s.bundles.Add(x509bundle.FromX509Authorities(td, []*x509.Certificate{next.cert}))
	s.bundle.Add(1)
	if _, err := v.Verify(chain, s.b.peer); reason(err) != svidReason {
		t.Errorf("Verify(old CA gone) = %v, want %v", err, svidReason)
	}
	s.bundles.Add(x509bundle.New(td))
	s.bundle.Add(1)
	if _, err := v.Verify(chain, s.b.peer); reason(err) != svidReason {
		t.Errorf("Verify(bundle emptied) = %v, want %v", err, svidReason)
	}
}

// TestShortCA: a cached chain is verified again when a CA above it has expired, although its own certificates have not.
func TestShortCA(t *testing.T) {
	s := newScene(t)
	ca := newCA(t, s.ca)
	ca.cert = issue(t, func() *x509.Certificate {
		tmpl := *ca.cert
		tmpl.NotAfter = start.Add(time.Minute)
		return &tmpl
	}(), s.ca, ca.key.Public())
	s.a = s.agent("a", issuedBy(ca, ca.cert))
	v := s.verifier(s.b)
	p := s.hop1()
	for range 2 {
		if _, err := v.Verify(p.chain, s.a.peer); err != nil {
			t.Fatal(err)
		}
	}
	s.move(2 * time.Minute)
	if _, err := v.Verify(p.chain, s.a.peer); reason(err) != svidReason {
		t.Errorf("Verify(intermediate expired) = %v, want %v", err, svidReason)
	}
}

// TestColdLimit is row 61 seen from here: who is over the allowance is refused before the first signature, and a cached chain
// needs none.
func TestColdLimit(t *testing.T) {
	s := newScene(t)
	p := s.hop1()
	left, charged := 3, identity.AgentID{}
	v := s.verifier(s.b, func(c *delegation.Config) {
		c.Limits.Allow = func(peer identity.AgentID, n int) bool {
			charged = peer
			left -= n
			return left >= 0
		}
	})
	for range 3 {
		if _, err := v.Verify(p.chain, s.a.peer); err != nil {
			t.Fatal(err)
		}
	}
	if left != 0 || charged != s.a.id {
		t.Errorf("%d signatures left, charged %v, want none and the presenter", left, charged)
	}
	before := s.lookups.Load()
	if _, err := v.Verify(s.hop1().chain, s.a.peer); reason(err) != coldLimit {
		t.Errorf("Verify(over the limit) = %v, want %v", err, coldLimit)
	}
	if s.lookups.Load() != before {
		t.Error("a certificate was verified over the limit")
	}
	if _, err := s.verifier(s.a, func(c *delegation.Config) {
		c.Limits.Allow = func(identity.AgentID, int) bool { return false }
	}).VerifyGrant(s.grant(s.a)); err != nil {
		t.Errorf("VerifyGrant() = %v, want no allowance to be asked", err)
	}
}

func TestVerifyGrant(t *testing.T) {
	s := newScene(t)
	g := s.grant(s.a)
	v := s.verifier(s.a)
	for range 2 {
		x, err := v.VerifyGrant(g)
		if err != nil || x.Delegate() != s.a.id || x.Depth() != 0 {
			t.Fatalf("VerifyGrant() = %v, %v", x, err)
		}
	}
	if _, err := s.verifier(s.b).VerifyGrant(g); reason(err) != audience {
		t.Errorf("VerifyGrant(another's) = %v, want %v", err, audience)
	}
	if _, err := v.VerifyGrant(nil); reason(err) != untrusted {
		t.Errorf("VerifyGrant(nil) = %v, want %v", err, untrusted)
	}
}

// TestClock is row 52: a clock that steps back does not revive what has expired.
func TestClock(t *testing.T) {
	s := newScene(t)
	v := s.verifier(s.b)
	p := s.hop1()
	x, err := v.Verify(p.chain, s.a.peer)
	if err != nil {
		t.Fatal(err)
	}
	table := delegation.NewConnTable()
	table.Remember(x)
	link := x.Link()
	s.move(-5 * time.Second)
	if err := v.Recheck(x, s.a.peer, readIntent()); err != nil {
		t.Errorf("Recheck(5 s back) = %v", err)
	}
	s.move(-time.Millisecond)
	if err := v.Recheck(x, s.a.peer, readIntent()); reason(err) != late {
		t.Errorf("Recheck(over 5 s back) = %v, want %v", err, late)
	}
	if _, err := v.Verify(p.chain, s.a.peer); reason(err) != late {
		t.Errorf("Verify(over 5 s back) = %v, want %v", err, late)
	}
	if _, err := v.Resolve(table, link[:], s.a.peer); reason(err) != late {
		t.Errorf("Resolve(over 5 s back) = %v, want %v", err, late)
	}
	s.move(20 * time.Minute)
	if err := v.Recheck(x, s.a.peer, readIntent()); reason(err) != late || !errors.Is(err, delegation.ErrExpired) {
		t.Errorf("Recheck(expired) = %v, want %v", err, late)
	}
}

// TestWarmBinding: a cached chain is held against presenter, callee and clock like any other.
func TestWarmBinding(t *testing.T) {
	s := newScene(t)
	v := s.verifier(s.b)
	ahead := s.hop1(func(p *v1.HopPayload) { p.NotBeforeMs += 30_000 }).chain
	for _, c := range []*v1.DelegationChain{ahead, s.hop2().chain} {
		_, err := v.Verify(c, s.a.peer)
		if len(c.GetHops()) == 1 && err != nil {
			t.Fatal(err)
		}
	}
	if _, err := v.Verify(ahead, s.e.peer); reason(err) != presenter {
		t.Errorf("Verify(cached chain, stolen) = %v, want %v", err, presenter)
	}
	s.move(-time.Millisecond)
	if _, err := v.Verify(ahead, s.a.peer); reason(err) != late {
		t.Errorf("Verify(cached chain, before its time) = %v, want %v", err, late)
	}
	s.move(time.Millisecond)
	// The prefix of a cached chain names another callee, and the certificate of a cached hop another issuer.
	w := s.verifier(s.c)
	long := s.hop2()
	if _, err := w.Verify(long.chain, long.by.peer); err != nil {
		t.Fatal(err)
	}
	short := &v1.DelegationChain{Grant: long.chain.GetGrant(), Hops: long.chain.GetHops()[:1], Certs: long.chain.GetCerts()[:1]}
	if _, err := w.Verify(short, s.a.peer); reason(err) != audience {
		t.Errorf("Verify(prefix of a cached chain) = %v, want %v", err, audience)
	}
	moved := &v1.DelegationChain{Grant: proto.CloneOf(long.chain.GetGrant())}
	moved.Grant.Signature = long.chain.GetHops()[1].GetSignature()
	if _, err := w.Verify(moved, s.as(authority).peer); reason(err) != audience {
		t.Errorf("Verify(signature of a cached hop on the grant) = %v, want %v", err, audience)
	}
	if _, err := s.verifier(s.a).Verify(&v1.DelegationChain{Grant: long.chain.GetGrant()}, identity.Peer{}); reason(err) != presenter {
		t.Errorf("Verify(own grant, presented by nobody) = %v, want %v", err, presenter)
	}
	forged := presented{s.chain(s.a).to(s.c).c, s.a, s.c}
	forged.chain.Certs[0] = chainOf(s.b)
	if _, err := w.Verify(forged.chain, s.a.peer); reason(err) != badSigner {
		t.Errorf("Verify(cached certificate of another agent) = %v, want %v", err, badSigner)
	}
}

// TestCacheBound: the caches are bounded, and what was evicted is verified again.
func TestCacheBound(t *testing.T) {
	s := newScene(t)
	v := s.verifier(s.b, func(c *delegation.Config) { c.Limits.CachedLinks, c.Limits.CachedCerts = 64, 64 })
	var chains []*v1.DelegationChain
	for range 200 {
		c := s.hop1().chain
		chains = append(chains, c)
		if _, err := v.Verify(c, s.a.peer); err != nil {
			t.Fatal(err)
		}
	}
	if links, certs := v.Cached(); links > 64 || certs > 64 {
		t.Errorf("%d prefixes and %d certificates, want at most 64", links, certs)
	}
	for _, c := range chains {
		if _, err := v.Verify(c, s.a.peer); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzVerify: no bytes make a verifier panic, and no bytes but a valid chain's are accepted. Keys differ from process to process,
// so the fuzzer gives bytes and, as triples of position and change, patches to a chain that is valid here.
func FuzzVerify(f *testing.F) {
	s := newScene(f)
	p := s.hop2()
	valid := marshal(f, p.chain)
	f.Add(valid, []byte{})
	f.Add(marshal(f, s.hop1().chain), []byte{0, 7, 1, 2, 0, 0x80})
	cfg := s.config(s.c)
	check := func(t *testing.T, b []byte) {
		parsed, err := delegation.ParseChain(b)
		if err == nil && !bytes.Equal(marshal(t, parsed), b) {
			t.Fatalf("parsed %x, which is encoded otherwise", b)
		}
		c := new(v1.DelegationChain)
		if proto.Unmarshal(b, c) != nil {
			return
		}
		v, err := delegation.NewVerifier(cfg)
		if err != nil {
			t.Fatal(err)
		}
		x, err := v.Verify(c, s.b.peer)
		if (err == nil) != (x != nil) || (err != nil && reason(err) == 0) {
			t.Fatalf("Verify() = %v, %v", x, err)
		}
		if err == nil && !bytes.Equal(marshal(t, c), valid) {
			t.Fatalf("accepted %x", b)
		}
	}
	f.Fuzz(func(t *testing.T, raw, patches []byte) {
		check(t, raw)
		b := bytes.Clone(valid)
		for ; len(patches) >= 3; patches = patches[3:] {
			b[(int(patches[0])<<8|int(patches[1]))%len(b)] ^= patches[2]
		}
		check(t, b)
	})
}
