package runtime_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
)

// held makes writer's Unary wait for release. started gets a value for each call.
func (s *scene) held() (started <-chan struct{}, release chan struct{}) {
	in, out := make(chan struct{}, 100), make(chan struct{})
	s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		in <- struct{}{}
		select {
		case <-out:
			return &meshpb.UnaryResponse{Text: "finished"}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return in, out
}

type answer struct {
	text string
	err  error
}

func (s *scene) background(ctx context.Context) <-chan answer {
	out := make(chan answer, 1)
	go func() {
		text, err := s.call(ctx)
		out <- answer{text, err}
	}()
	return out
}

func TestShutdownFinishesCallsInFlight(t *testing.T) {
	s := newScene(t)
	started, release := s.held()
	first := s.background(s.ctx)
	receive(t, "the call to start", started)
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.Stop(s.writer) }()
	eventually(t, "new calls to be turned away", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := s.client.Open(ctx, &meshpb.OpenRequest{})
		return err != nil
	})
	close(release)
	if got := receive(t, "the call in flight", first); got.err != nil || got.text != "finished" {
		t.Errorf("call in flight: %q, %v", got.text, got.err)
	}
	receive(t, "the shutdown", stopped)
	s.wantPairs(s.relay, s.writer)
}

func TestRunDrainsOnSIGTERM(t *testing.T) {
	s := newScene(t)
	extra := s.Agent("extra")
	meshpb.RegisterMeshServiceServer(extra, s.node)
	s.Allow(s.relay, extra, "mesh.call", "mesh")
	started, release := s.held()
	done := make(chan error, 1)
	go func() { done <- extra.Run(context.Background()) }()
	eventually(t, "extra to serve", func() bool { return extra.Addr() != "" })
	s.client = meshpb.NewMeshServiceClient(s.Dial(s.relay, extra))
	call := make(chan answer, 1)
	go func() {
		resp, err := s.client.Unary(s.ctx, &meshpb.UnaryRequest{Resource: mesh()}, grpc.WaitForReady(true))
		call <- answer{resp.GetText(), err}
	}()
	receive(t, "the call to start", started)
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	close(release)
	if got := receive(t, "the call in flight", call); got.err != nil || got.text != "finished" {
		t.Errorf("call in flight: %q, %v", got.text, got.err)
	}
	if err := receive(t, "Run", done); err != nil {
		t.Errorf("Run() = %v", err)
	}
	if _, err := extra.Dial(s.writer.ID().String()); !errors.Is(err, runtime.ErrClosed) {
		t.Errorf("Dial after the end: %v, want %v", err, runtime.ErrClosed)
	}
}

func TestPanicIsRecordedAndTheProcessGoesOn(t *testing.T) {
	s := newScene(t)
	s.node.unary = func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) { panic(canary) }
	_, err := s.call(s.ctx)
	r := refusalOf(t, err)
	if r.Reason != v1.Reason_REASON_INTERNAL || strings.Contains(err.Error(), canary) {
		t.Errorf("refusal %v", err)
	}
	evs := s.decision(s.writer, r.DecisionID)
	if len(evs) != 2 || evs[1].GetReason() != v1.Reason_REASON_HANDLER_PANIC || !strings.Contains(evs[1].GetCause(), canary) {
		t.Errorf("records: %v", evs)
	}
	s.node.unary = nil
	s.mustCall(s.ctx)
	s.node.down = func(*meshpb.ServerStreamRequest, grpc.ServerStreamingServer[meshpb.ServerStreamResponse]) error {
		panic(canary)
	}
	stream, err := s.client.ServerStream(s.grant(), &meshpb.ServerStreamRequest{Resource: mesh()})
	_, err = down(t, stream, err)
	wantReason(t, err, v1.Reason_REASON_INTERNAL)
	s.wantPairs(s.relay, s.writer)
}

func TestCalleeThatDiesLeavesUnavailable(t *testing.T) {
	s := newScene(t)
	started, _ := s.held()
	call := s.background(within(t, s.ctx))
	receive(t, "the call to start", started)
	s.Kill(s.writer)
	got := receive(t, "the call", call)
	wantCode(t, got.err, codes.Unavailable)
	_, err := s.call(within(t, s.ctx))
	wantCode(t, err, codes.Unavailable)
	s.wantPairs(s.relay)
}

