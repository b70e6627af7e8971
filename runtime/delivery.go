package runtime

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/wirecodec"
)

// handler runs one carried call: it decodes the payload, passes admission, and runs the author's method. ctx is what the method sees
// before it is admitted.
type handler func(ctx context.Context, d *delivery) (proto.Message, error)

// delivery is one carried call on its way to its handler. It is also the context that the call has until it is admitted, so that a handler
// finds the metadata and the header of its own call and not those of the transport. It is not used again: handlers keep contexts.
type delivery struct {
	context.Context
	in       *interceptors.Interaction
	env      *v1.Envelope
	call     interceptors.Call
	sent     headers
	own      context.Context    //nolint:containedctx // answers for the keys of grpc; shared by all calls.
	request  *wirecodec.Request // the memory of the payload; nil when it is not used again
	requests *sync.Pool
	bounded  context.Context //nolint:containedctx // of the admitted call.
	cancel   context.CancelFunc
}

// ownKeys answers for the keys under which grpc keeps the stream and the metadata of a call. They belong to grpc, so it is grpc that
// makes the contexts; without pairs in the Envelope they are the same for every call but for the stream.
type ownKeys struct{ stream, both context.Context } //nolint:containedctx // they hold no call.

// ownStream stands for the stream of any delivery.
type ownStream struct{ grpc.ServerTransportStream }

func newOwnKeys() ownKeys {
	stream := grpc.NewContextWithServerTransportStream(context.Background(), ownStream{})
	return ownKeys{stream: stream, both: metadata.NewIncomingContext(stream, nil)}
}

// Value implements context.Context.
func (d *delivery) Value(key any) any {
	switch v := d.own.Value(key).(type) {
	case nil:
		return d.Context.Value(key)
	case ownStream:
		return &d.sent
	default:
		return v
	}
}

// carry makes ctx the parent of the call.
func (d *delivery) carry(ctx context.Context, keys ownKeys) {
	d.Context, d.own = ctx, keys.both
	if pairs := fromPairs(d.env.GetMetadata()); pairs != nil {
		d.Context, d.own = metadata.NewIncomingContext(ctx, pairs), keys.stream
	}
	d.sent.method = d.call.Procedure
}

// decode reads the payload.
func (d *delivery) decode(v any) error {
	m, ok := v.(proto.Message)
	if !ok {
		return interceptors.Refuse(v1.Reason_REASON_INTERNAL, fmt.Errorf("request of %s is a %T", d.call.Procedure, v))
	}
	return unmarshal(d.env.GetPayload(), m)
}

// admit passes the decoded request and returns the context of the admitted call.
func (d *delivery) admit(req proto.Message) (context.Context, error) {
	if _, err := d.in.AdmitCarried(d, d.env, req); err != nil {
		return nil, err
	}
	d.release()
	d.bounded, d.cancel = d.in.Bound(d)
	return d.bounded, nil
}

// release gives the memory of the payload back: it is decoded, checked and recorded by now, and the handler, which may go on beside the call,
// has not begun. What it decoded to is a copy, as with any buffer of grpc.
func (d *delivery) release() {
	r := d.request
	if r == nil {
		return
	}
	d.request, d.env.Payload = nil, nil
	r.Envelope, r.Buffer = nil, wirecodec.Keep(r.Buffer)
	d.requests.Put(r)
}

// guard is the interceptor between the decoder and the author's method.
func (d *delivery) guard(_ context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	m, _ := req.(proto.Message)
	ctx, err := d.admit(m)
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// end ends the context of the call.
func (d *delivery) end() {
	if d.cancel != nil {
		d.cancel()
	}
}

// generated adapts the handler that protoc-gen-go-grpc wrote: its decoder runs before admission and its method after.
func generated(md grpc.MethodDesc, impl any) handler {
	return func(ctx context.Context, d *delivery) (proto.Message, error) {
		resp, err := md.Handler(impl, ctx, d.decode, d.guard)
		if err != nil {
			return nil, err
		}
		m, ok := resp.(proto.Message)
		if !ok {
			return nil, interceptors.Refuse(v1.Reason_REASON_INTERNAL, fmt.Errorf("reply of %s is a %T", d.call.Procedure, resp))
		}
		return m, nil
	}
}

// deliver answers one Envelope, whose payload lies in r or, where r is nil, in memory of its own.
func (x *exchange) deliver(ctx context.Context, env *v1.Envelope, r *wirecodec.Request) (out *wirecodec.Frame, err error) {
	session, refused := sessionOf(ctx)
	d := &delivery{env: env, request: r, requests: &x.requests, call: interceptors.Call{Session: session, Procedure: env.GetMethod(), Transport: interceptors.TransportDeliver}}
	ctx, in, err := x.agent.enforcer.Open(ctx, &d.call, refused)
	defer in.Close(&err)
	if err != nil {
		return nil, err
	}
	d.in = in
	h := x.handler(env.GetMethod())
	if h == nil {
		return nil, interceptors.Refuse(v1.Reason_REASON_UNKNOWN_METHOD, fmt.Errorf("%s does not travel by Deliver", env.GetMethod()))
	}
	if err = in.CheckCarried(env); err != nil {
		return nil, err
	}
	d.carry(ctx, x.keys)
	defer d.end()
	err = interceptors.ErrUnfinished
	resp, err := h(d, d)
	if err != nil {
		return nil, authored(in, err)
	}
	if err = in.Emit(resp); err != nil {
		return nil, err
	}
	return x.result(in, resp, &d.sent)
}
