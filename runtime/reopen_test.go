package runtime_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/internal/wirecodec"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// forgetful answers as writer would after a reconnect: it knows none of the first references that it was shown.
type forgetful struct {
	rpcv1.UnimplementedExchangeServiceServer
	node
	forget int
	reply  *v1.Envelope
	fail   error

	// unknown is how many more messages are refused with CHAIN_UNKNOWN.
	unknown atomic.Int32

	mu        sync.Mutex
	presented int
	ids       [][]byte
	envelopes []*v1.Envelope
}

func (f *forgetful) delivered() []*v1.Envelope {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.envelopes)
}

func (f *forgetful) Present(context.Context, *rpcv1.PresentRequest) (*rpcv1.PresentResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.presented++
	return &rpcv1.PresentResponse{ChainRef: make([]byte, 32)}, nil
}

func (f *forgetful) Deliver(_ context.Context, env *v1.Envelope) (*v1.Envelope, error) {
	f.mu.Lock()
	f.envelopes = append(f.envelopes, env)
	f.mu.Unlock()
	if f.unknown.Add(-1) >= 0 {
		return nil, enforcegrpc.Status(interceptors.Refuse(v1.Reason_REASON_CHAIN_UNKNOWN, nil)).Err()
	}
	if f.reply == nil && f.fail == nil {
		return &v1.Envelope{Kind: v1.FrameKind_FRAME_KIND_RESULT, PayloadType: "mesh.v1.UnaryResponse"}, nil
	}
	return f.reply, f.fail
}

func errorInfo(r v1.Reason) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{
		Reason: interceptors.ReasonName(r), Domain: interceptors.Domain, Metadata: map[string]string{"decision_id": strings.Repeat("ab", 16)},
	}
}

func (f *forgetful) Bidi(s grpc.BidiStreamingServer[meshpb.BidiRequest, meshpb.BidiResponse]) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	var env v1.Envelope
	if err := proto.Unmarshal([]byte(md.Get(enforcegrpc.EnvelopeKey)[0]), &env); err != nil {
		return err
	}
	f.mu.Lock()
	f.ids = append(f.ids, env.GetId())
	forgotten := len(f.ids) <= f.forget
	f.mu.Unlock()
	if forgotten {
		if _, err := s.Recv(); err != nil {
			return err
		}
		return enforcegrpc.Status(interceptors.Refuse(v1.Reason_REASON_CHAIN_UNKNOWN, nil)).Err()
	}
	return f.node.Bidi(s)
}

// elsewhere sends every call to one address.
type elsewhere struct {
	runtime.Trust
	address string
}

func (e elsewhere) Locate(context.Context, identity.AgentID) (string, error) { return e.address, nil }

func newForgetful(t *testing.T, forget int) (*forgetful, *scene) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{World: agenttest.New(t), t: t}
	s.relay = s.Agent("relay", agenttest.Config(func(c *runtime.Config) { c.Trust = elsewhere{c.Trust, l.Addr().String()} }))
	s.writer = s.Agent("writer")
	f := &forgetful{forget: forget}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(s.writer.Source()))), grpc.ForceServerCodecV2(wirecodec.New()))
	rpcv1.RegisterExchangeServiceServer(server, f)
	meshpb.RegisterMeshServiceServer(server, f)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-ended })
	s.ctx, s.client = s.grant(), meshpb.NewMeshServiceClient(s.Dial(s.relay, s.writer))
	return f, s
}

// A reference is good on the connection where the chain was presented. A stream whose connection was replaced in between is opened
// again by the runtime, as the same message.
func TestStreamIsOpenedAgainWhenTheReferenceIsUnknown(t *testing.T) {
	f, s := newForgetful(t, 1)
	stream, err := s.client.Bidi(within(t, s.ctx))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"a", "b", "c"} {
		if err := stream.Send(&meshpb.BidiRequest{Resource: mesh(), Behave: word}); err != nil {
			t.Fatal(err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"a", "b", "c"} {
		if resp, err := stream.Recv(); err != nil || resp.GetText() != want {
			t.Fatalf("received %q, %v, want %q", resp.GetText(), err, want)
		}
	}
	if f.presented != 2 || len(f.ids) != 2 || string(f.ids[0]) != string(f.ids[1]) {
		t.Errorf("presented %d times, envelopes %x", f.presented, f.ids)
	}
}

func TestStreamIsOpenedAgainOnlyOnceAndOnlyWhole(t *testing.T) {
	t.Run("once", func(t *testing.T) {
		f, s := newForgetful(t, 2)
		stream, err := s.client.Bidi(within(t, s.ctx))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&meshpb.BidiRequest{Resource: mesh()}); err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantReason(t, err, v1.Reason_REASON_CHAIN_UNKNOWN)
		if f.presented != 2 {
			t.Errorf("presented %d times", f.presented)
		}
		s.wantPairs(s.relay)
	})
	t.Run("whole", func(t *testing.T) {
		f, s := newForgetful(t, 1)
		stream, err := s.client.Bidi(within(t, s.ctx))
		if err != nil {
			t.Fatal(err)
		}
		for range 17 { // one more than is held
			if err := stream.Send(&meshpb.BidiRequest{Resource: mesh()}); err != nil {
				break // the callee has refused already
			}
		}
		_, err = stream.Recv()
		if f.presented == 1 {
			wantReason(t, err, v1.Reason_REASON_CHAIN_UNKNOWN)
		}
		s.wantPairs(s.relay)
	})
}
