package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/safeconduct/safeconduct/identity"
)

const (
	// rootLifetime is long because a root is rotated when somebody asks for it.
	rootLifetime = 5 * 365 * 24 * time.Hour
	// backdate covers clocks that run a little behind ours.
	backdate = 10 * time.Second
	// serialBytes is 128 bits: serials are unguessable and need no counter on disk.
	serialBytes = 16
	// maxDNSName is the longest name that RFC 1035 allows.
	maxDNSName = 253
)

// ErrRootExpired is returned when the root can no longer vouch for a leaf.
var ErrRootExpired = errors.New("root certificate has expired")

// ca issues X.509-SVIDs under one root, and under the next one while roots rotate. It is safe for concurrent use.
type ca struct {
	td      spiffeid.TrustDomain
	dir     string
	life    time.Duration
	now     func() time.Time
	changed broadcast // of the roots

	mu       sync.Mutex
	current  root
	next     *root
	takeover time.Time // of next
}

// openCA loads the root from dir, or makes it: a restart that made a new root would split the trust domain.
func openCA(dir string, td spiffeid.TrustDomain, life time.Duration, now func() time.Time) (*ca, error) {
	path := filepath.Join(dir, rootFile)
	raw, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = newRoot(path, td, now())
	}
	if err != nil {
		return nil, err
	}
	c := &ca{td: td, dir: dir, life: life, now: now}
	if c.current.cert, c.current.key, err = parseRoot(raw, td); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeyFile, path, err)
	}
	if !now().Before(c.current.cert.NotAfter) {
		return nil, fmt.Errorf("%w: %s ended at %s", ErrRootExpired, path, c.current.cert.NotAfter.Format(time.RFC3339))
	}
	return c, nil
}

func parseRoot(raw []byte, td spiffeid.TrustDomain) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, rest, err := parseKey(raw)
	if err != nil {
		return nil, nil, err
	}
	private, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, errors.New("not an ECDSA key")
	}
	block, rest := pem.Decode(rest)
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, nil, errors.New("not one certificate")
	}
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("parsing root: %w", err)
	}
	switch {
	case !private.PublicKey.Equal(root.PublicKey):
		return nil, nil, errors.New("certificate is of another key")
	case len(root.URIs) != 1 || root.URIs[0].String() != td.IDString():
		return nil, nil, fmt.Errorf("root is not of trust domain %s", td.Name())
	}
	return root, private, nil
}

func newRoot(path string, td spiffeid.TrustDomain, now time.Time) ([]byte, error) {
	key, err := newECKey()
	if err != nil {
		return nil, fmt.Errorf("making root: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("making root: %w", err)
	}
	uri, err := url.Parse(td.IDString())
	if err != nil {
		return nil, fmt.Errorf("making root: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// The serial number in the name keeps two roots of one trust domain apart in stacks that look issuers up by name.
		Subject: pkix.Name{
			Organization: []string{"Safeconduct"}, CommonName: "Safeconduct development root",
			SerialNumber: hex.EncodeToString(serial.Bytes()),
		},
		URIs:                  []*url.URL{uri},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLifetime),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making root: %w", err)
	}
	raw, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("making root: %w", err)
	}
	raw = append(raw, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	return raw, writeSecret(path, raw)
}

// issue makes a key and an X.509-SVID for id. The caller has decided that id is entitled to it.
func (c *ca) issue(id identity.AgentID) (*x509svid.SVID, error) {
	now := c.now()
	if id.TrustDomain() != c.td || len(id.DNSName()) > maxDNSName {
		return nil, fmt.Errorf("issuing for %q: %w", id.String(), identity.ErrNotAnIdentity)
	}
	// NotAfter has whole seconds; rounding down keeps the life within what was configured.
	notAfter := now.Add(c.life).Truncate(time.Second)
	by := c.signer()
	if notAfter.After(by.cert.NotAfter) {
		notAfter = by.cert.NotAfter
	}
	if !notAfter.After(now) {
		return nil, fmt.Errorf("issuing for %s: %w", id, ErrRootExpired)
	}
	key, err := newECKey()
	if err != nil {
		return nil, fmt.Errorf("issuing for %s: %w", id, err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("issuing for %s: %w", id, err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		// Never the root's subject: OpenSSL and BoringSSL take equal names for a self-signed certificate.
		Subject:               pkix.Name{Organization: []string{"Safeconduct workload"}},
		URIs:                  []*url.URL{id.ID().URL()},
		DNSNames:              []string{id.DNSName()},
		NotBefore:             now.Add(-backdate),
		NotAfter:              notAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		return nil, fmt.Errorf("issuing for %s: %w", id, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issuing for %s: %w", id, err)
	}
	return &x509svid.SVID{ID: id.ID(), Certificates: []*x509.Certificate{leaf}, PrivateKey: key}, nil
}

// bundle returns the roots of the trust domain.
func (c *ca) bundle() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(c.td, c.certificates())
}

func newSerial() (*big.Int, error) {
	var raw [serialBytes]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return nil, fmt.Errorf("serial: %w", err)
	}
	// RFC 5280 section 4.1.2.2 wants a positive number; the top bit makes it one without shortening it.
	raw[0] |= 0x80
	return new(big.Int).SetBytes(raw[:]), nil
}
