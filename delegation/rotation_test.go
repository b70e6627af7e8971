package delegation_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// The tests of this file are row 53: what is signed outlives the rotation of what signed it, and not its removal.

func TestSVIDRotatesBetweenSigningAndUse(t *testing.T) {
	s := newScene(t)
	b := s.chain(s.a).to(s.b)
	fresh := s.agent("a")
	v := s.verifier(s.b)
	if _, err := v.Verify(b.c, fresh.peer); err != nil {
		t.Errorf("signed with the old SVID, presented with the new one = %v, want nil", err)
	}
	// The old certificate rides in the chain. Left to the connection, it would be the new one's place.
	c := s.chain(s.a).to(s.b).c
	c.Hops[0].CertRef, c.Certs = 0, nil
	if _, err := v.Verify(c, fresh.peer); reason(err) != badSignature {
		t.Errorf("the old signature under the new connection's certificate = %v, want %v", err, badSignature)
	}
	// In the middle of a chain too, whose end was signed after the rotation.
	root := s.root(fresh)
	first, err := delegation.Append(root, delegation.HopSpec{Delegate: s.b.id}, fresh.signer, s.now())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := v.Verify(first, s.agent("a").peer)
	if err != nil {
		t.Fatal(err)
	}
	second := s.agent("b")
	chain, err := delegation.Append(leaf, delegation.HopSpec{Delegate: s.c.id}, second.signer, s.now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.verifier(s.c).Verify(chain, s.agent("b").peer); err != nil {
		t.Errorf("every signer has rotated = %v, want nil", err)
	}
}

// An SVID that has ended takes what it signed with it, remembered or not: no hop outlives the certificate of its signer.
func TestExpiredSVIDEndsItsHops(t *testing.T) {
	s := newScene(t)
	old := s.agent("a", life(-time.Minute, 5*time.Minute))
	last := func(p *v1.HopPayload) { p.ExpiresAtMs = old.peer.NotAfter.UnixMilli() }
	b := s.chain(old).to(s.b, last)
	v := s.verifier(s.b)
	if _, err := v.Verify(b.c, s.agent("a").peer); err != nil {
		t.Fatal(err)
	}
	s.move(5 * time.Minute)
	for _, look := range []struct {
		name string
		v    *delegation.Verifier
	}{{"warm", v}, {"cold", s.verifier(s.b)}} {
		if _, err := look.v.Verify(b.c, s.agent("a", life(0, time.Hour)).peer); reason(err) != late {
			t.Errorf("%s, after the signer's certificate has ended = %v, want %v", look.name, err, late)
		}
	}
}

// roots puts exactly these CAs into the bundle.
func (w *world) roots(cas ...*authorityCA) {
	var certs []*x509.Certificate
	for _, ca := range cas {
		certs = append(certs, ca.cert)
	}
	w.bundles.Add(x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(domain), certs))
	w.bundle.Add(1)
}

func TestCARotatesWithOverlap(t *testing.T) {
	s := newScene(t)
	oldCA, newCA := s.ca, newCA(t, nil)
	v := s.verifier(s.b)
	before := s.chain(s.a).to(s.b)
	rotated := s.agent("a", issuedBy(newCA))
	after := s.chain(rotated).to(s.b)
	steps := []struct {
		name        string
		roots       []*authorityCA
		old, signed v1.Reason // of what the old root's SVID signed, and the new one's
	}{
		{"before the rotation", []*authorityCA{oldCA}, 0, svidReason},
		{"the new root is published", []*authorityCA{oldCA, newCA}, 0, 0},
		{"the old root is withdrawn", []*authorityCA{newCA}, svidReason, 0},
		{"the old root comes back", []*authorityCA{newCA, oldCA}, 0, 0},
		{"the bundle is emptied", nil, svidReason, svidReason},
	}
	for _, step := range steps {
		s.roots(step.roots...)
		for range 2 { // cold and warm
			if _, err := v.Verify(before.c, s.a.peer); reason(err) != step.old {
				t.Errorf("%s: a chain under the old root = %v, want %v", step.name, err, step.old)
			}
			if _, err := v.Verify(after.c, rotated.peer); reason(err) != step.signed {
				t.Errorf("%s: a chain under the new root = %v, want %v", step.name, err, step.signed)
			}
		}
	}
}

// A leaf that a connection refers to dies with the bundle that it was verified against.
func TestReferenceDiesWithTheBundle(t *testing.T) {
	s := newScene(t)
	v := s.verifier(s.b)
	x, err := v.Verify(s.chain(s.a).to(s.b).c, s.a.peer)
	if err != nil {
		t.Fatal(err)
	}
	table := delegation.NewConnTable()
	table.Remember(x)
	s.roots()
	link := x.Link()
	if _, err := v.Resolve(table, link[:], s.a.peer); reason(err) != v1.Reason_REASON_CHAIN_UNKNOWN {
		t.Errorf("Resolve(after the bundle was emptied) = %v, want CHAIN_UNKNOWN", err)
	}
	if err := v.Recheck(x, s.a.peer, readIntent()); reason(err) != v1.Reason_REASON_CHAIN_UNKNOWN {
		t.Errorf("Recheck(after the bundle was emptied) = %v, want CHAIN_UNKNOWN", err)
	}
}

