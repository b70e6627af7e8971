package memorytest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/safeconduct/safeconduct/memory"
)

func conditions(f *fixture) {
	rev := f.put("a", "1")
	for _, c := range []struct {
		name string
		cond memory.Cond
		want error
	}{
		{"absent key must not exist", memory.Cond{Key: key("new")}, nil},
		{"present key must not exist", memory.Cond{Key: key("a")}, memory.ErrConflict},
		{"present key at its revision", memory.Cond{Key: key("a"), Rev: rev}, nil},
		{"present key at a future revision", memory.Cond{Key: key("a"), Rev: rev + 100}, memory.ErrConflict},
		{"absent key at a revision", memory.Cond{Key: key("none"), Rev: rev}, memory.ErrConflict},
		{"same key in another table", memory.Cond{Key: memory.Key{T: memory.Ver, K: []byte("a")}, Rev: rev}, memory.ErrConflict},
	} {
		_, err := f.d.Commit(f.Context(), f.a, memory.Batch{If: []memory.Cond{c.cond}, Muts: puts("other", c.name).Muts})
		if !errors.Is(err, c.want) {
			f.Errorf("%s: Commit() = %v, want %v", c.name, err, c.want)
		}
	}
	f.put("a", "2")
	_, err := f.d.Commit(f.Context(), f.a, memory.Batch{If: []memory.Cond{{Key: key("a"), Rev: rev}}, Muts: puts("a", "3").Muts})
	f.wantErr("Commit at a stale revision", err, memory.ErrConflict)
	f.commit(memory.Batch{Muts: []memory.Mut{{Key: key("a")}}})
	if _, err := f.d.Commit(f.Context(), f.a, memory.Batch{If: []memory.Cond{{Key: key("a")}}, Muts: puts("a", "4").Muts}); err != nil {
		f.Errorf("Commit on a deleted key that must not exist = %v", err)
	}
}

func racingBatches(f *fixture) {
	for range 20 {
		rev := f.put("k", "start")
		errs := each(2, func(i int) error {
			_, err := f.d.Commit(f.Context(), f.a, memory.Batch{If: []memory.Cond{{Key: key("k"), Rev: rev}}, Muts: puts("k", number(i)).Muts})
			return err
		})
		if won, lost := count(errs, nil), count(errs, memory.ErrConflict); won != 1 || lost != 1 {
			f.Fatalf("two batches on one revision = %v, want one winner", errs)
		}
	}
}

func counters(f *fixture) {
	n := key("n")
	value := func() int64 {
		f.Helper()
		v, err := memory.Count(f.get(n))
		if err != nil {
			f.Fatal(err)
		}
		return v
	}
	f.commit(memory.Batch{Add: []memory.Add{{Key: n, Delta: 3, Max: 5}}})
	for _, c := range []struct {
		name  string
		batch memory.Batch
		err   error
		want  int64
	}{
		{"over the bound", memory.Batch{Add: []memory.Add{{Key: n, Delta: 3, Max: 5}}}, memory.ErrFull, 3},
		{"below zero", memory.Batch{Add: []memory.Add{{Key: n, Delta: -4, Max: 5}}}, memory.ErrFull, 3},
		{"overflow", memory.Batch{Add: []memory.Add{{Key: n, Delta: 1<<63 - 1, Max: 1<<63 - 1}}}, memory.ErrFull, 3},
		{"to the bound", memory.Batch{Add: []memory.Add{{Key: n, Delta: 2, Max: 5}}}, nil, 5},
		{"down", memory.Batch{Add: []memory.Add{{Key: n, Delta: -5, Max: 5}}}, nil, 0},
		{
			"with a failing condition",
			memory.Batch{If: []memory.Cond{{Key: key("none"), Rev: 9}}, Add: []memory.Add{{Key: n, Delta: 1, Max: 5}}},
			memory.ErrConflict, 0,
		},
		{
			"a good counter beside a full one",
			memory.Batch{Add: []memory.Add{{Key: n, Delta: 1, Max: 5}, {Key: key("m"), Delta: 6, Max: 5}}},
			memory.ErrFull, 0,
		},
		{"counter and mutation on one key", memory.Batch{Add: []memory.Add{{Key: n, Delta: 1, Max: 5}}, Muts: puts("n", "x").Muts}, memory.ErrInvalid, 0},
	} {
		_, err := f.d.Commit(f.Context(), f.a, c.batch)
		if !errors.Is(err, c.err) || value() != c.want {
			f.Errorf("%s: Commit() = %v, counter %d, want %v, %d", c.name, err, value(), c.err, c.want)
		}
	}
	f.put("text", "no counter")
	_, err := f.d.Commit(f.Context(), f.a, memory.Batch{Add: []memory.Add{{Key: key("text"), Delta: 1, Max: 5}}})
	f.wantErr("Add on a value that is no counter", err, memory.ErrInvalid)
}

