package memorytest

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/safeconduct/safeconduct/memory"
)

// patience bounds every wait of the suite; a driver that needs it is broken.
const patience = time.Minute

func gapFree(f *fixture) {
	revs := make([]memory.Rev, 64)
	errs := each(64, func(i int) (err error) {
		revs[i], err = f.d.Commit(f.Context(), f.a, puts(number(i), "v", "shared", number(i)))
		return err
	})
	if count(errs, nil) != 64 {
		f.Fatalf("errors = %v", errs)
	}
	var changes []memory.Change
	for {
		page, newest, err := f.d.Changes(f.Context(), f.a, memory.Rev(len(changes)), 10)
		if err != nil || newest != 64 {
			f.Fatalf("Changes() = newest %d, %v", newest, err)
		}
		if len(page) == 0 {
			break
		}
		changes = append(changes, page...)
	}
	for i, c := range changes {
		if c.Rev != memory.Rev(i+1) || len(c.Keys) != 2 {
			f.Fatalf("change %d has revision %d and %d keys", i, c.Rev, len(c.Keys))
		}
		writer := slices.Index(revs, c.Rev)
		if writer < 0 || !slices.ContainsFunc(c.Keys, func(k memory.Key) bool { return memory.CompareKeys(k, key(number(writer))) == 0 }) {
			f.Errorf("change %d does not name the key of the writer that was given its revision", c.Rev)
		}
	}
	if got := f.get(key("shared")); got.Rev != 64 || string(got.V) != number(slices.Index(revs, 64)) {
		f.Errorf("last value %q at %d, want that of the last revision", got.V, got.Rev)
	}
}

func trim(f *fixture) {
	for i := range 10 {
		f.put(number(i), "v")
	}
	if err := f.d.Trim(f.Context(), f.a, 4); err != nil {
		f.Fatal(err)
	}
	_, _, err := f.d.Changes(f.Context(), f.a, 3, 10)
	f.wantErr("Changes before the floor", err, memory.ErrCompacted)
	changes, newest, err := f.d.Changes(f.Context(), f.a, 4, 10)
	if err != nil || newest != 10 || len(changes) != 6 || changes[0].Rev != 5 {
		f.Errorf("Changes(after 4) = %d changes, newest %d, %v", len(changes), newest, err)
	}
	if err := f.d.Trim(f.Context(), f.a, 2); err != nil {
		f.Errorf("Trim below the floor = %v", err)
	}
	if err := f.d.Trim(f.Context(), f.a, 1000); err != nil {
		f.Errorf("Trim beyond the newest = %v", err)
	}
	if changes, _, err := f.d.Changes(f.Context(), f.a, 10, 10); err != nil || len(changes) != 0 {
		f.Errorf("Changes(after all) = %v, %v", changes, err)
	}
	if rev := f.put("next", "v"); rev != 11 {
		f.Errorf("revision after trim = %d, want 11", rev)
	}
	_, _, err = f.d.Changes(f.Context(), f.a, 0, 0)
	f.wantErr("Changes without limit", err, memory.ErrInvalid)
	_, _, err = f.d.Changes(f.Context(), f.a, 0, memory.MaxScan+1)
	f.wantErr("Changes over the limit", err, memory.ErrInvalid)
}

func (f *fixture) receipt(ch <-chan struct{}, what string) (open bool) {
	f.Helper()
	select {
	case _, open = <-ch:
		return open
	case <-time.After(patience):
		f.Fatalf("%s: nothing received", what)
		return false
	}
}

