package interceptors

import (
	"sync"
	"time"
)

// maxLateWait bounds how long Flush waits for what is still to be looked at.
const maxLateWait = time.Second

// late counts what is to run later, so that the last records are not lost when a process ends.
type late struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when n falls to zero; nil while nobody waits
}

// Later runs f after d, in a goroutine of its own. Flush waits for it, and for what f itself asks for.
func (e *Enforcer) Later(d time.Duration, f func()) {
	e.late.mu.Lock()
	e.late.n++
	e.late.mu.Unlock()
	time.AfterFunc(d, func() {
		defer e.late.done()
		f()
	})
}

func (l *late) done() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n--; l.n == 0 && l.none != nil {
		close(l.none)
		l.none = nil
	}
}

// wait returns when nothing is left to run, or after maxLateWait.
func (l *late) wait() {
	l.mu.Lock()
	if l.n == 0 {
		l.mu.Unlock()
		return
	}
	if l.none == nil {
		l.none = make(chan struct{})
	}
	none := l.none
	l.mu.Unlock()
	timer := time.NewTimer(maxLateWait)
	defer timer.Stop()
	select {
	case <-none:
	case <-timer.C:
	}
}
