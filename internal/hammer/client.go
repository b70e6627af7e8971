package hammer

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/internal/wirecodec"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/runtime"
)

// text is a payload of n bytes.
func text(n int) string { return strings.Repeat("safe conduct for messages, ", n/27+1)[:n] }

// rawClient calls over grpc-go with mTLS and nothing else.
type rawClient struct {
	src  identity.Source
	conn *grpc.ClientConn
	spec *startSpec
	peer identity.AgentID
	body string
}

func newRawClient(ctx context.Context, s *startSpec) (*rawClient, error) {
	peer, err := identity.ParseAgent(s.Peer)
	if err != nil {
		return nil, err
	}
	src, err := ownSource(ctx)
	if err != nil {
		return nil, err
	}
	opts := []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(src, peer)))}
	if s.Kind == lean {
		opts = append(opts, grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wirecodec.New())))
	}
	conn, err := grpc.NewClient("passthrough:///"+s.Address, opts...)
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return &rawClient{src: src, conn: conn, spec: s, peer: peer, body: text(s.Payload)}, nil
}

func (*rawClient) address() string { return "" }

func (*rawClient) log() *audit.Log { return nil }

func (c *rawClient) close() error { return errors.Join(c.conn.Close(), c.src.Close()) }

func (c *rawClient) work(ctx context.Context, r *runSpec) (*result, error) {
	if c.spec.Kind == raw {
		client := meshpb.NewMeshServiceClient(c.conn)
		res := load(r, func() call {
			return func() error { return callForeign(ctx, client, c.body) }
		})
		res.Request = proto.Size(&meshpb.ForeignRequest{Text: c.body})
		return res, nil
	}
	leaf, err := r.Mandate.leaf(c.src)
	if err != nil {
		return nil, err
	}
	chain, err := extend(leaf, c.src, c.peer)
	if err != nil {
		return nil, err
	}
	client := rpcv1.NewExchangeServiceClient(c.conn)
	e := &enveloper{self: leaf.Delegate(), peer: c.peer, chain: chain, refs: references(), purpose: r.Mandate.Purpose, body: c.body}
	if c.spec.Kind == lean {
		ref, ok := delegation.Reference(leaf, chain)
		if !ok {
			return nil, errNoReference
		}
		e.chain, e.ref = nil, ref[:]
	}
	res := load(r, func() call {
		return func() error { return e.send(ctx, client) }
	})
	env, err := e.envelope()
	res.Request = proto.Size(env)
	return res, err
}

// agentClient calls through runtime.Conn.
type agentClient struct {
	agent *runtime.Agent
	mesh  meshpb.MeshServiceClient
	spec  *startSpec
	body  string
}

func newAgentClient(ctx context.Context, s *startSpec) (*agentClient, error) {
	agent, err := runtime.New(ctx, runtime.Config{})
	if err != nil {
		return nil, err
	}
	conn, err := agent.Dial(s.Peer)
	if err != nil {
		return nil, errors.Join(err, agent.Close()) // what was opened is closed whether or not ctx has ended.
	}
	return &agentClient{agent: agent, mesh: meshpb.NewMeshServiceClient(conn), spec: s, body: text(s.Payload)}, nil
}

func (*agentClient) address() string { return "" }

func (c *agentClient) log() *audit.Log { return c.agent.Audit() }

func (c *agentClient) close() error { return c.agent.Close() }

// work gives every caller in flight a conversation of its own, as independent tasks have.
func (c *agentClient) work(ctx context.Context, r *runSpec) (*result, error) {
	leaf, err := r.Mandate.leaf(c.agent.Source())
	if err != nil {
		return nil, err
	}
	share := runtime.Share(references()...)
	label := policy.OwnWords(v1.Integrity_INTEGRITY_ATTESTED, c.agent.ID().String())
	return load(r, func() call {
		ctx, _ := c.agent.Enforcer().Root(ctx, leaf, r.Mandate.Purpose, label)
		if c.spec.Kind == durable {
			return func() error { return callUnary(ctx, c.mesh, c.body, share) }
		}
		return func() error { return callForeign(ctx, c.mesh, c.body, share) }
	}), nil
}

var errNoReference = errors.New("the chain has no reference")

var errOther = errors.New("the echo is not what was sent")

func callForeign(ctx context.Context, c meshpb.MeshServiceClient, body string, opts ...grpc.CallOption) error {
	resp, err := c.Foreign(ctx, &meshpb.ForeignRequest{Text: body}, opts...)
	if err == nil && len(resp.GetText()) != len(body) {
		return errOther
	}
	return err
}

func callUnary(ctx context.Context, c meshpb.MeshServiceClient, body string, opts ...grpc.CallOption) error {
	resp, err := c.Unary(ctx, &meshpb.UnaryRequest{Behave: body, Resource: []string{meshResource}}, opts...)
	if err == nil && len(resp.GetText()) != len(body) {
		return errOther
	}
	return err
}
