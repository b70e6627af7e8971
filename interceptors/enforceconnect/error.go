package enforceconnect

import (
	"context"
	"errors"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/safeconduct/safeconduct/interceptors"
)

// Error is what a peer sees of err: a refusal with its ErrorInfo; an author's own connect error with code and message and without
// any detail of our domain; the code of a context error; INTERNAL without text for everything else.
func Error(err error) error {
	var d *interceptors.Denial
	var pub *interceptors.PublicError
	switch err = own(err); {
	case err == nil:
		return nil
	case errors.As(err, &d):
		return denied(d)
	case errors.As(err, &pub):
		return connect.NewError(connect.Code(interceptors.CodeOf(pub)), errors.New(pub.Text))
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, errors.New("the call was cancelled"))
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, errors.New("the deadline has passed"))
	}
	return connect.NewError(connect.CodeInternal, errors.New("internal error"))
}

// own turns an author's own connect error into the core's words, so that the record names the code that the peer sees.
func own(err error) error {
	e, ok := err.(*connect.Error) //nolint:errorlint // only the handler's own error, not what it wraps.
	if !ok || e.Code() == connect.CodeUnknown {
		return err
	}
	return interceptors.Public(interceptors.Code(e.Code()), "%s", e.Message())
}

func denied(d *interceptors.Denial) error {
	out := connect.NewError(connect.Code(d.Code), errors.New(d.Message()))
	add := func(m proto.Message) {
		if detail, err := connect.NewErrorDetail(m); err == nil {
			out.AddDetail(detail)
		}
	}
	add(&errdetails.ErrorInfo{Reason: d.WireName(), Domain: interceptors.Domain, Metadata: map[string]string{"decision_id": d.DecisionHex()}})
	if d.RetryAfter > 0 {
		add(&errdetails.RetryInfo{RetryDelay: durationpb.New(d.RetryAfter.Round(time.Millisecond))})
	}
	return out
}

func isCarrier(procedure string) bool {
	return strings.HasPrefix(procedure, "/safeconduct.rpc.v1.ExchangeService/")
}
