package meshtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// TrustDomain is the trust domain of the World that New makes.
const TrustDomain = "mesh.test"

// DefaultClass is the class of agents that are registered without one.
const DefaultClass = "worker"

// World is one trust domain in memory. It is safe for concurrent use.
type World struct {
	tb testing.TB

	TD       spiffeid.TrustDomain
	CA       *CA
	Rogue    *CA // of the same trust domain, in nobody's bundle
	Registry *Registry
	Keys     *Keys
	Table    *Table

	offset     atomic.Int64
	signatures atomic.Int64
	bundles    atomic.Uint64
	distrusted atomic.Bool

	mu        sync.Mutex
	sources   map[identity.AgentID]*Source
	verifiers map[identity.AgentID]*delegation.Verifier
	engines   map[identity.AgentID]*policy.Engine
}

// New returns a World without agents whose table permits nothing.
func New(tb testing.TB) *World {
	tb.Helper()
	return In(tb, TrustDomain)
}

// In is New for another trust domain. Grants that the World makes are of TrustDomain all the same, so such a World serves
// tests that bring chains of their own.
func In(tb testing.TB, trustDomain string) *World {
	tb.Helper()
	w := &World{
		tb: tb, TD: spiffeid.RequireTrustDomainFromString(trustDomain), Registry: &Registry{},
		sources: map[identity.AgentID]*Source{}, verifiers: map[identity.AgentID]*delegation.Verifier{},
		engines: map[identity.AgentID]*policy.Engine{},
	}
	w.CA, w.Rogue = NewCA(tb, w.TD, w.Now), NewCA(tb, w.TD, w.Now)
	w.Keys = newKeys(tb)
	w.Table = newTable(w, tb)
	return w
}

// Now is the clock of everything in the World but TLS: the real one, moved by Advance.
func (w *World) Now() time.Time { return time.Now().Add(time.Duration(w.offset.Load())) }

// Advance moves the clock of the World.
func (w *World) Advance(d time.Duration) { w.offset.Add(int64(d)) }

// Signatures returns how many signatures the verifiers of the World were about to verify so far.
func (w *World) Signatures() int64 { return w.signatures.Load() }

// Tenant returns a tenant of the World.
func (w *World) Tenant(name string) identity.Tenant {
	w.tb.Helper()
	t, err := identity.RegisteredTenant(w.TD, name)
	if err != nil {
		w.tb.Fatalf("tenant %q: %v", name, err)
	}
	return t
}

// ID returns the id of an agent without registering it.
func (w *World) ID(tenant, name string) identity.AgentID {
	w.tb.Helper()
	id, err := identity.NewAgentID(w.Tenant(tenant), name)
	if err != nil {
		w.tb.Fatalf("agent %q of tenant %q: %v", name, tenant, err)
	}
	return id
}

// Agent registers an active agent of DefaultClass whose words may be TRUSTED. change may alter its record.
func (w *World) Agent(tenant, name string, change ...func(*identity.Record)) identity.AgentID {
	w.tb.Helper()
	return w.register(w.ID(tenant, name), change)
}

// Service registers an active control-plane service.
func (w *World) Service(name string, change ...func(*identity.Record)) identity.AgentID {
	w.tb.Helper()
	id, err := identity.NewServiceID(w.TD, name)
	if err != nil {
		w.tb.Fatalf("service %q: %v", name, err)
	}
	return w.register(id, change)
}

func (w *World) register(id identity.AgentID, change []func(*identity.Record)) identity.AgentID {
	rec := identity.Record{
		ID: id, Class: DefaultClass, State: identity.StateActive, IntegrityCap: int32(v1.Integrity_INTEGRITY_TRUSTED),
	}
	for _, f := range change {
		f(&rec)
	}
	w.Registry.Put(rec)
	return id
}

// source returns the one identity under which id signs hops.
func (w *World) source(id identity.AgentID) *Source {
	w.mu.Lock()
	s := w.sources[id]
	w.mu.Unlock()
	if s != nil {
		return s
	}
	s = w.Source(id)
	w.mu.Lock()
	defer w.mu.Unlock()
	if old := w.sources[id]; old != nil {
		return old
	}
	w.sources[id] = s
	return s
}

// Peer returns id as the verified peer of a connection; each call names the same certificate, whose key signs the hops of Chain.
func (w *World) Peer(id identity.AgentID) identity.Peer {
	w.tb.Helper()
	return w.source(id).Peer()
}

// Identity returns the Source whose key signs the hops of Chain for id.
func (w *World) Identity(id identity.AgentID) *Source {
	w.tb.Helper()
	return w.source(id)
}

// GetX509BundleForTrustDomain implements x509bundle.Source.
func (w *World) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	b := x509bundle.New(w.TD)
	if !w.distrusted.Load() {
		b.AddX509Authority(w.CA.Certificate())
	}
	return b.GetX509BundleForTrustDomain(td)
}

// Distrust empties the bundle, as the loss of a CA does.
func (w *World) Distrust() {
	w.distrusted.Store(true)
	w.bundles.Add(1)
}

// Verifier returns the chain verifier of self.
func (w *World) Verifier(self identity.AgentID) *delegation.Verifier {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if v := w.verifiers[self]; v != nil {
		return v
	}
	v, err := delegation.NewVerifier(delegation.Config{
		Self: self, Keys: w.Keys, Bundles: w, BundleGeneration: w.bundles.Load, Now: w.Now,
		Limits: delegation.Limits{Allow: func(_ identity.AgentID, n int) bool {
			w.signatures.Add(int64(n))
			return true
		}},
	})
	if err != nil {
		w.tb.Fatalf("verifier of %s: %v", self, err)
	}
	w.verifiers[self] = v
	return v
}

// Engine returns the policy engine of self, with the World's table in force.
func (w *World) Engine(self identity.AgentID) *policy.Engine {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.engines[self]; e != nil {
		return e
	}
	e, err := policy.NewEngine(policy.Config{Self: self, Registry: w.Registry, Now: w.Now})
	if err != nil {
		w.tb.Fatalf("engine of %s: %v", self, err)
	}
	if err := e.Activate(w.Table.Signed(w.tb)); err != nil {
		w.tb.Fatalf("engine of %s: %v", self, err)
	}
	w.engines[self] = e
	return e
}

// Keys are the grant keys that the World's verifiers trust. It implements delegation.KeyView and is safe for concurrent use.
type Keys struct {
	mu         sync.Mutex
	private    ed25519.PrivateKey
	public     map[string]ed25519.PublicKey
	generation uint64
}

var _ delegation.KeyView = (*Keys)(nil)

func newKeys(tb testing.TB) *Keys {
	tb.Helper()
	k := &Keys{}
	k.Replace(tb)
	return k
}

// GrantKey implements delegation.KeyView.
func (k *Keys) GrantKey(issuer, keyID string, _ time.Time) (ed25519.PublicKey, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	pub, ok := k.public[keyID]
	return pub, ok && issuer == Issuer
}

// Generation implements delegation.KeyView.
func (k *Keys) Generation() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.generation
}

// Private returns the key that signs grants.
func (k *Keys) Private() ed25519.PrivateKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.private
}

// Replace makes a new grant key the only one that is trusted.
func (k *Keys) Replace(tb testing.TB) {
	tb.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatalf("creating a grant key: %v", err)
	}
	id, err := delegation.KeyID(pub)
	if err != nil {
		tb.Fatalf("naming a grant key: %v", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.private, k.public = priv, map[string]ed25519.PublicKey{id: pub}
	k.generation++
}
