package delegation_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

const (
	domain    = "acme.test"
	authority = "spiffe://acme.test/service/authority"
	purpose   = "quarterly report"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a trust domain in memory: a CA, a grant key, a clock, and views that tests move.
type world struct {
	tb      testing.TB
	ca      *authorityCA
	bundles *x509bundle.Set
	key     ed25519.PrivateKey
	keyID   string
	keys    *keyView
	offset  atomic.Int64 // of the clock
	bundle  atomic.Uint64
	lookups atomic.Int64 // of bundles
}

type authorityCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

type keyView struct {
	mu         sync.Mutex
	keys       map[[2]string]ed25519.PublicKey
	generation atomic.Uint64
	lookups    atomic.Int64
}

func (k *keyView) GrantKey(issuer, keyID string, _ time.Time) (ed25519.PublicKey, bool) {
	k.lookups.Add(1)
	k.mu.Lock()
	defer k.mu.Unlock()
	key, found := k.keys[[2]string{issuer, keyID}]
	return key, found
}

func (k *keyView) Generation() uint64 { return k.generation.Load() }

func (k *keyView) set(issuer, keyID string, key ed25519.PublicKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys[[2]string{issuer, keyID}] = key
}

// revoked is a copy-on-write set of handles.
type revoked struct {
	mu      sync.Mutex
	epoch   atomic.Uint64
	handles atomic.Pointer[map[[32]byte]bool]
}

func (r *revoked) Epoch() uint64 { return r.epoch.Load() }

func (r *revoked) Revoked(handles [][32]byte) bool {
	set := r.handles.Load()
	if set == nil {
		return false
	}
	for _, h := range handles {
		if (*set)[h] {
			return true
		}
	}
	return false
}

func (r *revoked) revoke(h [32]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := map[[32]byte]bool{h: true}
	if set := r.handles.Load(); set != nil {
		for old := range *set {
			next[old] = true
		}
	}
	r.handles.Store(&next)
	r.epoch.Add(1)
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{tb: tb, keys: &keyView{keys: map[[2]string]ed25519.PublicKey{}}}
	w.ca = newCA(tb, nil)
	td := spiffeid.RequireTrustDomainFromString(domain)
	w.bundles = x509bundle.NewSet(x509bundle.FromX509Authorities(td, []*x509.Certificate{w.ca.cert}))
	_, w.key, _ = ed25519.GenerateKey(rand.Reader)
	w.keyID = must(tb)(delegation.KeyID(w.key.Public().(ed25519.PublicKey)))
	w.keys.set(authority, w.keyID, w.key.Public().(ed25519.PublicKey))
	return w
}

// must turns an error of the fixture into the end of the test.
func must(tb testing.TB) func(string, error) string {
	return func(s string, err error) string {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return s
	}
}

func (w *world) now() time.Time { return start.Add(time.Duration(w.offset.Load())) }

func (w *world) move(d time.Duration) { w.offset.Add(int64(d)) }

// GetX509BundleForTrustDomain counts what the verifier asks for.
func (w *world) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	w.lookups.Add(1)
	return w.bundles.GetX509BundleForTrustDomain(td)
}

func (w *world) config(self *agent) delegation.Config {
	return delegation.Config{
		Self: self.id, Keys: w.keys, Bundles: w, BundleGeneration: w.bundle.Load, Now: w.now,
	}
}

func (w *world) verifier(self *agent, change ...func(*delegation.Config)) *delegation.Verifier {
	w.tb.Helper()
	cfg := w.config(self)
	for _, f := range change {
		f(&cfg)
	}
	v, err := delegation.NewVerifier(cfg)
	if err != nil {
		w.tb.Fatal(err)
	}
	return v
}

// newCA makes a root, or an intermediate of parent.
func newCA(tb testing.TB, parent *authorityCA) *authorityCA {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "ca " + serial().Text(16)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: start.Add(-time.Hour), NotAfter: start.Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
	}
	signer := parent
	if parent == nil {
		signer = &authorityCA{cert: tmpl, key: key}
	}
	return &authorityCA{cert: issue(tb, tmpl, signer, key.Public()), key: key}
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return n
}

func issue(tb testing.TB, tmpl *x509.Certificate, by *authorityCA, pub crypto.PublicKey) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, pub, by.key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// agent is one identity with a current SVID.
type agent struct {
	id     identity.AgentID
	key    crypto.Signer
	certs  []*x509.Certificate
	signer delegation.Signer
	peer   identity.Peer
}

