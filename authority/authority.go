package authority

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// closeGrace is how long Close waits for calls in progress.
const closeGrace = 2 * time.Second

// ErrClosed is returned once Close was called.
var ErrClosed = errors.New("authority is closed")

// Authority is the running control plane of one trust domain. All methods are safe for concurrent use.
type Authority struct {
	cfg       Config
	td        spiffeid.TrustDomain
	self      identity.AgentID
	memory    identity.AgentID
	ca        *ca
	grants    atomic.Pointer[grantKeys]
	policy    signingKey
	feed      signingKey
	published []*v1.PublicKey // but for the grant keys

	store      *store
	trail      *trail
	workloads  workloads
	directory  directory
	duplicates duplicates
	watched    watched
	renewals   renewals

	mu       sync.Mutex // held by whoever changes what follows
	snapshot atomic.Pointer[registrySnapshot]
	table    atomic.Pointer[tableState]
	trust    atomic.Pointer[trustState]
	changed  broadcast

	sourcesMu sync.Mutex
	sources   map[*serviceSource]struct{} // nil once closed

	closing     chan struct{}
	closingOnce sync.Once
	undo        []func() error // in order of opening
	closeOnce   sync.Once
	closeErr    error
}

// Start opens the folder, the keys and the sockets, and serves until Close is called or ctx ends. A second authority on the same
// folder gets ErrLocked. Other errors wrap ErrConfig, ErrKeyFile, ErrForeign, ErrSocketPath, ErrSocketBusy or ErrRootExpired.
func Start(ctx context.Context, cfg Config) (*Authority, error) {
	td, err := cfg.check()
	if err != nil {
		return nil, err
	}
	a := &Authority{cfg: cfg, td: td, closing: make(chan struct{}), sources: map[*serviceSource]struct{}{}}
	if err := a.start(ctx); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	cfg.Logger.WarnContext(ctx, "DEVELOPMENT AUTHORITY: whoever runs programs as this user controls the trust domain",
		slog.String("trust_domain", td.Name()), slog.String("workload_socket", a.WorkloadSocket()),
		slog.String("operator_socket", a.OperatorSocket()), slog.Int("uid", os.Geteuid()))
	stop := context.AfterFunc(ctx, func() { _ = a.Close() })
	a.mu.Lock()
	a.undo = append(a.undo, func() error { stop(); return nil })
	a.mu.Unlock()
	return a, nil
}

func (a *Authority) start(ctx context.Context) error {
	if err := a.openState(); err != nil {
		return err
	}
	if err := a.openSocketDir(); err != nil {
		return err
	}
	a.undo = append(a.undo, a.closeIdentities)
	if err := a.serve(ctx, a.WorkloadSocket(), a.workloadServer()); err != nil {
		return err
	}
	return a.serve(ctx, a.OperatorSocket(), a.operatorServer())
}

// openState loads keys and registry. The registry file is opened first: its lock keeps a second authority from the keys.
func (a *Authority) openState() error {
	var err error
	if a.self, err = identity.NewServiceID(a.td, serviceAuthority); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if a.memory, err = identity.NewServiceID(a.td, serviceMemory); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	a.trail = &trail{
		log: a.cfg.Audit, now: a.cfg.Now, self: &v1.Party{SpiffeId: a.self.String(), AgentClass: serviceClass},
	}
	if err := os.MkdirAll(a.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if a.store, err = openStore(a.cfg.Dir, a.td.Name()); err != nil {
		return err
	}
	a.undo = append(a.undo, a.store.close)
	if a.ca, err = openCA(a.cfg.Dir, a.td, a.cfg.SVIDLifetime, a.cfg.Now); err != nil {
		return err
	}
	if err := a.resumeRoot(); err != nil {
		return err
	}
	if err := a.openKeys(); err != nil {
		return err
	}
	if err := a.openRenewals(); err != nil {
		return err
	}
	return a.openRegistry()
}

func (a *Authority) openKeys() error {
	for _, k := range []struct {
		key  *signingKey
		file string
		use  v1.KeyUse
	}{
		{&a.policy, policyFile, v1.KeyUse_KEY_USE_POLICY},
		{&a.feed, feedFile, v1.KeyUse_KEY_USE_FEED},
	} {
		key, err := loadSigningKey(a.cfg.Dir, k.file)
		if err != nil {
			return err
		}
		since, err := a.store.keySince(key.id, a.cfg.Now())
		if err != nil {
			return err
		}
		*k.key = key
		a.published = append(a.published, &v1.PublicKey{KeyId: key.id, Use: k.use, Spki: key.spki, NotBeforeMs: since})
	}
	return a.openGrantKeys()
}

func (a *Authority) openRegistry() error {
	kept, err := a.store.load()
	if err != nil {
		return err
	}
	snapshot, err := newSnapshot([]identity.AgentID{a.self, a.memory}).with(kept.agents...)
	if err != nil {
		return err
	}
	snapshot.revision = kept.revision
	table := &tableState{}
	if kept.table != nil {
		if table, err = a.openTable(kept.table); err != nil {
			return fmt.Errorf("stored capability table: %w", err)
		}
	}
	table.highest = kept.tableSerial
	// A new serial at every start: what was announced before a crash is never announced again with other content.
	trust, err := a.sealTrust(kept.bundleSerial+1, snapshot, table)
	if err != nil {
		return err
	}
	if err := a.store.setBundleSerial(trust.serial); err != nil {
		return err
	}
	a.publish(snapshot, table, trust)
	return nil
}

func (a *Authority) openSocketDir() error {
	if a.cfg.SocketDir == "" {
		dir, err := os.MkdirTemp("", "safeconduct-")
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSocketPath, err)
		}
		a.cfg.SocketDir = dir
		a.undo = append(a.undo, func() error { return os.RemoveAll(dir) })
	}
	return socketDir(a.cfg.SocketDir)
}

