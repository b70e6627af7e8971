package delegation_test

import (
	"crypto/sha256"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
)

// Bytes that are no certificate, made to hash like the key of one with intermediates, must not be taken for it: they have another
// certificate id, so that the revocation of the certificate would miss them.
func TestRevokedCertificateHasNoDisguise(t *testing.T) {
	for _, forget := range []string{"nothing", "leaves"} {
		t.Run(forget, func(t *testing.T) {
			s := newScene(t)
			ca := newCA(t, s.ca)
			s.b = s.agent("b", withKey(p256Key()), issuedBy(ca, ca.cert))
			p, list := s.hop2(), new(revoked)
			v := s.verifier(s.c, func(c *delegation.Config) { c.Revoked = list })
			if _, err := v.Verify(p.chain, p.by.peer); err != nil {
				t.Fatal(err)
			}
			if forget == "leaves" {
				v.ForgetLeaves()
			}
			id := sha256.Sum256(s.b.certs[0].Raw)
			list.revoke(id)
			disguised := proto.CloneOf(p.chain)
			cert := disguised.GetCerts()[disguised.GetHops()[1].GetCertRef()-1]
			sum := sha256.Sum256(cert.GetIntermediates()[0])
			cert.Leaf, cert.Intermediates = append(append([]byte("safeconduct/certs/v1\x00"), id[:]...), sum[:]...), nil
			for name, chain := range map[string]*presented{"as it is": &p, "disguised": {disguised, p.by, p.self}} {
				if _, err := v.Verify(chain.chain, chain.by.peer); err == nil {
					t.Errorf("%s: a chain under a revoked certificate is accepted", name)
				}
			}
		})
	}
}

// The caller may use the memory of a chain again: nothing of it is left in what the verifier keeps.
func TestVerifierKeepsNothingOfTheMessage(t *testing.T) {
	s := newScene(t)
	s.b = s.agent("b") // an Ed25519 key: crypto/x509 leaves it in the bytes of the certificate
	first, second := s.hop2(), s.hop2()
	first.chain = proto.CloneOf(first.chain) // of memory of its own
	v := s.verifier(s.c)
	if _, err := v.Verify(first.chain, first.by.peer); err != nil {
		t.Fatal(err)
	}
	link := func() [32]byte {
		x, err := v.Verify(second.chain, second.by.peer)
		if err != nil {
			t.Fatalf("a chain of the same signers, after the memory of the first is used again: %v", err)
		}
		return x.Link()
	}
	for _, c := range first.chain.GetCerts() {
		clear(c.GetLeaf())
	}
	for _, h := range first.chain.GetHops() {
		clear(h.GetPayload())
		clear(h.GetSignature())
	}
	want := link()
	v.ForgetLeaves()
	if link() != want {
		t.Error("another link")
	}
}
