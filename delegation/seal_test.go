package delegation_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// sealed is a verifier that has verified a chain of two hops, the second one's signer with an intermediate, and then forgotten all
// but the seals. counts are the signatures that it asked to verify since.
func sealed(t *testing.T) (s *scene, p presented, v *delegation.Verifier, counts *[]int) {
	t.Helper()
	s, counts = newScene(t), new([]int)
	ca := newCA(t, s.ca)
	s.b = s.agent("b", withKey(p256Key()), issuedBy(ca, ca.cert))
	p = s.hop2()
	v = s.verifier(s.c, func(c *delegation.Config) {
		c.Limits.Allow = func(_ identity.AgentID, n int) bool { *counts = append(*counts, n); return true }
	})
	if _, err := v.Verify(p.chain, p.by.peer); err != nil {
		t.Fatal(err)
	}
	v.ForgetLeaves()
	*counts = nil
	return s, p, v, counts
}

func TestSealedChainCostsNoSignature(t *testing.T) {
	s, p, v, counts := sealed(t)
	cold, err := s.verifier(s.c).Verify(p.chain, p.by.peer)
	if err != nil {
		t.Fatal(err)
	}
	for _, forget := range []func(){func() {}, v.ForgetLeaves, func() { v.ForgetLeaves(); v.ForgetCertificates() }} {
		forget()
		x, err := v.Verify(p.chain, p.by.peer)
		if err != nil || len(*counts) > 0 {
			t.Fatalf("Verify() = %v after signatures %v, want none", err, *counts)
		}
		if x.Link() != cold.Link() || x.ID() != cold.ID() || !proto.Equal(x.Chain(), cold.Chain()) {
			t.Fatal("the leaf of a sealed chain differs from a cold one's")
		}
		if err := v.Recheck(x, p.by.peer, readIntent()); err != nil {
			t.Fatal(err)
		}
	}
	v.ForgetLeaves()
	b := s.chainFrom(p.chain.GetGrant(), s.a)
	b.c, b.last = proto.CloneOf(p.chain), s.b
	b.c.Hops = b.c.GetHops()[:1]
	b.c.Certs = b.c.GetCerts()[:1]
	b.parentID, b.payload.Depth = delegation.StatementID(delegation.TypeHop, b.c.GetHops()[0].GetPayload()), 1
	if _, err := v.Verify(b.to(s.c).c, p.by.peer); err != nil || fmt.Sprint(*counts) != "[3]" {
		t.Errorf("a new last hop on a sealed prefix: %v, signatures %v; want its own and its certificates', which were forgotten", err, *counts)
	}
}

// TestSealDecidesNothingElse is TestMutations against a verifier that knows seals only.
func TestSealDecidesNothingElse(t *testing.T) {
	s, p, v, _ := sealed(t)
	raw := marshal(t, p.chain)
	for i := range raw {
		mutant := bytes.Clone(raw)
		mutant[i] ^= 1 << (i % 8)
		c := new(v1.DelegationChain)
		if proto.Unmarshal(mutant, c) != nil {
			continue
		}
		_, coldErr := s.verifier(s.c).Verify(c, s.b.peer)
		_, sealedErr := v.Verify(c, s.b.peer)
		if coldErr == nil || reason(coldErr) == 0 || reason(coldErr) != reason(sealedErr) {
			t.Fatalf("byte %d of %d: cold %v, sealed %v, want one refusal", i, len(raw), coldErr, sealedErr)
		}
	}
}

func TestSealHoldsNoLongerThanItsSignatures(t *testing.T) {
	tests := []struct {
		name   string
		change func(*scene)
		want   v1.Reason
		counts string
	}{
		{"nothing", func(*scene) {}, 0, "[]"},
		{"keys moved", func(s *scene) { s.keys.generation.Add(1) }, 0, "[3]"},
		{"bundles moved", func(s *scene) { s.bundle.Add(1) }, 0, "[6]"},
		{"grant key withdrawn, generation unmoved", func(s *scene) { s.keys.set(authority, s.keyID, nil) }, badKey, "[3]"},
		{"grant key replaced, generation unmoved", func(s *scene) {
			s.keys.set(authority, s.keyID, ed25519Key().Public().(ed25519.PublicKey))
		}, badSignature, "[3]"},
		{"expired", func(s *scene) { s.move(15 * time.Minute) }, late, "[]"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			s, p, v, counts := sealed(t)
			tc.change(s)
			_, err := v.Verify(p.chain, p.by.peer)
			if reason(err) != tc.want || fmt.Sprint(*counts) != tc.counts {
				t.Errorf("Verify() = %v with signatures %v, want %v with %v", err, *counts, tc.want, tc.counts)
			}
		})
	}
}

// A certificate that ends while its chain goes on takes the seal with it.
func TestSealEndsWithACertificate(t *testing.T) {
	s := newScene(t)
	ca := newCA(t, nil)
	ca.cert = issue(t, func() (tmpl *x509.Certificate) {
		c := *s.ca.cert
		c.NotAfter, c.PublicKey = start.Add(10*time.Minute), nil
		return &c
	}(), s.ca, ca.key.Public())
	s.b = s.agent("b", issuedBy(ca, ca.cert))
	p := s.hop2()
	v := s.verifier(s.c)
	if _, err := v.Verify(p.chain, p.by.peer); err != nil {
		t.Fatal(err)
	}
	v.ForgetLeaves()
	s.move(11 * time.Minute)
	if _, err := v.Verify(p.chain, p.by.peer); reason(err) != v1.Reason_REASON_CHAIN_SVID {
		t.Errorf("Verify(after the intermediate's end) = %v", err)
	}
}

func TestSealIsBoundToPresenterAndAudience(t *testing.T) {
	s, p, v, _ := sealed(t)
	if _, err := v.Verify(p.chain, s.e.peer); reason(err) != v1.Reason_REASON_CHAIN_PRESENTER {
		t.Errorf("presented by another: %v", err)
	}
	other := s.verifier(s.d)
	if _, err := other.Verify(p.chain, p.by.peer); reason(err) != v1.Reason_REASON_CHAIN_AUDIENCE {
		t.Errorf("presented to another: %v", err)
	}
	if other.Seals() != 0 {
		t.Error("a refused chain left a seal")
	}
	watch := new(revoked)
	w := s.verifier(s.c, func(c *delegation.Config) { c.Revoked = watch })
	if _, err := w.Verify(p.chain, p.by.peer); err != nil {
		t.Fatal(err)
	}
	w.ForgetLeaves()
	watch.revoke(delegation.AgentHandle(s.a.id))
	if _, err := w.Verify(p.chain, p.by.peer); reason(err) != v1.Reason_REASON_CHAIN_HANDLE_REVOKED {
		t.Errorf("sealed and revoked: %v", err)
	}
}