type svidOption func(*svidSpec)

type svidSpec struct {
	tmpl  *x509.Certificate
	key   crypto.Signer
	by    *authorityCA
	chain []*x509.Certificate
}

func withKey(key crypto.Signer) svidOption { return func(s *svidSpec) { s.key = key } }

func ed25519Key() crypto.Signer {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	return key
}

func p256Key() crypto.Signer {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return key
}

func life(before, after time.Duration) svidOption {
	return func(s *svidSpec) { s.tmpl.NotBefore, s.tmpl.NotAfter = start.Add(before), start.Add(after) }
}

func issuedBy(ca *authorityCA, chain ...*x509.Certificate) svidOption {
	return func(s *svidSpec) { s.by, s.chain = ca, chain }
}

func withCert(change func(*x509.Certificate)) svidOption {
	return func(s *svidSpec) { change(s.tmpl) }
}

func (w *world) agent(name string, opts ...svidOption) *agent {
	w.tb.Helper()
	return w.as("spiffe://"+domain+"/tenant/blue/agent/"+name, opts...)
}

// as issues an SVID for any identity.
func (w *world) as(uri string, opts ...svidOption) *agent {
	w.tb.Helper()
	id, err := identity.ParseAgent(uri)
	if err != nil {
		w.tb.Fatal(err)
	}
	a := w.loose(id, opts...)
	svid := &x509svid.SVID{ID: id.ID(), Certificates: a.certs, PrivateKey: a.key}
	if a.signer, err = delegation.NewSigner(svid); err != nil {
		w.tb.Fatal(err)
	}
	if a.peer, err = identity.PeerFromLeaf(a.certs[0]); err != nil {
		w.tb.Fatal(err)
	}
	return a
}

// loose issues a certificate that need not be a valid SVID, so that a.signer and a.peer stay empty.
func (w *world) loose(id identity.AgentID, opts ...svidOption) *agent {
	w.tb.Helper()
	uri, err := url.Parse(id.String())
	if err != nil {
		w.tb.Fatal(err)
	}
	spec := &svidSpec{by: w.ca, tmpl: &x509.Certificate{
		SerialNumber: serial(), URIs: []*url.URL{uri}, DNSNames: []string{id.DNSName()}, BasicConstraintsValid: true,
		NotBefore: start.Add(-time.Minute), NotAfter: start.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}}
	for _, o := range opts {
		o(spec)
	}
	if spec.key == nil {
		spec.key = ed25519Key()
	}
	cert := issue(w.tb, spec.tmpl, spec.by, spec.key.Public())
	return &agent{id: id, key: spec.key, certs: append([]*x509.Certificate{cert}, spec.chain...)}
}

// capability is action on a subtree, that may travel as deep as grants allow unless a test says otherwise.
func capability(action string, resource ...string) *v1.Capability {
	return &v1.Capability{Action: action, Resource: resource, Subtree: true, Reach: 4}
}

func exactly(c *v1.Capability) *v1.Capability {
	c.Subtree = false
	return c
}

func constrained(c *v1.Capability, constraints ...*v1.Constraint) *v1.Capability {
	c.Constraints = constraints
	return c
}

