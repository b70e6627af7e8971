package bolt

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	bbolt "go.etcd.io/bbolt"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/memory"
)

// trimStep is how many change records one round deletes, so that a trim does not hold up writers.
const trimStep = 10_000

// Trim implements memory.Driver.
func (d *Driver) Trim(ctx context.Context, t identity.Tenant, upTo memory.Rev) error {
	for {
		more := false
		_, err := d.submit(ctx, &request{tenant: t, apply: func(rd *round, r *request) (err error) {
			more, err = rd.trim(r, upTo)
			return err
		}})
		if err != nil || !more {
			return err
		}
	}
}

func (rd *round) trim(r *request, upTo memory.Rev) (more bool, err error) {
	st, err := rd.tenant(r)
	if err != nil {
		return false, err
	}
	upTo = min(upTo, st.head.rev)
	if upTo <= st.head.floor {
		return false, nil
	}
	rd.begin()
	end := min(upTo, st.head.floor+trimStep)
	for rev := st.head.floor + 1; rev <= end; rev++ {
		if err := st.log.Delete(encodeRev(rev)); err != nil {
			return false, err
		}
	}
	st.head.floor = end
	return end < upTo, rd.end(nil)
}

// Wake implements memory.Driver.
func (d *Driver) Wake(ctx context.Context, t identity.Tenant) (<-chan struct{}, error) {
	if _, err := d.view(ctx, t, func(*bbolt.Bucket, head) error { return nil }); err != nil {
		return nil, err
	}
	id := d.storageID(t)
	ch := make(chan struct{}, 1)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.watchers == nil {
		return nil, errClosed
	}
	if d.watchers[id] == nil {
		d.watchers[id] = map[chan struct{}]struct{}{}
	}
	d.watchers[id][ch] = struct{}{}
	context.AfterFunc(ctx, func() { d.forget(id, ch) })
	return ch, nil
}

func (d *Driver) forget(id [16]byte, ch chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.watchers[id][ch]; ok {
		delete(d.watchers[id], ch)
		close(ch)
	}
}

// wake tells the watchers of every tenant that the round committed to, and ends those of dropped tenants.
func (d *Driver) wake(rd *round) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range rd.dropped {
		for ch := range d.watchers[id] {
			close(ch)
		}
		delete(d.watchers, id)
	}
	for id, st := range rd.tenants {
		if !st.wake {
			continue
		}
		for ch := range d.watchers[id] {
			select {
			case ch <- struct{}{}:
			default: // a receipt is already waiting
			}
		}
	}
}

// Check implements memory.Checker: the pages of the file, the hash chain of every change log and the counts of every tenant. It
// reads the whole file in one transaction and is meant for start-up.
func (d *Driver) Check(ctx context.Context) error {
	tx, err := d.db.Begin(false)
	if err != nil {
		return unavailable(err)
	}
	defer func() { _ = tx.Rollback() }()
	var damage error
	for err := range tx.Check() { // drained, because it holds a goroutine
		if damage == nil {
			damage = err
		}
	}
	if damage != nil {
		return fmt.Errorf("checking pages: %w: %w: %w", memory.ErrUnavailable, errDamaged, damage)
	}
	all := tx.Bucket(bucketTenants)
	if all == nil {
		return unavailable(errDamaged)
	}
	return unavailableOrNil(all.ForEachBucket(func(id []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return checkTenant(all.Bucket(id))
	}))
}

func unavailableOrNil(err error) error {
	if err == nil {
		return nil
	}
	return unavailable(err)
}

func checkTenant(b *bbolt.Bucket) error {
	h, _, err := decodeHead(b.Get(keyHead))
	if err != nil {
		return err
	}
	var items, size int64
	for t := range tableBuckets {
		tb, err := tableBucket(b, t)
		if err != nil {
			return err
		}
		err = tb.ForEach(func(k, v []byte) error {
			it, err := copyItem(memory.Key{T: t}, v)
			if err == nil && (it.Rev == 0 || it.Rev > h.rev) {
				err = fmt.Errorf("value of revision %d in a tenant at %d: %w", it.Rev, h.rev, errDamaged)
			}
			items++
			size += int64(len(k) + len(it.V))
			return err
		})
		if err != nil {
			return err
		}
	}
	if items != h.items || size != h.bytes {
		return fmt.Errorf("%d items and %d bytes, the head says %d and %d: %w", items, size, h.items, h.bytes, errDamaged)
	}
	return checkLog(b.Bucket(bucketLog), h)
}

// checkLog verifies that the log has every revision after the floor and that each record names the one before it.
func checkLog(log *bbolt.Bucket, h head) error {
	if log == nil {
		return fmt.Errorf("no change log: %w", errDamaged)
	}
	rev, last, known := h.floor, [sha256.Size]byte{}, h.floor == 0
	err := log.ForEach(func(k, v []byte) error {
		rev++
		c, prev, err := decodeChange(v)
		if err != nil {
			return err
		}
		if !bytes.Equal(k, encodeRev(rev)) || c.Rev != rev {
			return fmt.Errorf("change %d is missing or misplaced: %w", rev, errDamaged)
		}
		if known && prev != last {
			return fmt.Errorf("change %d does not follow the one before it: %w", rev, errDamaged)
		}
		last, known = sha256.Sum256(v), true
		return nil
	})
	if err != nil {
		return err
	}
	if rev != h.rev || (known && last != h.last) {
		return fmt.Errorf("the change log ends at %d, the head says %d: %w", rev, h.rev, errDamaged)
	}
	return nil
}
