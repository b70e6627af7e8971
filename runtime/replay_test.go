package runtime_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	safeconductrpcv1connect "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1/safeconductrpcv1connect"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// edgeRoutes are the ways into an agent's edge: binary and JSON, over HTTP/2 and HTTP/1.1.
func edgeRoutes(t *testing.T, from, to *runtime.Agent) map[string]func(*v1.Envelope) error {
	t.Helper()
	out := map[string]func(*v1.Envelope) error{}
	for name, h2 := range map[string]bool{"HTTP/2": true, "HTTP/1.1": false} {
		cfg := identity.ClientTLS(from.Source(), to.ID())
		if !h2 {
			cfg.NextProtos = []string{"http/1.1"}
		}
		tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: h2}
		t.Cleanup(tr.CloseIdleConnections)
		for codec, opts := range map[string][]connect.ClientOption{"binary": nil, "JSON": {connect.WithProtoJSON()}} {
			client := safeconductrpcv1connect.NewExchangeServiceClient(&http.Client{Transport: tr, Timeout: patience}, "https://"+to.EdgeAddr(), opts...)
			out["connect, "+codec+", "+name] = func(e *v1.Envelope) error {
				_, err := client.Deliver(ctx0(t), proto.CloneOf(e))
				return err
			}
		}
	}
	return out
}

// TestProofOverEveryTransport is row 45 over TLS: what was admitted by one of gRPC, Connect and HTTP/JSON is refused by all of them.
func TestProofOverEveryTransport(t *testing.T) {
	t.Parallel()
	s := newProofScene(t, agenttest.Config(withEdge), agenttest.Config(roomy))
	ways := edgeRoutes(t, s.relay, s.writer)
	grpc := s.exchange(s.relay, s.writer)
	ways["grpc"] = func(e *v1.Envelope) error { _, err := grpc.Deliver(ctx0(t), proto.CloneOf(e)); return err }
	for first, send := range ways {
		e := s.prepared()
		if err := send(e); err != nil {
			t.Fatalf("%s: %v", first, err)
		}
		for second, again := range ways {
			if got := wireReason(again(e)); got != v1.Reason_REASON_REPLAYED {
				t.Errorf("%s, then %s: %s, want REPLAYED", first, second, got)
			}
		}
	}
	if n := s.served.ran.Load(); n != int64(len(ways)) {
		t.Errorf("the handler ran %d times for %d messages", n, len(ways))
	}
}

// The store of spent proofs is a file beside the audit log, and the next process of the agent opens it.
func TestProofAfterRestartOfTheAgent(t *testing.T) {
	t.Parallel()
	var dir string
	s := newProofScene(t, agenttest.Config(func(c *runtime.Config) {
		if strings.Contains(c.AuditDir, "audit") {
			dir = c.AuditDir // of writer, which is made last
		}
	}))
	e := s.prepared()
	if _, err := s.exchange(s.relay, s.writer).Deliver(ctx0(t), e); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "replay.db")); err != nil {
		t.Errorf("no store beside the audit log: %v", err)
	}
	for _, end := range []func(*runtime.Agent){s.Stop, s.Kill} {
		end(s.writer)
		s.writer = s.Restart(s.writer)
		meshpb.RegisterMeshServiceServer(s.writer, s.node)
		meshpb.RegisterProofServiceServer(s.writer, s.served)
		s.Serve(s.writer)
		_, err := s.exchange(s.relay, s.writer).Deliver(ctx0(t), proto.CloneOf(e))
		wantReplayed(t, err)
	}
	if n := s.served.ran.Load(); n != 1 {
		t.Errorf("the handler ran %d times", n)
	}
}

// A store that was lost is filled from the audit log, before the first message is accepted.
func TestSpentProofsAreRestoredFromTheAuditLog(t *testing.T) {
	t.Parallel()
	var dir string
	s := newProofScene(t, agenttest.Config(func(c *runtime.Config) { dir = c.AuditDir }))
	e := s.prepared()
	if _, err := s.exchange(s.relay, s.writer).Deliver(ctx0(t), e); err != nil {
		t.Fatal(err)
	}
	s.Stop(s.writer)
	if err := os.Remove(filepath.Join(dir, "replay.db")); err != nil {
		t.Fatal(err)
	}
	store := newMemoryStore()
	s.writer = s.Restart(s.writer, agenttest.Config(func(c *runtime.Config) { c.Replay = store }))
	key := delegation.ReplayKey(delegation.ReplayInvocation, s.relay.ID(), delegation.ClaimedJTI(e.GetProof()))
	if seen, err := store.Seen(key); !seen || err != nil {
		t.Errorf("Seen() = %v, %v, want true", seen, err)
	}
}

// oneForAll is a store that several processes use.
type oneForAll struct{ delegation.ReplayStore }

func (oneForAll) Shared() bool { return true }

// TestProofsOfReplicas is row 45 for another replica: while the authority knows of two processes of an identity whose stores are not one,
// proofs are refused with a reason; with a common store they pass, once.
func TestProofsOfReplicas(t *testing.T) {
	t.Parallel()
	s := newProofScene(t)
	x := s.exchange(s.relay, s.writer)
	if _, err := x.Deliver(ctx0(t), s.prepared()); err != nil {
		t.Fatal(err)
	}
	s.SetReplicated(s.writer, true)
	if _, err := x.Deliver(ctx0(t), s.prepared()); wireReason(err) != v1.Reason_REASON_AUDIT_UNAVAILABLE {
		t.Errorf("a proof while two processes live: %v, want AUDIT_UNAVAILABLE", err)
	}
	cause := ""
	for _, ev := range s.Records(s.writer) {
		if ev.GetReason() == v1.Reason_REASON_AUDIT_UNAVAILABLE {
			cause = ev.GetCause()
		}
	}
	if !strings.Contains(cause, "several processes of this identity") {
		t.Errorf("the record says %q", cause)
	}
	if _, err := s.client.Unary(s.ctx, meshRequest()); err != nil {
		t.Errorf("a call without a proof: %v", err)
	}
	s.SetReplicated(s.writer, false)
	if _, err := x.Deliver(ctx0(t), s.prepared()); wireReason(err) != v1.Reason_REASON_AUDIT_UNAVAILABLE {
		t.Errorf("a proof that the other process may have taken: %v, want AUDIT_UNAVAILABLE", err)
	}
}

func TestProofsOfReplicasWithACommonStore(t *testing.T) {
	t.Parallel()
	store := oneForAll{newMemoryStore()}
	s := newProofScene(t, agenttest.Config(func(c *runtime.Config) { c.Replay = store }))
	s.SetReplicated(s.writer, true)
	e := s.prepared()
	x := s.exchange(s.relay, s.writer)
	if _, err := x.Deliver(ctx0(t), e); err != nil {
		t.Fatal(err)
	}
	jti := delegation.ClaimedJTI(e.GetProof())
	if fresh, err := store.Insert(context.Background(), "other replica", delegation.ReplayKey(delegation.ReplayInvocation, s.relay.ID(), jti), time.Now()); fresh || err != nil {
		t.Errorf("the proof at another replica: fresh %v, %v", fresh, err)
	}
}

func newMemoryStore() delegation.ReplayStore {
	return interceptors.NewMemoryReplay(0, 20*time.Minute, time.Now)
}
