package intruder

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"slices"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

const (
	// listAction is the intent of the call that every attack is built on: it reads headers only and succeeds where there are none.
	listAction = "memory.list"
	// envelopeLife is how long a message may wait to be accepted.
	envelopeLife = 20 * time.Second
)

// bytesCodec sends marshalled messages as they are, so that the same bytes can be sent twice.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) ([]byte, error) {
	b, isBytes := v.([]byte)
	if !isBytes {
		return nil, fmt.Errorf("sending a %T", v)
	}
	return b, nil
}

func (bytesCodec) Unmarshal(data []byte, v any) error {
	b, isBytes := v.(*[]byte)
	if !isBytes {
		return fmt.Errorf("receiving a %T", v)
	}
	*b = slices.Clone(data)
	return nil
}

// dial opens a connection of its own to the target over the intruder's SVID.
func (x *intruder) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+x.cfg.TargetAddr,
		grpc.WithContextDialer(x.connect), // and no proxy of the environment
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(x.cfg.Source, x.cfg.Target))),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(), grpc.WithMaxHeaderListSize(maxAnswerHeaders))
}

// connect opens every connection of the intruder to its target.
func (x *intruder) connect(ctx context.Context, addr string) (net.Conn, error) {
	if x.cfg.Dial != nil {
		return x.cfg.Dial(ctx, addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// deliver sends one marshalled Envelope.
func deliver(ctx context.Context, cc *grpc.ClientConn, raw []byte) answer {
	return answerOf(deliverTo(ctx, cc, raw))
}

func deliverTo(ctx context.Context, cc *grpc.ClientConn, raw []byte) error {
	var reply []byte
	err := cc.Invoke(ctx, rpcv1.ExchangeService_Deliver_FullMethodName, raw, &reply, grpc.ForceCodec(bytesCodec{}))
	if err != nil {
		return err
	}
	var env v1.Envelope
	if err := proto.Unmarshal(reply, &env); err != nil {
		return status.Errorf(codes.Internal, "the reply does not decode: %v", err)
	}
	if env.GetKind() != v1.FrameKind_FRAME_KIND_RESULT {
		return status.Errorf(codes.Internal, "the reply is a frame %s", env.GetKind())
	}
	if len(env.GetStatus()) > 0 {
		var st spb.Status
		if err := proto.Unmarshal(env.GetStatus(), &st); err != nil {
			return status.Errorf(codes.Internal, "the status of the reply does not decode: %v", err)
		}
		return status.ErrorProto(&st)
	}
	return nil
}

// list makes the same call as guarded gRPC, with env beside the request or none.
func list(ctx context.Context, cc *grpc.ClientConn, ns []string, env *v1.Envelope) answer {
	_, err := rpcv1.NewMemoryServiceClient(cc).List(ctx, &rpcv1.ListRequest{Ns: &v1.Path{Labels: ns}, Envelope: env})
	return answerOf(err)
}

// beside is a valid envelope for a typed request on ns.
func (x *intruder) beside(chain *v1.DelegationChain, ns []string) *v1.Envelope {
	return &v1.Envelope{
		Id: random(nonceBytes), Method: rpcv1.MemoryService_List_FullMethodName, Chain: chain,
		Intent:         &v1.Intent{Action: listAction, Resource: ns, Purpose: x.cfg.Purpose},
		DeadlineUnixMs: x.cfg.Now().Add(envelopeLife).UnixMilli(),
		Tenant:         x.cfg.Self.Tenant().Name(), Recipient: x.cfg.Target.String(),
	}
}

// carrying is a valid envelope that carries the request on ns; change may spoil it.
func (x *intruder) carrying(chain *v1.DelegationChain, ns []string, change ...func(*v1.Envelope)) ([]byte, error) {
	req := &rpcv1.ListRequest{Ns: &v1.Path{Labels: ns}}
	payload, err := proto.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("marshalling a request: %w", err)
	}
	env := x.beside(chain, ns)
	sum := sha256.Sum256(payload)
	env.Kind, env.HalfClose = v1.FrameKind_FRAME_KIND_OPEN, true
	env.Payload, env.PayloadType = payload, string(req.ProtoReflect().Descriptor().FullName())
	env.Intent.ArgumentsDigest = sum[:]
	for _, f := range change {
		f(env)
	}
	raw, err := proto.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("marshalling an envelope: %w", err)
	}
	return raw, nil
}
