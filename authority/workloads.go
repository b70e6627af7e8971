package authority

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/safeconduct/safeconduct/identity"
)

const (
	// maxWorkloads bounds admitted processes; each holds a descriptor, a goroutine and a key.
	maxWorkloads = 1024
	// maxStreams bounds open Workload API streams of one process; an X509Source needs one.
	maxStreams = 16
)

// Errors of attestation.
var (
	// ErrUnattested is returned for a process that is not what was admitted, or not admitted at all.
	ErrUnattested = errors.New("process is not attested")
	// ErrAdmitted is returned when a process already stands for another agent: one process, one identity.
	ErrAdmitted = errors.New("process is admitted as another agent")
	// ErrLimit is returned when a bound of the authority is reached.
	ErrLimit = errors.New("limit reached")
)

// workload is one admitted process.
type workload struct {
	id   identity.AgentID
	proc *process
	uid  uint32
	exe  [sha256.Size]byte
	gone chan struct{} // closed when the process has exited
	// single says that no other process of the agent may live when this one is added.
	single bool

	mu      sync.Mutex
	source  *source
	streams int
}

// attest reads what a process is now. The process is alive afterwards, so that /proc spoke of it.
func attest(p *process) (uint32, [sha256.Size]byte, error) {
	uid, err := p.uid()
	if err != nil {
		return 0, [sha256.Size]byte{}, err
	}
	exe, err := p.executable()
	if err != nil {
		return 0, exe, err
	}
	if !p.alive() {
		return 0, exe, fmt.Errorf("%w: pid %d has gone", ErrUnattested, p.pid)
	}
	return uid, exe, nil
}

// pinWorkload pins a running process for id. It belongs to the caller until workloads.add takes it.
func pinWorkload(id identity.AgentID, pid int) (*workload, error) {
	p, err := openProcess(pid)
	if err != nil {
		return nil, err
	}
	uid, exe, err := attest(p)
	if err == nil && int(uid) != os.Geteuid() {
		err = fmt.Errorf("%w: pid %d is of user %d, which cannot reach the socket", ErrUnattested, pid, uid)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return &workload{id: id, proc: p, uid: uid, exe: exe, gone: make(chan struct{})}, nil
}

// same reports whether two pins are of one process as one agent.
func (w *workload) same(o *workload) bool {
	return w.id == o.id && w.uid == o.uid && w.exe == o.exe && w.proc.alive() && o.proc.alive()
}

// identity returns the workload's source; open makes it at first use.
func (w *workload) identity(open func() (*source, error)) (*source, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.source != nil {
		return w.source, nil
	}
	select {
	case <-w.gone:
		return nil, fmt.Errorf("%w: pid %d has gone", ErrUnattested, w.proc.pid)
	default:
	}
	s, err := open()
	if err != nil {
		return nil, err
	}
	w.source = s
	return s, nil
}

func (w *workload) enter() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.streams >= maxStreams {
		return fmt.Errorf("%w: %d streams of one workload", ErrLimit, maxStreams)
	}
	w.streams++
	return nil
}

func (w *workload) leave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.streams--
}

// end closes the workload's streams, source and pin.
func (w *workload) end() {
	close(w.gone)
	w.mu.Lock()
	s := w.source
	w.mu.Unlock()
	if s != nil {
		_ = s.Close() // always nil
	}
	w.proc.close()
}

// workloads holds the admitted processes by number. A number is good only together with its pin.
type workloads struct {
	mu     sync.Mutex
	byPID  map[int]*workload
	closed bool
	wg     sync.WaitGroup
}

// check reports whether w could be added. The workload that already stands for the same process is returned with it.
func (t *workloads) check(w *workload) (*workload, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.checkLocked(w)
}

func (t *workloads) checkLocked(w *workload) (*workload, error) {
	old := t.byPID[w.proc.pid]
	switch {
	case t.closed:
		return nil, ErrClosed
	case old == nil || !old.proc.alive():
		if len(t.byPID) >= maxWorkloads {
			return nil, fmt.Errorf("%w: %d workloads", ErrLimit, maxWorkloads)
		}
		return nil, t.checkSingle(w)
	case old.same(w):
		return old, nil
	}
	return nil, fmt.Errorf("pid %d stands for %s: %w", w.proc.pid, old.id, ErrAdmitted)
}

// add takes w over and watches for the exit of its process, which ends the registration.
func (t *workloads) add(ctx context.Context, w *workload, exited func(context.Context, *workload)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	old, err := t.checkLocked(w)
	if err != nil {
		return err
	}
	if old != nil {
		w.proc.close()
		return nil
	}
	if t.byPID == nil {
		t.byPID = map[int]*workload{}
	}
	t.byPID[w.proc.pid] = w
	t.wg.Add(1)
	ctx = context.WithoutCancel(ctx)
	go func() {
		defer t.wg.Done()
		w.proc.wait()
		t.mu.Lock()
		// A later process of the same number may stand here already.
		if t.byPID[w.proc.pid] == w {
			delete(t.byPID, w.proc.pid)
		}
		t.mu.Unlock()
		w.end()
		exited(ctx, w)
	}()
	return nil
}

// identify returns the workload that the caller is. Number, pin, user and executable must all be as admitted, now.
func (t *workloads) identify(c *caller) (*workload, error) {
	if c.err != nil {
		return nil, c.err
	}
	t.mu.Lock()
	w := t.byPID[c.proc.pid]
	t.mu.Unlock()
	if w == nil {
		return nil, fmt.Errorf("%w: pid %d was not admitted", ErrUnattested, c.proc.pid)
	}
	// Two pins of living processes with one number are pins of one process: a number is free only after its process ended.
	uid, exe, err := attest(c.proc)
	if err != nil {
		return nil, err
	}
	switch {
	case !w.proc.alive() || !c.proc.alive():
		return nil, fmt.Errorf("%w: pid %d has gone", ErrUnattested, c.proc.pid)
	case uid != w.uid || c.uid != w.uid:
		return nil, fmt.Errorf("%w: pid %d is of user %d, admitted was %d", ErrUnattested, c.proc.pid, uid, w.uid)
	case subtle.ConstantTimeCompare(exe[:], w.exe[:]) != 1:
		return nil, fmt.Errorf("%w: pid %d runs another executable than admitted", ErrUnattested, c.proc.pid)
	}
	return w, nil
}

// among returns the first of pids that is an admitted workload. A dead registration counts too: it is about to be removed.
func (t *workloads) among(pids []int) (*workload, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(pids, func(pid int) bool { return t.byPID[pid] != nil })
	if i < 0 {
		return nil, false
	}
	return t.byPID[pids[i]], true
}

func (t *workloads) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byPID)
}

// close ends every registration and waits for its watcher.
func (t *workloads) close() {
	t.mu.Lock()
	t.closed = true
	for _, w := range t.byPID {
		w.proc.close()
	}
	t.mu.Unlock()
	t.wg.Wait()
}

// String names the process in audit records.
func (w *workload) String() string {
	return fmt.Sprintf("pid %d uid %d exe %x", w.proc.pid, w.uid, w.exe)
}
