package runtime_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

const (
	alice    = "alice@acme.example"
	canary   = "canary-4711-secret"
	patience = time.Minute
)

// node serves MeshService with what a test gives it.
type node struct {
	meshpb.UnimplementedMeshServiceServer
	unary   func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error)
	foreign func(context.Context, *meshpb.ForeignRequest) (*meshpb.ForeignResponse, error)
	down    func(*meshpb.ServerStreamRequest, grpc.ServerStreamingServer[meshpb.ServerStreamResponse]) error
	up      func(grpc.ClientStreamingServer[meshpb.ClientStreamRequest, meshpb.ClientStreamResponse]) error
	bidi    func(grpc.BidiStreamingServer[meshpb.BidiRequest, meshpb.BidiResponse]) error
}

func (n *node) Unary(ctx context.Context, req *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
	if n.unary == nil {
		return &meshpb.UnaryResponse{Text: "done"}, nil
	}
	return n.unary(ctx, req)
}

func (n *node) Foreign(ctx context.Context, req *meshpb.ForeignRequest) (*meshpb.ForeignResponse, error) {
	if n.foreign == nil {
		return &meshpb.ForeignResponse{Text: req.GetText()}, nil
	}
	return n.foreign(ctx, req)
}

func (n *node) Open(context.Context, *meshpb.OpenRequest) (*meshpb.OpenResponse, error) {
	return &meshpb.OpenResponse{}, nil
}

func (n *node) ServerStream(req *meshpb.ServerStreamRequest, s grpc.ServerStreamingServer[meshpb.ServerStreamResponse]) error {
	if n.down != nil {
		return n.down(req, s)
	}
	for _, text := range []string{"a", "b", "c"} {
		if err := s.Send(&meshpb.ServerStreamResponse{Text: text}); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) ClientStream(s grpc.ClientStreamingServer[meshpb.ClientStreamRequest, meshpb.ClientStreamResponse]) error {
	if n.up != nil {
		return n.up(s)
	}
	text := ""
	for {
		req, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&meshpb.ClientStreamResponse{Text: text})
		}
		if err != nil {
			return err
		}
		text += req.GetBehave()
	}
}

func (n *node) Bidi(s grpc.BidiStreamingServer[meshpb.BidiRequest, meshpb.BidiResponse]) error {
	if n.bidi != nil {
		return n.bidi(s)
	}
	for {
		req, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(&meshpb.BidiResponse{Text: req.GetBehave()}); err != nil {
			return err
		}
	}
}

// scene is relay, which may call writer for everything that MeshService offers on "mesh".
type scene struct {
	*agenttest.World
	t             *testing.T
	relay, writer *runtime.Agent
	node          *node
	ctx           context.Context // of alice's grant to relay
	client        meshpb.MeshServiceClient
}

// mesh is the resource of the requests.
func mesh() []string { return []string{"mesh"} }

func newScene(t *testing.T, options ...agenttest.AgentOption) *scene {
	t.Helper()
	s := prepareScene(t, options...)
	s.start()
	return s
}

// prepareScene is newScene before writer serves.
func prepareScene(t *testing.T, options ...agenttest.AgentOption) *scene {
	t.Helper()
	s := &scene{World: agenttest.New(t), t: t, node: &node{}}
	s.relay, s.writer = s.Agent("relay", options...), s.Agent("writer", options...)
	return s
}

func (s *scene) start() {
	s.t.Helper()
	meshpb.RegisterMeshServiceServer(s.writer, s.node)
	s.Serve(s.writer)
	s.Allow(s.relay, s.writer, "mesh.call", "mesh")
	s.Allow(s.relay, s.writer, "mesh.foreign")
	s.ctx = s.grant()
	s.client = meshpb.NewMeshServiceClient(s.Dial(s.relay, s.writer))
}

// grant returns a context of a conversation of its own.
func (s *scene) grant(options ...agenttest.GrantOption) context.Context {
	s.t.Helper()
	options = append([]agenttest.GrantOption{
		agenttest.Can("mesh.call", "mesh"), agenttest.Can("mesh.foreign", "agent", "writer"), agenttest.Purpose("tests of the runtime"),
	}, options...)
	return s.As(alice, s.relay, options...)
}

func (s *scene) call(ctx context.Context, opts ...grpc.CallOption) (string, error) {
	resp, err := s.client.Unary(ctx, &meshpb.UnaryRequest{Resource: mesh()}, opts...)
	return resp.GetText(), err
}

func (s *scene) mustCall(ctx context.Context) {
	s.t.Helper()
	if _, err := s.call(ctx); err != nil {
		s.t.Fatalf("call: %v", err)
	}
}

