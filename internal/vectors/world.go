package vectors

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// The trust domain of the vectors, and when they play.
const (
	domain      = "acme.test"
	foreign     = "evil.test"
	authorityID = "spiffe://acme.test/service/authority"
	purpose     = "quarterly report"
	startMs     = 1772366400000 // 2026-03-01T12:00:00Z
	minuteMs    = 60_000
	hourMs      = 60 * minuteMs
	grantLifeMs = 15 * minuteMs
)

// The algorithms of a scene. In a mixed one, neighbours sign with different algorithms.
const (
	algEd25519 = "ed25519"
	algP256    = "p256"
	algMixed   = "mixed"
)

// world has the keys and certificates of all vectors. The first error sticks, and what follows it is thrown away.
type world struct {
	err     error
	root    *ca // of the trust domain
	grant   ed25519.PrivateKey
	parties map[string]*party
}

// ca is a root or an intermediate.
type ca struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// party is an identity with a key and a certificate.
type party struct {
	label         string
	id            string
	tenant        string
	key           crypto.Signer
	leaf          []byte
	intermediates [][]byte
}

func newWorld() *world {
	w := &world{parties: map[string]*party{}, grant: ed25519Key("grant")}
	w.root = w.newCA("root", w.curveKey(elliptic.P256(), "root"), nil)
	return w
}

func (w *world) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// serial is a positive number of 8 bytes.
func serial(label string) *big.Int {
	return new(big.Int).SetUint64(binary.BigEndian.Uint64(seed("serial "+label))>>1 | 1)
}

// newCA makes a root, or an intermediate under by. It is valid for an hour before and a day after the start.
func (w *world) newCA(label string, key crypto.Signer, by *ca, change ...func(*x509.Certificate)) *ca {
	td := domain
	if strings.HasPrefix(label, foreign) {
		td = foreign
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(label), Subject: pkix.Name{CommonName: label}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: at(startMs - hourMs), NotAfter: at(startMs + 24*hourMs), KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: td}}, SubjectKeyId: seed("key " + label)[:20],
	}
	for _, f := range change {
		f(tmpl)
	}
	if by == nil {
		by = &ca{cert: tmpl, key: key}
	}
	return &ca{cert: w.issue(tmpl, by, key.Public()), key: key}
}

// issue signs tmpl. Without a source of randomness both algorithms are deterministic.
func (w *world) issue(tmpl *x509.Certificate, by *ca, pub crypto.PublicKey) *x509.Certificate {
	der, err := x509.CreateCertificate(nil, tmpl, by.cert, pub, by.key)
	if err != nil {
		w.fail(fmt.Errorf("issuing %s: %w", tmpl.Subject.CommonName, err))
		return tmpl
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		w.fail(fmt.Errorf("reading a certificate: %w", err))
		return tmpl
	}
	return cert
}

// certOption changes what a party is issued.
type certOption func(*certSpec)

type certSpec struct {
	tmpl          *x509.Certificate
	key           crypto.Signer
	public        crypto.PublicKey // nil is the key's
	by            *ca
	intermediates []*ca
	rebuild       func(fields [][]byte) // nil: as issued
}

func lives(fromMs, toMs int64) certOption {
	return func(s *certSpec) { s.tmpl.NotBefore, s.tmpl.NotAfter = at(fromMs), at(toMs) }
}

func issuedBy(by *ca, intermediates ...*ca) certOption {
	return func(s *certSpec) { s.by, s.intermediates = by, intermediates }
}

func template(change func(*x509.Certificate)) certOption {
	return func(s *certSpec) { change(s.tmpl) }
}

func keyed(key crypto.Signer) certOption { return func(s *certSpec) { s.key = key } }

func publicKey(pub crypto.PublicKey) certOption { return func(s *certSpec) { s.public = pub } }

// party issues a certificate for id. Labels name keys: two parties of one label and algorithm are one.
func (w *world) party(label, id, alg string, opts ...certOption) *party {
	label += "." + alg
	if known := w.parties[label]; known != nil {
		return known
	}
	uri, err := url.Parse(id)
	if err != nil {
		w.fail(fmt.Errorf("reading %q: %w", id, err))
		uri = new(url.URL)
	}
	spec := &certSpec{by: w.root, tmpl: &x509.Certificate{
		SerialNumber: serial(label), URIs: []*url.URL{uri}, BasicConstraintsValid: true,
		NotBefore: at(startMs - minuteMs), NotAfter: at(startMs + hourMs), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}}
	if alg == algP256 {
		spec.key = w.curveKey(elliptic.P256(), label)
	} else {
		spec.key = ed25519Key(label)
	}
	for _, o := range opts {
		o(spec)
	}
	if spec.public == nil {
		spec.public = spec.key.Public()
	}
	p := &party{label: label, id: id, tenant: tenantOf(id), key: spec.key, leaf: w.issue(spec.tmpl, spec.by, spec.public).Raw}
	if spec.rebuild != nil {
		p.leaf = w.rebuild(p.leaf, spec.by, spec.rebuild)
	}
	for _, i := range spec.intermediates {
		p.intermediates = append(p.intermediates, i.cert.Raw)
	}
	w.parties[label] = p
	return p
}

// tenantOf returns the tenant of an agent, nothing for a service.
func tenantOf(id string) string {
	_, rest, isAgent := strings.Cut(id, "/tenant/")
	if !isAgent {
		return ""
	}
	tenant, _, _ := strings.Cut(rest, "/")
	return tenant
}

func agentID(name string) string { return "spiffe://" + domain + "/tenant/blue/agent/" + name }

// baseTrust is the roots and keys that vectors start from.
func (w *world) baseTrust() *Trust {
	return &Trust{
		Bundles:   []*Bundle{{TrustDomain: domain, Roots: []Hex{w.root.cert.Raw}}},
		GrantKeys: []*GrantKey{w.grantKey(authorityID, w.grant)},
	}
}

// grantKey publishes a key for the day of the vectors.
func (w *world) grantKey(issuer string, key ed25519.PrivateKey) *GrantKey {
	public, isKey := key.Public().(ed25519.PublicKey)
	if !isKey {
		w.fail(fmt.Errorf("a key of %s is not Ed25519", issuer))
	}
	return &GrantKey{
		Issuer: issuer, KeyID: w.keyID(public), PublicKey: Hex(public), NotBeforeMs: startMs - hourMs, NotAfterMs: startMs + 24*hourMs,
	}
}

// isP256 reports whether the party signs with ECDSA.
func (p *party) isP256() bool {
	_, ecdsaKey := p.key.(*ecdsa.PrivateKey)
	return ecdsaKey
}
