package delegation_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

const (
	amplified      = v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED
	loosened       = v1.Reason_REASON_CHAIN_CONSTRAINT_LOOSENED
	unknown        = v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT
	notDelegable   = v1.Reason_REASON_CHAIN_NOT_DELEGABLE
	malformed      = v1.Reason_REASON_CHAIN_MALFORMED
	nonCanonical   = v1.Reason_REASON_CHAIN_NON_CANONICAL
	tooLarge       = v1.Reason_REASON_CHAIN_TOO_LARGE
	badVersion     = v1.Reason_REASON_CHAIN_VERSION
	lifetime       = v1.Reason_REASON_CHAIN_LIFETIME
	late           = v1.Reason_REASON_CHAIN_TIME
	tooDeep        = v1.Reason_REASON_CHAIN_DEPTH
	parentMismatch = v1.Reason_REASON_CHAIN_PARENT_MISMATCH
	untrusted      = v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT
	presenter      = v1.Reason_REASON_CHAIN_PRESENTER
	audience       = v1.Reason_REASON_CHAIN_AUDIENCE
	badKey         = v1.Reason_REASON_CHAIN_KEY
	badSignature   = v1.Reason_REASON_CHAIN_BAD_SIGNATURE
	badSigner      = v1.Reason_REASON_CHAIN_BAD_SIGNER
	svidReason     = v1.Reason_REASON_CHAIN_SVID
	foreign        = v1.Reason_REASON_CHAIN_TRUST_DOMAIN
	loop           = v1.Reason_REASON_CHAIN_LOOP
	tenant         = v1.Reason_REASON_CHAIN_TENANT
	otherPurpose   = v1.Reason_REASON_CHAIN_PURPOSE
	unmet          = v1.Reason_REASON_CHAIN_CONSTRAINT_UNMET
	intersection   = v1.Reason_REASON_CHAIN_INTERSECTION
	gone           = v1.Reason_REASON_CHAIN_HANDLE_REVOKED
	coldLimit      = v1.Reason_REASON_CHAIN_COLD_LIMIT
	unknownChain   = v1.Reason_REASON_CHAIN_UNKNOWN
)

// signedBy is hop1 with the hop signed and certified by another agent than its issuer.
func (s *scene) signedBy(a *agent) presented {
	p := s.hop1()
	h := p.chain.GetHops()[0]
	h.Signature = s.sign(a, delegation.TypeHop, h.GetPayload())
	p.chain.Certs[0] = chainOf(a)
	return p
}

// withLoose is signedBy for a certificate of a's identity that need not be an SVID.
func withLoose(opts ...svidOption) func(*scene) presented {
	return func(s *scene) presented { return s.signedBy(s.loose(s.a.id, opts...)) }
}

func signerRows() []row {
	uri := func(raw string) *url.URL { u, _ := url.Parse(raw); return u }
	return []row{
		{26, "another key of the same tenant", func(s *scene) presented { return s.signedBy(s.c) }, badSigner},
		{26, "another key under the issuer's certificate", func(s *scene) presented {
			p := s.signedBy(s.c)
			p.chain.Certs[0] = chainOf(s.a)
			return p
		}, badSignature},
		{27, "valid certificate of the callee", func(s *scene) presented { return s.signedBy(s.b) }, badSigner},
		{28, "two URI SANs", withLoose(withCert(func(c *x509.Certificate) {
			c.URIs = append(c.URIs, uri("spiffe://"+domain+"/tenant/blue/agent/x"))
		})), badSigner},
		{28, "CA as leaf", withLoose(withCert(func(c *x509.Certificate) { c.IsCA = true })), badSigner},
		{28, "may sign certificates", withLoose(withCert(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })), badSigner},
		{28, "wrong trust domain", withLoose(withCert(func(c *x509.Certificate) {
			c.URIs = []*url.URL{uri("spiffe://evil.test/tenant/blue/agent/a")}
		})), badSigner},
		{28, "no path", withLoose(withCert(func(c *x509.Certificate) { c.URIs = []*url.URL{uri("spiffe://" + domain)} })), badSigner},
		{28, "common name only", withLoose(withCert(func(c *x509.Certificate) {
			c.URIs, c.Subject.CommonName = nil, "spiffe://"+domain+"/tenant/blue/agent/a"
		})), badSigner},
		{28, "not for signatures", withLoose(withCert(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })), badSigner},
		{28, "P-384", func(s *scene) presented {
			key, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			return s.signedBy(s.loose(s.a.id, withKey(key)))
		}, badSigner},
		{28, "RSA", func(s *scene) presented {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				s.tb.Fatal(err)
			}
			return s.signedBy(s.loose(s.a.id, withKey(key)))
		}, badSigner},
		{28, "no certificate", func(s *scene) presented {
			p := s.hop1()
			p.chain.Certs[0].Leaf = []byte("certificate")
			return p
		}, badSigner},
		{53, "expired", withLoose(life(-time.Hour, -time.Minute)), svidReason},
		{53, "unknown CA", func(s *scene) presented {
			return s.signedBy(s.loose(s.a.id, issuedBy(newCA(s.tb, nil))))
		}, svidReason},
		{53, "intermediate", func(s *scene) presented {
			ca := newCA(s.tb, s.ca)
			s.a = s.agent("a", issuedBy(ca, ca.cert))
			return s.hop1()
		}, 0},
		{53, "intermediate missing", func(s *scene) presented {
			ca := newCA(s.tb, s.ca)
			return s.signedBy(s.loose(s.a.id, issuedBy(ca)))
		}, svidReason},
		{53, "intermediate unreadable", func(s *scene) presented {
			p := s.hop1()
			p.chain.Certs[0].Intermediates = [][]byte{[]byte("ca")}
			return p
		}, svidReason},
		{53, "bundle emptied", func(s *scene) presented {
			s.bundles.Add(x509bundle.New(spiffeid.RequireTrustDomainFromString(domain)))
			return s.hop1()
		}, svidReason},
		{53, "bundle removed", func(s *scene) presented {
			s.bundles.Remove(spiffeid.RequireTrustDomainFromString(domain))
			return s.hop1()
		}, foreign},
	}
}