// within returns a context that ends before a hanging test is noticed by nobody.
func within(t *testing.T, ctx context.Context) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	t.Cleanup(cancel)
	return ctx
}

func refusalOf(t *testing.T, err error) *runtime.Refusal {
	t.Helper()
	var r *runtime.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("error %v (%T), want a *runtime.Refusal", err, err)
	}
	return r
}

func wantReason(t *testing.T, err error, want v1.Reason) {
	t.Helper()
	var r *runtime.Refusal
	if !errors.As(err, &r) || r.Reason != want {
		t.Errorf("error %v, want a refusal with reason %s", err, want)
	}
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("code %s (%v), want %s", got, err, want)
	}
}

// decision returns the records of one decision in the log of a.
func (s *scene) decision(a *runtime.Agent, id []byte) []*v1.AuditEvent {
	s.t.Helper()
	var out []*v1.AuditEvent
	for _, ev := range s.Records(a) {
		if slices.Equal(ev.GetDecisionId(), id) {
			out = append(out, ev)
		}
	}
	return out
}

// calls returns the records of calls of method in the log of a, by interaction, in order.
func (s *scene) calls(a *runtime.Agent, method string, direction v1.EventDirection) map[string][]*v1.AuditEvent {
	s.t.Helper()
	out := map[string][]*v1.AuditEvent{}
	for _, ev := range s.Records(a) {
		if ev.GetKind() == v1.EventKind_EVENT_KIND_CALL && ev.GetDirection() == direction && (method == "" || ev.GetMethod() == method) {
			id := hex.EncodeToString(ev.GetInteractionId())
			out[id] = append(out[id], ev)
		}
	}
	return out
}

// wantPairs fails unless each interaction of every log has one intent and one outcome, in this order.
func (s *scene) wantPairs(agents ...*runtime.Agent) {
	s.t.Helper()
	for _, a := range agents {
		for _, d := range []v1.EventDirection{v1.EventDirection_EVENT_DIRECTION_INBOUND, v1.EventDirection_EVENT_DIRECTION_OUTBOUND} {
			calls, wrong, example := s.calls(a, "", d), 0, ""
			for id, evs := range calls {
				if len(evs) != 2 || evs[0].GetPhase() != v1.EventPhase_EVENT_PHASE_INTENT || evs[1].GetPhase() != v1.EventPhase_EVENT_PHASE_OUTCOME {
					wrong++
					example = fmt.Sprintf("%s of %s has %d records, the first %s %s", id, evs[0].GetMethod(), len(evs), evs[0].GetPhase(), evs[0].GetReason())
				}
			}
			if wrong > 0 {
				s.t.Errorf("%s: %d of %d calls %s are no pairs, such as %s", a.ID().Name(), wrong, len(calls), d, example)
			}
		}
	}
}

// eventually waits until done holds.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	end := time.NewTimer(patience)
	defer end.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-end.C:
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// receive returns the next value of c, or fails the test.
func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		t.Fatalf("waited %v for %s", patience, what)
		panic("unreachable")
	}
}

// raw is a client of writer's ExchangeService without a runtime, over mTLS as from.
func (s *scene) raw(from *runtime.Agent, to *runtime.Agent, opts ...grpc.DialOption) *grpc.ClientConn {
	s.t.Helper()
	opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(from.Source(), to.ID()))))
	cc, err := grpc.NewClient("passthrough:///"+to.Addr(), opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func (s *scene) exchange(from, to *runtime.Agent) rpcv1.ExchangeServiceClient {
	s.t.Helper()
	return rpcv1.NewExchangeServiceClient(s.raw(from, to))
}

// envelope returns what relay would send to writer for a call of Unary.
func (s *scene) envelope(ctx context.Context) *v1.Envelope {
	s.t.Helper()
	env, err := s.Dial(s.relay, s.writer).Prepare(ctx, meshpb.MeshService_Unary_FullMethodName, &meshpb.UnaryRequest{Resource: mesh()})
	if err != nil {
		s.t.Fatal(err)
	}
	return env
}

// tape keeps the messages that a tap shows.
type tape struct {
	mu       sync.Mutex
	messages []agenttest.Message
}

func (c *tape) see(m agenttest.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.messages = append(c.messages, m)
}

// requests returns the envelopes of the requests for method.
func (c *tape) requests(method string) []*v1.Envelope {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*v1.Envelope
	for _, m := range c.messages {
		if !m.Reply && m.Envelope.GetMethod() == method {
			out = append(out, proto.CloneOf(m.Envelope))
		}
	}
	return out
}
