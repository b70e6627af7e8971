package interceptors

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// Code is a status code, numbered as gRPC and Connect both number theirs.
type Code uint32

// The codes that refusals use.
const (
	CodeOK                 Code = 0
	CodeCanceled           Code = 1
	CodeUnknown            Code = 2
	CodeInvalidArgument    Code = 3
	CodeDeadlineExceeded   Code = 4
	CodeNotFound           Code = 5
	CodeAlreadyExists      Code = 6
	CodePermissionDenied   Code = 7
	CodeResourceExhausted  Code = 8
	CodeFailedPrecondition Code = 9
	CodeAborted            Code = 10
	CodeUnimplemented      Code = 12
	CodeInternal           Code = 13
	CodeUnavailable        Code = 14
	CodeUnauthenticated    Code = 16
)

// Domain is the domain of the google.rpc.ErrorInfo that a refusal carries on every transport.
const Domain = "safeconduct"

// ErrUnfinished stands as a call's error while its handler runs, so that a panic or runtime.Goexit does not look like success.
var ErrUnfinished = errors.New("handler did not finish")

// Denial is a refusal. Peers see Code, the wire reason and the decision id; Reason and Err stay in the audit log.
type Denial struct {
	Code       Code
	Reason     v1.Reason // as precise as the core knows it
	DecisionID [16]byte
	RetryAfter time.Duration
	Err        error
}

// Error returns the reason and its cause; it is for the log, never for a peer.
func (d *Denial) Error() string {
	if d.Err == nil {
		return d.Reason.String()
	}
	return d.Reason.String() + ": " + d.Err.Error()
}

// Unwrap returns the cause.
func (d *Denial) Unwrap() error { return d.Err }

// Wire returns the reason that a peer sees.
func (d *Denial) Wire() v1.Reason { return wireOf(d.Reason).reason }

// WireName returns the wire reason as ErrorInfo.reason spells it.
func (d *Denial) WireName() string { return ReasonName(d.Wire()) }

// DecisionHex returns the decision id as peers see it.
func (d *Denial) DecisionHex() string { return hex.EncodeToString(d.DecisionID[:]) }

// Message returns the fixed text for the code.
func (d *Denial) Message() string { return fixedText(d.Code) }

// ReasonName returns a reason without the prefix of its enum.
func ReasonName(r v1.Reason) string { return strings.TrimPrefix(r.String(), "REASON_") }

// deny makes the Denial of a check that has failed. In a build with the tag `mutants` a test may switch the check off, and the result is
// nil.
func deny(r v1.Reason, err error) *Denial { return mutant.Held(r, Refuse(r, err)) }

func denyf(r v1.Reason, format string, args ...any) *Denial {
	return mutant.Held(r, Refuse(r, fmt.Errorf(format, args...)))
}

// Refuse returns a Denial for r; the table of wire reasons gives its code. Handlers of the product's own services use it, so that
// their refusals look like the core's.
func Refuse(r v1.Reason, err error) *Denial {
	return &Denial{Code: wireOf(r).code, Reason: r, Err: err}
}

func fixedText(c Code) string {
	switch c {
	case CodeOK:
		return ""
	case CodeCanceled:
		return "the call was cancelled"
	case CodeInvalidArgument:
		return "the message is not acceptable"
	case CodeDeadlineExceeded:
		return "the deadline has passed"
	case CodeNotFound:
		return "not found"
	case CodeAlreadyExists:
		return "seen before"
	case CodePermissionDenied:
		return "not permitted"
	case CodeResourceExhausted:
		return "over a limit"
	case CodeFailedPrecondition:
		return "a precondition is not met"
	case CodeAborted:
		return "aborted"
	case CodeUnimplemented:
		return "not available"
	case CodeUnavailable:
		return "not available now"
	case CodeUnauthenticated:
		return "the peer is not verified"
	case CodeInternal, CodeUnknown:
	}
	return "internal error"
}

// PublicError is a handler's error whose code and text the peer may see.
type PublicError struct {
	Code Code
	Text string
}

// Public returns an error whose text, cut at 256 bytes, reaches the peer.
func Public(code Code, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if len(text) > 256 {
		text = strings.ToValidUTF8(text[:256], "")
	}
	return &PublicError{Code: code, Text: text}
}

// Error returns the text.
func (e *PublicError) Error() string { return e.Text }
