package plane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/authority"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/bolt"
	"github.com/safeconduct/safeconduct/policy/conduct"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/memoryserver"
)

// Config says where the plane lives. Dir and TrustDomain are required.
type Config struct {
	// Dir holds keys, registry, memory and audit logs; it is made with mode 0700.
	Dir         string
	TrustDomain string
	// SocketDir holds the two unix sockets; empty is Dir/run.
	SocketDir string
	// AuthorityListen and MemoryListen are host:port; empty is a free port on loopback.
	AuthorityListen, MemoryListen string
	// MemoryEdge is where Connect clients reach memory; empty is nowhere.
	MemoryEdge string
	// WorkloadAPI is the address of another issuer's SPIFFE Workload API, such as a SPIRE agent's. It issues the SVIDs of the plane's
	// services, and nothing of the embedded CA is trusted. It must offer this process spiffe://<trust domain>/service/authority and
	// /service/memory. Empty is the embedded one.
	WorkloadAPI string
	// SVIDLifetime is that of the embedded CA's certificates.
	SVIDLifetime time.Duration
	AgentBudget  conduct.Budget
	TenantBudget conduct.Budget
	Version      string
	Logger       *slog.Logger
}

// Plane is a running control plane.
type Plane struct {
	Authority *authority.Authority
	Memory    *runtime.Agent

	cfg       Config
	issuer    *runtime.Agent
	log       *audit.Log
	driver    *bolt.Driver
	sources   []identity.Source
	stop      context.CancelFunc
	wg        sync.WaitGroup
	mu        sync.Mutex
	failed    []error
	done      chan struct{}
	closeOnce sync.Once
	closeErr  error
}