// again starts writer anew, whether it was killed or runs.
func (s *scene) again() {
	s.t.Helper()
	s.writer = s.Restart(s.writer)
	meshpb.RegisterMeshServiceServer(s.writer, s.node)
	s.Serve(s.writer)
}

func TestReconnectToAnotherAddress(t *testing.T) {
	s := newScene(t)
	s.mustCall(s.ctx)
	before := s.writer.Addr()
	s.Kill(s.writer)
	_, err := s.call(s.ctx)
	wantCode(t, err, codes.Unavailable)
	s.again()
	if s.writer.Addr() == before {
		t.Fatal("the restarted callee has the same address")
	}
	if got, err := s.call(within(t, s.ctx), runtime.WaitForReady()); err != nil || got != "done" {
		t.Errorf("call after the restart: %q, %v", got, err)
	}
}

func TestCalleeThatServesLaterIsFound(t *testing.T) {
	s := newScene(t)
	late := s.Agent("late")
	s.Allow(s.relay, late, "mesh.call", "mesh")
	client := meshpb.NewMeshServiceClient(s.Dial(s.relay, late))
	_, err := client.Unary(s.ctx, &meshpb.UnaryRequest{Resource: mesh()})
	wantCode(t, err, codes.Unavailable)
	meshpb.RegisterMeshServiceServer(late, &node{})
	s.Serve(late)
	if _, err := client.Unary(within(t, s.ctx), &meshpb.UnaryRequest{Resource: mesh()}, runtime.WaitForReady()); err != nil {
		t.Errorf("call once it serves: %v", err)
	}
}

func TestServeRefusesWhatDeclaresNothing(t *testing.T) {
	const file = "runtime_test_undeclared.proto"
	fd, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: ptr(file), Package: ptr("undeclared.v1"), Syntax: ptr("proto3"), Dependency: []string{"google/protobuf/empty.proto"},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: ptr("Bare"), Method: []*descriptorpb.MethodDescriptorProto{{
			Name: ptr("Do"), InputType: ptr(".google.protobuf.Empty"), OutputType: ptr(".google.protobuf.Empty"),
		}}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protoregistry.GlobalFiles.FindFileByPath(file); err != nil {
		if err := protoregistry.GlobalFiles.RegisterFile(fd); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name     string
		register func(*runtime.Agent)
		want     string
	}{
		{"no intent option", func(a *runtime.Agent) {
			a.RegisterService(&grpc.ServiceDesc{ServiceName: "undeclared.v1.Bare"}, nil)
		}, "/undeclared.v1.Bare/Do has no (safeconduct.v1.intent) option"},
		{"no descriptor", func(a *runtime.Agent) {
			a.RegisterService(&grpc.ServiceDesc{ServiceName: "nowhere.v1.Nothing"}, nil)
		}, "nowhere.v1.Nothing"},
		{"twice", func(a *runtime.Agent) {
			meshpb.RegisterMeshServiceServer(a, &node{})
			meshpb.RegisterMeshServiceServer(a, &node{})
		}, "registered twice"},
		{"an intent that is no action", func(a *runtime.Agent) {
			runtime.HandleIntent(a, "No Action", nil, func(context.Context, *emptypb.Empty) (*emptypb.Empty, error) { return nil, nil })
		}, `"No Action"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := prepareScene(t)
			tt.register(s.writer)
			if err := s.writer.Serve(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Serve() = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestHealthNeedsAnSVID(t *testing.T) {
	s := newScene(t)
	check := func(cc *grpc.ClientConn) (*healthpb.HealthCheckResponse, error) {
		return healthpb.NewHealthClient(cc).Check(within(t, t.Context()), &healthpb.HealthCheckRequest{})
	}
	resp, err := check(s.raw(s.relay, s.writer))
	if err != nil || resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health with an SVID: %v, %v", resp, err)
	}
	bare := identity.ClientTLS(s.relay.Source(), s.writer.ID())
	bare.GetClientCertificate = nil
	cc, err := grpc.NewClient("passthrough:///"+s.writer.Addr(), grpc.WithTransportCredentials(credentials.NewTLS(bare)))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close() // nothing is lost with it
	if _, err := check(cc); err == nil {
		t.Error("health without an SVID succeeded")
	}
	eventually(t, "a record of the handshake without an SVID", func() bool {
		return slices.ContainsFunc(s.Records(s.writer), func(ev *v1.AuditEvent) bool {
			return ev.GetKind() == v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED && ev.GetReason() == v1.Reason_REASON_PEER_NOT_SVID
		})
	})
}
