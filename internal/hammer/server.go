package hammer

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/internal/wirecodec"
	"github.com/safeconduct/safeconduct/runtime"
)

var errNotHere = errors.New("a server makes no calls, and a client serves none")

// errAsked is what a handler fails with that was told to fail.
var errAsked = errors.New("failed as asked")

// echo is the handler of every variant: it gives back what it got.
type echo struct {
	meshpb.UnimplementedMeshServiceServer
	calls     *handled
	failEvery uint64
}

func (e *echo) count() error {
	if n := e.calls.n.Add(1); e.failEvery > 0 && n%e.failEvery == 0 {
		return errAsked
	}
	return nil
}

// Foreign implements MeshServiceServer.
func (e *echo) Foreign(_ context.Context, r *meshpb.ForeignRequest) (*meshpb.ForeignResponse, error) {
	return &meshpb.ForeignResponse{Text: r.GetText()}, e.count()
}

// Unary implements MeshServiceServer.
func (e *echo) Unary(_ context.Context, r *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
	return &meshpb.UnaryResponse{Text: r.GetBehave()}, e.count()
}

// carrier answers Envelopes as the runtime does, and checks none of them.
type carrier struct {
	rpcv1.UnimplementedExchangeServiceServer
	echo *echo
}

// Deliver implements ExchangeServiceServer.
func (c *carrier) Deliver(ctx context.Context, env *v1.Envelope) (*v1.Envelope, error) {
	var req meshpb.ForeignRequest
	if err := proto.Unmarshal(env.GetPayload(), &req); err != nil {
		return nil, err
	}
	resp, err := c.echo.Foreign(ctx, &req)
	if err != nil {
		return nil, err
	}
	payload, err := proto.Marshal(resp)
	if err != nil {
		return nil, err
	}
	return &v1.Envelope{
		Kind: v1.FrameKind_FRAME_KIND_RESULT, Payload: payload, PayloadType: string(resp.ProtoReflect().Descriptor().FullName()),
		Control: env.GetControl(),
	}, nil
}

// rawServer is grpc-go with mTLS and nothing in front of its handlers. Its certificate and its trust are those of an agent.
type rawServer struct {
	src    identity.Source
	server *grpc.Server
	addr   string
	ended  chan error
}

func newRawServer(ctx context.Context, s *startSpec, calls *handled) (*rawServer, error) {
	src, err := ownSource(ctx)
	if err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	r := &rawServer{
		src: src, addr: l.Addr().String(),
		ended: make(chan error, 1),
	}
	opts := []grpc.ServerOption{grpc.Creds(credentials.NewTLS(identity.ServerTLS(src)))}
	if s.Kind == lean {
		opts = append(opts, grpc.ForceServerCodecV2(wirecodec.New()))
	}
	r.server = grpc.NewServer(opts...)
	e := &echo{calls: calls, failEvery: s.FailEvery}
	meshpb.RegisterMeshServiceServer(r.server, e)
	rpcv1.RegisterExchangeServiceServer(r.server, &carrier{echo: e})
	go func() { r.ended <- r.server.Serve(l) }()
	return r, nil
}

func (r *rawServer) address() string { return r.addr }

func (*rawServer) work(context.Context, *runSpec) (*result, error) { return nil, errNotHere }

func (*rawServer) log() *audit.Log { return nil }

func (r *rawServer) close() error {
	r.server.Stop()
	return errors.Join(<-r.ended, r.src.Close())
}

// agentServer is the product: an agent that serves a generated service with everything on.
type agentServer struct {
	agent *runtime.Agent
	stop  context.CancelFunc
	ended chan error
}

func newAgentServer(ctx context.Context, s *startSpec, calls *handled) (*agentServer, error) {
	agent, err := runtime.New(ctx, runtime.Config{AgentBudget: Budget(), TenantBudget: Budget()})
	if err != nil {
		return nil, err
	}
	meshpb.RegisterMeshServiceServer(agent, &echo{calls: calls, failEvery: s.FailEvery})
	l, err := agent.Listen(ctx)
	if err != nil {
		return nil, errors.Join(err, agent.Close()) // what was opened is closed whether or not ctx has ended.
	}
	ctx, stop := context.WithCancel(ctx)
	a := &agentServer{agent: agent, stop: stop, ended: make(chan error, 1)}
	go func() { a.ended <- agent.ServeListener(ctx, l) }()
	return a, nil
}

func (a *agentServer) address() string { return a.agent.Addr() }

func (*agentServer) work(context.Context, *runSpec) (*result, error) { return nil, errNotHere }

func (a *agentServer) log() *audit.Log { return a.agent.Audit() }

func (a *agentServer) close() error {
	a.stop()
	if err := errors.Join(<-a.ended, a.agent.Close()); err != nil {
		return fmt.Errorf("ending the server: %w", err)
	}
	return nil
}
