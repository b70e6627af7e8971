package operator

import (
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errorDomain is the domain of the ErrorInfo that the authority's refusals carry.
const errorDomain = "safeconduct"

// Errors a caller may test for.
var (
	// ErrSocketPath is returned for a path that is no socket address.
	ErrSocketPath = errors.New("socket path refused")
	// ErrUnreachable is returned when nobody answers on the socket.
	ErrUnreachable = errors.New("operator socket does not answer")
)

// Error is a request that the authority refused.
type Error struct {
	// Code is the name of the gRPC status code, such as PermissionDenied.
	Code string
	// Reason is the wire reason without the prefix of its enum, empty when the status carries none.
	Reason string
	// Decision names the refusal's record in the authority's audit log, in hex.
	Decision string
	// Message is what the authority tells of the cause; it does so only about the operator's own request.
	Message string
}

// Error returns cause, code, reason and decision id.
func (e *Error) Error() string {
	s := fmt.Sprintf("%s (%s", e.Message, e.Code)
	if e.Reason != "" {
		s += ", " + e.Reason
	}
	if e.Decision != "" {
		s += ", decision " + e.Decision
	}
	return s + ")"
}

// unwrap turns a status into what callers see.
func (c *Client) unwrap(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("operator socket %s: %w", c.path, err)
	}
	e := &Error{Code: s.Code().String(), Message: s.Message()}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			e.Reason, e.Decision = info.GetReason(), info.GetMetadata()["decision_id"]
			return e
		}
	}
	if s.Code() == codes.Unavailable {
		return fmt.Errorf("%w: %s", ErrUnreachable, c.path)
	}
	return e
}
