package memory

import (
	"context"
	"fmt"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// ReadOptions vary a read. The zero value returns whole entries of any integrity.
type ReadOptions struct {
	// HeaderOnly leaves the values out. A header is content too: its label counts.
	HeaderOnly bool
	// MinIntegrity leaves out entries below it as if absent; unspecified leaves out none.
	MinIntegrity v1.Integrity
}

// Read is ReadWith without options.
func (v *View) Read(ctx context.Context, refs ...Ref) ([]Entry, error) {
	entries, _, err := v.ReadWith(ctx, ReadOptions{}, refs...)
	return entries, err
}

// ReadWith returns one entry per reference, in order and all of one snapshot, and the snapshot's revision. An absent entry is
// zero. The permit's action is memory.read. ErrNotFound when nothing at all is found or a reference leaves the view; ErrTooLarge
// over MaxRefs. The caller's control label must be joined with every returned label before it acts on any of it.
func (v *View) ReadWith(ctx context.Context, o ReadOptions, refs ...Ref) ([]Entry, Rev, error) {
	if err := v.check(ActionRead); err != nil {
		return nil, 0, err
	}
	refs, err := v.places(refs)
	if err != nil {
		return nil, 0, err
	}
	if o.MinIntegrity < 0 || o.MinIntegrity > v1.Integrity_INTEGRITY_SYSTEM {
		return nil, 0, invalid(fmt.Sprintf("unknown integrity %d", o.MinIntegrity))
	}
	var entries []Entry
	var rev Rev
	err = v.record(ctx, refs, func() (Outcome, error) {
		var err error
		if entries, rev, err = v.fetch(ctx, refs); err != nil {
			return Outcome{}, err
		}
		out := Outcome{Rev: rev}
		agent := v.permit.Peer().Agent
		for i := range entries {
			e := &entries[i]
			if e.IsZero() {
				continue
			}
			if e.Label.Integrity < o.MinIntegrity || !readableBy(e.Label, agent) {
				*e = Entry{}
				continue
			}
			if o.HeaderOnly {
				e.Value = nil
			}
			out.Touched = append(out.Touched, e.touched(e.Ref.Version, e.Ref.Version))
		}
		if len(out.Touched) == 0 {
			return out, refuse(ErrNotFound, v1.Reason_REASON_MEMORY_ABSENT, "absent, or its label keeps it from this caller")
		}
		return out, nil
	})
	if err != nil {
		return nil, 0, err
	}
	return entries, rev, nil
}

// places validates references and fills in the view's namespace.
func (v *View) places(refs []Ref) ([]Ref, error) {
	if len(refs) == 0 {
		return nil, invalid("no references")
	}
	if len(refs) > MaxRefs {
		return nil, tooLarge(fmt.Sprintf("%d references, at most %d", len(refs), MaxRefs))
	}
	out := make([]Ref, len(refs))
	for i, r := range refs {
		var err error
		if out[i], err = v.place(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (v *View) place(r Ref) (Ref, error) {
	if r.Namespace.IsZero() {
		r.Namespace = v.ns
	} else if err := v.covers(r.Namespace); err != nil {
		return r, err
	}
	switch {
	case len(r.Key) == 0:
		return r, invalid("empty key")
	case len(r.Key) > MaxKeyBytes:
		return r, tooLarge(fmt.Sprintf("key of %d bytes, at most %d", len(r.Key), MaxKeyBytes))
	}
	if n := len(appendEsc(appendNS(nil, r.Namespace.labels), r.Key)) + 2; n > MaxNameBytes {
		return r, tooLarge(fmt.Sprintf("encoded namespace and key of %d bytes, at most %d", n, MaxNameBytes))
	}
	return r, nil
}

// fetch reads the entries of one snapshot. Versions never change, so the heads of one snapshot fix the whole read, and the bodies
// can be read after them; only a version that was deleted or pruned in between makes it start again.
func (v *View) fetch(ctx context.Context, refs []Ref) ([]Entry, Rev, error) {
	for range readTries {
		entries, rev, again, err := v.tryFetch(ctx, refs)
		if err != nil || !again {
			return entries, rev, err
		}
	}
	return nil, 0, refuse(ErrUnavailable, v1.Reason_REASON_CONFLICT, "the entries change faster than they are read")
}

func (v *View) tryFetch(ctx context.Context, refs []Ref) (entries []Entry, rev Rev, again bool, err error) {
	curs := make([]Key, len(refs))
	for i, r := range refs {
		curs[i] = Key{T: Cur, K: curKey(r.Namespace.labels, r.Key)}
	}
	items, rev, err := v.get(ctx, curs)
	if err != nil {
		return nil, 0, false, err
	}
	// For each live reference its version, and for the latest the one after it, which must not be older than the snapshot.
	vers := make([]Key, 0, 2*len(refs))
	heads := make([]record, len(refs))
	for i, it := range items {
		if it.Rev == 0 {
			continue
		}
		if heads[i], err = v.decodeRecord(curs[i], it); err != nil {
			return nil, 0, false, err
		}
		if h := &heads[i]; h.state == v1.State_STATE_LIVE && refs[i].Version <= h.version {
			want := refs[i].Version
			if want == 0 {
				want = h.version
			}
			vers = append(vers, Key{T: Ver, K: verKey(curs[i].K, want)}, Key{T: Ver, K: verKey(curs[i].K, h.version+1)})
			continue
		}
		heads[i] = record{}
	}
	entries = make([]Entry, len(refs))
	if len(vers) == 0 {
		return entries, rev, false, nil
	}
	bodies, later, err := v.get(ctx, vers)
	if err != nil {
		return nil, 0, false, err
	}
	for i, at := 0, 0; i < len(refs); i++ {
		if heads[i].version == 0 {
			continue
		}
		body, next := bodies[at], bodies[at+1]
		if next.Rev != 0 && next.Rev <= rev {
			return nil, 0, false, damaged(v1.Reason_REASON_MEMORY_COMMITMENT, "the head of a key is older than its newest version")
		}
		newest := refs[i].Version == 0 || refs[i].Version == heads[i].version
		switch {
		case body.Rev != 0:
			if entries[i], err = v.body(vers[at], body, heads[i], refs[i]); err != nil {
				return nil, 0, false, err
			}
		case newest && later != rev:
			return nil, 0, true, nil
		case newest:
			return nil, 0, false, damaged(v1.Reason_REASON_MEMORY_COMMITMENT, "the newest version of a key is gone")
		}
		at += 2
	}
	return entries, rev, false, nil
}

// body decodes a version and holds it against the head of its key.
func (v *View) body(k Key, it Item, head record, ref Ref) (Entry, error) {
	r, err := v.decodeRecord(k, it)
	if err != nil {
		return Entry{}, err
	}
	want := ref.Version
	if want == 0 {
		want = head.version
	}
	if r.version != want || (want == head.version && r.commitment != head.commitment) {
		return Entry{}, damaged(v1.Reason_REASON_MEMORY_COMMITMENT, "a version is not the one that its key or its head names")
	}
	return v.full(r, ref)
}

// get is the driver's Get of this tenant, held to what the contract says about its answer.
func (v *View) get(ctx context.Context, keys []Key) ([]Item, Rev, error) {
	items, rev, err := v.store.cfg.Driver.Get(ctx, v.tenant, keys...)
	if err != nil {
		return nil, 0, wrap(err)
	}
	if len(items) != len(keys) {
		return nil, 0, damaged(v1.Reason_REASON_INTERNAL, "the driver answered a different number of keys")
	}
	return items, rev, nil
}
