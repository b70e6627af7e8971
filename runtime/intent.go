package runtime

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
)

// freeForm is the service name of intents that no proto declares.
const freeForm = "/safeconduct.intent/"

// Message is a pointer to a generated message.
type Message[T any] interface {
	*T
	proto.Message
}

// HandleIntent serves an intent that no proto service declares: action, floor and audit class come from spec, whose zero value is
// the strictest. Register before Serve; a spec that may not be served makes Serve fail.
func HandleIntent[Req, Resp any, PReq Message[Req], PResp Message[Resp]](
	a *Agent, action string, spec *v1.MethodIntent, fn func(ctx context.Context, req PReq) (PResp, error),
) {
	intent := &v1.MethodIntent{}
	if spec != nil {
		intent, _ = proto.Clone(spec).(*v1.MethodIntent)
	}
	intent.Action = action
	method := freeForm + action
	err := a.methods.Add(&interceptors.Method{
		Procedure: method, Intent: intent, Input: PReq(new(Req)).ProtoReflect().Descriptor(),
	})
	if err != nil {
		a.mu.Lock()
		a.problems = append(a.problems, err)
		a.mu.Unlock()
		return
	}
	a.exchange.mu.Lock()
	defer a.exchange.mu.Unlock()
	a.exchange.handlers[method] = func(_ context.Context, d *delivery) (proto.Message, error) {
		req := PReq(new(Req))
		if err := d.decode(req); err != nil {
			return nil, err
		}
		admitted, err := d.admit(req)
		if err != nil {
			return nil, err
		}
		resp, err := fn(admitted, req)
		if err != nil {
			return nil, err
		}
		return resp, nil
	}
}

// CallIntent calls an intent that the peer serves with [HandleIntent].
func CallIntent[Resp any, PResp Message[Resp]](ctx context.Context, c *Conn, action string, req proto.Message, opts ...grpc.CallOption) (PResp, error) {
	o, err := callOptions(opts)
	if err != nil {
		return nil, err
	}
	m := &interceptors.Method{
		Procedure: freeForm + action, Intent: &v1.MethodIntent{Action: action}, Input: req.ProtoReflect().Descriptor(),
	}
	if known := c.methods.Lookup(m.Procedure); known != nil {
		m = known
	} else if err := c.methods.Add(m); err != nil && c.methods.Lookup(m.Procedure) == nil {
		return nil, status.Error(codes.InvalidArgument, fmt.Sprintf("intent %q: %v", action, err))
	}
	reply := PResp(new(Resp))
	if err := c.call(ctx, m, req, reply, o); err != nil {
		return nil, err
	}
	return reply, nil
}
