package memory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Write applies a batch as a whole or not at all and returns once it is durable, with the headers of what it wrote, one per
// operation; that of a delete is zero. The permit's action is memory.write. ErrConflict when a precondition does not hold or the
// keys are contended beyond reason; ErrLabel when a declared label is malformed or overflows; ErrTooLarge and ErrInvalid for
// batches outside their bounds; ErrNotFound for a key outside the view or the permit.
//
// A version's label is the permit's control label joined with the declared one, capped at what the agent may vouch for, and
// never changes.
func (v *View) Write(ctx context.Context, ops ...Op) (Rev, []Entry, error) {
	if err := v.check(ActionWrite); err != nil {
		return 0, nil, err
	}
	plans, err := v.plans(ops)
	if err != nil {
		return 0, nil, err
	}
	refs := make([]Ref, len(plans))
	for i, p := range plans {
		refs[i] = p.ref
	}
	var rev Rev
	var entries []Entry
	err = v.record(ctx, refs, func() (Outcome, error) {
		var o Outcome
		var err error
		rev, entries, o.Touched, err = v.write(ctx, plans)
		o.Rev = rev
		return o, err
	})
	if err != nil {
		return 0, nil, err
	}
	return rev, entries, nil
}

// write commits the plans against the heads that it read, and starts again when another writer was faster. A precondition is
// evaluated anew each time, so that of several writers on one version exactly one succeeds and the others learn of it.
func (v *View) write(ctx context.Context, plans []plan) (Rev, []Entry, []Touched, error) {
	for range writeTries {
		b, entries, touched, err := v.batch(ctx, plans)
		if err != nil {
			return 0, nil, nil, err
		}
		rev, err := v.store.cfg.Driver.Commit(ctx, v.tenant, b)
		switch {
		case errors.Is(err, ErrConflict):
			continue
		case err != nil:
			return 0, nil, nil, wrap(err)
		}
		for i := range entries {
			if !entries[i].IsZero() {
				entries[i].Rev = rev
			}
		}
		return rev, entries, touched, nil
	}
	return 0, nil, nil, refuse(ErrConflict, v1.Reason_REASON_CONFLICT, fmt.Sprintf("lost %d races", writeTries))
}

// batch makes the driver batch of the plans from the present heads of their keys.
func (v *View) batch(ctx context.Context, plans []plan) (Batch, []Entry, []Touched, error) {
	curs := make([]Key, len(plans))
	for i, p := range plans {
		curs[i] = p.cur
	}
	items, _, err := v.get(ctx, curs)
	if err != nil {
		return Batch{}, nil, nil, err
	}
	var b Batch
	entries := make([]Entry, len(plans))
	touched := make([]Touched, len(plans))
	now := v.store.cfg.Now()
	for i := range plans {
		p := &plans[i]
		var head record
		if items[i].Rev != 0 {
			if head, err = v.decodeRecord(p.cur, items[i]); err != nil {
				return Batch{}, nil, nil, err
			}
		}
		live := head.state == v1.State_STATE_LIVE
		if !p.onlyIf.holds(live, head) {
			return Batch{}, nil, nil, refuse(ErrConflict, v1.Reason_REASON_CONFLICT, fmt.Sprintf("operation %d", i))
		}
		b.If = append(b.If, Cond{Key: p.cur, Rev: items[i].Rev})
		before := head.version
		if !live {
			before = 0
		}
		if p.put == nil {
			touched[i] = Touched{Ref: p.ref, VersionBefore: before, Commitment: head.commitment}
			if err := v.appendDelete(&b, p, head, live); err != nil {
				return Batch{}, nil, nil, err
			}
			continue
		}
		if entries[i], err = v.appendPut(&b, p, head.version, now); err != nil {
			return Batch{}, nil, nil, err
		}
		touched[i] = entries[i].touched(before, entries[i].Ref.Version)
	}
	if len(b.Muts) == 0 {
		// Nothing but absent keys to delete. The batch still takes part in the order of commits, through a key it leaves absent.
		b.Muts = append(b.Muts, Mut{Key: Key{T: Ver, K: verKey(plans[0].cur.K, 1)}})
	}
	return b, entries, touched, nil
}

// appendPut adds the next version of a key: its body, its head, and the removal of the version that is no longer kept.
func (v *View) appendPut(b *Batch, p *plan, last uint64, now time.Time) (Entry, error) {
	e := Entry{
		Ref: Ref{Namespace: p.ref.Namespace, Key: p.ref.Key, Version: last + 1}, Value: p.put.Value, Size: uint64(len(p.put.Value)),
		MediaType: p.put.MediaType, Meta: p.meta, Label: p.label, Provenance: v.provenance(p.parents),
		State: v1.State_STATE_LIVE, CreateTime: now.UTC(),
	}
	if _, err := rand.Read(e.Salt[:]); err != nil {
		return Entry{}, fmt.Errorf("salting an entry: %w", err)
	}
	e.Commitment = commit(v.id, &e)
	body := e.body()
	head, err := v.encodeRecord(p.cur, &e, body)
	if err != nil {
		return Entry{}, err
	}
	body.Value = e.Value
	ver := Key{T: Ver, K: verKey(p.cur.K, e.Ref.Version)}
	full, err := v.encodeRecord(ver, &e, body)
	if err != nil {
		return Entry{}, err
	}
	b.Muts = append(b.Muts, Mut{Key: p.cur, V: head}, Mut{Key: ver, V: full})
	if e.Ref.Version > KeptVersions {
		b.Muts = append(b.Muts, Mut{Key: Key{T: Ver, K: verKey(p.cur.K, e.Ref.Version-KeptVersions)}})
	}
	return e.header(), nil
}

// appendDelete turns the head into a tombstone, which keeps the version number, and removes every kept version.
func (v *View) appendDelete(b *Batch, p *plan, head record, live bool) error {
	if !live {
		return nil
	}
	e := Entry{Ref: Ref{Version: head.version}, State: v1.State_STATE_TOMBSTONE, Commitment: head.commitment}
	tomb, err := v.encodeRecord(p.cur, &e, &v1.Entry{})
	if err != nil {
		return err
	}
	b.Muts = append(b.Muts, Mut{Key: p.cur, V: tomb})
	oldest := uint64(1)
	if head.version > KeptVersions {
		oldest = head.version - KeptVersions + 1
	}
	for n := oldest; n <= head.version; n++ {
		b.Muts = append(b.Muts, Mut{Key: Key{T: Ver, K: verKey(p.cur.K, n)}})
	}
	return nil
}

// provenance says who writes, for whom and from what. All of it comes from the permit but the declared parents.
func (v *View) provenance(parents [][]byte) *v1.Provenance {
	chain, leaf := v.permit.ChainID(), v.permit.LeafID()
	return &v1.Provenance{
		Author: v.permit.Peer().Agent.String(), Principal: v.permit.Principal().GetSubject(),
		ChainId: chain[:], LeafId: leaf[:], Conversation: v.permit.Conversation(), Parents: parents,
	}
}
