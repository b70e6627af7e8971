package chaintext_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/chaintext"
)

const (
	domain    = "acme.test"
	authority = "spiffe://acme.test/service/authority"
	memory    = "spiffe://acme.test/service/memory"
	planner   = "spiffe://acme.test/tenant/blue/agent/planner"
	analyst   = "spiffe://acme.test/tenant/blue/agent/analyst"
	executor  = "spiffe://acme.test/tenant/blue/agent/executor"
	purpose   = "weekly report"
)

var (
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	noon  = start.Add(5 * time.Minute)
)

// world is a trust domain whose every byte is the same in each run: keys come from names, nonces are counted.
type world struct {
	tb     testing.TB
	ca     *x509.Certificate
	caKey  ed25519.PrivateKey
	key    ed25519.PrivateKey
	serial int64
	nonce  byte
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{tb: tb, caKey: keyOf("ca"), key: keyOf("grants")}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: start.Add(-time.Hour), NotAfter: start.Add(24 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
	}
	w.ca = w.sign(tmpl, tmpl, w.caKey.Public())
	w.serial = 1
	return w
}

func keyOf(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func (w *world) sign(tmpl, by *x509.Certificate, pub any) *x509.Certificate {
	w.tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by, pub, w.caKey) // Ed25519 takes no randomness
	if err != nil {
		w.tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		w.tb.Fatal(err)
	}
	return cert
}

// svid is a certificate of an agent's key, valid until after the start.
func (w *world) svid(id string, after time.Duration) *x509.Certificate {
	w.tb.Helper()
	uri, err := url.Parse(id)
	if err != nil {
		w.tb.Fatal(err)
	}
	w.serial++
	return w.sign(&x509.Certificate{
		SerialNumber: big.NewInt(w.serial), URIs: []*url.URL{uri}, BasicConstraintsValid: true,
		NotBefore: start.Add(-time.Minute), NotAfter: start.Add(after), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, w.ca, keyOf(id).Public())
}

// fresh is 16 bytes that no other statement of this world has.
func (w *world) fresh() []byte {
	w.nonce++
	b := make([]byte, 16)
	b[15] = w.nonce
	return b
}

// GrantKey implements chaintext.Keys.
func (w *world) GrantKey(issuer, keyID string, _ time.Time) (ed25519.PublicKey, bool) {
	public, ok := w.key.Public().(ed25519.PublicKey)
	id, err := delegation.KeyID(public)
	return public, ok && err == nil && issuer == authority && keyID == id
}

func (w *world) roots() *x509bundle.Bundle {
	return x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString(domain), []*x509.Certificate{w.ca})
}

func (w *world) question() chaintext.Question {
	return chaintext.Question{At: noon, Keys: w, Bundles: w.roots()}
}

// builder makes chains that need not be valid.
type builder struct {
	w     *world
	c     *v1.DelegationChain
	id    [32]byte
	next  *v1.HopPayload
	owner string
}

func digest(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return sum[:]
}

func subtree(action string, reach uint32, path ...string) *v1.Capability {
	return &v1.Capability{Action: action, Resource: path, Subtree: true, Reach: reach}
}

func exact(action string, reach uint32, path ...string) *v1.Capability {
	return &v1.Capability{Action: action, Resource: path, Reach: reach}
}

func text(s string) *v1.Value { return &v1.Value{Kind: &v1.Value_Text{Text: s}} }

func atMost(key string, n int64) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_Range{Range: &v1.Range{Max: &n}}}
}

func oneOf(key string, values ...*v1.Value) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_OneOf{OneOf: &v1.ValueSet{Values: values}}}
}

func equals(key string, v *v1.Value) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_Eq{Eq: v}}
}

func where(c *v1.Capability, constraints ...*v1.Constraint) *v1.Capability {
	c.Constraints = constraints
	return c
}