// A reference dies with whatever the chain was verified with, at once and without a new generation: an intermediate, a root, or the
// grant key. The certificate of a hop ends no earlier than the hop.
func TestReferenceDiesWithItsCertificatesAndKey(t *testing.T) {
	short := func(parent *authorityCA) *authorityCA {
		ca := newCA(t, parent)
		tmpl, by := *ca.cert, parent
		tmpl.NotAfter = start.Add(time.Minute)
		if by == nil {
			by = &authorityCA{cert: &tmpl, key: ca.key}
		}
		ca.cert = issue(t, &tmpl, by, ca.key.Public())
		return ca
	}
	ends := time.Minute
	for _, tc := range []struct {
		name string
		end  func(s *scene, keys *timedKeys) (last time.Duration)
	}{
		{"an intermediate", func(s *scene, _ *timedKeys) time.Duration {
			ca := short(s.ca)
			s.a = s.agent("a", issuedBy(ca, ca.cert))
			return ends
		}},
		{"a root", func(s *scene, _ *timedKeys) time.Duration {
			ca := short(nil)
			s.roots(s.ca, ca)
			s.a = s.agent("a", issuedBy(ca))
			return ends
		}},
		{"the grant key", func(s *scene, keys *timedKeys) time.Duration {
			keys.until[s.keyID] = start.Add(ends)
			return ends - time.Millisecond
		}},
	} {
		s := newScene(t)
		keys := &timedKeys{keyView: s.keys, since: map[string]time.Time{}, until: map[string]time.Time{}}
		last := tc.end(s, keys)
		v := s.verifier(s.c, func(c *delegation.Config) { c.Keys = keys })
		x, err := v.Verify(s.chain(s.a).to(s.b).to(s.c).c, s.b.peer)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		table, link := delegation.NewConnTable(), x.Link()
		table.Remember(x)
		s.move(last)
		if got, err := v.Resolve(table, link[:], s.b.peer); err != nil || got != x {
			t.Errorf("%s: Resolve(in its last millisecond) = %v, %v", tc.name, got, err)
		}
		s.move(time.Millisecond)
		if got, err := v.Resolve(table, link[:], s.e.peer); reason(err) != unknownChain || got != nil {
			t.Errorf("%s: Resolve(after its end, by another peer) = %v, %v, want %v", tc.name, got, err, unknownChain)
		}
	}
}

// A reference dies with a withdrawn key even where no generation tells of it.
func TestReferenceDiesWithAWithdrawnKey(t *testing.T) {
	s := newScene(t)
	v := s.verifier(s.b)
	x, err := v.Verify(s.hop1().chain, s.a.peer)
	if err != nil {
		t.Fatal(err)
	}
	table, link := delegation.NewConnTable(), x.Link()
	table.Remember(x)
	s.keys.set(authority, s.keyID, nil)
	if _, err := v.Resolve(table, link[:], s.a.peer); reason(err) != unknownChain {
		t.Errorf("Resolve(the grant key was withdrawn) = %v, want %v", err, unknownChain)
	}
}

// timedKeys is a key set in which each key has its time, as trust bundles publish it.
type timedKeys struct {
	*keyView
	since, until map[string]time.Time
}

func (k *timedKeys) GrantKey(issuer, keyID string, at time.Time) (ed25519.PublicKey, bool) {
	key, found := k.keyView.GrantKey(issuer, keyID, at)
	if since, ok := k.since[keyID]; ok && at.Before(since) {
		return nil, false
	}
	if until, ok := k.until[keyID]; ok && !at.Before(until) {
		return nil, false
	}
	return key, found
}

// A new grant key is published before it is used; a retired one stays until the last grant that it signed is over.
func TestGrantKeyRotates(t *testing.T) {
	s := newScene(t)
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id, err := delegation.KeyID(pub)
	if err != nil {
		t.Fatal(err)
	}
	keys := &timedKeys{
		keyView: s.keys, since: map[string]time.Time{id: start.Add(time.Hour)},
		until: map[string]time.Time{s.keyID: start.Add(time.Hour + delegation.MaxGrantLife + delegation.Skew)},
	}
	s.keys.set(authority, id, pub)
	v := s.verifier(s.b, func(c *delegation.Config) { c.Keys = keys })
	grantBy := func(key ed25519.PrivateKey, id string) *v1.DelegationChain {
		s.key, s.keyID = key, id
		return s.chain(s.a).to(s.b).c
	}
	oldKey, oldID := s.key, s.keyID
	s.a = s.agent("a", life(-time.Hour, 23*time.Hour))
	try := func(name string, c *v1.DelegationChain, want v1.Reason) {
		t.Helper()
		for range 2 {
			if _, err := v.Verify(c, s.a.peer); reason(err) != want {
				t.Errorf("%s = %v, want %v", name, err, want)
			}
		}
	}
	try("the new key before its time", grantBy(key, id), badKey)
	s.move(59*time.Minute + 59*time.Second)
	last := grantBy(oldKey, oldID)
	try("the old key until it is replaced", last, 0)
	s.move(time.Second)
	try("the new key from its time on", grantBy(key, id), 0)
	s.move(14*time.Minute + 58*time.Second)
	try("the last grant of the old key in its last second", last, 0)
	s.move(time.Second)
	try("the last grant of the old key after it", last, late)
	s.move(31 * time.Second)
	try("the old key once it is retired", grantBy(oldKey, oldID), badKey)
	try("the new key", grantBy(key, id), 0)
}

// A key that is withdrawn takes the remembered chains with it at once, without waiting for a generation.
func TestWithdrawnGrantKeyEndsItsChains(t *testing.T) {
	for _, moved := range []bool{true, false} {
		s := newScene(t)
		v := s.verifier(s.b)
		c := s.chain(s.a).to(s.b).c
		if _, err := v.Verify(c, s.a.peer); err != nil {
			t.Fatal(err)
		}
		s.keys.set(authority, s.keyID, nil)
		if moved {
			s.keys.generation.Add(1)
		}
		if _, err := v.Verify(c, s.a.peer); reason(err) != badKey {
			t.Errorf("generation moved %v: a cached chain of a withdrawn key = %v, want %v", moved, err, badKey)
		}
	}
}
