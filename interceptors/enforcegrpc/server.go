package enforcegrpc

import (
	"context"
	"crypto/tls"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/wirecodec"
)

// EnvelopeKey is the metadata key of an envelope beside a typed request that has no field for one.
const EnvelopeKey = "safeconduct-envelope-bin"

const (
	maxHeaders = 8 << 10
	// minStreams and maxStreams bound what one connection can make the server hold before a message is complete and looked at:
	// 128 MiB at the default budget. Between them it is twice what one agent may have in flight.
	minStreams = 128
	maxStreams = 16384
	// streamWorkers keep the stacks of handlers from one call to the next: a new goroutine for each call grows its own, which was a fifth of
	// the server's processor time. They are as many as one agent may have in flight by default, waiting handlers included; calls beyond them
	// get a goroutine each. An idle worker holds a stack of some 16 KiB until the garbage collector takes it back.
	streamWorkers = 64
	// streamWindow is how much of a message may wait on a stream before it is read, and connWindow how much may be on its way on a connection.
	// grpc would find both out by itself, with a ping and its answer every round trip, and let the first grow to 16 MiB.
	streamWindow = 2 << 20
	connWindow   = 4 << 20
)

// health is on the open list: it needs a verified peer and nothing else. The list is code, not configuration.
const health = "/grpc.health.v1.Health/"

// ServerOptions returns what puts e in front of a server: credentials over cfg, interceptors, the handler of unknown methods, the
// stats handler that records what grpc refuses itself, and limits.
func ServerOptions(e *interceptors.Enforcer, cfg *tls.Config) []grpc.ServerOption {
	a := &adapter{e}
	return []grpc.ServerOption{
		grpc.Creds(Credentials(cfg, e)),
		grpc.UnaryInterceptor(a.unary),
		grpc.StreamInterceptor(a.stream),
		grpc.UnknownServiceHandler(a.unknown),
		grpc.InTapHandle(begin),
		grpc.ForceServerCodecV2(wirecodec.New()),
		grpc.MaxRecvMsgSize(interceptors.MaxEnvelope),
		grpc.MaxHeaderListSize(maxHeaders),
		grpc.MaxConcurrentStreams(uint32(min(max(2*e.InFlight(), minStreams), maxStreams))), // bounded
		grpc.WaitForHandlers(true),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.NumStreamWorkers(streamWorkers),
	}
}

type adapter struct{ e *interceptors.Enforcer }

func (a *adapter) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	if isCarrier(info.FullMethod) {
		interceptors.MarkSeen(ctx)
		resp, err = next(ctx, req)
		return resp, Status(err).Err()
	}
	defer func() { err = Status(err).Err() }()
	ctx, in, err := a.open(ctx, info.FullMethod)
	defer in.Close(&err)
	if err != nil {
		return nil, err
	}
	if err = admit(ctx, in, info.FullMethod, req); err != nil {
		return nil, err
	}
	ctx, cancel := in.Bound(ctx)
	defer cancel()
	err = interceptors.ErrUnfinished
	resp, err = next(ctx, req)
	if err == nil {
		err = in.Emit(resp)
	}
	return resp, own(err)
}

func admit(ctx context.Context, in *interceptors.Interaction, method string, msg any) error {
	if strings.HasPrefix(method, health) {
		return in.AdmitBare(ctx)
	}
	_, err := in.Admit(ctx, msg)
	return err
}

func (a *adapter) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	if isCarrier(info.FullMethod) {
		interceptors.MarkSeen(ss.Context())
		return Status(next(srv, ss)).Err()
	}
	defer func() { err = Status(err).Err() }()
	ctx, in, err := a.open(ss.Context(), info.FullMethod)
	defer in.Close(&err)
	if err != nil {
		return err
	}
	gs := &guardedStream{ServerStream: ss, ctx: ctx, in: in, method: info.FullMethod}
	if gs.first, err = in.Prefetch(ctx, func(m proto.Message) error { return ss.RecvMsg(m) }); err != nil {
		return err
	}
	var cancel context.CancelFunc
	gs.ctx, cancel = in.Bound(ctx)
	defer cancel()
	err = interceptors.ErrUnfinished
	err = next(srv, gs)
	return own(err)
}

// unknown answers a method that no service has. The stream interceptor has opened the call, limited it, and records the refusal;
// only that of a carrier's method has no interaction.
func (a *adapter) unknown(_ any, ss grpc.ServerStream) error {
	err := interceptors.Refuse(v1.Reason_REASON_UNKNOWN_METHOD, nil)
	if method, _ := grpc.MethodFromServerStream(ss); isCarrier(method) {
		return a.e.RefuseTransport("", err)
	}
	return err
}

func (a *adapter) open(ctx context.Context, method string) (context.Context, *interceptors.Interaction, error) {
	interceptors.MarkSeen(ctx)
	session, refused := SessionFrom(ctx)
	c := &interceptors.Call{Session: session, Procedure: method, Transport: interceptors.TransportGRPC}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		c.Remote = p.Addr.String()
		if info, ok := p.AuthInfo.(AuthInfo); ok {
			c.Peer = info.who
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	switch v := md.Get(EnvelopeKey); {
	case len(v) == 1:
		c.Metadata = []byte(v[0])
	case len(v) > 1 && refused == nil:
		refused = interceptors.Refuse(v1.Reason_REASON_MALFORMED, nil)
	}
	return a.e.Open(ctx, c, refused)
}

type guardedStream struct {
	grpc.ServerStream
	ctx    context.Context //nolint:containedctx // a grpc.ServerStream carries its context; it dies with the call.
	in     *interceptors.Interaction
	method string
	first  proto.Message // admitted, and not yet read by the handler
}

// Context implements grpc.ServerStream.
func (s *guardedStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream: every message is admitted before the handler sees it.
func (s *guardedStream) RecvMsg(m any) error {
	if first := s.first; first != nil {
		s.first = nil
		return interceptors.Hand(first, m)
	}
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return admit(s.ctx, s.in, s.method, m)
}

// SendMsg implements grpc.ServerStream.
func (s *guardedStream) SendMsg(m any) error {
	if err := s.in.Emit(m); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}
