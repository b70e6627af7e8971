package authority

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// AdmitWorkload ties a running process to a registered agent: from now on, and until it exits, the process gets the agent's SVIDs
// from the Workload API. The caller vouches that pid still is the process it means, which a parent that has not waited for its
// child can. One process stands for one agent. It returns the digest of the executable and the user it pinned. Errors wrap
// ErrInvalid, ErrUnknownAgent, ErrUnattested, ErrAdmitted, ErrDuplicate, ErrLimit, ErrAudit or ErrClosed.
func (a *Authority) AdmitWorkload(ctx context.Context, id identity.AgentID, pid int) (exe [32]byte, uid uint32, err error) {
	return a.admitWorkload(ctx, id, pid, inProcess, nil)
}

// admitWorkload is AdmitWorkload for a caller with the given ancestors: nobody admits itself or what it descends from.
func (a *Authority) admitWorkload(ctx context.Context, id identity.AgentID, pid int, by string, callers []int) ([32]byte, uint32, error) {
	none := [32]byte{}
	agent := a.snapshot.Load().agents[id]
	if agent == nil {
		return none, 0, fmt.Errorf("%w: %s", ErrUnknownAgent, id)
	}
	if err := a.active(id); err != nil {
		return none, 0, err
	}
	// An ancestor of this process must stay an operator, and this process serves its own identities by Source.
	own, err := a.ownLineage()
	if err != nil {
		return none, 0, err
	}
	if slices.Contains(own, pid) || slices.Contains(callers, pid) {
		return none, 0, fmt.Errorf("%w: pid %d is the authority, the caller or an ancestor of one", ErrInvalid, pid)
	}
	w, err := pinWorkload(id, pid)
	if err != nil {
		return none, 0, err
	}
	if err := a.addWorkload(ctx, agent, w, by); err != nil {
		w.proc.close()
		return none, 0, err
	}
	return w.exe, w.uid, nil
}

func (a *Authority) addWorkload(ctx context.Context, agent *v1.Agent, w *workload, by string) error {
	if err := checkSelectors(agent, w); err != nil {
		return err
	}
	w.single = agent.GetSingleProcess()
	old, err := a.workloads.check(w)
	if errors.Is(err, ErrDuplicate) {
		a.recordDuplicate(ctx, w, true)
	}
	if err != nil {
		return err
	}
	if old != nil {
		w.proc.close()
		return nil
	}
	err = a.trail.allow(ctx, &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_WORKLOAD_ADMITTED, Tenant: w.id.Tenant().Name(), Peer: a.party(w.id),
		Detail: clip(by + " admits " + w.String()),
	})
	if err != nil {
		return err
	}
	err = a.workloads.add(ctx, w, func(ctx context.Context, w *workload) {
		a.tellProcesses(ctx, w.id)
		a.cfg.Logger.InfoContext(ctx, "workload has ended", slog.String("spiffe_id", w.id.String()), slog.Int("pid", w.proc.pid))
	})
	if err != nil {
		return err
	}
	a.recordDuplicate(ctx, w, false)
	// Published before the process gets its first SVID, so that the first bundle that it sees says so.
	return a.publishProcesses(w.id)
}

// ownLineage returns the numbers of this process and its ancestors.
func (a *Authority) ownLineage() ([]int, error) {
	p, err := openProcess(os.Getpid())
	if err != nil {
		return nil, err
	}
	defer p.close()
	return lineage(p)
}
