package authority_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/authority"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

const (
	domain  = "dev.example"
	alice   = "spiffe://dev.example/tenant/acme/agent/alice"
	bob     = "spiffe://dev.example/tenant/acme/agent/bob"
	mallory = "spiffe://dev.example/tenant/globex/agent/mallory"
	memory  = "spiffe://dev.example/service/memory"
	self    = "spiffe://dev.example/service/authority"
)

// records is an audit.Recorder in memory. down makes it refuse everything.
type records struct {
	mu     sync.Mutex
	events []*v1.AuditEvent
	down   bool
	wrote  chan struct{} // closed and replaced at each record
}

func newRecords() *records { return &records{wrote: make(chan struct{})} }

func (r *records) Append(_ context.Context, c audit.Class, e *audit.Event) (audit.Position, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return audit.Position{}, audit.ErrPoisoned
	}
	if c != audit.Effect {
		return audit.Position{}, errors.New("authority records are of class effect")
	}
	r.events = append(r.events, proto.CloneOf(e))
	close(r.wrote)
	r.wrote = make(chan struct{})
	return audit.Position{Seq: uint64(len(r.events))}, nil
}

func (r *records) stop(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

// find returns the records of a kind and decision.
func (r *records) find(kind v1.EventKind, decision v1.EventDecision) []*v1.AuditEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*v1.AuditEvent
	for _, e := range r.events {
		if e.GetKind() == kind && e.GetDecision() == decision {
			out = append(out, e)
		}
	}
	return out
}

func (r *records) denied(kind v1.EventKind) []*v1.AuditEvent {
	return r.find(kind, v1.EventDecision_EVENT_DECISION_DENY)
}

func (r *records) allowed(kind v1.EventKind) []*v1.AuditEvent {
	return r.find(kind, v1.EventDecision_EVENT_DECISION_ALLOW)
}

// shortDir is a folder whose path leaves room for a socket name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sc") //nolint:usetesting // t.TempDir has the test's name in its path, too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func config(t *testing.T) (authority.Config, *records) {
	t.Helper()
	log := newRecords()
	return authority.Config{Dir: filepath.Join(t.TempDir(), "authority"), TrustDomain: domain, SocketDir: shortDir(t), Audit: log}, log
}

func start(t *testing.T, cfg authority.Config) *authority.Authority {
	t.Helper()
	a, err := authority.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	return a
}

// world is a running authority with alice, bob and mallory registered.
func world(t *testing.T, change ...func(*authority.Config)) (*authority.Authority, *records) {
	t.Helper()
	cfg, log := config(t)
	for _, f := range change {
		f(&cfg)
	}
	a := start(t, cfg)
	for _, id := range []string{alice, bob, mallory} {
		if _, err := a.RegisterAgent(t.Context(), newAgent(id)); err != nil {
			t.Fatal(err)
		}
	}
	return a, log
}

func newAgent(id string) *v1.Agent {
	return &v1.Agent{
		SpiffeId: id, AgentClass: "assistant", Owner: "ops@dev.example", Purpose: "answers questions",
		IntegrityCap: v1.Integrity_INTEGRITY_ATTESTED,
	}
}

func agentID(t *testing.T, s string) identity.AgentID {
	t.Helper()
	id, err := identity.ParseAgent(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func operator(t *testing.T, a *authority.Authority) rpcv1.OperatorServiceClient {
	t.Helper()
	conn, err := dial(a.OperatorSocket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return rpcv1.NewOperatorServiceClient(conn)
}

// until polls a condition that another goroutine or process brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, ctx.Err())
		}
	}
}

func errorInfo(t *testing.T, err error) *errdetails.ErrorInfo {
	t.Helper()
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	t.Fatalf("error without ErrorInfo: %v", err)
	return nil
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// listenAndLeave makes a socket whose file stays when it is closed, as after a crash.
func listenAndLeave(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		l.SetUnlinkOnClose(false)
	}
	return l, err
}
