package memorytest

import (
	"bytes"
	"slices"
	"sync/atomic"

	"github.com/safeconduct/safeconduct/memory"
)

func scanOrder(f *fixture) {
	keys := []string{"\x00", "\x00\x00", "\x00\xff", "\x01", "a", "a\x00", "a\x00\xff", "ab", "b", "\xfe", "\xff", "\xff\x00", "\xff\xff"}
	slices.Sort(keys)
	for _, k := range slices.Backward(keys) {
		f.put(k, "v")
	}
	if _, err := f.d.Commit(f.Context(), f.a, memory.Batch{Muts: []memory.Mut{{Key: memory.Key{T: memory.Ver, K: []byte("a")}, V: []byte("v")}}}); err != nil {
		f.Fatal(err)
	}
	for _, lo := range append(keys, "") {
		for _, hi := range append(keys, "") {
			var want []string
			for _, k := range keys {
				if k >= lo && (hi == "" || k < hi) {
					want = append(want, k)
				}
			}
			r := memory.Range{T: memory.Cur, Lo: []byte(lo), Hi: []byte(hi), Limit: 100}
			if got := f.scan(r); !slices.Equal(got, want) {
				f.Errorf("Scan(%q, %q) = %q, want %q", lo, hi, got, want)
			}
			r.Desc = true
			slices.Reverse(want)
			if got := f.scan(r); !slices.Equal(got, want) {
				f.Errorf("Scan(%q, %q, desc) = %q, want %q", lo, hi, got, want)
			}
		}
	}
}

func scanPages(f *fixture) {
	const n = 25
	var want []string
	for i := range n {
		f.put(number(i), "v")
		want = append(want, number(i))
	}
	for _, limit := range []int{1, n - 1, n, n + 1, memory.MaxScan} {
		var got []string
		lo := []byte{}
		for {
			page := f.scan(memory.Range{T: memory.Cur, Lo: lo, Limit: limit})
			if len(page) == 0 {
				break
			}
			if len(page) > limit {
				f.Fatalf("Scan(limit %d) = %d items", limit, len(page))
			}
			got = append(got, page...)
			lo = append([]byte(page[len(page)-1]), 0)
		}
		if !slices.Equal(got, want) {
			f.Errorf("pages of %d = %q, want %q", limit, got, want)
		}
	}
	for _, r := range []memory.Range{{T: memory.Cur}, {T: memory.Cur, Limit: memory.MaxScan + 1}, {Limit: 1}, {T: memory.Meta + 1, Limit: 1}} {
		_, _, err := f.d.Scan(f.Context(), f.a, r)
		f.wantErr("Scan out of bounds", err, memory.ErrInvalid)
	}
}

func getCases(f *fixture) {
	rev := f.put("a", "1", "b", "")
	items, at, err := f.d.Get(f.Context(), f.a, key("a"), key("none"), key("a"), key("b"), memory.Key{T: memory.Ver, K: []byte("a")})
	if err != nil || at != rev || len(items) != 5 {
		f.Fatalf("Get() = %d items at %d, %v, want 5 at %d", len(items), at, err, rev)
	}
	for i, want := range []struct {
		value string
		rev   memory.Rev
	}{{"1", rev}, {"", 0}, {"1", rev}, {"", rev}, {"", 0}} {
		if string(items[i].V) != want.value || items[i].Rev != want.rev {
			f.Errorf("Get()[%d] = %q at %d, want %q at %d", i, items[i].V, items[i].Rev, want.value, want.rev)
		}
	}
	var keys []memory.Key
	var b memory.Batch
	for i := range 256 {
		keys = append(keys, key(number(i)))
		b.Muts = append(b.Muts, memory.Mut{Key: keys[i], V: []byte(number(i))})
	}
	f.commit(b)
	items, _, err = f.d.Get(f.Context(), f.a, keys...)
	if err != nil {
		f.Fatal(err)
	}
	for i, it := range items {
		if string(it.V) != number(i) || !bytes.Equal(it.K, keys[i].K) {
			f.Errorf("Get()[%d] = %q under %q", i, it.V, it.K)
		}
	}
	_, _, err = f.d.Get(f.Context(), f.a, make([]memory.Key, memory.MaxGet+1)...)
	f.wantErr("Get of too many keys", err, memory.ErrTooLarge)
}

// getSnapshot lets writers keep two keys equal and readers look for a difference.
func getSnapshot(f *fixture) {
	f.put("x", "0", "y", "0")
	var stop atomic.Bool
	errs := each(4, func(i int) error {
		if i == 0 {
			defer stop.Store(true)
			for n := range 100 {
				if _, err := f.d.Commit(f.Context(), f.a, puts("x", number(n), "y", number(n))); err != nil {
					return err
				}
			}
			return nil
		}
		for !stop.Load() {
			items, _, err := f.d.Get(f.Context(), f.a, key("x"), key("y"))
			if err != nil {
				return err
			}
			if !bytes.Equal(items[0].V, items[1].V) || items[0].Rev != items[1].Rev {
				f.Errorf("Get() = %q at %d and %q at %d, want one snapshot", items[0].V, items[0].Rev, items[1].V, items[1].Rev)
			}
		}
		return nil
	})
	if n := count(errs, nil); n != len(errs) {
		f.Errorf("errors = %v", errs)
	}
}

func copies(f *fixture) {
	value, name := []byte("value"), []byte("key")
	f.commit(memory.Batch{Muts: []memory.Mut{{Key: memory.Key{T: memory.Cur, K: name}, V: value}}})
	value[0], name[0] = 'X', 'X'
	it := f.get(key("key"))
	if string(it.V) != "value" {
		f.Fatalf("Get() = %q after the caller changed what it had put", it.V)
	}
	it.V[0] = 'X'
	scanned, _, err := f.d.Scan(f.Context(), f.a, memory.Range{T: memory.Cur, Limit: 1})
	if err != nil || len(scanned) != 1 {
		f.Fatalf("Scan() = %d items, %v", len(scanned), err)
	}
	scanned[0].V[1], scanned[0].K[0] = 'X', 'X'
	changes, _, err := f.d.Changes(f.Context(), f.a, 0, 10)
	if err != nil || len(changes) != 1 || string(changes[0].Keys[0].K) != "key" {
		f.Fatalf("Changes() = %v, %v", changes, err)
	}
	if it := f.get(key("key")); string(it.V) != "value" {
		f.Errorf("Get() = %q after the caller changed a result", it.V)
	}
}

func stats(f *fixture) {
	want := func(size, items int64) {
		f.Helper()
		gotSize, gotItems, err := f.d.Stats(f.Context(), f.a)
		if err != nil || gotSize != size || gotItems != items {
			f.Errorf("Stats() = %d, %d, %v, want %d, %d", gotSize, gotItems, err, size, items)
		}
	}
	want(0, 0)
	f.put("ab", "123", "c", "")
	want(6, 2)
	f.put("ab", "1")
	want(4, 2)
	f.commit(memory.Batch{Muts: []memory.Mut{{Key: key("ab")}, {Key: key("absent")}}})
	want(1, 1)
	f.commit(memory.Batch{Add: []memory.Add{{Key: key("n"), Delta: 1, Max: 5}}})
	want(10, 2)
}