// serve runs server on a unix socket until Close.
func (a *Authority) serve(ctx context.Context, path string, server *grpc.Server) error {
	l, err := listen(ctx, path)
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	a.undo = append(a.undo, func() error {
		stopped := make(chan struct{})
		go func() {
			server.GracefulStop()
			close(stopped)
		}()
		timer := time.NewTimer(closeGrace)
		defer timer.Stop()
		select {
		case <-stopped:
		case <-timer.C:
			server.Stop()
			<-stopped
		}
		// Stopped before it began to serve, which happens when Start fails or ends at once.
		if err := <-served; !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	return nil
}

// Close ends streams, waits a moment for calls in progress, and closes everything in reverse order. Sources it handed out are
// closed too. It may be called more than once.
func (a *Authority) Close() error {
	a.closeOnce.Do(func() {
		a.EndWatches()
		a.mu.Lock()
		undo := a.undo
		a.mu.Unlock()
		var errs []error
		for i := len(undo) - 1; i >= 0; i-- {
			errs = append(errs, undo[i]())
		}
		a.closeErr = errors.Join(errs...)
	})
	return a.closeErr
}

// open returns ErrClosed once Close was called.
func (a *Authority) open() error {
	select {
	case <-a.closing:
		return ErrClosed
	default:
		return nil
	}
}

// closeIdentities ends workloads and in-process sources and writes what refusals were only counted.
func (a *Authority) closeIdentities() error {
	a.workloads.close()
	a.sourcesMu.Lock()
	sources := a.sources
	a.sources = nil
	a.sourcesMu.Unlock()
	for s := range sources {
		_ = s.source.Close() // always nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeGrace)
	defer cancel()
	return a.trail.flush(ctx)
}

// EndWatches ends the streams on which agents follow the trust bundle, so that the server that carries them can drain. It is part of
// Close, and is called before it where another listener serves AuthorityServer.
func (a *Authority) EndWatches() { a.closingOnce.Do(func() { close(a.closing) }) }

// TrustDomain returns the trust domain.
func (a *Authority) TrustDomain() spiffeid.TrustDomain { return a.td }

// WorkloadSocket returns the path of the SPIFFE Workload API socket; its address is "unix://" and the path.
func (a *Authority) WorkloadSocket() string { return filepath.Join(a.cfg.SocketDir, workloadSocket) }

// OperatorSocket returns the path of the operator's socket.
func (a *Authority) OperatorSocket() string { return filepath.Join(a.cfg.SocketDir, operatorSocket) }

// Registry returns the registry of agents and built-in services, always at its newest.
func (a *Authority) Registry() identity.Registry { return registryView{a} }

// Keys returns the keys that verify grants of this authority.
func (a *Authority) Keys() delegation.KeyView { return keyView{a} }

// Bundle returns a copy of the signed trust bundle in force.
func (a *Authority) Bundle() *v1.Dsse { return proto.CloneOf(a.trust.Load().bundle) }

// BundleChanged returns a channel that is closed at the next change of the trust bundle. Ask before reading Bundle.
func (a *Authority) BundleChanged() <-chan struct{} { return a.changed.wait() }

// FeedKey returns the key that signs trust bundles, for delegation.OpenDsse.
func (a *Authority) FeedKey(keyID string) (ed25519.PublicKey, bool) {
	return a.feed.public, keyID == a.feed.id
}

// PolicyKey returns the key that signs capability tables, for policy.ParseTable.
func (a *Authority) PolicyKey(keyID string) (ed25519.PublicKey, bool) {
	return a.policy.public, keyID == a.policy.id
}

// active returns ErrUnknownAgent unless id is registered and ACTIVE.
func (a *Authority) active(id identity.AgentID) error {
	if r := a.Registry().Agent(id); r == nil || r.State != identity.StateActive {
		return fmt.Errorf("%w: %s", ErrUnknownAgent, id)
	}
	return nil
}
