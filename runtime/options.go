package runtime

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
)

// options are the call options that a Conn honours.
type options struct {
	grpc    []grpc.CallOption
	header  *metadata.MD
	trailer *metadata.MD
	attach  []*v1.ContextRef
	refs    *[]*v1.ContextRef
	opaque  bool
	proof   bool
	receipt *SignedReceipt
}

type attachOption struct {
	grpc.EmptyCallOption
	refs []*v1.ContextRef
}

type replyRefsOption struct {
	grpc.EmptyCallOption
	refs   *[]*v1.ContextRef
	opaque bool
}

// Share sends context references with the call. The content stays where it is; the callee resolves it under its own identity.
func Share(refs ...*v1.ContextRef) grpc.CallOption { return attachOption{refs: refs} }

// ReplyRefs stores the context references that the callee attached to its reply.
func ReplyRefs(refs *[]*v1.ContextRef) grpc.CallOption { return replyRefsOption{refs: refs} }

// Opaque stores the references of the reply and leaves the reply itself unread, its header and trailer too: the caller's
// conversation keeps its label, so it may pass content on that it could not afford to read.
func Opaque(refs *[]*v1.ContextRef) grpc.CallOption {
	return replyRefsOption{refs: refs, opaque: true}
}

// callOptions sorts opts. An option that would be ignored is an error that names it: an ignored security option is worse.
func callOptions(opts []grpc.CallOption) (*options, error) {
	o := &options{}
	for _, opt := range opts {
		switch v := opt.(type) {
		case attachOption:
			if o.attach == nil {
				o.attach = v.refs[:len(v.refs):len(v.refs)]
			} else {
				o.attach = append(o.attach, v.refs...)
			}
		case replyRefsOption:
			o.refs, o.opaque = v.refs, o.opaque || v.opaque
		case proofOption:
			o.proof = true
		case receiptOption:
			o.receipt = v.into
		case grpc.HeaderCallOption:
			o.header = v.HeaderAddr
		case grpc.TrailerCallOption:
			o.trailer = v.TrailerAddr
		case grpc.PeerCallOption, grpc.FailFastCallOption, grpc.MaxRecvMsgSizeCallOption, grpc.MaxSendMsgSizeCallOption,
			grpc.OnFinishCallOption:
			o.grpc = append(o.grpc, opt)
		case grpc.EmptyCallOption, grpc.StaticMethodCallOption:
		default:
			return nil, status.Errorf(codes.Unimplemented, "call option %T is not supported over an enforced connection", opt)
		}
	}
	return o, nil
}

// stream returns the options of a guarded gRPC stream, which has a header and a trailer of its own.
func (o *options) stream() []grpc.CallOption {
	out := slices.Clone(o.grpc)
	if o.header != nil {
		out = append(out, grpc.Header(o.header))
	}
	if o.trailer != nil {
		out = append(out, grpc.Trailer(o.trailer))
	}
	return out
}

// ready returns those that say whether to wait for the callee, for what goes before the call itself.
func (o *options) ready() []grpc.CallOption {
	var out []grpc.CallOption
	for _, opt := range o.grpc {
		if _, ok := opt.(grpc.FailFastCallOption); ok {
			out = append(out, opt)
		}
	}
	return out
}

// Refs returns the context references that came with the call.
func Refs(ctx context.Context) []*v1.ContextRef {
	in, ok := interceptors.From(ctx)
	if !ok {
		return nil
	}
	return in.Envelope().GetContext()
}

// Attach adds context references to the reply of the call being handled.
func Attach(ctx context.Context, refs ...*v1.ContextRef) error {
	in, ok := interceptors.From(ctx)
	if !ok {
		return fmt.Errorf("attaching references: %w", ErrNoAuthority)
	}
	return in.Attach(refs...)
}

// WaitForReady makes a call wait for its callee to be reachable instead of failing at once.
func WaitForReady() grpc.CallOption { return grpc.WaitForReady(true) }