func wake(f *fixture) {
	ctx, cancel := context.WithCancel(f.Context())
	ch, err := f.d.Wake(ctx, f.a)
	if err != nil {
		f.Fatal(err)
	}
	other, err := f.d.Wake(f.Context(), f.b)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 10 {
		f.put(number(i), "v")
	}
	if !f.receipt(ch, "after commits") {
		f.Error("channel closed while its context lives")
	}
	select {
	case <-ch:
		f.Error("10 commits that nobody read gave two receipts, want them coalesced")
	case <-other:
		f.Error("a commit of one tenant woke another")
	default:
	}
	// A wake is never lost: one commit after the receipt gives one again.
	for i := range 50 {
		f.put("again", number(i))
		if !f.receipt(ch, "after one more commit") {
			f.Fatal("channel closed while its context lives")
		}
	}
	cancel()
	if f.receipt(ch, "after the context ended") {
		f.Error("a receipt without a commit, want the channel closed")
	}
	if err := f.d.DropTenant(f.Context(), f.b); err != nil {
		f.Fatal(err)
	}
	if f.receipt(other, "after the tenant was dropped") {
		f.Error("a receipt of a dropped tenant, want the channel closed")
	}
}

func tenantWall(f *fixture) {
	ch, err := f.d.Wake(f.Context(), f.b)
	if err != nil {
		f.Fatal(err)
	}
	f.put("k", "a's")
	items, rev, err := f.d.Get(f.Context(), f.b, key("k"))
	if err != nil || rev != 0 || items[0].Rev != 0 || len(items[0].V) != 0 {
		f.Errorf("Get() of another tenant = %v at %d, %v", items, rev, err)
	}
	if items, _, err := f.d.Scan(f.Context(), f.b, memory.Range{T: memory.Cur, Limit: 100}); err != nil || len(items) != 0 {
		f.Errorf("Scan() of another tenant = %v, %v", items, err)
	}
	if changes, newest, err := f.d.Changes(f.Context(), f.b, 0, 100); err != nil || len(changes) != 0 || newest != 0 {
		f.Errorf("Changes() of another tenant = %v, newest %d, %v", changes, newest, err)
	}
	if size, n, err := f.d.Stats(f.Context(), f.b); err != nil || size != 0 || n != 0 {
		f.Errorf("Stats() of another tenant = %d, %d, %v", size, n, err)
	}
	select {
	case <-ch:
		f.Error("Wake() of another tenant fired")
	default:
	}
	if _, err := f.d.Commit(f.Context(), f.b, puts("k", "b's")); err != nil {
		f.Fatal(err)
	}
	if got := f.get(key("k")); string(got.V) != "a's" {
		f.Errorf("Get() = %q after another tenant put the same key", got.V)
	}
	if err := f.d.Trim(f.Context(), f.b, 1); err != nil {
		f.Fatal(err)
	}
	if changes, _, err := f.d.Changes(f.Context(), f.a, 0, 100); err != nil || len(changes) != 1 {
		f.Errorf("Changes() after another tenant trimmed = %v, %v", changes, err)
	}
	if err := f.d.DropTenant(f.Context(), f.b); err != nil {
		f.Fatal(err)
	}
	if got := f.get(key("k")); string(got.V) != "a's" {
		f.Errorf("Get() = %q after another tenant was dropped", got.V)
	}
}

func dropCreate(f *fixture) {
	f.put("k", "old")
	if err := f.d.CreateTenant(f.Context(), f.a); err != nil {
		f.Errorf("CreateTenant() of an existing tenant = %v", err)
	}
	if got := f.get(key("k")); string(got.V) != "old" {
		f.Errorf("Get() = %q after creating an existing tenant", got.V)
	}
	if err := f.d.DropTenant(f.Context(), f.a); err != nil {
		f.Fatal(err)
	}
	_, err := f.d.Commit(f.Context(), f.a, puts("k", "v"))
	f.wantErr("Commit to a dropped tenant", err, memory.ErrNoTenant)
	f.wantErr("DropTenant twice", f.d.DropTenant(f.Context(), f.a), memory.ErrNoTenant)
	if err := f.d.CreateTenant(f.Context(), f.a); err != nil {
		f.Fatal(err)
	}
	if size, n, err := f.d.Stats(f.Context(), f.a); err != nil || size != 0 || n != 0 || f.get(key("k")).Rev != 0 {
		f.Errorf("after drop and create: %d bytes, %d items, %v, key at %d", size, n, err, f.get(key("k")).Rev)
	}
	if rev := f.put("k", "new"); rev != 1 {
		f.Errorf("first revision after drop and create = %d", rev)
	}
}

