package delegation

import (
	"errors"
	"fmt"
	"strings"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// The four families of refusals that a caller may branch on with errors.Is.
var (
	// ErrAmplified is matched when a statement passes on more than it holds.
	ErrAmplified = errors.New("authority amplified")
	// ErrTooDeep is matched when a chain is longer than one of its statements allows.
	ErrTooDeep = errors.New("chain too deep")
	// ErrExpired is matched when a lifetime is over, not begun, or longer than allowed.
	ErrExpired = errors.New("chain expired")
	// ErrBroken is matched by every other refusal.
	ErrBroken = errors.New("chain broken")
)

// Error is a refusal. It is safe for concurrent use.
type Error struct {
	// Reason is precise: it goes to the audit log, and one table of the enforcement core maps it onto what a peer sees.
	Reason v1.Reason
	// Depth is the position of the statement that failed: 0 is the grant, d the d-th hop, -1 the chain as a whole.
	Depth int

	cause error
}

// whole is the Depth of a refusal that is about no single statement.
const whole = -1

// Error returns the reason in lower case, the position and the cause.
func (e *Error) Error() string {
	text := strings.ToLower(strings.TrimPrefix(e.Reason.String(), "REASON_"))
	if e.Depth != whole {
		text = fmt.Sprintf("%s at depth %d", text, e.Depth)
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Unwrap returns the cause, nil when the reason says all there is to say.
func (e *Error) Unwrap() error { return e.cause }

// Is reports whether target is the family of e: ErrAmplified, ErrTooDeep, ErrExpired or ErrBroken.
func (e *Error) Is(target error) bool {
	switch e.Reason {
	case v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED, v1.Reason_REASON_CHAIN_CONSTRAINT_LOOSENED,
		v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT, v1.Reason_REASON_CHAIN_NOT_DELEGABLE:
		return target == ErrAmplified
	case v1.Reason_REASON_CHAIN_DEPTH:
		return target == ErrTooDeep
	case v1.Reason_REASON_CHAIN_LIFETIME, v1.Reason_REASON_CHAIN_TIME:
		return target == ErrExpired
	default:
		return target == ErrBroken
	}
}

// ReasonOf returns the reason of the Error in err's tree, 0 when there is none.
func ReasonOf(err error) v1.Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return v1.Reason_REASON_UNSPECIFIED
}

// refuse makes the error of a check that has failed. In a build with the tag `mutants` a test may switch the check off, and the
// result is nil.
func refuse(depth int, reason v1.Reason, cause error) error {
	return mutant.Held[error](reason, &Error{Reason: reason, Depth: depth, cause: cause})
}

func refusef(depth int, reason v1.Reason, format string, args ...any) error {
	return mutant.Held[error](reason, &Error{Reason: reason, Depth: depth, cause: fmt.Errorf(format, args...)})
}
