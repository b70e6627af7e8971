package agenttest

import (
	"context"
	"crypto/x509"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/runtime"
)

// AgentOption says how an agent is registered or started.
type AgentOption func(*agentSpec)

type agentSpec struct {
	record identity.Record
	tenant string
	life   time.Duration
	change []func(*runtime.Config)
}

// Class sets the class by which the capability table knows the agent; the default is its name.
func Class(class string) AgentOption { return func(s *agentSpec) { s.record.Class = class } }

// Tenant puts the agent into another tenant than acme.
func Tenant(name string) AgentOption { return func(s *agentSpec) { s.tenant = name } }

// IntegrityCap sets the best that the agent's words can be; the default is TRUSTED.
func IntegrityCap(i v1.Integrity) AgentOption {
	return func(s *agentSpec) { s.record.IntegrityCap = int32(i) }
}

// SingleProcess registers the agent as one process: a second one is refused while the first lives.
func SingleProcess() AgentOption { return func(s *agentSpec) { s.record.SingleProcess = true } }

// SVIDLife makes the agent's certificates live for d; they are replaced before half of it is over. The default is an hour, without
// replacement.
func SVIDLife(d time.Duration) AgentOption { return func(s *agentSpec) { s.life = d } }

// Config changes the agent's configuration. Source, Trust, AuditDir and Now are the World's.
func Config(change func(*runtime.Config)) AgentOption {
	return func(s *agentSpec) { s.change = append(s.change, change) }
}

// process is one running agent.
type process struct {
	cancel context.CancelFunc // of Serve, nil before
	ended  chan error
	rotate context.CancelFunc
	wg     sync.WaitGroup
}

// Agent registers an agent of tenant acme and makes its process, which serves nothing until [World.Serve]. It ends with the test.
func (w *World) Agent(name string, options ...AgentOption) *runtime.Agent {
	w.tb.Helper()
	spec := specOf(name, options)
	id := w.mesh.Agent(spec.tenant, name, func(r *identity.Record) { spec.apply(r) })
	return w.start(id, spec)
}

// Service is Agent for a service of the control plane, such as memory: it belongs to no tenant and serves all.
func (w *World) Service(name string, options ...AgentOption) *runtime.Agent {
	w.tb.Helper()
	spec := specOf(name, options)
	id := w.mesh.Service(name, func(r *identity.Record) { spec.apply(r) })
	return w.start(id, spec)
}

func specOf(name string, options []AgentOption) agentSpec {
	spec := agentSpec{tenant: DefaultTenant}
	spec.record.Class, spec.record.IntegrityCap = name, int32(v1.Integrity_INTEGRITY_TRUSTED)
	for _, f := range options {
		f(&spec)
	}
	return spec
}

func (s *agentSpec) apply(r *identity.Record) {
	r.Class, r.IntegrityCap, r.SingleProcess = s.record.Class, s.record.IntegrityCap, s.record.SingleProcess
}

// Restart drains the agent a if it serves, ends its process unless Stop or Kill did, and makes another of the same identity over the same audit log, at
// another address. The test registers the services again and calls Serve.
func (w *World) Restart(a *runtime.Agent, options ...AgentOption) *runtime.Agent {
	w.tb.Helper()
	w.mu.Lock()
	running, spec := w.processes[a] != nil, w.specs[a.ID()]
	w.mu.Unlock()
	if running {
		w.Stop(a)
	}
	for _, f := range options {
		f(&spec)
	}
	return w.start(a.ID(), spec)
}

// Twin makes a second process of the agent a, with SVIDs and an audit folder of its own, as somebody does who starts a program twice.
// It is there to call others; [World.Records] are those of a.
func (w *World) Twin(a *runtime.Agent) *runtime.Agent {
	w.tb.Helper()
	w.mu.Lock()
	spec := w.specs[a.ID()]
	w.mu.Unlock()
	return w.startIn(a.ID(), spec, filepath.Join(w.tb.TempDir(), "audit"))
}

func (w *World) start(id identity.AgentID, spec agentSpec) *runtime.Agent {
	w.tb.Helper()
	return w.startIn(id, spec, w.dir(id))
}

