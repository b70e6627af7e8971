package memory

import (
	"errors"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// What a caller may test for. Every error of [Store] and [View] wraps one of these or is the error of the caller's context.
var (
	// ErrNotFound stands for absent and for not allowed alike.
	ErrNotFound = errors.New("not found")
	// ErrConflict means that a precondition does not hold, or that a race was lost too often.
	ErrConflict = errors.New("precondition failed")
	// ErrLabel means that an entry may not be written with its label.
	ErrLabel = errors.New("label refused")
	// ErrTooLarge means that a documented bound is exceeded.
	ErrTooLarge = errors.New("too large")
	// ErrUnavailable means that the engine, the recorder or the stored bytes cannot be relied on.
	ErrUnavailable = errors.New("memory unavailable")
	// ErrInvalid means that the request has no meaning, whoever sends it.
	ErrInvalid = errors.New("invalid request")
)

// What only drivers return, besides ErrConflict, ErrTooLarge, ErrUnavailable and ErrInvalid.
var (
	// ErrNoTenant means that the tenant was never created, or was dropped.
	ErrNoTenant = errors.New("no such tenant")
	// ErrFull means that a bounded counter would leave its bounds or that the engine may not grow.
	ErrFull = errors.New("full")
	// ErrCompacted means that the asked changes are trimmed away.
	ErrCompacted = errors.New("changes are no longer kept")
)

// Refusal is the error type of [Store] and [View]. Its text is that of the sentinel alone, so that it may reach a peer; Reason
// and Cause are for the audit log.
type Refusal struct {
	// Err is the sentinel.
	Err error
	// Reason is the precise cause, 0 when the sentinel says it all.
	Reason v1.Reason
	// Cause says it in words, without content.
	Cause string
}

// Error returns the text of the sentinel.
func (r *Refusal) Error() string { return r.Err.Error() }

// Unwrap returns the sentinel.
func (r *Refusal) Unwrap() error { return r.Err }

// ReasonOf returns the precise reason of an error of this package, 0 when it has none.
func ReasonOf(err error) v1.Reason {
	var r *Refusal
	if errors.As(err, &r) {
		return r.Reason
	}
	return 0
}

func refuse(sentinel error, reason v1.Reason, cause string) error {
	return &Refusal{Err: sentinel, Reason: reason, Cause: cause}
}

func invalid(cause string) error { return refuse(ErrInvalid, v1.Reason_REASON_MALFORMED, cause) }

func tooLarge(cause string) error { return refuse(ErrTooLarge, v1.Reason_REASON_LIMIT, cause) }
