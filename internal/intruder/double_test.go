package intruder_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/intruder"
	"github.com/safeconduct/safeconduct/internal/meshtest"
)

// double stands in for a receiver and an authority that decide as answer says: it gets the number of the call, from 0 on. They
// verify nothing.
type double struct {
	rpcv1.UnimplementedExchangeServiceServer
	rpcv1.UnimplementedMemoryServiceServer
	rpcv1.UnimplementedOperatorServiceServer
	workloadpb.UnimplementedSpiffeWorkloadAPIServer

	answer   func(ctx context.Context, call int) error
	asked    atomic.Int64
	self     string
	identity atomic.Value // string, once the operator socket admitted somebody
	frame    v1.Envelope

	mu     sync.Mutex
	chains []*v1.DelegationChain
}

// hops are the last ones of the chains that were delivered.
func (d *double) hops(t *testing.T) []*v1.HopPayload {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*v1.HopPayload
	for _, c := range d.chains {
		hop := new(v1.HopPayload)
		if err := proto.Unmarshal(c.GetHops()[len(c.GetHops())-1].GetPayload(), hop); err != nil {
			t.Fatal(err)
		}
		out = append(out, hop)
	}
	return out
}

func (d *double) next(ctx context.Context) error { return d.answer(ctx, int(d.asked.Add(1)-1)) }

func (d *double) Deliver(ctx context.Context, env *v1.Envelope) (*v1.Envelope, error) {
	if c := env.GetChain(); len(c.GetHops()) > 0 {
		d.mu.Lock()
		d.chains = append(d.chains, c)
		d.mu.Unlock()
	}
	if err := d.next(ctx); err != nil {
		return nil, err
	}
	return &v1.Envelope{Kind: d.frame.GetKind(), Status: d.frame.GetStatus()}, nil
}

// Present takes any chain for known.
func (d *double) Present(context.Context, *rpcv1.PresentRequest) (*rpcv1.PresentResponse, error) {
	return &rpcv1.PresentResponse{ChainRef: make([]byte, 32)}, nil
}

func (d *double) List(ctx context.Context, _ *rpcv1.ListRequest) (*rpcv1.ListResponse, error) {
	return &rpcv1.ListResponse{}, d.next(ctx)
}

func (d *double) AdmitWorkload(ctx context.Context, r *rpcv1.AdmitWorkloadRequest) (*rpcv1.AdmitWorkloadResponse, error) {
	if err := d.next(ctx); err != nil {
		return nil, err
	}
	d.identity.Store(r.GetSpiffeId())
	return &rpcv1.AdmitWorkloadResponse{}, nil
}

func (d *double) FetchX509SVID(_ *workloadpb.X509SVIDRequest, s grpc.ServerStreamingServer[workloadpb.X509SVIDResponse]) error {
	if err := d.next(s.Context()); err != nil {
		return err
	}
	id, isOther := d.identity.Load().(string)
	if !isOther {
		id = d.self
	}
	return s.Send(&workloadpb.X509SVIDResponse{Svids: []*workloadpb.X509SVID{{SpiffeId: id}}})
}

// newDouble serves a double and returns what an intruder needs to attack it. wrap may alter the target's credentials.
func newDouble(t *testing.T, answer func(context.Context, int) error, wrap ...func(*meshtest.World, credentials.TransportCredentials) credentials.TransportCredentials) (*double, intruder.Config) {
	t.Helper()
	w := meshtest.New(t)
	mallory, alice, memory := w.Agent("acme", "mallory"), w.Agent("acme", "alice"), w.Service("memory")
	d := &double{answer: answer, self: mallory.String(), frame: v1.Envelope{Kind: v1.FrameKind_FRAME_KIND_RESULT}}
	svid, err := w.Source(memory).GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	creds := credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		Certificates: []tls.Certificate{{Certificate: [][]byte{svid.Certificates[0].Raw}, PrivateKey: svid.PrivateKey}},
	})
	for _, f := range wrap {
		creds = f(w, creds)
	}
	target := grpc.NewServer(grpc.Creds(creds))
	rpcv1.RegisterExchangeServiceServer(target, d)
	rpcv1.RegisterMemoryServiceServer(target, d)
	local := grpc.NewServer()
	rpcv1.RegisterOperatorServiceServer(local, d)
	workloadpb.RegisterSpiffeWorkloadAPIServer(local, d)
	dir, err := os.MkdirTemp("", "sc") //nolint:usetesting // t.TempDir has the test's name in its path, too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	addr := serve(t, target, "tcp", "127.0.0.1:0")
	serve(t, local, "unix", socket)

	grant := func(life time.Duration) *v1.SignedStatement {
		return w.Grant(t, mallory, meshtest.Capabilities(meshtest.Capability("memory.list", namespace...)),
			meshtest.Purpose(purpose), meshtest.Delegates(memory.String()), meshtest.Life(life))
	}
	return d, intruder.Config{
		Self: mallory, Source: w.Identity(mallory), Target: memory, TargetAddr: addr, Namespace: namespace, Foreign: foreign,
		OtherTenant: "globex", Purpose: purpose, Sibling: alice, OperatorSocket: socket, WorkloadSocket: "unix://" + socket,
		Grant: grant(10 * time.Minute), OtherGrant: grant(time.Minute), ShortGrant: grant(2 * time.Second),
		StolenChain: w.Chain(t, meshPath(alice, memory), meshtest.Purpose(purpose)), Now: w.Now,
	}
}

func serve(t *testing.T, s *grpc.Server, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serving %s: %v", address, err)
		}
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

// refuse is a refusal by the mesh.
func refuse(code codes.Code, domain, reason string) error {
	s, err := status.New(code, "not permitted").WithDetails(&errdetails.ErrorInfo{
		Reason: reason, Domain: domain, Metadata: map[string]string{"decision_id": "000102030405060708090a0b0c0d0e0f"},
	})
	if err != nil {
		return err
	}
	return s.Err()
}