func countersRace(f *fixture) {
	const limit = 40
	n := key("n")
	f.commit(memory.Batch{Add: []memory.Add{{Key: n, Delta: limit - 1, Max: limit}}})
	errs := each(64, func(i int) error {
		_, err := f.d.Commit(f.Context(), f.a, memory.Batch{Add: []memory.Add{{Key: n, Delta: 1, Max: limit}}, Muts: puts(number(i), "v").Muts})
		return err
	})
	if won, lost := count(errs, nil), count(errs, memory.ErrFull); won != 1 || lost != 63 {
		f.Errorf("64 writers at the bound: %d won, %d full, want 1 and 63", won, lost)
	}
	if got, err := memory.Count(f.get(n)); err != nil || got != limit {
		f.Errorf("counter = %d, %v, want %d", got, err, limit)
	}
	if got := len(f.scan(memory.Range{T: memory.Cur, Lo: []byte("k"), Hi: []byte("l"), Limit: 100})); got != 1 {
		f.Errorf("%d of the refused batches left data, want 1 batch", got)
	}
}

func atomicity(f *fixture) {
	rev := f.put("a", "1")
	bad := []memory.Batch{
		{If: []memory.Cond{{Key: key("a"), Rev: rev}, {Key: key("a"), Rev: rev + 7}}, Muts: puts("x", "1", "a", "2").Muts},
		{Add: []memory.Add{{Key: key("c"), Delta: 1, Max: 1}, {Key: key("d"), Delta: 2, Max: 1}}, Muts: puts("x", "1").Muts},
		{Muts: append(puts("x", "1").Muts, memory.Mut{Key: memory.Key{T: 99, K: []byte("x")}, V: []byte{1}})},
		{Muts: puts("x", "1", "x", "2").Muts},
		{Muts: append(puts("x", "1").Muts, memory.Mut{Key: key(""), V: []byte{1}})},
		{If: []memory.Cond{{Key: key("")}}, Muts: puts("x", "1").Muts},
		{},
		{If: []memory.Cond{{Key: key("a"), Rev: rev}}},
	}
	for i, b := range bad {
		if _, err := f.d.Commit(f.Context(), f.a, b); err == nil {
			f.Errorf("Commit(bad batch %d) succeeds", i)
		}
	}
	if got := f.scan(memory.Range{T: memory.Cur, Limit: 100}); len(got) != 1 || string(f.get(key("a")).V) != "1" {
		f.Errorf("after refused batches the keys are %q, a is %q", got, f.get(key("a")).V)
	}
	if next := f.put("b", "1"); next != rev+1 {
		f.Errorf("revision after refused batches = %d, want %d", next, rev+1)
	}
}

// roundOrder queues a chain of batches, each of which needs the one before it, in an order the engine may put in one round.
func roundOrder(f *fixture) {
	const n = 32
	f.commit(memory.Batch{Add: []memory.Add{{Key: key("n"), Delta: 0, Max: n}}})
	errs := each(n, func(i int) error {
		for {
			// Succeeds only right after the writer i-1.
			items, _, err := f.d.Get(f.Context(), f.a, key("n"))
			if err != nil {
				return err
			}
			c, err := memory.Count(items[0])
			if err != nil || c > int64(i) {
				return fmt.Errorf("counter at %d before writer %d: %w", c, i, err)
			}
			if c < int64(i) {
				continue
			}
			_, err = f.d.Commit(f.Context(), f.a, memory.Batch{
				If:  []memory.Cond{{Key: key("n"), Rev: items[0].Rev}},
				Add: []memory.Add{{Key: key("n"), Delta: 1, Max: n}},
			})
			if !errors.Is(err, memory.ErrConflict) {
				return err
			}
		}
	})
	if count(errs, nil) != n {
		f.Fatalf("errors = %v", errs)
	}
	// 64 unconditional increments: each must see those before it, in whatever round it lands.
	each(64, func(int) error {
		_, err := f.d.Commit(f.Context(), f.a, memory.Batch{Add: []memory.Add{{Key: key("m"), Delta: 1, Max: 64}}})
		return err
	})
	if got, err := memory.Count(f.get(key("m"))); err != nil || got != 64 {
		f.Errorf("counter after 64 increments = %d, %v", got, err)
	}
}

