package bolt

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	bbolt "go.etcd.io/bbolt"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/memory"
)

// round is one write transaction with the tenants it has touched. A request is checked in full before it changes anything, so a
// refused one leaves no trace in the transaction.
type round struct {
	d       *Driver
	tx      *bbolt.Tx
	tenants map[[16]byte]*tenantState
	dropped [][16]byte
	dirty   bool // something is to be committed
	partial bool // the running request has begun to change the transaction
}

type tenantState struct {
	tenant identity.Tenant
	bucket *bbolt.Bucket
	tables map[memory.Table]*bbolt.Bucket
	log    *bbolt.Bucket
	head   head
	wake   bool
}

func (rd *round) tenant(r *request) (*tenantState, error) {
	id := rd.d.storageID(r.tenant)
	if st := rd.tenants[id]; st != nil && st.tenant == r.tenant {
		return st, nil
	}
	b, h, err := rd.d.tenantBucket(rd.tx, r.tenant)
	if err != nil {
		return nil, err
	}
	st := &tenantState{tenant: r.tenant, bucket: b, tables: map[memory.Table]*bbolt.Bucket{}, log: b.Bucket(bucketLog), head: h}
	if st.log == nil {
		return nil, fmt.Errorf("no change log: %w", errDamaged)
	}
	rd.tenants[id] = st
	return st, nil
}

func (st *tenantState) table(t memory.Table) (*bbolt.Bucket, error) {
	if tb := st.tables[t]; tb != nil {
		return tb, nil
	}
	tb, err := tableBucket(st.bucket, t)
	if err == nil {
		st.tables[t] = tb
	}
	return tb, err
}

func (st *tenantState) item(k memory.Key) (memory.Item, error) {
	tb, err := st.table(k.T)
	if err != nil {
		return memory.Item{}, err
	}
	return copyItem(k, tb.Get(k.K))
}

// commit applies one batch: conditions, counters, then mutations in key order.
func (rd *round) commit(r *request) error {
	st, err := rd.tenant(r)
	if err != nil {
		return err
	}
	for _, c := range r.batch.If {
		it, err := st.item(c.Key)
		if err != nil {
			return err
		}
		if it.Rev != c.Rev {
			return fmt.Errorf("a key is at revision %d, want %d: %w", it.Rev, c.Rev, memory.ErrConflict)
		}
	}
	muts := slices.Clone(r.batch.Muts)
	for _, a := range r.batch.Add {
		it, err := st.item(a.Key)
		if err != nil {
			return err
		}
		n, err := memory.Count(it)
		if err != nil {
			return err
		}
		if n, err = a.Apply(n); err != nil {
			return err
		}
		v := binary.BigEndian.AppendUint64(nil, uint64(n)) //nolint:gosec // G115: Apply returns nothing negative
		muts = append(muts, memory.Mut{Key: a.Key, V: v})
	}
	slices.SortFunc(muts, func(a, b memory.Mut) int { return memory.CompareKeys(a.Key, b.Key) })
	rd.begin()
	st.wake = true
	st.head.rev++
	keys := make([]memory.Key, len(muts))
	for i, m := range muts {
		keys[i] = m.Key
		if err := st.mutate(m); err != nil {
			return err
		}
	}
	record := encodeChange(st.head.rev, st.head.last, keys)
	st.head.last = sha256.Sum256(record)
	r.rev = st.head.rev
	return rd.end(st.log.Put(encodeRev(st.head.rev), record))
}

// begin and end bracket what a request changes: an error in between fails the whole round, an error before only its request.
func (rd *round) begin() { rd.dirty, rd.partial = true, true }

func (rd *round) end(err error) error {
	rd.partial = err != nil
	return err
}

// mutate applies one mutation and keeps the counts of the tenant.
func (st *tenantState) mutate(m memory.Mut) error {
	tb, err := st.table(m.T)
	if err != nil {
		return err
	}
	if old := tb.Get(m.K); old != nil {
		st.head.items--
		st.head.bytes -= int64(len(m.K) + len(old) - revBytes)
	}
	if m.V == nil {
		return tb.Delete(m.K)
	}
	st.head.items++
	st.head.bytes += int64(len(m.K) + len(m.V))
	v := make([]byte, revBytes, revBytes+len(m.V))
	binary.BigEndian.PutUint64(v, uint64(st.head.rev))
	return tb.Put(m.K, append(v, m.V...))
}

// create makes the buckets of a tenant.
func (rd *round) create(r *request) error {
	_, err := rd.tenant(r)
	if !errors.Is(err, memory.ErrNoTenant) {
		return err
	}
	rd.begin()
	id := rd.d.storageID(r.tenant)
	b, err := rd.tx.Bucket(bucketTenants).CreateBucket(id[:])
	if err != nil {
		return err
	}
	for _, name := range tableBuckets {
		if _, err := b.CreateBucket(name); err != nil {
			return err
		}
	}
	if _, err := b.CreateBucket(bucketLog); err != nil {
		return err
	}
	return rd.end(b.Put(keyHead, (&head{}).encode(r.tenant.String())))
}

// drop deletes the buckets of a tenant.
func (rd *round) drop(r *request) error {
	if _, err := rd.tenant(r); err != nil {
		return err
	}
	rd.begin()
	id := rd.d.storageID(r.tenant)
	delete(rd.tenants, id)
	rd.dropped = append(rd.dropped, id)
	return rd.end(rd.tx.Bucket(bucketTenants).DeleteBucket(id[:]))
}

// finish writes what the round has changed beside the tables.
func (rd *round) finish() error {
	for _, st := range rd.tenants {
		if err := st.bucket.Put(keyHead, st.head.encode(st.tenant.String())); err != nil {
			return err
		}
	}
	return nil
}