// Start starts the plane; it serves until Close.
func Start(ctx context.Context, cfg Config) (_ *Plane, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.SocketDir == "" {
		cfg.SocketDir = filepath.Join(cfg.Dir, "run")
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	p := &Plane{cfg: cfg, stop: stop, done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("plane: %w", err)
	}
	p.log, err = audit.Open(p.AuditDir("authority"), audit.Config{Origin: cfg.TrustDomain + "/safeconduct/service/authority"})
	if err != nil {
		return nil, err
	}
	p.Authority, err = authority.Start(context.WithoutCancel(ctx), authority.Config{
		Dir: filepath.Join(cfg.Dir, "authority"), TrustDomain: cfg.TrustDomain, SocketDir: cfg.SocketDir, SVIDLifetime: cfg.SVIDLifetime,
		Audit: p.log, PeerFrom: interceptors.PeerFrom, Describe: p.describe, Issuer: p.foreignIssuer(),
		Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	if p.issuer, err = p.service(ctx, "authority", p.log, runtime.Config{Listen: cfg.AuthorityListen}); err != nil {
		return nil, err
	}
	rpcv1.RegisterAuthorityServiceServer(p.issuer, p.Authority.AuthorityServer())
	if err := p.startMemory(ctx); err != nil {
		return nil, err
	}
	for _, a := range []*runtime.Agent{p.issuer, p.Memory} {
		l, err := a.Listen(ctx)
		if err != nil {
			return nil, err
		}
		if err := p.serve(run, a, l); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// service makes the guarded runtime of one of the plane's own services.
func (p *Plane) service(ctx context.Context, name string, log *audit.Log, rc runtime.Config) (*runtime.Agent, error) {
	id, err := identity.NewServiceID(p.Authority.TrustDomain(), name)
	if err != nil {
		return nil, err
	}
	src, err := p.source(ctx, id)
	if err != nil {
		return nil, err
	}
	p.sources = append(p.sources, src)
	rc.Source, rc.Trust, rc.Audit = src, &localTrust{a: p.Authority, self: id}, log
	rc.AgentBudget, rc.TenantBudget, rc.Logger = p.cfg.AgentBudget, p.cfg.TenantBudget, p.cfg.Logger
	rc.AuditDir = p.AuditDir(name)
	return runtime.New(ctx, rc)
}

// source returns where a service of the plane has its SVIDs and bundles from.
func (p *Plane) source(ctx context.Context, id identity.AgentID) (identity.Source, error) {
	if p.cfg.WorkloadAPI == "" {
		return p.Authority.Source(id)
	}
	return runtime.WorkloadAPI(ctx, p.cfg.WorkloadAPI, id.String())
}

// foreignIssuer is nil for the embedded CA. Otherwise its roots are those that the authority's own runtime has, which starts after the
// authority and before its first call.
func (p *Plane) foreignIssuer() func() identity.Source {
	if p.cfg.WorkloadAPI == "" {
		return nil
	}
	return func() identity.Source { return p.issuer.Source() }
}

func (p *Plane) startMemory(ctx context.Context) error {
	dir := filepath.Join(p.cfg.Dir, "memory")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("plane: %w", err)
	}
	a, err := p.service(ctx, "memory", nil, runtime.Config{Listen: p.cfg.MemoryListen, Edge: p.cfg.MemoryEdge})
	if err != nil {
		return err
	}
	p.Memory = a
	if p.driver, err = bolt.Open(filepath.Join(dir, "memory.db"), bolt.Options{}); err != nil {
		return err
	}
	rec, err := memoryserver.NewRecorder(a.Audit(), dir)
	if err != nil {
		return err
	}
	store, err := memory.New(ctx, memory.Config{Driver: p.driver, Recorder: rec, Now: time.Now, Self: a.ID()})
	if err != nil {
		return err
	}
	memoryserver.Register(a, store)
	return nil
}

// serve runs a on l and returns when it is reachable or has failed.
func (p *Plane) serve(ctx context.Context, a *runtime.Agent, l net.Listener) error {
	ended := make(chan error, 1)
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		err := a.ServeListener(ctx, l)
		ended <- err
		if err != nil {
			p.mu.Lock()
			p.failed = append(p.failed, err)
			p.mu.Unlock()
		}
	}()
	for p.Authority.Locate(a.ID()) == "" {
		select {
		case err := <-ended:
			return fmt.Errorf("plane: %s: %w", a.ID(), err)
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

// AuditDir returns the folder of the audit log of a service of this plane, or of an agent that the same operator runs.
func (p *Plane) AuditDir(name string) string { return filepath.Join(p.cfg.Dir, "audit", name) }

// AuthorityAddr returns where agents reach the authority.
func (p *Plane) AuthorityAddr() string { return p.issuer.Addr() }

// MemoryAddr returns where agents reach memory.
func (p *Plane) MemoryAddr() string { return p.Memory.Addr() }

// WorkloadAPI returns the address of the Workload API that agents of this plane use.
func (p *Plane) WorkloadAPI() string {
	if p.cfg.WorkloadAPI != "" {
		return p.cfg.WorkloadAPI
	}
	return "unix://" + p.Authority.WorkloadSocket()
}

// Env returns the environment of an agent process on this plane.
func (p *Plane) Env(auditDir string) []string {
	return []string{
		runtime.EnvWorkloadAPI + "=" + p.WorkloadAPI(),
		runtime.EnvAuthority + "=" + p.AuthorityAddr(),
		runtime.EnvAuditDir + "=" + auditDir,
	}
}

// describe fills what only the process knows into the operator's status.
func (p *Plane) describe(out *rpcv1.StatusResponse) {
	out.Version = p.cfg.Version
	out.AuditDirs = []string{p.AuditDir("authority"), p.AuditDir("memory")}
	if p.issuer != nil && p.Memory != nil {
		out.AuthorityAddress, out.MemoryAddress = p.issuer.Addr(), p.Memory.Addr()
	}
}

// Close drains and ends everything; what was acknowledged is durable before it returns.
func (p *Plane) Close() error {
	p.closeOnce.Do(func() {
		defer close(p.done)
		if p.Authority != nil {
			p.Authority.EndWatches()
		}
		p.stop()
		p.wg.Wait()
		for _, a := range []*runtime.Agent{p.Memory, p.issuer} {
			if a != nil {
				p.closeErr = errors.Join(p.closeErr, a.Close())
			}
		}
		for _, s := range p.sources {
			p.closeErr = errors.Join(p.closeErr, s.Close())
		}
		if p.driver != nil {
			p.closeErr = errors.Join(p.closeErr, p.driver.Close())
		}
		if p.Authority != nil {
			p.closeErr = errors.Join(p.closeErr, p.Authority.Close())
		}
		if p.log != nil {
			p.closeErr = errors.Join(p.closeErr, p.log.Close())
		}
		p.mu.Lock()
		p.closeErr = errors.Join(append(p.failed, p.closeErr)...)
		p.mu.Unlock()
	})
	return p.closeErr
}
