package meshtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/safeconduct/safeconduct/identity"
)

// How long the certificates of a World are valid, and how far back they begin, for tests that turn the clock.
const (
	caLife     = 240 * time.Hour
	defaultTTL = time.Hour
	backdate   = time.Minute
)

// CA is a certificate authority of one trust domain. It is safe for concurrent use.
type CA struct {
	td   spiffeid.TrustDomain
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	now  func() time.Time
}

// NewCA returns a new root for td.
func NewCA(tb testing.TB, td spiffeid.TrustDomain, now func() time.Time) *CA {
	tb.Helper()
	key := newKey(tb)
	tmpl := &x509.Certificate{
		SerialNumber: newSerial(tb), Subject: pkix.Name{CommonName: td.Name()}, URIs: []*url.URL{td.ID().URL()},
		NotBefore: now().Add(-time.Hour), NotAfter: now().Add(caLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		tb.Fatalf("creating a CA certificate: %v", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("parsing a CA certificate: %v", err)
	}
	return &CA{td: td, key: key, cert: cert, now: now}
}

// Certificate returns the root certificate.
func (c *CA) Certificate() *x509.Certificate { return c.cert }

// Issue returns a new SVID for id. change may alter the template before it is signed, to make certificates that no honest
// authority would sign.
func (c *CA) Issue(tb testing.TB, id identity.AgentID, ttl time.Duration, change ...func(*x509.Certificate)) *x509svid.SVID {
	tb.Helper()
	key := newKey(tb)
	tmpl := &x509.Certificate{
		SerialNumber: newSerial(tb), URIs: []*url.URL{id.ID().URL()}, DNSNames: []string{id.DNSName()},
		// TLS knows the real clock only, which stands behind that of a World that has moved.
		NotBefore: time.Now().Add(-backdate), NotAfter: c.now().Add(ttl),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, f := range change {
		f(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, key.Public(), c.key)
	if err != nil {
		tb.Fatalf("signing the certificate of %s: %v", id, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatalf("parsing the certificate of %s: %v", id, err)
	}
	return &x509svid.SVID{ID: id.ID(), Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("creating a key: %v", err)
	}
	return key
}

func newSerial(tb testing.TB) *big.Int {
	tb.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		tb.Fatalf("creating a serial number: %v", err)
	}
	return n.Add(n, big.NewInt(1))
}
