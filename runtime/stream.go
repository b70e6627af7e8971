package runtime

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
	"github.com/safeconduct/safeconduct/policy"
)

// Bounds of the messages kept until the callee has answered, for the one case in which a stream is opened again.
const (
	maxHeldMessages = 16
	maxHeldBytes    = 64 << 10
)

// NewStream implements grpc.ClientConnInterface: the chain is presented on the connection, and the stream carries a small envelope
// with its reference in metadata. Everything received joins the caller's conversation as untrusted, because a plain stream has no
// place for labels; for the same reason ReplyRefs and Opaque are not offered. When the connection was replaced between the two,
// the callee does not know the reference; the stream is then opened again, once, unless more than 16 messages or 64 KiB were sent
// before the callee answered: that is a [*Refusal], CHAIN_UNKNOWN.
func (c *Conn) NewStream(ctx context.Context, _ *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	o, err := callOptions(opts)
	if err != nil {
		return nil, err
	}
	if o.refs != nil {
		return nil, status.Error(codes.Unimplemented, "call options ReplyRefs and Opaque are not supported on a stream, which has no place for references")
	}
	if o.proof || o.receipt != nil {
		return nil, status.Error(codes.Unimplemented, "call options WithProof and Receipt are not supported on a stream, whose envelope binds no message")
	}
	m, err := c.lookup(method)
	if err != nil {
		return nil, err
	}
	msg := newMessage()
	if err := c.envelope(ctx, m, nil, o, msg); err != nil {
		return nil, err
	}
	env := msg.env
	if env.GetTimeoutMs() == 0 {
		env.TimeoutMs = maxRunMs
	}
	env.Metadata, env.Intent.Resource = nil, nil // the application's metadata travels as such; the callee derives the resource
	out, err := c.open(ctx, msg, m)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &callerStream{conn: c, ctx: ctx, cancel: cancel, out: out, parent: msg.parent, method: m, env: env, options: o}
	if err := s.start(); err != nil {
		err = refusalOf(err)
		s.end(err)
		return nil, err
	}
	context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })
	return s, nil
}

var errEnvelopeSize = errors.New("envelope does not fit into metadata")

// callerStream is one stream as its caller sees it. It records the outcome once, however the stream ends.
type callerStream struct {
	conn    *Conn
	ctx     context.Context //nolint:containedctx // a grpc.ClientStream carries its context; it dies with the call.
	cancel  context.CancelFunc
	out     *interceptors.Outgoing
	parent  *interceptors.Interaction
	method  *interceptors.Method
	env     *v1.Envelope // with the whole chain
	options *options
	inner   atomic.Pointer[grpc.ClientStream]
	heard   atomic.Bool // the callee has answered
	once    sync.Once
	bytesIn atomic.Int64

	mu     sync.Mutex // of sending, and of opening again
	held   []any
	bytes  int
	over   bool // more was sent than is held
	half   bool
	second bool
}

var _ grpc.ClientStream = (*callerStream)(nil)

// start presents the chain and opens the stream.
func (s *callerStream) start() error {
	s.conn.locate(s.ctx)
	env := proto.CloneOf(s.env)
	if env.GetChain() != nil {
		res, err := s.conn.client.Present(s.ctx, &rpcv1.PresentRequest{Chain: env.GetChain()}, s.conn.with(s.options.ready())...)
		if err != nil {
			return err
		}
		env.Chain, env.ChainRef = nil, res.GetChainRef()
	}
	raw, err := proto.Marshal(env)
	if err != nil {
		return err
	}
	if len(raw) > interceptors.MaxMetadata {
		return status.Error(codes.InvalidArgument, errEnvelopeSize.Error())
	}
	desc := &grpc.StreamDesc{ClientStreams: s.method.ClientStream, ServerStreams: s.method.ServerStream}
	ctx := metadata.AppendToOutgoingContext(s.ctx, enforcegrpc.EnvelopeKey, string(raw))
	inner, err := s.conn.cc.NewStream(ctx, desc, s.method.Procedure, s.conn.with(s.options.stream())...)
	if err != nil {
		return err
	}
	s.inner.Store(&inner)
	return nil
}

func (s *callerStream) stream() grpc.ClientStream { return *s.inner.Load() }

// Context implements grpc.ClientStream.
func (s *callerStream) Context() context.Context { return s.stream().Context() }

// SendMsg implements grpc.ClientStream. The message must not be changed until the callee has answered.
func (s *callerStream) SendMsg(m any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pm, ok := m.(proto.Message); ok && !s.heard.Load() && !s.over {
		s.bytes += proto.Size(pm)
		s.over = len(s.held) == maxHeldMessages || s.bytes > maxHeldBytes
		s.held = append(s.held, m)
	}
	if s.over || s.heard.Load() {
		s.held = nil
	}
	err := s.stream().SendMsg(m)
	if errors.Is(err, io.EOF) && s.mayReopen() {
		return nil // RecvMsg finds out why, and sends it again or reports it
	}
	return s.local(err)
}

// local translates a failure to send; io.EOF says that RecvMsg knows more.
func (s *callerStream) local(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	err = refusalOf(err)
	s.end(err)
	return err
}

// CloseSend implements grpc.ClientStream.
func (s *callerStream) CloseSend() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.half = true
	return s.local(s.stream().CloseSend())
}

// Header implements grpc.ClientStream.
func (s *callerStream) Header() (metadata.MD, error) {
	md, err := s.stream().Header()
	s.taint()
	return md, refusalOf(err)
}

// Trailer implements grpc.ClientStream.
func (s *callerStream) Trailer() metadata.MD { return s.stream().Trailer() }

// RecvMsg implements grpc.ClientStream.
func (s *callerStream) RecvMsg(m any) error {
	err := s.stream().RecvMsg(m)
	if err != nil && !errors.Is(err, io.EOF) {
		err = refusalOf(err)
		if isUnknown(err) && s.reopen() { // the connection is not the one that the chain was presented on
			return s.RecvMsg(m)
		}
	}
	s.heard.Store(true)
	s.taint()
	switch {
	case errors.Is(err, io.EOF):
		s.end(nil)
	case err != nil:
		s.end(err)
	default:
		if pm, ok := m.(proto.Message); ok {
			s.bytesIn.Add(int64(proto.Size(pm)))
		}
		if !s.method.ServerStream { // the one reply came with the status
			s.end(nil)
		}
	}
	return err
}

func (s *callerStream) mayReopen() bool {
	return !s.second && !s.over && !s.heard.Load() && s.ctx.Err() == nil
}

// reopen opens the stream again, with the same envelope: CHAIN_UNKNOWN is decided before the envelope's id is spent.
func (s *callerStream) reopen() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mayReopen() {
		return false
	}
	s.second = true
	if s.start() != nil {
		return false
	}
	for _, m := range s.held {
		if s.stream().SendMsg(m) != nil {
			return true // RecvMsg finds out why
		}
	}
	if s.half {
		_ = s.stream().CloseSend() // RecvMsg finds out why
	}
	return true
}

// taint joins what the callee sent to the caller's conversation.
func (s *callerStream) taint() {
	if s.parent != nil && s.parent.Conversation() != nil {
		s.parent.Conversation().Taint(policy.Label{})
	}
}

func (s *callerStream) end(err error) {
	s.once.Do(func() {
		_ = s.out.Close(err, nil, int(s.bytesIn.Load())) // the stream is over: there is no call left to fail
		s.cancel()
	})
}