func signatureRows() []row {
	sign := func(f func(*scene, *v1.SignedStatement)) func(*scene) presented {
		return func(s *scene) presented {
			p := s.hop1()
			f(s, p.chain.GetHops()[0])
			return p
		}
	}
	return []row{
		{30, "stripped", sign(func(_ *scene, h *v1.SignedStatement) { h.Signature = nil }), malformed},
		{30, "too short", sign(func(_ *scene, h *v1.SignedStatement) { h.Signature = h.GetSignature()[:63] }), malformed},
		{30, "too long", sign(func(_ *scene, h *v1.SignedStatement) { h.Signature = append(h.GetSignature(), 0) }), malformed},
		{30, "zero, Ed25519", sign(func(_ *scene, h *v1.SignedStatement) { h.Signature = make([]byte, 64) }), badSignature},
		{30, "zero, ECDSA", func(s *scene) presented {
			p := s.hop2()
			p.chain.Hops[1].Signature = make([]byte, 64)
			return p
		}, badSignature},
		{30, "grant stripped", func(s *scene) presented {
			p := s.hop1()
			p.chain.Grant.Signature = nil
			return p
		}, malformed},
		{30, "grant zero", func(s *scene) presented {
			p := s.hop1()
			p.chain.Grant.Signature = make([]byte, 64)
			return p
		}, badSignature},
		{31, "made for a grant", sign(func(s *scene, h *v1.SignedStatement) {
			h.Signature = s.sign(s.a, delegation.TypeGrant, h.GetPayload())
		}), badSignature},
		{31, "made for a receipt", sign(func(s *scene, h *v1.SignedStatement) {
			h.Signature = s.sign(s.a, delegation.TypeReceipt, h.GetPayload())
		}), badSignature},
		{31, "made over the bare payload", sign(func(s *scene, h *v1.SignedStatement) {
			h.Signature = s.signBytes(s.a, h.GetPayload())
		}), badSignature},
		{32, "TLS transcript", sign(func(s *scene, h *v1.SignedStatement) {
			transcript := slices.Repeat([]byte{' '}, 64)
			transcript = append(transcript, "TLS 1.3, client CertificateVerify\x00"...)
			h.Signature = s.signBytes(s.a, append(transcript, digestOf("transcript")...))
		}), badSignature},
		{33, "ECDSA twin", func(s *scene) presented {
			p := s.hop2()
			p.chain.Hops[1].Signature = twin(p.chain.GetHops()[1].GetSignature())
			return p
		}, 0},
	}
}

// twin is the other valid ECDSA signature over the same bytes.
func twin(sig []byte) []byte {
	n := elliptic.P256().Params().N
	out := slices.Clone(sig)
	new(big.Int).Sub(n, new(big.Int).SetBytes(sig[32:])).FillBytes(out[32:])
	return out
}

