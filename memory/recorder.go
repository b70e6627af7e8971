package memory

import (
	"context"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// Recorder is told of every access to content. An error from either method refuses the call: nothing is written that was not
// announced, and nothing leaves that was not recorded. A write whose End fails is durable although the caller hears of
// ErrUnavailable. Implementations are safe for concurrent use.
type Recorder interface {
	// Begin is called after every check and before the effect.
	Begin(ctx context.Context, a *Access) error
	// End is called once for each Begin that returned nil, with the same a, before bytes leave.
	End(ctx context.Context, a *Access, o *Outcome) error
}

// Access says who is about to do what. It is valid until End returns; neither method changes it.
type Access struct {
	Permit    policy.Permit
	Namespace Namespace
	// Refs are the entries named by the call; empty for a list.
	Refs []Ref
}

// Outcome says what became of an access.
type Outcome struct {
	// Err is nil when the access succeeded. Reason is its precise cause, 0 when it has none.
	Err    error
	Reason v1.Reason
	// Rev is the revision that was written, or the snapshot that was read.
	Rev Rev
	// Touched are the entries that were written or are about to leave.
	Touched []Touched
}

// Touched is one version that was read or written. Its key is content: an audit log keeps a keyed digest of it.
type Touched struct {
	Ref                         Ref
	VersionBefore, VersionAfter uint64 // equal for a read; After is 0 for a delete
	Label                       Label
	Commitment                  [32]byte
}

// record runs an access between Begin and End.
func (v *View) record(ctx context.Context, refs []Ref, run func() (Outcome, error)) error {
	a := &Access{Permit: v.permit, Namespace: v.ns, Refs: refs}
	if err := v.store.cfg.Recorder.Begin(ctx, a); err != nil {
		return refuse(ErrUnavailable, v1.Reason_REASON_AUDIT_UNAVAILABLE, "recording the start: "+err.Error())
	}
	o, err := run()
	err = wrap(err)
	o.Err, o.Reason = err, ReasonOf(err)
	if endErr := v.store.cfg.Recorder.End(ctx, a, &o); endErr != nil {
		return refuse(ErrUnavailable, v1.Reason_REASON_AUDIT_UNAVAILABLE, "recording the outcome: "+endErr.Error())
	}
	return err
}
