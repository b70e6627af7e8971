package enforcegrpc

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/safeconduct/safeconduct/interceptors"
)

// Status is what a peer sees of err: a refusal with its ErrorInfo; an author's own status with code and message and without any
// detail of our domain; the code of a context error; INTERNAL without text for everything else.
func Status(err error) *status.Status {
	if err == nil {
		return nil // before the variables below, which errors.As moves to the heap
	}
	var d *interceptors.Denial
	var pub *interceptors.PublicError
	switch err = own(err); {
	case errors.As(err, &d):
		return denied(d)
	case errors.As(err, &pub):
		return status.New(codes.Code(interceptors.CodeOf(pub)), pub.Text)
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, "the call was cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, "the deadline has passed")
	}
	return status.New(codes.Internal, "internal error")
}

// own turns an author's own status into the core's words, so that the record names the code that the peer sees.
func own(err error) error {
	s, ok := err.(interface{ GRPCStatus() *status.Status }) // only the handler's own error, not what it wraps.
	if !ok || s.GRPCStatus().Code() == codes.OK || s.GRPCStatus().Code() == codes.Unknown {
		return err
	}
	return interceptors.Public(interceptors.Code(s.GRPCStatus().Code()), "%s", s.GRPCStatus().Message())
}

func denied(d *interceptors.Denial) *status.Status {
	s := status.New(codes.Code(d.Code), d.Message())
	details := []protoadapt.MessageV1{protoadapt.MessageV1Of(&errdetails.ErrorInfo{
		Reason: d.WireName(), Domain: interceptors.Domain, Metadata: map[string]string{"decision_id": d.DecisionHex()},
	})}
	if d.RetryAfter > 0 {
		details = append(details, protoadapt.MessageV1Of(&errdetails.RetryInfo{RetryDelay: durationpb.New(d.RetryAfter.Round(time.Millisecond))}))
	}
	if with, err := s.WithDetails(details...); err == nil {
		return with
	}
	return s
}

func isCarrier(method string) bool {
	return strings.HasPrefix(method, "/safeconduct.rpc.v1.ExchangeService/")
}
