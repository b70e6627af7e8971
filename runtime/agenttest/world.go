package agenttest

import (
	"context"
	"sync"
	"testing"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/runtime"
)

// What a World uses where the test names nothing.
const (
	TrustDomain   = meshtest.TrustDomain
	DefaultTenant = "acme"
)

// patience bounds every wait for something that a healthy World does in milliseconds.
const patience = time.Minute

// World is a trust domain for one test: authority, registry, capability table, and the agents that the test starts. A failure of the
// World itself fails the test. It is safe for concurrent use by goroutines of the test that end before it.
type World struct {
	tb   testing.TB
	mesh *meshtest.World

	mu        sync.Mutex
	table     *policy.Table
	changed   chan struct{}
	addresses map[identity.AgentID]string
	processes map[*runtime.Agent]*process
	sources   map[identity.AgentID]*meshtest.Source
	specs     map[identity.AgentID]agentSpec
	dirs      map[identity.AgentID]string
	see       func(Message)
	taps      map[identity.AgentID]string
	unrenewed bool
}

// New returns a World without agents, in which nothing is permitted. It ends with the test.
func New(tb testing.TB) *World {
	tb.Helper()
	tb.TempDir() // the folders of the logs are removed after the agents are closed
	w := &World{
		tb: tb, mesh: meshtest.New(tb), changed: make(chan struct{}), addresses: map[identity.AgentID]string{},
		processes: map[*runtime.Agent]*process{}, sources: map[identity.AgentID]*meshtest.Source{},
		specs: map[identity.AgentID]agentSpec{}, dirs: map[identity.AgentID]string{}, taps: map[identity.AgentID]string{},
	}
	w.table = w.mesh.Table.Signed(tb)
	return w
}

// Now is the clock of the World: the real one, moved by Advance.
func (w *World) Now() time.Time { return w.mesh.Now() }

// Advance moves the clock by which grants, hops, messages and sessions expire. Certificates in handshakes keep the real one.
func (w *World) Advance(d time.Duration) { w.mesh.Advance(d) }

// Allow adds a row to the capability table: agents of from's class may do action at the agent to. The resource is the one that the
// request names, or, for a method that declares none, "agent" and the name of to, which is also what no resource means here. It
// covers exactly this resource. Allow returns when the row is in force at every agent of the World.
func (w *World) Allow(from, to *runtime.Agent, action string, resource ...string) {
	w.tb.Helper()
	w.allow(from, to, action, resource, false)
}

// AllowBelow is Allow for everything strictly below resource.
func (w *World) AllowBelow(from, to *runtime.Agent, action string, resource ...string) {
	w.tb.Helper()
	w.allow(from, to, action, resource, true)
}

func (w *World) allow(from, to *runtime.Agent, action string, resource []string, below bool) {
	w.tb.Helper()
	rec := w.mesh.Registry.Agent(from.ID())
	if rec == nil {
		w.tb.Fatalf("agenttest: %s is not registered", from.ID())
		return
	}
	if len(resource) == 0 {
		resource = ownResource(to.ID())
	}
	w.mesh.Table.Allow(from.ID().Tenant().Name(), rec.Class, action, resource, below, to.ID().String())
	w.publish()
}

// Revoke takes every row for the action out of the table again. It returns when that is in force at every agent of the World.
func (w *World) Revoke(action string) {
	w.tb.Helper()
	for _, row := range w.mesh.Table.Proto().GetRows() {
		if row.GetCapability().GetAction() == action {
			w.mesh.Table.RemoveRow(row.GetId())
		}
	}
	w.publish()
}

func ownResource(id identity.AgentID) []string {
	if id.IsService() {
		return []string{"service", id.Name()}
	}
	return []string{"agent", id.Name()}
}

