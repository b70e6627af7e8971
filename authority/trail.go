package authority

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	// maxRefusalRecords is how many refusals of one kind are single records in a second; further ones are counted, so that a
	// caller cannot fill the log.
	maxRefusalRecords = 10
	// maxDetail bounds the words of one record.
	maxDetail = 256
)

// ErrAudit is returned when the audit log takes no record: nothing happens unrecorded.
var ErrAudit = errors.New("audit log is unavailable")

// trail writes the authority's records. It is safe for concurrent use.
type trail struct {
	log  audit.Recorder
	self *v1.Party
	now  func() time.Time

	mu      sync.Mutex
	windows map[v1.Reason]*refusalWindow // one entry per reason in the table of refusals
}

type refusalWindow struct {
	start   time.Time
	written int
	skipped uint64
}

// allow makes a record of an allowed action durable before its effect. Errors wrap ErrAudit.
func (t *trail) allow(ctx context.Context, e *v1.AuditEvent) error {
	e.Decision = v1.EventDecision_EVENT_DECISION_ALLOW
	return t.write(ctx, e)
}

// deny records a refusal and returns the status for the caller. The refusal stands also when it cannot be recorded.
func (t *trail) deny(ctx context.Context, kind v1.EventKind, method string, cause error, who *caller) error {
	decision, err := newDecisionID()
	if err != nil {
		return statusOf(err, nil)
	}
	r := classify(cause)
	repeated, write := t.count(r.reason)
	if !write {
		return statusOf(cause, decision)
	}
	e := &v1.AuditEvent{
		Kind: kind, Decision: v1.EventDecision_EVENT_DECISION_DENY, Reason: r.reason, WireReason: r.wire, DecisionId: decision,
		Method: method, Cause: clip(cause.Error()), Detail: who.String(), RepeatedCount: repeated,
	}
	if err := t.write(context.WithoutCancel(ctx), e); err != nil {
		return statusOf(errors.Join(cause, err), decision)
	}
	return statusOf(cause, decision)
}

func (t *trail) write(ctx context.Context, e *v1.AuditEvent) error {
	if e.Transport == "" {
		e.Transport = "unix"
	}
	if e.Actor == nil {
		e.Actor = t.self
	}
	if _, err := t.log.Append(ctx, audit.Effect, e); err != nil {
		return fmt.Errorf("%w: %w", ErrAudit, err)
	}
	return nil
}

// count reports whether the next refusal is a record of its own, and how many before it were not.
func (t *trail) count(reason v1.Reason) (skipped uint64, write bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.windows == nil {
		t.windows = map[v1.Reason]*refusalWindow{}
	}
	w := t.windows[reason]
	if w == nil {
		w = &refusalWindow{}
		t.windows[reason] = w
	}
	if now := t.now(); now.Sub(w.start) >= time.Second || now.Before(w.start) {
		w.start, w.written = now, 0
	}
	if w.written >= maxRefusalRecords {
		w.skipped++
		return 0, false
	}
	w.written++
	skipped, w.skipped = w.skipped, 0
	return skipped, true
}

// flush records what was only counted.
func (t *trail) flush(ctx context.Context) error {
	t.mu.Lock()
	left := map[v1.Reason]uint64{}
	for reason, w := range t.windows {
		if w.skipped > 0 {
			left[reason], w.skipped = w.skipped, 0
		}
	}
	t.mu.Unlock()
	var errs []error
	for reason, n := range left {
		errs = append(errs, t.write(ctx, &v1.AuditEvent{
			Kind: v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED, Decision: v1.EventDecision_EVENT_DECISION_DENY, Reason: reason,
			WireReason: wireReason(reason), RepeatedCount: n, Detail: "refusals that were only counted",
		}))
	}
	return errors.Join(errs...)
}

func wireReason(reason v1.Reason) v1.Reason {
	for _, r := range refusals {
		if r.reason == reason {
			return r.wire
		}
	}
	return v1.Reason_REASON_INTERNAL
}

// clip cuts s to the bound of a record's words and drops split characters.
func clip(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail]
	}
	return strings.ToValidUTF8(s, "")
}
