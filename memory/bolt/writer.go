package bolt

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/memory"
)

// Bounds of one commit round: what a reader may have to wait for when the file is remapped, and what one fsync carries.
const (
	roundBatches = 1024
	roundBytes   = 8 << 20
	queueSlots   = roundBatches
)

var errClosed = fmt.Errorf("the driver is closed: %w", memory.ErrUnavailable)

// request is one queued change of the file. The writer owns it from taken until done is closed.
type request struct {
	tenant identity.Tenant
	apply  func(*round, *request) error
	batch  memory.Batch
	size   int

	state atomic.Int32 // waiting, then taken or dropped
	done  chan struct{}
	rev   memory.Rev
	err   error
}

const (
	waiting int32 = iota
	taken
	dropped
)

// Commit implements memory.Driver.
func (d *Driver) Commit(ctx context.Context, t identity.Tenant, b memory.Batch) (memory.Rev, error) {
	if err := b.Check(); err != nil {
		return 0, err
	}
	return d.submit(ctx, &request{tenant: t, batch: b, size: b.Size(), apply: (*round).commit})
}

// CreateTenant implements memory.Driver.
func (d *Driver) CreateTenant(ctx context.Context, t identity.Tenant) error {
	if t.IsZero() {
		return fmt.Errorf("creating no tenant: %w", memory.ErrInvalid)
	}
	_, err := d.submit(ctx, &request{tenant: t, apply: (*round).create})
	return err
}

// DropTenant implements memory.Driver.
func (d *Driver) DropTenant(ctx context.Context, t identity.Tenant) error {
	_, err := d.submit(ctx, &request{tenant: t, apply: (*round).drop})
	return err
}

// submit queues r and waits for its answer. A context that ends first drops r only while the writer has not taken it.
func (d *Driver) submit(ctx context.Context, r *request) (memory.Rev, error) {
	r.done = make(chan struct{})
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	select {
	case d.queue <- r:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-d.closing:
		return 0, errClosed
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		if r.state.CompareAndSwap(waiting, dropped) {
			return 0, ctx.Err()
		}
		<-r.done
	case <-d.stopped:
		// The queue may have taken r after the writer drained it for the last time.
		if r.state.CompareAndSwap(waiting, dropped) {
			return 0, errClosed
		}
		<-r.done
	}
	return r.rev, r.err
}

// write is the goroutine that owns writes. It ends when the driver is closed.
func (d *Driver) write() {
	defer close(d.stopped)
	var carry *request
	for {
		if carry == nil {
			select {
			case carry = <-d.queue:
			case <-d.closing:
				d.drain()
				return
			}
		}
		select {
		case <-d.closing:
			carry.answer(0, errClosed)
			d.drain()
			return
		default:
		}
		var reqs []*request
		reqs, carry = d.gather(carry)
		d.runRound(reqs)
	}
}

// gather takes first and what else is queued. One request that no longer fits is carried into the next round.
func (d *Driver) gather(first *request) (reqs []*request, carry *request) {
	size := 0
	take := func(r *request) {
		if r.state.CompareAndSwap(waiting, taken) {
			reqs, size = append(reqs, r), size+r.size
		}
	}
	take(first)
	yielded := false
	for len(reqs) < roundBatches {
		select {
		case r := <-d.queue:
			if size+r.size > roundBytes {
				return reqs, r
			}
			take(r)
		default:
			// The writers that the last round answered are runnable and about to queue again: letting them run once makes one
			// full round of what would be a round of one and a round of the rest.
			if yielded {
				return reqs, nil
			}
			yielded = true
			runtime.Gosched()
		}
	}
	return reqs, nil
}

func (d *Driver) drain() {
	for {
		select {
		case r := <-d.queue:
			r.answer(0, errClosed)
		default:
			return
		}
	}
}

// answer ends r, whether it was taken or not; a dropped request has nobody waiting.
func (r *request) answer(rev memory.Rev, err error) {
	if r.state.CompareAndSwap(waiting, taken) || r.state.Load() == taken {
		r.rev, r.err = rev, err
		close(r.done)
	}
}

func (d *Driver) poisoned() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.poison
}

// runRound applies reqs in one transaction and answers each of them exactly once.
func (d *Driver) runRound(reqs []*request) {
	if len(reqs) == 0 {
		return
	}
	err := d.poisoned()
	var rd *round
	if err == nil {
		rd, err = d.tryRound(reqs)
	}
	if err == nil {
		d.wake(rd)
	}
	for _, r := range reqs {
		if err != nil {
			r.answer(0, err)
		} else {
			r.answer(r.rev, r.err)
		}
	}
}

// tryRound returns an error when no request of the round took effect. A commit that fails, and a panic, refuse all later writes.
func (d *Driver) tryRound(reqs []*request) (rd *round, err error) {
	tx, err := d.db.Begin(true)
	if err != nil {
		return nil, unavailable(err)
	}
	defer func() {
		if p := recover(); p != nil {
			_ = tx.Rollback()
			err = d.fail(fmt.Errorf("panic in a commit: %v", p))
		}
	}()
	rd = &round{d: d, tx: tx, tenants: map[[16]byte]*tenantState{}}
	for _, r := range reqs {
		if r.err = r.apply(rd, r); r.err == nil {
			continue
		}
		r.err = unavailable(r.err)
		if rd.partial {
			_ = tx.Rollback()
			return nil, r.err
		}
	}
	if !rd.dirty {
		_ = tx.Rollback()
		return rd, nil
	}
	if err := rd.finish(); err != nil {
		_ = tx.Rollback()
		return nil, unavailable(err)
	}
	switch err := tx.Commit(); {
	case errors.Is(err, berrors.ErrMaxSizeReached):
		// The file did not grow and nothing was written.
		_ = tx.Rollback()
		return nil, fmt.Errorf("committing: %w: %w", memory.ErrFull, err)
	case err != nil:
		_ = tx.Rollback()
		return nil, d.fail(fmt.Errorf("committing: %w", err))
	}
	return rd, nil
}

// fail refuses every later write with err.
func (d *Driver) fail(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.poison = fmt.Errorf("writes are refused until the file is reopened: %w: %w", memory.ErrUnavailable, err)
	return d.poison
}