// publish hands the table to the agents and waits until each has it.
func (w *World) publish() {
	w.tb.Helper()
	table := w.mesh.Table.Signed(w.tb)
	w.mu.Lock()
	w.table = table
	close(w.changed)
	w.changed = make(chan struct{})
	var running []*runtime.Agent
	for a := range w.processes {
		running = append(running, a)
	}
	w.mu.Unlock()
	for _, a := range running {
		w.await("the table at "+a.ID().String(), func() bool { return a.PolicySerial() >= table.Serial() })
	}
}

// await waits until done holds, and fails the test when that takes too long.
func (w *World) await(what string, done func() bool) {
	w.tb.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-end.C:
			w.tb.Fatalf("agenttest: waited %v for %s", patience, what)
			return
		}
	}
}

// SetState changes the state of an agent in the registry, such as identity.StateSuspended. It is in force at once.
func (w *World) SetState(a *runtime.Agent, s identity.State) { w.mesh.Registry.SetState(a.ID(), s) }

// SetReplicated says whether the authority knows of more than one live process of an agent. It is in force at once.
func (w *World) SetReplicated(a *runtime.Agent, many bool) {
	w.tb.Helper()
	rec := w.mesh.Registry.Agent(a.ID())
	if rec == nil {
		w.tb.Fatalf("agenttest: %s is not registered", a.ID())
		return
	}
	next := *rec
	next.Replicated = many
	w.mesh.Registry.Put(next)
}

// GrantOption says what a grant carries.
type GrantOption func(*grantSpec)

type grantSpec struct {
	caps    []*v1.Capability
	purpose string
	options []meshtest.Option
}

// Can lets the grant carry one action on exactly resource.
func Can(action string, resource ...string) GrantOption {
	return func(g *grantSpec) { g.caps = append(g.caps, meshtest.Capability(action, resource...)) }
}

// CanBelow lets the grant carry one action on everything strictly below resource.
func CanBelow(action string, resource ...string) GrantOption {
	return func(g *grantSpec) { g.caps = append(g.caps, meshtest.Below(action, resource...)) }
}

// Purpose says what the grant is for; every call under it has this purpose.
func Purpose(p string) GrantOption { return func(g *grantSpec) { g.purpose = p } }

// Life sets how long the grant lives; the default is ten minutes.
func Life(d time.Duration) GrantOption {
	return func(g *grantSpec) { g.options = append(g.options, meshtest.Life(d)) }
}

// MaxDepth sets how many hops the grant may travel; the default is eight.
func MaxDepth(n uint32) GrantOption {
	return func(g *grantSpec) { g.options = append(g.options, meshtest.MaxDepth(n)) }
}

// Delegates replaces who may appear in the chain: SPIFFE IDs or patterns. The default is every agent of the caller's tenant and
// every service and agent that the World has started.
func Delegates(patterns ...string) GrantOption {
	return func(g *grantSpec) { g.options = append(g.options, meshtest.Delegates(patterns...)) }
}

// As issues a grant of the user to the agent a and returns a context in which a acts under it, as [runtime.Agent.Act] does.
func (w *World) As(user string, a *runtime.Agent, grant ...GrantOption) context.Context {
	w.tb.Helper()
	s, purpose := w.Grant(user, a, grant...)
	ctx, err := a.Act(w.tb.Context(), s, purpose)
	if err != nil {
		w.tb.Fatalf("agenttest: %s acting for %s: %v", a.ID(), user, err)
	}
	return ctx
}

// Grant issues what [World.As] acts under, and returns its purpose.
func (w *World) Grant(user string, a *runtime.Agent, grant ...GrantOption) (*v1.SignedStatement, string) {
	w.tb.Helper()
	g := &grantSpec{purpose: meshtest.DefaultPurpose}
	for _, f := range grant {
		f(g)
	}
	options := []meshtest.Option{
		meshtest.User(user), meshtest.Purpose(g.purpose), meshtest.Delegates(w.everybody(a.ID())...),
	}
	if len(g.caps) > 0 {
		options = append(options, meshtest.Capabilities(g.caps...))
	}
	return w.mesh.Grant(w.tb, a.ID(), append(options, g.options...)...), g.purpose
}
