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
	rogueLife      = time.Hour
	serialBits     = 120
)

// chain makes the hop from the intruder to the target below a grant and signs it with the intruder's own key. It holds nothing
// against any rule: more is added to what the grant may pass on, whatever it is. delegation.Append would refuse that.
func (x *intruder) chain(grant *v1.SignedStatement, more ...*v1.Capability) (*v1.DelegationChain, error) {
	g, err := readGrant(grant)
	if err != nil {
		return nil, fmt.Errorf("reading a grant: %w", err)
	}
	svid, err := x.cfg.Source.GetX509SVID()
	if err != nil {
		return nil, fmt.Errorf("own SVID: %w", err)
	}
	signer, err := delegation.NewSigner(svid)
	if err != nil {
		return nil, err
	}
	payload, err := proto.Marshal(x.hop(grant, g, more, signer))
	if err != nil {
		return nil, fmt.Errorf("marshalling a hop: %w", err)
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

// hop is the last one of its chain: it lets nobody follow.
func (x *intruder) hop(grant *v1.SignedStatement, g *v1.GrantPayload, more []*v1.Capability, signer delegation.Signer) *v1.HopPayload {
	depth := g.GetDepthUsed() + 1
	var caps []*v1.Capability
	for _, c := range g.GetCapabilities() {
		if c.GetReach() >= depth {
			caps = append(caps, proto.CloneOf(c))
		}
	}
	for _, c := range more {
		caps = append(caps, proto.CloneOf(c))
	}
	for _, c := range caps {
		c.Reach = depth
	}
	now := x.cfg.Now()
	margin := min(hopMargin, signer.NotAfter().Sub(signer.NotBefore())/hopMarginShare)
	parent, nonce := grantID(grant), make([]byte, 16)
	_, _ = rand.Read(nonce) // never fails: crypto/rand ends the process instead
	return &v1.HopPayload{
		Version: 1, ChainId: g.GetChainId(), Depth: depth, ParentId: parent[:],
		Issuer: signer.ID().String(), Delegate: x.cfg.Target.String(), Tenant: g.GetTenant(),
		Capabilities: caps, MaxDepth: depth,
		IssuedAtMs:     now.UnixMilli(),
		NotBeforeMs:    max(g.GetNotBeforeMs(), now.Add(-hopBackdate).UnixMilli()),
		ExpiresAtMs:    min(g.GetExpiresAtMs(), signer.NotAfter().Add(-margin).UnixMilli()),
		StatementNonce: nonce, PurposeDigest: g.GetPurposeDigest(),
	}
}

// rogueCertificate is an SVID for id from a certificate authority that nobody trusts, in all else as a real one.
func rogueCertificate(id identity.AgentID, now time.Time) (*tls.Certificate, error) {
	root, rootKey, err := issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: id.TrustDomain().Name()}, URIs: []*url.URL{id.TrustDomain().ID().URL()},
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true,
	}, now, nil, nil)
	if err != nil {
		return nil, err
	}
	leaf, key, err := issue(&x509.Certificate{
		URIs: []*url.URL{id.ID().URL()}, DNSNames: []string{id.DNSName()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, now, root, rootKey)
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
