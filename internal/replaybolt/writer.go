package replaybolt

import (
	"bytes"
	"fmt"
	"runtime"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/safeconduct/safeconduct/delegation"
)

// insert is one queued key. The writer owns it until done is closed.
type insert struct {
	tenant string
	key    [32]byte
	end    int64

	done  chan struct{}
	fresh bool
	err   error
}

// write is the goroutine that owns writes. It ends when the store is closed.
func (s *Store) write() {
	defer close(s.stopped)
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	more := false
	for {
		if more { // ended keys are left: they go on when nothing else waits
			select {
			case <-s.closing:
				s.drain()
				return
			case r := <-s.queue:
				more = s.round(s.gather(r))
			default:
				more = s.round(nil)
			}
			continue
		}
		select {
		case <-s.closing:
			s.drain()
			return
		case r := <-s.queue:
			more = s.round(s.gather(r))
		case <-tick.C:
			more = s.round(nil)
		}
	}
}

// gather takes first and what else is queued.
func (s *Store) gather(first *insert) []*insert {
	reqs := append(make([]*insert, 0, 8), first)
	yielded := false
	for len(reqs) < roundInserts {
		select {
		case r := <-s.queue:
			reqs = append(reqs, r)
		default:
			// Those that the last round answered are runnable and about to come again: letting them run once makes one full round of
			// what would be a round of one and a round of the rest.
			if yielded {
				return reqs
			}
			yielded = true
			runtime.Gosched()
		}
	}
	return reqs
}

func (s *Store) drain() {
	for {
		select {
		case r := <-s.queue:
			r.err = ErrClosed
			close(r.done)
		default:
			return
		}
	}
}

// round commits reqs and a step of forgetting in one transaction, answers, and reports whether more is to be forgotten.
func (s *Store) round(reqs []*insert) (more bool) {
	t := &change{s: s, now: s.now().UnixNano(), live: map[string]int{}, floor: s.floor}
	err := s.failed
	if err == nil {
		if err = t.commit(reqs); err != nil {
			s.failed = fmt.Errorf("%w: %w", ErrFailed, err)
			err = s.failed
		}
	}
	if err == nil {
		for tenant, n := range t.live {
			if s.live[tenant] += n; s.live[tenant] == 0 {
				delete(s.live, tenant)
			}
			s.total += n
		}
		s.floor = t.floor
	}
	for _, r := range reqs {
		if err != nil {
			r.fresh, r.err = false, err
		}
		close(r.done)
	}
	return err == nil && t.more
}

// change is one transaction and what it does to the counts.
type change struct {
	s     *Store
	now   int64
	live  map[string]int
	total int
	floor int64
	dirty bool
	more  bool

	keys, ends *bolt.Bucket
}

// commit returns an error when nothing of it is certain to be on the disk.
func (t *change) commit(reqs []*insert) (err error) {
	tx, err := t.s.db.Begin(true)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil || !t.dirty {
			_ = tx.Rollback() // nothing is lost with it
		}
	}()
	defer recovered(&err)
	t.keys, t.ends = tx.Bucket(bucketKeys), tx.Bucket(bucketEnds)
	if err := t.sweep(sweepStep + 2*len(reqs)); err != nil {
		return err
	}
	for _, r := range reqs {
		if err := t.insert(r); err != nil {
			return err
		}
	}
	if t.floor != t.s.floor {
		if err := tx.Bucket(bucketMeta).Put(metaFloor, encodeEnd(t.floor)); err != nil {
			return err
		}
	}
	if !t.dirty {
		return nil
	}
	return tx.Commit()
}

// insert answers one key; an error fails the whole round.
func (t *change) insert(r *insert) error {
	switch {
	case r.end-t.now > int64(t.s.o.Life):
		r.err = fmt.Errorf("%w: %v", delegation.ErrReplayLife, time.Duration(r.end-t.now))
		return nil
	case t.keys.Get(r.key[:]) != nil:
		return nil
	case r.end <= t.floor:
		r.err = delegation.ErrReplayForgotten
		return nil
	case t.s.live[r.tenant]+t.live[r.tenant] >= t.s.o.PerTenant, t.s.total+t.total >= maxKeys:
		r.err = delegation.ErrReplayFull
		return nil
	}
	t.dirty = true
	if err := t.keys.Put(r.key[:], held); err != nil {
		return err
	}
	if err := t.ends.Put(append(encodeEnd(r.end), r.key[:]...), []byte(r.tenant)); err != nil {
		return err
	}
	t.live[r.tenant]++
	t.total++
	r.fresh = true
	return nil
}

// sweep forgets up to limit keys whose end is past.
func (t *change) sweep(limit int) error {
	type ended struct {
		at, key []byte
		tenant  string
	}
	var gone []ended
	c := t.ends.Cursor()
	for at, tenant := c.First(); len(at) > endBytes && endOf(at[:endBytes]) < t.now-int64(slack); at, tenant = c.Next() {
		if len(gone) == limit {
			t.more = true
			break
		}
		at = bytes.Clone(at)
		gone = append(gone, ended{at, at[endBytes:], string(tenant)})
	}
	for _, g := range gone { // not under the cursor, which deletions move
		t.floor = max(t.floor, endOf(g.at[:endBytes]))
		if err := t.keys.Delete(g.key); err != nil {
			return err
		}
		if err := t.ends.Delete(g.at); err != nil {
			return err
		}
		t.live[g.tenant]--
		t.total--
		t.dirty = true
	}
	return nil
}
