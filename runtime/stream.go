package runtime

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
	"github.com/safeconduct/safeconduct/policy"
)

// NewStream implements grpc.ClientConnInterface: the chain is presented on the connection, and the stream carries a small envelope
// with its reference in metadata. Everything received joins the caller's conversation as untrusted, because a plain stream has no
// place for labels.
func (c *Conn) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	o, err := callOptions(opts)
	if err != nil {
		return nil, err
	}
	m, err := c.lookup(method)
	if err != nil {
		return nil, err
	}
	env, parent, err := c.envelope(ctx, m, nil, o.forStream())
	if err != nil {
		return nil, err
	}
	if parent != nil {
		res, err := c.client.Present(ctx, &rpcv1.PresentRequest{Chain: env.GetChain()})
		if err != nil {
			return nil, refusalOf(err)
		}
		env.Chain, env.ChainRef, env.Intent.Resource = nil, res.GetChainRef(), nil
	}
	env.Metadata = nil // the application's own metadata travels as such
	raw, err := proto.Marshal(env)
	if err != nil || len(raw) > interceptors.MaxMetadata {
		return nil, refusalOf(errors.Join(err, errEnvelopeSize))
	}
	out, err := c.agent.enforcer.OpenOutgoing(ctx, c.peer, env, leafOf(parent), m)
	if err != nil {
		return nil, refusalOf(err)
	}
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, enforcegrpc.EnvelopeKey, string(raw)))
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	inner, err := c.cc.NewStream(ctx, desc, method, o.grpc...)
	if err != nil {
		cancel()
		err = refusalOf(err)
		return nil, errors.Join(err, out.Close(err, nil, 0))
	}
	s := &callerStream{ClientStream: inner, cancel: cancel, out: out, parent: parent, serverStreams: m.ServerStream}
	context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })
	return s, nil
}

var errEnvelopeSize = errors.New("envelope does not fit into metadata")

// forStream drops what a stream cannot carry.
func (o *options) forStream() *options {
	return &options{grpc: o.grpc}
}

// callerStream records the outcome of a stream once, however it ends.
type callerStream struct {
	grpc.ClientStream
	cancel        context.CancelFunc
	out           *interceptors.Outgoing
	parent        *interceptors.Interaction
	serverStreams bool
	once          sync.Once
	mu            sync.Mutex
	bytesIn       int
}

// RecvMsg implements grpc.ClientStream.
func (s *callerStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err != nil {
		if errors.Is(err, io.EOF) {
			s.end(nil)
			return err
		}
		err = refusalOf(err)
		s.end(err)
		return err
	}
	if s.parent != nil && s.parent.Conversation() != nil {
		s.parent.Conversation().Taint(policy.Label{})
	}
	if pm, ok := m.(proto.Message); ok {
		s.mu.Lock()
		s.bytesIn += proto.Size(pm)
		s.mu.Unlock()
	}
	if !s.serverStreams {
		// The single reply of a client stream is followed by the status.
		if err := s.ClientStream.RecvMsg(m); !errors.Is(err, io.EOF) {
			err = refusalOf(err)
			s.end(err)
			return err
		}
		s.end(nil)
	}
	return nil
}

func (s *callerStream) end(err error) {
	s.once.Do(func() {
		s.mu.Lock()
		n := s.bytesIn
		s.mu.Unlock()
		_ = s.out.Close(err, nil, n) // the stream is over: there is no call left to fail
		s.cancel()
	})
}