func wireRows() []row {
	hop := func(change func([]byte) []byte) func(*scene) presented {
		return func(s *scene) presented {
			p := s.hop1()
			b := s.chainFrom(p.chain.GetGrant(), s.a)
			return presented{b.raw(s.b, change(p.chain.GetHops()[0].GetPayload())).c, s.a, s.b}
		}
	}
	change := func(f func(*v1.HopPayload)) func(*scene) presented {
		return func(s *scene) presented { return s.hop1(f) }
	}
	grant := func(f func(*v1.GrantPayload)) func(*scene) presented {
		return func(s *scene) presented { return s.grant1(f) }
	}
	unknownField := func(b []byte) []byte {
		return protowire.AppendVarint(protowire.AppendTag(b, 17, protowire.VarintType), 1)
	}
	return []row{
		{37, "unknown field", hop(unknownField), nonCanonical},
		{37, "field number zero", hop(func(b []byte) []byte { return append(b, 0, 1) }), nonCanonical},
		{37, "duplicate singular", hop(func(b []byte) []byte { return append(slices.Clone(b[:2]), b...) }), nonCanonical},
		{37, "non-minimal tag", hop(func(b []byte) []byte { return append([]byte{0x88, 0x00}, b[1:]...) }), nonCanonical},
		{37, "non-minimal value", hop(func(b []byte) []byte { return append([]byte{0x08, 0x81, 0x00}, b[2:]...) }), nonCanonical},
		{37, "non-minimal length", hop(func(b []byte) []byte { return append([]byte{0x08, 1, 0x12, 0x90, 0x00}, b[4:]...) }), nonCanonical},
		{37, "out of order", hop(func(b []byte) []byte { return append(slices.Clone(b[2:]), b[:2]...) }), nonCanonical},
		{37, "wrong wire type", hop(func(b []byte) []byte { return append([]byte{0x0d, 1, 0, 0, 0}, b[2:]...) }), nonCanonical},
		{37, "group", hop(func(b []byte) []byte { return append([]byte{0x0b, 0x0c}, b[2:]...) }), nonCanonical},
		{37, "truncated", hop(func(b []byte) []byte { return b[:len(b)-1] }), nonCanonical},
		{37, "default value", hop(func(b []byte) []byte { return append([]byte{0x08, 0}, b[2:]...) }), nonCanonical},
		{37, "invalid UTF-8", change(func(p *v1.HopPayload) { p.Tenant = "blue" }), 0},
		{37, "not ASCII", change(func(p *v1.HopPayload) { p.Tenant = "blü" }), nonCanonical},
		{37, "empty payload", hop(func([]byte) []byte { return nil }), malformed},
		{37, "version 2", change(func(p *v1.HopPayload) { p.Version = 2 }), badVersion},
		{37, "no version", change(func(p *v1.HopPayload) { p.Version = 0 }), badVersion},
		{37, "critical extension", change(func(p *v1.HopPayload) { p.Critical = []string{"x"} }), badVersion},
		{37, "grant version 2", grant(func(p *v1.GrantPayload) { p.Version = 2 }), badVersion},
		{37, "grant with a critical extension", grant(func(p *v1.GrantPayload) { p.Critical = []string{"x"} }), badVersion},
		{37, "short nonce", change(func(p *v1.HopPayload) { p.StatementNonce = random(15) }), malformed},
		{37, "no nonce", change(func(p *v1.HopPayload) { p.StatementNonce = nil }), malformed},
		{37, "no parent", change(func(p *v1.HopPayload) { p.ParentId = nil }), parentMismatch},
		{37, "no chain id", grant(func(p *v1.GrantPayload) { p.ChainId = nil }), malformed},
		{37, "no purpose", grant(func(p *v1.GrantPayload) { p.PurposeDigest = nil }), malformed},
		{37, "issuer of no shape", grant(func(p *v1.GrantPayload) { p.Issuer = "spiffe://" + domain }), malformed},
		{37, "delegate of no shape", change(func(p *v1.HopPayload) { p.Delegate = "agent b" }), malformed},
		{37, "no delegate", change(func(p *v1.HopPayload) { p.Delegate = "" }), malformed},
		{37, "delegate pattern over everything", change(func(p *v1.HopPayload) { p.Delegates = []string{"*"} }), malformed},
		{37, "no principal", grant(func(p *v1.GrantPayload) { p.Principal = nil }), malformed},
		{37, "unknown principal type", grant(func(p *v1.GrantPayload) { p.Principal.Type = 4 }), nonCanonical},
		{37, "principal without issuer", grant(func(p *v1.GrantPayload) { p.Principal.Issuer = "" }), malformed},
		{37, "no tenant", grant(func(p *v1.GrantPayload) { p.Tenant = "" }), malformed},
		{37, "wildcard action", change(func(p *v1.HopPayload) { p.Capabilities[0].Action = "memory.*" }), malformed},
		{37, "no action", change(func(p *v1.HopPayload) { p.Capabilities[0].Action = "" }), malformed},
		{37, "unknown field of the chain", func(s *scene) presented {
			p := s.hop1()
			p.chain.ProtoReflect().SetUnknown([]byte{0x78, 1})
			return p
		}, nonCanonical},
		{37, "unknown field of a statement", func(s *scene) presented {
			p := s.hop1()
			p.chain.Hops[0].ProtoReflect().SetUnknown([]byte{0x78, 1})
			return p
		}, nonCanonical},
		{37, "unknown field of a certificate", func(s *scene) presented {
			p := s.hop1()
			p.chain.Certs[0].ProtoReflect().SetUnknown([]byte{0x78, 1})
			return p
		}, nonCanonical},
	}
}

