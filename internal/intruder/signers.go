package intruder

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"

	"google.golang.org/grpc"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// signatureBytes is the size of a signature of either kind.
const signatureBytes = 64

func signerViolations() []violation {
	invalid := []string{"CHAIN_INVALID"}
	return []violation{
		{
			Violation: Violation{
				Name: "another-key", Row: 26, Want: invalid, Causes: []string{"CHAIN_BAD_SIGNATURE", "CHAIN_SVID"},
				What: "signs with another key, under its own certificate and under one of its own making",
			},
			shots: anotherKey,
		},
		{
			Violation: Violation{
				Name: "anothers-certificate", Row: 27, Want: invalid, Causes: []string{"CHAIN_BAD_SIGNER"},
				What: "signs under the valid certificate of another, which the handshake has shown",
			},
			run: anothersCertificate,
		},
		{
			Violation: Violation{
				Name: "self-made-certificate", Row: 28, Want: invalid, Causes: []string{"CHAIN_BAD_SIGNER"},
				What: "signs under certificates of shapes that no authority issues",
			},
			shots: selfMadeCertificates,
		},
		{
			Violation: Violation{
				Name: "forged-handshake", Row: 28, Want: []string{peerUnverified}, Causes: []string{"PEER_NOT_SVID"},
				What: "connects with a certificate of its own making, and with none",
			},
			run: forgedHandshake,
		},
	}
}

// signedBy replaces signature and certificate of the hop.
func signedBy(c *tls.Certificate) func(*v1.DelegationChain) {
	return func(chain *v1.DelegationChain) {
		h := chain.GetHops()[0]
		key, _ := c.PrivateKey.(crypto.Signer)
		h.Signature = signRaw(key, delegation.PAE(delegation.TypeHop, h.GetPayload()))
		chain.Certs[0] = certsOf(c)
	}
}

// rogueSignature is over an invocation.
func rogueSignature(c *tls.Certificate, payload []byte) []byte {
	key, _ := c.PrivateKey.(crypto.Signer)
	return signRaw(key, delegation.PAE(delegation.TypeInvocation, payload))
}

// signRaw signs any bytes as a statement is signed; nil when the key cannot.
func signRaw(key crypto.Signer, message []byte) []byte {
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(message)
		r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
		if err != nil {
			return nil
		}
		sig := make([]byte, signatureBytes)
		r.FillBytes(sig[:signatureBytes/2])
		s.FillBytes(sig[signatureBytes/2:])
		return sig
	case ed25519.PrivateKey:
		return ed25519.Sign(k, message)
	}
	return nil
}

func anotherKey(s *siege) ([]shot, error) {
	rogue, err := rogueCertificate(s.cfg.Self, s.at.Now())
	if err != nil {
		return nil, err
	}
	var keep []*v1.CertChain
	return s.each(
		named{name: "under the own certificate", spoil: spoil{chain: func(c *v1.DelegationChain) {
			keep = c.GetCerts()
			c.Certs = []*v1.CertChain{nil}
			signedBy(rogue)(c)
			c.Certs = keep
		}}},
		named{name: "under one of its own making", spoil: spoil{chain: signedBy(rogue)}},
		named{name: "with the own authority beside it", spoil: spoil{chain: func(c *v1.DelegationChain) {
			own := c.GetCerts()[0]
			signedBy(rogue)(c)
			c.Certs[0].Intermediates = append(c.Certs[0].Intermediates, own.GetLeaf())
		}}},
	)
}

func anothersCertificate(ctx context.Context, s *siege, cc *grpc.ClientConn) ([]Step, string, error) {
	leaf, err := s.targetLeaf(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("reading the target's certificate: %w", err)
	}
	sh, err := s.shotOf("the target's", spoil{chain: func(c *v1.DelegationChain) { c.Certs[0] = &v1.CertChain{Leaf: leaf} }})
	if err != nil {
		return nil, "", err
	}
	want := []string{"CHAIN_INVALID"}
	return []Step{step(sh.name, s.deliver(ctx, cc, sh.raw, want), want)}, "", nil
}

// targetLeaf is the certificate that the target shows to everybody.
func (s *siege) targetLeaf(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.at.Timeout)
	defer cancel()
	raw, err := s.connect(ctx, s.cfg.TargetAddr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = raw.Close() }()
	conn := tls.Client(raw, identity.ClientTLS(s.cfg.Source, s.cfg.Target))
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0].Raw, nil
}

func selfMadeCertificates(s *siege) ([]shot, error) {
	uri := func(raw string) *url.URL {
		u, err := url.Parse(raw)
		if err != nil {
			return &url.URL{}
		}
		return u
	}
	var spoils []named
	for _, t := range []struct {
		name   string
		change func(*x509.Certificate)
	}{
		{"two names", func(c *x509.Certificate) { c.URIs = append(c.URIs, s.cfg.Target.ID().URL()) }},
		{"an authority as the leaf", func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign }},
		{"another trust domain", func(c *x509.Certificate) {
			c.URIs = []*url.URL{uri("spiffe://intruder.example/tenant/" + s.cfg.Self.Tenant().Name() + "/agent/" + s.cfg.Self.Name())}
		}},
		{"no path", func(c *x509.Certificate) { c.URIs = []*url.URL{s.cfg.Self.TrustDomain().ID().URL()} }},
		{"a common name only", func(c *x509.Certificate) { c.URIs, c.Subject.CommonName = nil, s.cfg.Self.String() }},
		{"not for signatures", func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }},
		{"the target's name", func(c *x509.Certificate) { c.URIs = []*url.URL{s.cfg.Target.ID().URL()} }},
	} {
		rogue, err := rogueCertificate(s.cfg.Self, s.at.Now(), t.change)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		spoils = append(spoils, named{name: t.name, spoil: spoil{chain: signedBy(rogue)}})
	}
	spoils = append(spoils, named{name: "no certificate", spoil: spoil{chain: func(c *v1.DelegationChain) {
		c.Certs[0] = &v1.CertChain{Leaf: []byte("certificate")}
	}}})
	return s.each(spoils...)
}

func forgedHandshake(ctx context.Context, s *siege, _ *grpc.ClientConn) ([]Step, string, error) {
	rogue, err := rogueCertificate(s.cfg.Self, s.at.Now())
	if err != nil {
		return nil, "", err
	}
	want := []string{peerUnverified}
	var steps []Step
	for _, t := range []struct {
		name string
		cert *tls.Certificate
	}{{"of its own making", rogue}, {"no certificate", &tls.Certificate{}}} {
		cfg := identity.ClientTLS(s.cfg.Source, s.cfg.Target)
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.cert, nil }
		knock, cancel := context.WithTimeout(ctx, s.at.Timeout)
		a := s.knock(knock, cfg)
		cancel()
		steps = append(steps, step(t.name, a, want))
	}
	return steps, "a refused handshake has no decision id", nil
}