func (w *World) startIn(id identity.AgentID, spec agentSpec, dir string) *runtime.Agent {
	w.tb.Helper()
	src := w.source(id, spec.life)
	p := &process{}
	cfg := runtime.Config{Source: src, Trust: &trust{w: w, self: id}, AuditDir: dir, Now: w.mesh.Now}
	for _, f := range spec.change {
		f(&cfg)
	}
	a, err := runtime.New(context.WithoutCancel(w.tb.Context()), cfg)
	if err != nil {
		w.tb.Fatalf("agenttest: starting %s: %v", id, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.rotate = cancel
	if spec.life > 0 {
		p.wg.Add(1)
		go func() { defer p.wg.Done(); rotate(ctx, src, spec.life*2/5) }()
	}
	w.mu.Lock()
	w.processes[a], w.specs[id] = p, spec
	w.mu.Unlock()
	w.tb.Cleanup(func() { w.end(a, p) })
	return a
}

// source returns the identity of a process. A short life is counted from the issue, so such an SVID is hardly backdated.
func (w *World) source(id identity.AgentID, life time.Duration) *meshtest.Source {
	w.tb.Helper()
	var opts []meshtest.SourceOption
	if life > 0 {
		opts = append(opts, meshtest.TTL(life), meshtest.Template(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(-time.Second) }))
	}
	src := w.mesh.Source(id, opts...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sources[id] = src
	return src
}

func rotate(ctx context.Context, src *meshtest.Source, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			src.Rotate()
		}
	}
}

// dir is where the agent's audit log is, across restarts.
func (w *World) dir(id identity.AgentID) string {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dirs[id] == "" {
		w.dirs[id] = filepath.Join(w.tb.TempDir(), "audit")
	}
	return w.dirs[id]
}

func (w *World) process(a *runtime.Agent) *process {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.processes[a]
	if p == nil {
		w.tb.Fatalf("agenttest: %s is not a running agent of this World", a.ID())
	}
	return p
}

// Serve starts the agents' servers and returns when they are reachable. Register services before.
func (w *World) Serve(agents ...*runtime.Agent) {
	w.tb.Helper()
	for _, a := range agents {
		p := w.process(a)
		ctx, cancel := context.WithCancel(context.Background())
		p.cancel, p.ended = cancel, make(chan error, 1)
		w.mu.Lock()
		delete(w.addresses, a.ID())
		w.mu.Unlock()
		go func() { p.ended <- a.Serve(ctx) }()
		w.await(a.ID().String()+" to serve", func() bool {
			select {
			case err := <-p.ended:
				p.ended <- err
				w.tb.Fatalf("agenttest: serving %s: %v", a.ID(), err)
			default:
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.addresses[a.ID()] != ""
		})
	}
}

// Stop drains an agent, as SIGTERM does, and ends it.
func (w *World) Stop(a *runtime.Agent) {
	w.tb.Helper()
	p := w.process(a)
	if p.cancel != nil {
		p.cancel()
		if err := <-p.ended; err != nil {
			w.tb.Errorf("agenttest: serving %s: %v", a.ID(), err)
		}
		p.cancel = nil
	}
	w.end(a, p)
}

// Kill ends an agent without a drain: its connections break, and calls in flight have no answer.
func (w *World) Kill(a *runtime.Agent) {
	w.tb.Helper()
	w.end(a, w.process(a))
}

func (w *World) end(a *runtime.Agent, p *process) {
	w.mu.Lock()
	known := w.processes[a] != nil
	delete(w.processes, a)
	w.mu.Unlock()
	if !known {
		return
	}
	p.rotate()
	p.wg.Wait()
	if err := a.Close(); err != nil {
		w.tb.Errorf("agenttest: closing %s: %v", a.ID(), err)
	}
	if p.cancel != nil {
		p.cancel()
		<-p.ended //nolint:errcheck // the agent was closed under Serve on purpose: how Serve ends says nothing
	}
}

// Dial returns from's connection to the agent to.
func (w *World) Dial(from, to *runtime.Agent) *runtime.Conn {
	w.tb.Helper()
	c, err := from.Dial(to.ID().String())
	if err != nil {
		w.tb.Fatalf("agenttest: %v", err)
	}
	return c
}

// Records returns everything in the audit log of a, running or not, expanded.
func (w *World) Records(a *runtime.Agent) []*v1.AuditEvent {
	w.tb.Helper()
	_ = a.Audit().Sync(w.tb.Context()) // a closed log is durable already
	var out []*v1.AuditEvent
	for rec, err := range audit.Expanded(audit.ReadDir(w.dir(a.ID()))) {
		if err != nil {
			w.tb.Fatalf("agenttest: audit log of %s: %v", a.ID(), err)
		}
		out = append(out, rec.Event)
	}
	return out
}

// everybody is who may appear in a chain: the first agent's tenant, and whoever else the World has started.
func (w *World) everybody(first identity.AgentID) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []string
	if !first.IsService() {
		out = append(out, "spiffe://"+TrustDomain+"/tenant/"+first.Tenant().Name()+"/agent/*")
	}
	for a := range w.processes {
		if id := a.ID(); id.IsService() || id.Tenant() != first.Tenant() {
			out = append(out, id.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