func frameRows() []row {
	change := func(f func(*scene, *v1.DelegationChain)) func(*scene) presented {
		return func(s *scene) presented {
			p := s.hop2()
			f(s, p.chain)
			return p
		}
	}
	return []row{
		{62, "last certificate left to the connection", change(func(_ *scene, c *v1.DelegationChain) {
			c.Hops[1].CertRef, c.Certs = 0, c.GetCerts()[:1]
		}), 0},
		{62, "an earlier certificate left to the connection", change(func(_ *scene, c *v1.DelegationChain) {
			c.Hops[0].CertRef, c.Hops[1].CertRef, c.Certs = 0, 1, c.GetCerts()[1:]
		}), malformed},
		{62, "an earlier certificate left to a connection over another SVID", func(s *scene) presented {
			p := s.hop2()
			c := p.chain
			c.Hops[0].CertRef, c.Hops[1].CertRef, c.Certs = 0, 1, c.GetCerts()[1:]
			p.by = s.agent("b")
			return p
		}, malformed},
		{62, "stored, without a connection", func(s *scene) presented {
			p := s.hop2()
			p.chain.Hops[1].CertRef, p.chain.Certs = 0, p.chain.GetCerts()[:1]
			p.by = &agent{id: s.b.id, peer: identity.Peer{Agent: s.b.id, Tenant: s.b.id.Tenant()}}
			return p
		}, malformed},
		{62, "unreferenced certificate", change(func(s *scene, c *v1.DelegationChain) { c.Certs = append(c.Certs, chainOf(s.d)) }), malformed},
		{62, "duplicate certificate", change(func(_ *scene, c *v1.DelegationChain) { c.Certs[1] = c.GetCerts()[0] }), malformed},
		{62, "reference twice", change(func(_ *scene, c *v1.DelegationChain) { c.Hops[1].CertRef = 1 }), malformed},
		{62, "reference out of range", change(func(_ *scene, c *v1.DelegationChain) { c.Hops[1].CertRef = 3 }), malformed},
		{62, "reference far out of range", change(func(_ *scene, c *v1.DelegationChain) { c.Hops[1].CertRef = 1<<32 - 1 }), malformed},
		{62, "reference on the grant", change(func(_ *scene, c *v1.DelegationChain) { c.Grant.CertRef = 1 }), malformed},
		{62, "certificate without a leaf", change(func(_ *scene, c *v1.DelegationChain) { c.Certs[1].Leaf = nil }), malformed},
		{62, "empty intermediate", change(func(_ *scene, c *v1.DelegationChain) { c.Certs[0].Intermediates = [][]byte{nil} }), malformed},
		{62, "nil hop", change(func(_ *scene, c *v1.DelegationChain) { c.Hops[0] = nil }), malformed},
		{62, "nil certificate", change(func(_ *scene, c *v1.DelegationChain) { c.Certs[1] = nil }), malformed},
		{62, "nil chain", func(s *scene) presented { return presented{nil, s.a, s.b} }, untrusted},
	}
}