func cancelled(f *fixture) {
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	_, err := f.d.Commit(ctx, f.a, puts("a", "1"))
	f.wantErr("Commit with an ended context", err, context.Canceled)
	_, _, err = f.d.Get(ctx, f.a, key("a"))
	f.wantErr("Get with an ended context", err, context.Canceled)
	if f.get(key("a")).Rev != 0 {
		f.Error("a commit whose context had ended took effect")
	}
	// Contexts that end at any moment: an acknowledged commit is there, one that was given up is there whole or not at all, and
	// the driver goes on.
	var acked [64]atomic.Bool
	each(64, func(i int) error {
		ctx, cancel := context.WithCancel(f.Context())
		go cancel()
		if _, err := f.d.Commit(ctx, f.a, puts("x"+number(i), "v", "y"+number(i), "v")); err == nil {
			acked[i].Store(true)
		}
		return nil
	})
	for i := range acked {
		x, y := f.get(key("x"+number(i))).Rev, f.get(key("y"+number(i))).Rev
		if x != y || (acked[i].Load() && x == 0) {
			f.Errorf("commit %d: acknowledged %v, revisions %d and %d", i, acked[i].Load(), x, y)
		}
	}
	f.put("after", "v")
}

func batchBounds(f *fixture) {
	value := func(n int) memory.Batch { return memory.Batch{Muts: []memory.Mut{{Key: key("k"), V: make([]byte, n)}}} }
	many := func(n int) (b memory.Batch) {
		for i := range n {
			b.Muts = append(b.Muts, memory.Mut{Key: key(number(i)), V: []byte{1}})
		}
		return b
	}
	conds := func(n int) memory.Batch {
		b := puts("k", "v")
		for i := range n {
			b.If = append(b.If, memory.Cond{Key: key("none" + number(i))})
		}
		return b
	}
	for _, c := range []struct {
		name  string
		batch memory.Batch
		want  error
	}{
		{"1 MiB", value(1 << 20), nil},
		{"4 MiB with the key", value(memory.MaxCommitBytes - 1), nil},
		{"over 4 MiB", value(memory.MaxCommitBytes), memory.ErrTooLarge},
		{"1024 mutations", many(memory.MaxMuts), nil},
		{"1025 mutations", many(memory.MaxMuts + 1), memory.ErrTooLarge},
		{"1024 conditions", conds(memory.MaxMuts), nil},
		{"1025 conditions", conds(memory.MaxMuts + 1), memory.ErrTooLarge},
	} {
		if _, err := f.d.Commit(f.Context(), f.a, c.batch); !errors.Is(err, c.want) {
			f.Errorf("%s: Commit() = %v, want %v", c.name, err, c.want)
		}
	}
}

func keyBounds(f *fixture) {
	for _, c := range []struct {
		bytes int
		want  error
	}{{2048, nil}, {memory.MaxDriverKey, nil}, {memory.MaxDriverKey + 1, memory.ErrTooLarge}} {
		k := string(make([]byte, c.bytes)) // zero bytes
		_, err := f.d.Commit(f.Context(), f.a, puts(k, "v"))
		if !errors.Is(err, c.want) {
			f.Errorf("key of %d bytes: Commit() = %v, want %v", c.bytes, err, c.want)
		}
		_, _, err = f.d.Get(f.Context(), f.a, key(k))
		if !errors.Is(err, c.want) {
			f.Errorf("key of %d bytes: Get() = %v, want %v", c.bytes, err, c.want)
		}
	}
}
