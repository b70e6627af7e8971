package interceptors

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Prefetch admits a stream before its handler runs, so that no handler is reached on nobody's authority. Where the envelope stands
// in metadata and the method declares neither resource field nor facts, nothing in the messages can matter to that decision, and
// none is waited for. Otherwise the first message decides: it is received here, and returned for the adapter to [Hand] to the
// handler. An open method whose request type is not known, such as health, is left to its handler's first read.
func (in *Interaction) Prefetch(ctx context.Context, receive func(proto.Message) error) (first proto.Message, err error) {
	m := in.method
	if len(in.call.Metadata) > 0 && len(m.resource) == 0 && len(m.facts) == 0 {
		in.mu.Lock()
		in.ahead = 1
		in.mu.Unlock()
		_, err := in.Admit(ctx, nil)
		return nil, err
	}
	if first = m.NewInput(); first == nil {
		if !m.Intent.GetOpen() {
			return nil, in.refuse(denyf(v1.Reason_REASON_UNKNOWN_METHOD, "the request type of %q is not known", in.call.Procedure))
		}
		return nil, nil
	}
	if err := receive(first); err != nil {
		if errors.Is(err, io.EOF) {
			err = in.refuse(deny(v1.Reason_REASON_NO_ENVELOPE, err))
		}
		return nil, err
	}
	_, err = in.Admit(ctx, first)
	return first, err
}

// Hand gives a message that was received early to the handler that asks for it.
func Hand(from proto.Message, into any) error {
	to, ok := into.(proto.Message)
	if !ok || to.ProtoReflect().Descriptor().FullName() != from.ProtoReflect().Descriptor().FullName() {
		return deny(v1.Reason_REASON_INTERNAL, fmt.Errorf("the handler reads a %T, the method takes %s", into, from.ProtoReflect().Descriptor().FullName()))
	}
	proto.Reset(to)
	proto.Merge(to, from)
	return nil
}