func (w *world) grant(change ...func(*v1.GrantPayload)) *builder {
	w.tb.Helper()
	ms := start.UnixMilli()
	key, _ := w.key.Public().(ed25519.PublicKey)
	keyID, err := delegation.KeyID(key)
	if err != nil {
		w.tb.Fatal(err)
	}
	g := &v1.GrantPayload{
		Version: 1, ChainId: w.fresh(), Issuer: authority, KeyId: keyID, TrustDomain: domain, Tenant: "blue",
		Principal: &v1.Principal{Type: v1.Principal_TYPE_USER, Subject: "alice@acme.example", Issuer: "https://login.acme.test"},
		Delegate:  planner,
		Capabilities: []*v1.Capability{
			subtree("memory.read", 4, "notes"), exact("memory.write", 2, "notes", "report"),
			where(exact("payments.transfer", 3, "accounts", "7"), atMost("amount", 500), oneOf("currency", text("CHF"), text("EUR"))),
		},
		Delegates: []string{"spiffe://acme.test/tenant/blue/agent/*", memory}, MaxDepth: 4,
		IssuedAtMs: ms, NotBeforeMs: ms, ExpiresAtMs: ms + 900_000, LineageStartMs: ms,
		PurposeDigest: digest(purpose), TaskId: "task-17", PolicyEpoch: 7, StatementNonce: w.fresh(),
	}
	for _, f := range change {
		f(g)
	}
	payload := marshal(w.tb, g)
	b := &builder{w: w, owner: g.GetDelegate(), id: delegation.StatementID(delegation.TypeGrant, payload), c: &v1.DelegationChain{Grant: &v1.SignedStatement{
		Payload: payload, Signature: ed25519.Sign(w.key, delegation.PAE(delegation.TypeGrant, payload)),
	}}}
	b.next = &v1.HopPayload{
		Version: 1, ChainId: g.GetChainId(), Depth: g.GetDepthUsed(), Tenant: g.GetTenant(), Capabilities: g.GetCapabilities(), Delegates: g.GetDelegates(),
		MaxDepth: g.GetMaxDepth(), IssuedAtMs: ms, NotBeforeMs: ms, ExpiresAtMs: g.GetExpiresAtMs(), PurposeDigest: g.GetPurposeDigest(),
	}
	return b
}

// hop adds what the last delegate signs for the next.
func (b *builder) hop(to string, change ...func(*v1.HopPayload)) *builder {
	b.w.tb.Helper()
	return b.hopUnder(b.w.svid(b.owner, time.Hour), to, change...)
}

func (b *builder) hopUnder(cert *x509.Certificate, to string, change ...func(*v1.HopPayload)) *builder {
	b.w.tb.Helper()
	h := proto.CloneOf(b.next)
	h.Depth++
	h.ParentId, h.Issuer, h.Delegate, h.StatementNonce = b.id[:], b.owner, to, b.w.fresh()
	for _, f := range change {
		f(h)
	}
	payload := marshal(b.w.tb, h)
	b.c.Certs = append(b.c.Certs, &v1.CertChain{Leaf: cert.Raw})
	b.c.Hops = append(b.c.Hops, &v1.SignedStatement{
		Payload: payload, Signature: ed25519.Sign(keyOf(b.owner), delegation.PAE(delegation.TypeHop, payload)), CertRef: uint32(len(b.c.GetCerts())),
	})
	b.id, b.next, b.owner = delegation.StatementID(delegation.TypeHop, payload), h, to
	return b
}

func (b *builder) found() chaintext.Found {
	b.w.tb.Helper()
	f, err := chaintext.Read(marshal(b.w.tb, b.c))
	if err != nil {
		b.w.tb.Fatal(err)
	}
	return f
}

func marshal(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// good is a chain of three hops, each narrower than the one before.
func (w *world) good() *builder {
	return w.grant().hop(analyst, func(h *v1.HopPayload) {
		h.MaxDepth, h.ExpiresAtMs = 3, h.GetExpiresAtMs()-120_000
		h.Capabilities = []*v1.Capability{
			subtree("memory.read", 3, "notes"),
			where(exact("payments.transfer", 3, "accounts", "7"), atMost("amount", 100), equals("currency", text("EUR"))),
		}
	}).hop(memory, func(h *v1.HopPayload) {
		h.MaxDepth, h.Delegates = 2, nil
		h.Capabilities = []*v1.Capability{subtree("memory.read", 2, "notes", "week-9")}
	})
}

func id(tb testing.TB, s string) identity.AgentID {
	tb.Helper()
	out, err := identity.ParseAgent(s)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}
