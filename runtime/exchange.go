package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforceconnect"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
	"github.com/safeconduct/safeconduct/internal/wirecodec"
)

// generation is a counter that verification caches belong to.
type generation struct{ atomic.Uint64 }

// exchange serves ExchangeService: it opens one interaction per Envelope and dispatches it to the registered handlers.
type exchange struct {
	rpcv1.UnimplementedExchangeServiceServer
	agent *Agent

	mu       sync.RWMutex
	handlers map[string]handler
	frames   sync.Pool // of *wirecodec.Frame, for replies
	requests sync.Pool // of *wirecodec.Request
	keys     ownKeys
}

// register adds the unary methods of a generated service; streaming ones are served as guarded gRPC streams only.
func (x *exchange) register(sd *grpc.ServiceDesc, impl any) error {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(sd.ServiceName))
	if err != nil {
		return fmt.Errorf("%w: service %s has no descriptor in this binary: %w", interceptors.ErrMethod, sd.ServiceName, err)
	}
	service, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return fmt.Errorf("%w: %s is no service", interceptors.ErrMethod, sd.ServiceName)
	}
	if err := x.agent.methods.AddService(service); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, md := range sd.Methods {
		full := "/" + sd.ServiceName + "/" + md.MethodName
		x.handlers[full] = generated(md, impl)
	}
	return nil
}

func unmarshal(payload []byte, m proto.Message) error {
	if err := proto.Unmarshal(payload, m); err != nil {
		return interceptors.Refuse(v1.Reason_REASON_MALFORMED, err)
	}
	return nil
}

func (x *exchange) handler(method string) handler {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.handlers[method]
}

// Deliver implements ExchangeServiceServer.
func (x *exchange) Deliver(ctx context.Context, env *v1.Envelope) (*v1.Envelope, error) {
	out, err := x.deliver(ctx, env, nil)
	if err != nil {
		return nil, err
	}
	return &out.Envelope, nil // its memory is not used again
}

// authored turns an author's own status into the core's words, so that the record names the code that the peer sees. Its text
// travels without a label: it is kept back when the conversation has read anything less than attested.
func authored(in *interceptors.Interaction, err error) error {
	var code interceptors.Code
	var text string
	var d *interceptors.Denial
	var p *interceptors.PublicError
	s, ok := err.(interface{ GRPCStatus() *status.Status }) // only the handler's own error, not what it wraps.
	switch {
	case errors.As(err, &d), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &p):
		code, text = p.Code, p.Text
	case ok && s.GRPCStatus().Code() != codes.OK && s.GRPCStatus().Code() != codes.Unknown:
		code, text = interceptors.Code(s.GRPCStatus().Code()), s.GRPCStatus().Message()
	default: // a bare error, or the status of a transport that carries this call by chance
		return fmt.Errorf("handler: %w", err)
	}
	if talk := in.Conversation(); talk != nil && talk.Label().Integrity < v1.Integrity_INTEGRITY_ATTESTED {
		text = (&interceptors.Denial{Code: code}).Message()
	}
	return interceptors.Public(code, "%s", text)
}

// result makes the RESULT frame: the reply, its label, what the handler attached, and where the intent was recorded.
func (x *exchange) result(in *interceptors.Interaction, resp proto.Message, sent *headers) (*wirecodec.Frame, error) {
	f := x.frame()
	payload, err := proto.MarshalOptions{}.MarshalAppend(f.Buffer, resp)
	if err != nil {
		return nil, interceptors.Refuse(v1.Reason_REASON_INTERNAL, err)
	}
	if len(payload) > interceptors.MaxPayload {
		return nil, interceptors.Refuse(v1.Reason_REASON_LIMIT, fmt.Errorf("reply of %d bytes", len(payload)))
	}
	out := &f.Envelope
	out.Kind, out.Payload, out.PayloadType = v1.FrameKind_FRAME_KIND_RESULT, payload, string(resp.ProtoReflect().Descriptor().FullName())
	out.Metadata, out.Context = sent.pairs(), in.Attached()
	f.Buffer = payload
	if talk := in.Conversation(); talk != nil {
		out.Control = talk.Control()
	}
	if pos := in.Position(); pos != nil {
		r := &f.Receipt // the position lies in the interaction, and is not changed
		r.LogId, r.BootId, r.Seq, r.LeafHash = pos.LogID[:], pos.BootID[:], pos.Seq, pos.Leaf[:]
		out.Audit = r
	}
	if out.Receipt, err = in.SignReceipt(); err != nil {
		return nil, err
	}
	if n := out.SizeVT(); n > interceptors.MaxEnvelope {
		return nil, interceptors.Refuse(v1.Reason_REASON_LIMIT, fmt.Errorf("reply of %d bytes with its references", n))
	}
	return f, nil
}

