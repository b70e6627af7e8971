package authority

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// ErrDuplicate is returned for a second process of an agent that is registered as one process.
var ErrDuplicate = errors.New("another process of this agent is live")

// duplicateRecords is how often the processes of one agent are recorded as being more than one.
const duplicateRecords = time.Minute

// duplicates remembers when an agent's second process was recorded last: one moment for each registered agent at most.
type duplicates struct {
	mu   sync.Mutex
	last map[identity.AgentID]time.Time
}

func (d *duplicates) due(id identity.AgentID, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at, known := d.last[id]; known && now.Sub(at) < duplicateRecords {
		return false
	}
	if d.last == nil {
		d.last = map[identity.AgentID]time.Time{}
	}
	d.last[id] = now
	return true
}

// beside returns another living process of w's agent, or nil. The caller holds mu.
func (t *workloads) beside(w *workload) *workload {
	for pid, o := range t.byPID {
		if o.id == w.id && pid != w.proc.pid && o.proc.alive() {
			return o
		}
	}
	return nil
}

// checkSingle refuses w while another process of an agent that is one process lives. The caller holds mu.
func (t *workloads) checkSingle(w *workload) error {
	if !w.single || mutant.Off(mutant.DuplicateIdentity) {
		return nil
	}
	if o := t.beside(w); o != nil {
		return fmt.Errorf("%w: pid %d is %s, which is registered as a single process; it must end first", ErrDuplicate, o.proc.pid, w.id)
	}
	return nil
}

// living counts the processes of an agent.
func (t *workloads) living(id identity.AgentID) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.byPID {
		if w.id == id && w.proc.alive() {
			n++
		}
	}
	return n
}

// recordDuplicate writes that a second process of one agent came, and whether it was refused.
func (a *Authority) recordDuplicate(ctx context.Context, w *workload, refused bool) {
	a.workloads.mu.Lock()
	o := a.workloads.beside(w)
	a.workloads.mu.Unlock()
	if o == nil || !a.duplicates.due(w.id, a.cfg.Now()) {
		return
	}
	e := &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_DUPLICATE_IDENTITY, Tenant: w.id.Tenant().Name(), Peer: a.party(w.id),
		Decision: v1.EventDecision_EVENT_DECISION_ALLOW,
		Detail:   fmt.Sprintf("pid %d is live as it, and now pid %d", o.proc.pid, w.proc.pid),
	}
	if refused {
		e.Decision, e.Reason, e.WireReason = v1.EventDecision_EVENT_DECISION_DENY, v1.Reason_REASON_PEER_DUPLICATE, v1.Reason_REASON_AGENT_STATE
	}
	a.writeDuplicate(context.WithoutCancel(ctx), e) // the admission itself is recorded, or refused, on its own
}

func (a *Authority) writeDuplicate(ctx context.Context, e *v1.AuditEvent) {
	if err := a.trail.write(ctx, e); err != nil {
		a.cfg.Logger.ErrorContext(ctx, "a duplicate identity is not recorded",
			slog.String("spiffe_id", e.GetPeer().GetSpiffeId()), slog.String("error", err.Error()))
	}
}

// tellProcesses is publishProcesses where nobody waits for the answer.
func (a *Authority) tellProcesses(ctx context.Context, id identity.AgentID) {
	if err := a.publishProcesses(id); err != nil && !errors.Is(err, ErrClosed) {
		a.cfg.Logger.ErrorContext(ctx, "the processes of an agent are not published",
			slog.String("spiffe_id", id.String()), slog.String("error", err.Error()))
	}
}

// publishProcesses tells every runtime whether an agent has more than one live process, when that has changed. Its own processes then
// refuse what needs one memory.
func (a *Authority) publishProcesses(id identity.AgentID) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.open(); err != nil {
		return err
	}
	current, n := a.snapshot.Load(), max(a.workloads.living(id), a.watched.count(id))
	if (n > 1) == (current.processes[id] > 1) || current.records[id] == nil {
		return nil
	}
	next := current.withProcesses(id, n)
	table := a.table.Load()
	trust, err := a.sealTrust(a.trust.Load().serial+1, next, table)
	if err != nil {
		return err
	}
	if err := a.store.setBundleSerial(trust.serial); err != nil {
		return err
	}
	a.publish(next, table, trust)
	return nil
}

// withProcesses returns a snapshot in which the agent has n live processes.
func (s *registrySnapshot) withProcesses(id identity.AgentID, n int) *registrySnapshot {
	next := *s
	next.generation++
	next.processes, next.records = maps.Clone(s.processes), maps.Clone(s.records)
	if next.processes == nil {
		next.processes = map[identity.AgentID]int{}
	}
	if next.processes[id] = n; n < 2 {
		delete(next.processes, id)
	}
	rec := *s.records[id]
	rec.Replicated = n > 1
	next.records[id] = &rec
	return &next
}

// live says how many live processes an agent has, 0 when they are not more than one.
func (s *registrySnapshot) live(id identity.AgentID) uint32 {
	return uint32(max(s.processes[id], 0)) //nolint:gosec // G115: a count of processes.
}