// TestBombs counts cryptographic operations: the allowance is asked before the first signature, with the number of them, and
// keys and bundles are looked up only by steps that verify one.
func TestBombs(t *testing.T) {
	bombs := []struct {
		name  string
		build func(*scene, *v1.DelegationChain)
		want  v1.Reason
	}{
		{"10,000 hops", func(_ *scene, c *v1.DelegationChain) { c.Hops = slices.Repeat(c.GetHops()[:1], 10_000) }, tooLarge},
		{"9 hops", func(_ *scene, c *v1.DelegationChain) { c.Hops = slices.Repeat(c.GetHops()[:1], 9) }, tooLarge},
		{"10,000 certificates", func(_ *scene, c *v1.DelegationChain) { c.Certs = slices.Repeat(c.GetCerts()[:1], 10_000) }, tooLarge},
		{"16 KiB and a byte", func(_ *scene, c *v1.DelegationChain) {
			pad(t, c, 16<<10+1)
		}, tooLarge},
		{"a hop of 64 KiB", func(_ *scene, c *v1.DelegationChain) { c.Hops[0].Payload = make([]byte, 64<<10) }, tooLarge},
		{"a grant of 64 KiB", func(_ *scene, c *v1.DelegationChain) { c.Grant.Payload = make([]byte, 64<<10) }, tooLarge},
		{"a certificate of 64 KiB", func(_ *scene, c *v1.DelegationChain) { c.Certs[0].Leaf = make([]byte, 64<<10) }, tooLarge},
		{"an intermediate of 64 KiB", func(_ *scene, c *v1.DelegationChain) {
			c.Certs[0].Intermediates = [][]byte{make([]byte, 64<<10)}
		}, tooLarge},
		{"three intermediates", func(_ *scene, c *v1.DelegationChain) {
			c.Certs[0].Intermediates = [][]byte{{1}, {2}, {3}}
		}, tooLarge},
		{"nested messages", func(_ *scene, c *v1.DelegationChain) {
			var deep []byte
			for range 500 {
				deep = protowire.AppendBytes(protowire.AppendTag(nil, 8, protowire.BytesType), deep)
			}
			c.Hops[0].Payload = deep
		}, nonCanonical},
		{"33 capabilities", func(s *scene, c *v1.DelegationChain) {
			c.Hops[0].Payload = marshal(t, &v1.HopPayload{Capabilities: slices.Repeat([]*v1.Capability{{Action: "a"}}, 33)})
		}, tooLarge},
		{"a string of 257 bytes", func(s *scene, c *v1.DelegationChain) {
			c.Hops[0].Payload = marshal(t, &v1.HopPayload{Tenant: string(slices.Repeat([]byte{'a'}, 257))})
		}, tooLarge},
	}
	for _, tc := range bombs {
		t.Run(tc.name, func(t *testing.T) {
			s := newScene(t)
			p := s.hop1()
			tc.build(s, p.chain)
			asked := 0
			v := s.verifier(s.b, func(c *delegation.Config) {
				c.Limits.Allow = func(identity.AgentID, int) bool { asked++; return true }
			})
			if _, err := v.Verify(p.chain, s.a.peer); reason(err) != tc.want {
				t.Fatalf("Verify() = %v, want %v", err, tc.want)
			}
			if n := int64(asked) + s.lookups.Load() + s.keys.lookups.Load(); n != 0 {
				t.Errorf("%d cryptographic operations before the refusal, want 0", n)
			}
		})
	}
}

// pad fills c with certificates up to exactly n bytes.
func pad(tb testing.TB, c *v1.DelegationChain, n int) {
	tb.Helper()
	c.Certs = nil
	each := (n-proto.Size(c))/8 - 6 // and the tags and lengths around it
	for i := range 8 {
		c.Certs = append(c.Certs, &v1.CertChain{Leaf: slices.Repeat([]byte{byte(i)}, each)})
	}
	last := c.GetCerts()[7]
	last.Leaf = append(last.GetLeaf(), make([]byte, n-proto.Size(c))...)
	if proto.Size(c) != n {
		tb.Fatalf("the chain has %d bytes, want %d", proto.Size(c), n)
	}
}

func TestExactly16KiB(t *testing.T) {
	s := newScene(t)
	for size, want := range map[int]v1.Reason{16 << 10: malformed, 16<<10 + 1: tooLarge} {
		c := s.hop1().chain
		pad(t, c, size)
		if _, err := s.verifier(s.b).Verify(c, s.a.peer); reason(err) != want {
			t.Errorf("Verify(%d bytes) = %v, want %v", size, err, want)
		}
		wantFrame := want
		if want == malformed {
			wantFrame = 0
		}
		if _, err := delegation.ParseChain(marshal(t, c)); reason(err) != wantFrame {
			t.Errorf("ParseChain(%d bytes) = %v, want %v", size, err, wantFrame)
		}
	}
}
