package delegation

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"math"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// certificate is what a hop needs of its signer's verified certificate.
type certificate struct {
	agent    identity.AgentID
	key      crypto.PublicKey
	notAfter int64
	since    int64 // the interval in which the whole chain verifies
	until    int64
	bundles  uint64 // generation of the bundles that verified it
	der      [][]byte
}

// knownCertificate returns the cached certificate of s, nil when it was never verified or must be verified again.
func (v *Verifier) knownCertificate(s *signer, now int64, gen generation) *certificate {
	c, found := v.certs.get(s.key)
	if !found || c.bundles != gen.bundles || now < c.since || now > c.until {
		return nil
	}
	return c
}

// signerOf is step 14: the certificate of s, which must be d's issuer's. known is what the cache had, nil for nothing; what is verified
// here is kept for later.
func (v *Verifier) signerOf(s *signer, d *draft, known *certificate, now int64, gen generation) (*certificate, error) {
	if known != nil {
		return known, known.checkSigner(d)
	}
	c, err := v.verifyCertificate(s, d, now, gen)
	if err != nil {
		return nil, err
	}
	c.der = s.certs()
	v.certs.put(s.key, c)
	return c, nil
}

// verifyCertificate is step 14 for a certificate that is not cached. The certificate must name the issuer of the hop in its
// only URI SAN, be no CA, and verify now against the bundle of that trust domain.
func (v *Verifier) verifyCertificate(s *signer, d *draft, now int64, gen generation) (*certificate, error) {
	c, certs, err := readCertificate(s, d)
	if err != nil {
		return nil, err
	}
	for _, der := range s.intermediates {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refusef(d.position, v1.Reason_REASON_CHAIN_SVID, "an intermediate does not parse")
		}
		certs = append(certs, cert)
	}
	if _, err := v.cfg.Bundles.GetX509BundleForTrustDomain(c.agent.TrustDomain()); err != nil {
		return nil, refusef(d.position, v1.Reason_REASON_CHAIN_TRUST_DOMAIN, "no bundle of the trust domain")
	}
	_, chains, err := x509svid.Verify(certs, v.cfg.Bundles, x509svid.WithTime(time.UnixMilli(now)))
	if err != nil {
		return nil, refuse(d.position, v1.Reason_REASON_CHAIN_SVID, svidCause(err))
	}
	c.bundles = gen.bundles
	for _, chain := range chains {
		if since, until := validity(chain); until > c.until {
			c.since, c.until = since, until
		}
	}
	return c, nil
}

// svidCause tells the expired certificate from the others. The error of the library quotes names that nobody has verified.
func svidCause(err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return errors.New("a certificate is outside its validity")
	}
	return errors.New("the certificate does not verify against the bundle")
}

// readCertificate checks who a leaf names and how its key signs, without verifying it.
func readCertificate(s *signer, d *draft) (*certificate, []*x509.Certificate, error) {
	leaf := s.parsed
	if leaf == nil {
		var err error
		// Of a copy: the key of a parsed certificate lies in the bytes that were parsed, which are the caller's.
		if leaf, err = x509.ParseCertificate(bytes.Clone(s.leaf)); err != nil {
			return nil, nil, refusef(d.position, v1.Reason_REASON_CHAIN_BAD_SIGNER, "the certificate does not parse")
		}
	}
	peer, err := identity.PeerFromLeaf(leaf)
	if err != nil {
		return nil, nil, refusef(d.position, v1.Reason_REASON_CHAIN_BAD_SIGNER, "not the certificate of an agent or service")
	}
	if !statementKey(leaf.PublicKey) {
		return nil, nil, refusef(d.position, v1.Reason_REASON_CHAIN_BAD_SIGNER, "a key of type %T", leaf.PublicKey)
	}
	c := &certificate{agent: peer.Agent, key: leaf.PublicKey, notAfter: leaf.NotAfter.UnixMilli()}
	return c, []*x509.Certificate{leaf}, c.checkSigner(d)
}

// checkSigner is the part of step 14 that every hop needs, cached certificate or not: whose certificate it is.
func (c *certificate) checkSigner(d *draft) error {
	if c.agent != d.issuer {
		return refusef(d.position, v1.Reason_REASON_CHAIN_BAD_SIGNER, "the certificate is not the issuer's")
	}
	return nil
}

// checkHop is the rest of step 14, and step 15.
func (c *certificate) checkHop(d *draft) error {
	if d.expires > c.notAfter {
		return refusef(d.position, v1.Reason_REASON_CHAIN_LIFETIME, "outlives the signer's certificate")
	}
	if !validSignature(c.key, d.pae, d.statement.GetSignature()) {
		return refusef(d.position, v1.Reason_REASON_CHAIN_BAD_SIGNATURE, "not signed by the certificate's key")
	}
	return nil
}

// validity is the interval in which every certificate of a chain is valid, both ends included.
func validity(chain []*x509.Certificate) (since, until int64) {
	until = math.MaxInt64
	for _, cert := range chain {
		since, until = max(since, cert.NotBefore.UnixMilli()), min(until, cert.NotAfter.UnixMilli())
	}
	return since, until
}