// frame returns the memory of a reply, which comes back when the reply is written.
func (x *exchange) frame() *wirecodec.Frame {
	if f, ok := x.frames.Get().(*wirecodec.Frame); ok {
		return f
	}
	return &wirecodec.Frame{Sent: func(f *wirecodec.Frame) {
		f.Reset()
		x.frames.Put(f)
	}}
}

// request returns the memory of a received message, which comes back when the message is admitted and its payload decoded. Of a message
// that is not admitted it does not come back.
func (x *exchange) request() *wirecodec.Request {
	if r, ok := x.requests.Get().(*wirecodec.Request); ok {
		return r
	}
	return new(wirecodec.Request)
}

// service describes ExchangeService to grpc, with a Deliver whose request is a Request and whose reply is a Frame.
func (x *exchange) service() *grpc.ServiceDesc {
	sd := rpcv1.ExchangeService_ServiceDesc
	sd.Methods = slices.Clone(sd.Methods)
	info := &grpc.UnaryServerInfo{Server: x, FullMethod: rpcv1.ExchangeService_Deliver_FullMethodName}
	answer := func(ctx context.Context, req any) (any, error) {
		r, _ := req.(*wirecodec.Request)
		out, err := x.deliver(ctx, r.Envelope, r)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
	for i := range sd.Methods {
		if sd.Methods[i].MethodName != "Deliver" {
			continue
		}
		sd.Methods[i].Handler = func(_ any, ctx context.Context, decode func(any) error, guard grpc.UnaryServerInterceptor) (any, error) {
			req := x.request()
			if err := decode(req); err != nil {
				session, _ := sessionOf(ctx)
				return nil, x.agent.enforcer.RefuseBody(ctx, session, err)
			}
			return guard(ctx, req, info, answer)
		}
	}
	return &sd
}

// Present implements ExchangeServiceServer.
func (x *exchange) Present(ctx context.Context, req *rpcv1.PresentRequest) (*rpcv1.PresentResponse, error) {
	session, refused := sessionOf(ctx)
	if session == nil {
		if refused == nil {
			refused = interceptors.Refuse(v1.Reason_REASON_PEER_UNVERIFIED, nil)
		}
		return nil, refused
	}
	leaf, err := x.agent.enforcer.Present(ctx, &interceptors.Call{
		Session: session, Procedure: rpcv1.ExchangeService_Present_FullMethodName, Transport: interceptors.TransportDeliver,
	}, req.GetChain())
	if err != nil {
		return nil, err
	}
	link := leaf.Link()
	return &rpcv1.PresentResponse{ChainRef: link[:], ValidUntilUnixMs: leaf.Expires().UnixMilli()}, nil
}

// Exchange implements ExchangeServiceServer: the multiplexed session is declared, and refused until it is built.
func (x *exchange) Exchange(s grpc.BidiStreamingServer[v1.Envelope, v1.Envelope]) error {
	return x.refuseExchange(s.Context())
}

// refuseExchange refuses it like any unknown method: limited and recorded.
func (x *exchange) refuseExchange(ctx context.Context) (err error) {
	session, refused := sessionOf(ctx)
	_, in, err := x.agent.enforcer.Open(ctx, &interceptors.Call{
		Session: session, Procedure: rpcv1.ExchangeService_Exchange_FullMethodName, Transport: interceptors.TransportDeliver,
	}, refused)
	defer in.Close(&err)
	return err
}

// sessionOf finds the session that the adapter of either transport attached to the connection.
func sessionOf(ctx context.Context) (*interceptors.Session, error) {
	if s, refused := enforcegrpc.SessionFrom(ctx); s != nil || refused != nil {
		return s, refused
	}
	return enforceconnect.SessionFrom(ctx)
}