func digestOf(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

// grant signs a grant for a, whatever change made of it.
func (w *world) grant(a *agent, change ...func(*v1.GrantPayload)) *v1.SignedStatement {
	w.tb.Helper()
	p := w.grantPayload(a)
	for _, f := range change {
		f(p)
	}
	return w.signGrant(marshal(w.tb, p))
}

func (w *world) signGrant(payload []byte) *v1.SignedStatement {
	return &v1.SignedStatement{Payload: payload, Signature: ed25519.Sign(w.key, delegation.PAE(delegation.TypeGrant, payload))}
}

func (w *world) grantPayload(a *agent) *v1.GrantPayload {
	ms := w.now().UnixMilli()
	return &v1.GrantPayload{
		Version: 1, ChainId: random(16), Issuer: authority, KeyId: w.keyID, TrustDomain: domain, Tenant: "blue",
		Principal: &v1.Principal{Type: v1.Principal_TYPE_USER, Subject: "ada", Issuer: "https://login.acme.test"},
		Delegate:  a.id.String(), Capabilities: []*v1.Capability{capability("memory.read", "ns"), exactly(capability("memory.write", "ns", "a"))},
		Delegates: []string{"spiffe://" + domain + "/tenant/blue/agent/*", authority}, MaxDepth: 4,
		IssuedAtMs: ms, NotBeforeMs: ms, ExpiresAtMs: ms + 900_000, LineageStartMs: ms,
		PurposeDigest: digestOf(purpose), TaskId: "task-1", PolicyEpoch: 7, StatementNonce: random(16),
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func marshal(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// builder makes chains that need not be valid: it signs what it is told to.
type builder struct {
	w        *world
	c        *v1.DelegationChain
	last     *agent
	parentID [32]byte
	payload  *v1.HopPayload // what the next hop inherits
}

func (w *world) chain(first *agent, change ...func(*v1.GrantPayload)) *builder {
	w.tb.Helper()
	return w.chainFrom(w.grant(first, change...), first)
}

func (w *world) chainFrom(g *v1.SignedStatement, first *agent) *builder {
	w.tb.Helper()
	p := new(v1.GrantPayload)
	if err := proto.Unmarshal(g.GetPayload(), p); err != nil {
		w.tb.Fatal(err)
	}
	return &builder{
		w: w, c: &v1.DelegationChain{Grant: g}, last: first,
		parentID: delegation.StatementID(delegation.TypeGrant, g.GetPayload()),
		payload: &v1.HopPayload{
			Version: 1, ChainId: p.GetChainId(), Depth: p.GetDepthUsed(), Tenant: p.GetTenant(), Capabilities: p.GetCapabilities(),
			Delegates: p.GetDelegates(), MaxDepth: p.GetMaxDepth(), IssuedAtMs: p.GetIssuedAtMs(), NotBeforeMs: p.GetNotBeforeMs(),
			ExpiresAtMs: p.GetExpiresAtMs(), PurposeDigest: p.GetPurposeDigest(),
		},
	}
}

// to adds the hop from the last delegate to a.
func (b *builder) to(a *agent, change ...func(*v1.HopPayload)) *builder {
	b.w.tb.Helper()
	p := proto.CloneOf(b.payload)
	for _, c := range p.GetCapabilities() {
		c.Reach = min(c.GetReach(), p.GetMaxDepth())
	}
	p.Depth++
	p.ParentId, p.Issuer, p.Delegate, p.StatementNonce = b.parentID[:], b.last.id.String(), a.id.String(), random(16)
	for _, f := range change {
		f(p)
	}
	b.payload = p
	return b.raw(a, marshal(b.w.tb, p))
}

// raw adds a hop of exactly these bytes.
func (b *builder) raw(a *agent, payload []byte) *builder {
	b.w.tb.Helper()
	b.c.Certs = append(b.c.Certs, chainOf(b.last))
	b.c.Hops = append(b.c.Hops, &v1.SignedStatement{
		Payload: payload, Signature: b.w.sign(b.last, delegation.TypeHop, payload), CertRef: uint32(len(b.c.Certs)),
	})
	b.parentID = delegation.StatementID(delegation.TypeHop, payload)
	b.last = a
	return b
}

func chainOf(a *agent) *v1.CertChain {
	c := &v1.CertChain{Leaf: a.certs[0].Raw}
	for _, i := range a.certs[1:] {
		c.Intermediates = append(c.Intermediates, i.Raw)
	}
	return c
}

func (w *world) sign(a *agent, payloadType string, payload []byte) []byte {
	w.tb.Helper()
	return w.signBytes(a, delegation.PAE(payloadType, payload))
}

func (w *world) signBytes(a *agent, b []byte) []byte {
	w.tb.Helper()
	switch key := a.key.(type) {
	case *ecdsa.PrivateKey:
		sum := sha256.Sum256(b)
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			w.tb.Fatal(err)
		}
		half := (key.Curve.Params().BitSize + 7) / 8
		sig := make([]byte, 2*half)
		r.FillBytes(sig[:half])
		s.FillBytes(sig[half:])
		return sig[:64]
	case ed25519.PrivateKey:
		return ed25519.Sign(key, b)
	}
	return make([]byte, 64)
}

// reason formats what err was refused for.
func reason(err error) v1.Reason {
	if err == nil {
		return 0
	}
	return delegation.ReasonOf(err)
}
