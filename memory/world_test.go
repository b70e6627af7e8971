package memory_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/bolt"
	"github.com/safeconduct/safeconduct/memory/memorytest"
	"github.com/safeconduct/safeconduct/policy"
)

// world is one store with everything that decides who may open it.
type world struct {
	testing.TB
	mesh   *meshtest.World
	self   identity.AgentID
	driver *faulty
	store  *memory.Store
	rec    *recorder
	// permits are kept, because each one costs a chain.
	permits map[string]policy.Permit
}

// onEachDriver runs fn on a world over each driver.
func onEachDriver(t *testing.T, fn func(t *testing.T, w *world)) {
	t.Run("model", func(t *testing.T) { fn(t, newWorld(t, memorytest.NewModel())) })
	t.Run("bolt", func(t *testing.T) { fn(t, newWorld(t, openBolt(t))) })
}

func openBolt(t testing.TB) memory.Driver {
	t.Helper()
	d, err := bolt.Open(filepath.Join(t.TempDir(), "memory.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newWorld(t testing.TB, d memory.Driver) *world {
	t.Helper()
	mesh := meshtest.New(t)
	w := &world{TB: t, mesh: mesh, self: mesh.Service("memory"), driver: &faulty{Driver: d}, rec: &recorder{}, permits: map[string]policy.Permit{}}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("closing the driver: %v", err)
		}
	})
	w.store = w.newStore(memory.Limits{})
	w.addTenants("acme", "globex")
	return w
}

func (w *world) newStore(l memory.Limits) *memory.Store {
	w.Helper()
	s, err := memory.New(w.Context(), memory.Config{Driver: w.driver, Recorder: w.rec, Now: w.mesh.Now, Self: w.self, Limits: l})
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) addTenants(names ...string) {
	w.Helper()
	for _, name := range names {
		if err := w.store.AddTenant(w.Context(), w.mesh.Tenant(name)); err != nil {
			w.Fatal(err)
		}
	}
}

// actor is an agent that asks for permits.
type actor struct {
	w       *world
	id      identity.AgentID
	control policy.Label
	exact   bool // the chain covers exact namespaces only
}

// own is the control label of an actor unless a test sets another.
var own = policy.Label{
	Integrity: v1.Integrity_INTEGRITY_ATTESTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL, AnyReader: true,
}

func (w *world) agent(tenant, name string) *actor {
	w.Helper()
	return &actor{w: w, id: w.mesh.Agent(tenant, name), control: own}
}

// permit asks the policy engine of the store, whose table lets everybody do everything everywhere: what these tests refuse, the
// store refuses.
func (a *actor) permit(action string, resource ...string) policy.Permit {
	a.w.Helper()
	key := fmt.Sprintf("%s %s %q %v %+v", a.id, action, resource, a.exact, a.control)
	if p, ok := a.w.permits[key]; ok && p.Check(a.w.mesh.Now()) == nil {
		return p
	}
	opts := []meshtest.Option{meshtest.Control(a.control), meshtest.Conversation(make([]byte, 16))}
	if a.exact {
		opts = append(opts, meshtest.Capabilities(meshtest.Capability(action, resource...)))
	}
	p := a.w.mesh.Permit(a.w, a.id, a.w.self, action, resource, opts...)
	a.w.permits[key] = p
	return p
}

// open opens a view of the namespace with a permit for exactly it.
func (a *actor) open(action string, labels ...string) *memory.View {
	a.w.Helper()
	v, err := a.w.store.Open(a.permit(action, labels...), namespace(a.w, labels...))
	if err != nil {
		a.w.Fatalf("Open(%q) = %v (%v)", labels, err, memory.ReasonOf(err))
	}
	return v
}

// put writes one value as the next version of a key.
func (a *actor) put(key, value string, labels ...string) memory.Entry {
	a.w.Helper()
	return a.write(memory.Put{Ref: ref(key), Value: []byte(value), MediaType: "text/plain"}, labels...)
}

func (a *actor) write(op memory.Op, labels ...string) memory.Entry {
	a.w.Helper()
	_, entries, err := a.open(memory.ActionWrite, labels...).Write(a.w.Context(), op)
	if err != nil || len(entries) != 1 {
		a.w.Fatalf("Write() = %d entries, %v", len(entries), err)
	}
	return entries[0]
}

func (a *actor) read(key string, labels ...string) (memory.Entry, error) {
	a.w.Helper()
	entries, err := a.open(memory.ActionRead, labels...).Read(a.w.Context(), ref(key))
	if err != nil {
		return memory.Entry{}, err
	}
	return entries[0], nil
}

func ref(key string) memory.Ref { return memory.Ref{Key: []byte(key)} }

func namespace(t testing.TB, labels ...string) memory.Namespace {
	t.Helper()
	ns, err := memory.NewNamespace(labels...)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// refused fails the test unless err is the sentinel with the reason.
func (w *world) refused(what string, err, sentinel error, reason v1.Reason) {
	w.Helper()
	if !errors.Is(err, sentinel) || memory.ReasonOf(err) != reason {
		w.Errorf("%s = %v, %v, want %v, %v", what, err, memory.ReasonOf(err), sentinel, reason)
	}
}

// recorder counts accesses and refuses when told to.
type recorder struct {
	mu         sync.Mutex
	begin, end error
	outcomes   []memory.Outcome
	open       int
}

func (r *recorder) Begin(context.Context, *memory.Access) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begin == nil {
		r.open++
	}
	return r.begin
}

func (r *recorder) End(_ context.Context, _ *memory.Access, o *memory.Outcome) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
	r.outcomes = append(r.outcomes, *o)
	return r.end
}

func (r *recorder) last() memory.Outcome {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.outcomes) == 0 {
		return memory.Outcome{}
	}
	return r.outcomes[len(r.outcomes)-1]
}

// faulty is a driver whose answers a test may change.
type faulty struct {
	memory.Driver
	onGet  func(t identity.Tenant, items []memory.Item)
	onScan func(t identity.Tenant, items []memory.Item)
}

func (f *faulty) Get(ctx context.Context, t identity.Tenant, keys ...memory.Key) ([]memory.Item, memory.Rev, error) {
	items, rev, err := f.Driver.Get(ctx, t, keys...)
	if f.onGet != nil && err == nil {
		f.onGet(t, items)
	}
	return items, rev, err
}

func (f *faulty) Scan(ctx context.Context, t identity.Tenant, r memory.Range) ([]memory.Item, memory.Rev, error) {
	items, rev, err := f.Driver.Scan(ctx, t, r)
	if f.onScan != nil && err == nil {
		f.onScan(t, items)
	}
	return items, rev, err
}