func unknownTenant(f *fixture) {
	nobody := Tenant(f.T, "nobody")
	_, _, err := f.d.Get(f.Context(), nobody, key("k"))
	f.wantErr("Get", err, memory.ErrNoTenant)
	_, _, err = f.d.Scan(f.Context(), nobody, memory.Range{T: memory.Cur, Limit: 1})
	f.wantErr("Scan", err, memory.ErrNoTenant)
	_, err = f.d.Commit(f.Context(), nobody, puts("k", "v"))
	f.wantErr("Commit", err, memory.ErrNoTenant)
	_, _, err = f.d.Changes(f.Context(), nobody, 0, 1)
	f.wantErr("Changes", err, memory.ErrNoTenant)
	f.wantErr("Trim", f.d.Trim(f.Context(), nobody, 1), memory.ErrNoTenant)
	_, err = f.d.Wake(f.Context(), nobody)
	f.wantErr("Wake", err, memory.ErrNoTenant)
	_, _, err = f.d.Stats(f.Context(), nobody)
	f.wantErr("Stats", err, memory.ErrNoTenant)
	f.wantErr("DropTenant", f.d.DropTenant(f.Context(), nobody), memory.ErrNoTenant)
}

func closedDriver(f *fixture) {
	ch, err := f.d.Wake(f.Context(), f.a)
	if err != nil {
		f.Fatal(err)
	}
	errs := make(chan []error)
	go func() {
		errs <- each(64, func(i int) error {
			_, err := f.d.Commit(f.Context(), f.a, puts(number(i), "v"))
			return err
		})
	}()
	if err := f.d.Close(); err != nil {
		f.Fatal(err)
	}
	for _, err := range <-errs {
		if err != nil && !errors.Is(err, memory.ErrUnavailable) {
			f.Errorf("Commit() during Close = %v", err)
		}
	}
	for f.receipt(ch, "after Close") { // commits before the close may have left one
	}
	_, err = f.d.Commit(f.Context(), f.a, puts("k", "v"))
	f.wantErr("Commit after Close", err, memory.ErrUnavailable)
	_, _, err = f.d.Get(f.Context(), f.a, key("k"))
	f.wantErr("Get after Close", err, memory.ErrUnavailable)
}

func reopen(f *fixture) {
	f.put("k", "v")
	f.put("n", "w")
	f.commit(memory.Batch{Add: []memory.Add{{Key: key("c"), Delta: 3, Max: 5}}})
	if err := f.d.Trim(f.Context(), f.a, 1); err != nil {
		f.Fatal(err)
	}
	if err := f.d.Close(); err != nil {
		f.Fatal(err)
	}
	f.open()
	if got := f.get(key("k")); string(got.V) != "v" || got.Rev != 1 {
		f.Errorf("Get() after reopening = %q at %d", got.V, got.Rev)
	}
	if _, items, err := f.d.Stats(f.Context(), f.a); err != nil || items != 3 {
		f.Errorf("Stats() after reopening = %d items, %v", items, err)
	}
	_, _, err := f.d.Changes(f.Context(), f.a, 0, 10)
	f.wantErr("Changes after reopening", err, memory.ErrCompacted)
	if rev := f.put("k", "v2"); rev != 4 {
		f.Errorf("revision after reopening = %d, want 4", rev)
	}
	if c, ok := f.d.(memory.Checker); ok {
		if err := c.Check(f.Context()); err != nil {
			f.Errorf("Check() = %v", err)
		}
	}
}

func secondOpener(f *fixture) {
	d, err := f.h.Open(f.dir)
	if err == nil {
		_ = d.Close()
		f.Fatal("a second opener of one file succeeds")
	}
	f.put("k", "v")
}
