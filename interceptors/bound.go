package interceptors

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// opened is the context of a call that Open has begun: its parent, and the Interaction. It is a part of the Interaction.
type opened struct {
	context.Context
	in *Interaction
}

// Value implements context.Context.
func (o *opened) Value(key any) any {
	if _, own := key.(interactionKey); own {
		return o.in
	}
	return o.Context.Value(key)
}

// bounded is a context that ends at a time, or when it is cancelled. Most handlers never ask for its channel: the timer, and the tie to the
// parent, are made for those that do.
type bounded struct {
	parent context.Context //nolint:containedctx // it is a context.
	until  time.Time       // zero: no time

	real atomic.Pointer[running]
	mu   sync.Mutex
	over error // how it ended before real was made
}

// running is a context of package context in the place of a bounded one whose channel somebody waits for.
type running struct {
	context.Context
	cancel context.CancelFunc
}

var _ context.Context = (*bounded)(nil)

// Deadline implements context.Context.
func (b *bounded) Deadline() (time.Time, bool) {
	at, ok := b.parent.Deadline()
	if b.until.IsZero() || ok && at.Before(b.until) {
		return at, ok
	}
	return b.until, true
}

// Done implements context.Context.
func (b *bounded) Done() <-chan struct{} {
	if r := b.real.Load(); r != nil {
		return r.Done()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.real.Load(); r != nil {
		return r.Done()
	}
	r := &running{}
	if b.until.IsZero() || errors.Is(b.over, context.Canceled) {
		r.Context, r.cancel = context.WithCancel(b.parent)
	} else {
		r.Context, r.cancel = context.WithDeadline(b.parent, b.until)
	}
	if b.over != nil {
		r.cancel() // after a parent or a time that ended it first
	}
	b.real.Store(r)
	return r.Done()
}

// Err implements context.Context.
func (b *bounded) Err() error {
	if r := b.real.Load(); r != nil {
		return r.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.real.Load(); r != nil {
		return r.Err()
	}
	return b.state()
}

// state says how b has ended, and keeps it. The caller holds mu, and real is not made.
func (b *bounded) state() error {
	if b.over == nil {
		b.over = b.parent.Err()
	}
	if b.over == nil && !b.until.IsZero() && time.Until(b.until) <= 0 {
		b.over = context.DeadlineExceeded
	}
	return b.over
}

// Value implements context.Context. Package context asks for its own context, which is real once Done was called, as it calls it first.
func (b *bounded) Value(key any) any {
	if r := b.real.Load(); r != nil {
		return r.Value(key)
	}
	return b.parent.Value(key)
}

// cancel ends b, if nothing has.
func (b *bounded) cancel() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.real.Load(); r != nil {
		r.cancel()
		return
	}
	if b.state() == nil {
		b.over = context.Canceled
	}
}

// Bound returns a context that ends when the call does: see [Interaction.Until].
func (in *Interaction) Bound(ctx context.Context) (context.Context, context.CancelFunc) {
	b := &in.bound
	if b.parent != nil {
		b = new(bounded)
	}
	b.parent, b.until = ctx, in.Until()
	return b, b.cancel
}
