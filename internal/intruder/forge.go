package intruder

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

const (
	hopBackdate = 5 * time.Second
	// A hop ends this long before its signer's certificate, or a tenth of the certificate's life when that is less.
	hopMargin      = 30 * time.Second
	hopMarginShare = 10
	nonceBytes     = 16
	rogueLife      = time.Hour
	serialBits     = 120
)

// chain makes the hop from the intruder to the target below a grant and signs it with the intruder's own key. It holds nothing
// against any rule: more is added to what the grant may pass on, whatever it is. delegation.Append would refuse that.
func (x *intruder) chain(grant *v1.SignedStatement, more ...*v1.Capability) (*v1.DelegationChain, error) {
	return x.forge(grant, func(h *v1.HopPayload) {
		for _, c := range more {
			c = proto.CloneOf(c)
			c.Reach = h.GetDepth()
			h.Capabilities = append(h.Capabilities, c)
		}
	})
}

// forge is an honest hop below a grant, spoilt and then properly signed.
func (x *intruder) forge(grant *v1.SignedStatement, spoil ...func(*v1.HopPayload)) (*v1.DelegationChain, error) {
	g, err := readGrant(grant)
	if err != nil {
		return nil, fmt.Errorf("reading a grant: %w", err)
	}
	signer, err := x.signer()
	if err != nil {
		return nil, err
	}
	hop := x.hop(grant, g, signer)
	for _, f := range spoil {
		f(hop)
	}
	payload, err := proto.Marshal(hop)
	if err != nil {
		return nil, fmt.Errorf("marshalling a hop: %w", err)
	}
	return x.seal(grant, payload)
}

// seal signs the bytes of a hop, whatever they are, and hangs it below a grant.
func (x *intruder) seal(grant *v1.SignedStatement, payload []byte) (*v1.DelegationChain, error) {
	signer, err := x.signer()
	if err != nil {
		return nil, err
	}
	sig, certs, err := signer.Sign(delegation.TypeHop, payload)
	if err != nil {
		return nil, err
	}
	return &v1.DelegationChain{
		Grant: grant,
		Hops:  []*v1.SignedStatement{{Payload: payload, Signature: sig, CertRef: 1}},
		Certs: []*v1.CertChain{{Leaf: certs[0], Intermediates: certs[1:]}},
	}, nil
}

func (x *intruder) signer() (delegation.Signer, error) {
	svid, err := x.cfg.Source.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("own SVID: %w", err)
	}
	return delegation.NewSigner(svid)
}

// hop is the last one of its chain: it lets nobody follow.
func (x *intruder) hop(grant *v1.SignedStatement, g *v1.GrantPayload, signer delegation.Signer) *v1.HopPayload {
	depth := g.GetDepthUsed() + 1
	var caps []*v1.Capability
	for _, c := range g.GetCapabilities() {
		if c.GetReach() >= depth {
			c = proto.CloneOf(c)
			c.Reach = depth
			caps = append(caps, c)
		}
	}
	now := x.cfg.Now()
	margin := min(hopMargin, signer.NotAfter().Sub(signer.NotBefore())/hopMarginShare)
	parent := grantID(grant)
	return &v1.HopPayload{
		Version: 1, ChainId: g.GetChainId(), Depth: depth, ParentId: parent[:],
		Issuer: signer.ID().String(), Delegate: x.cfg.Target.String(), Tenant: g.GetTenant(),
		Capabilities: caps, MaxDepth: depth,
		IssuedAtMs:     now.UnixMilli(),
		NotBeforeMs:    max(g.GetNotBeforeMs(), now.Add(-hopBackdate).UnixMilli()),
		ExpiresAtMs:    min(g.GetExpiresAtMs(), signer.NotAfter().Add(-margin).UnixMilli()),
		StatementNonce: random(nonceBytes), PurposeDigest: g.GetPurposeDigest(),
	}
}

// random returns n random bytes.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return b
}

// rogueCertificate is an SVID for id from a certificate authority that nobody trusts, in all else as a real one.
// change may make it less real.
func rogueCertificate(id identity.AgentID, now time.Time, change ...func(*x509.Certificate)) (*tls.Certificate, error) {
	root, rootKey, err := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: id.TrustDomain().Name()}, URIs: []*url.URL{id.TrustDomain().ID().URL()},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true,
	}, now, nil, nil)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		URIs: []*url.URL{id.ID().URL()}, DNSNames: []string{id.DNSName()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, f := range change {
		f(template)
	}
	leaf, key, err := issue(template, now, root, rootKey)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, root.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// issue signs t with the parent's key, or with its own when there is no parent.
func issue(t *x509.Certificate, now time.Time, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), serialBits))
	if err != nil {
		return nil, nil, fmt.Errorf("making a serial number: %w", err)
	}
	t.SerialNumber = serial.Add(serial, big.NewInt(1))
	t.NotBefore, t.NotAfter, t.BasicConstraintsValid = now.Add(-time.Minute), now.Add(rogueLife), true
	if parent == nil {
		parent, parentKey = t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, fmt.Errorf("making a certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, fmt.Errorf("parsing a certificate: %w", err)
	}
	return cert, key, nil
}
