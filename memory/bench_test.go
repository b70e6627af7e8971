package memory_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	bbolt "go.etcd.io/bbolt"

	"github.com/safeconduct/safeconduct/internal/boltfile"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/bolt"
)

const (
	benchEntries = 10_000
	benchValue   = 1 << 10
	rounds       = 5
)

type noRecorder struct{}

func (noRecorder) Begin(context.Context, *memory.Access) error                { return nil }
func (noRecorder) End(context.Context, *memory.Access, *memory.Outcome) error { return nil }

// bench is a store and a raw bbolt file with the same number of entries of the same size, in one process.
type bench struct {
	w           *world
	read, write *memory.View
	raw         *bbolt.DB
	value       []byte
	seq         atomic.Int64
}

func newBench(b *testing.B, entries int) *bench {
	d, err := bolt.Open(filepath.Join(b.TempDir(), "memory.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	w := newWorld(b, d)
	if w.store, err = memory.New(b.Context(), memory.Config{Driver: d, Recorder: noRecorder{}, Now: w.mesh.Now, Self: w.self}); err != nil {
		b.Fatal(err)
	}
	a := w.agent("acme", "alice")
	x := &bench{w: w, read: a.open(memory.ActionRead, "shared", "bench"), write: a.open(memory.ActionWrite, "shared", "bench"), value: make([]byte, benchValue)}
	if _, err := rand.Read(x.value); err != nil {
		b.Fatal(err)
	}
	if x.raw, err = boltfile.Open(filepath.Join(b.TempDir(), "raw.db"), boltfile.Options{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = x.raw.Close() })
	for at := 0; at < entries; at += memory.MaxOps {
		var ops []memory.Op
		for i := range memory.MaxOps {
			ops = append(ops, memory.Put{Ref: ref(benchKey(at + i)), Value: x.value, MediaType: "application/octet-stream"})
		}
		if _, _, err := x.write.Write(b.Context(), ops...); err != nil {
			b.Fatal(err)
		}
	}
	if err := x.raw.Update(func(tx *bbolt.Tx) error {
		bk, err := tx.CreateBucketIfNotExists([]byte("b"))
		for i := 0; i < entries && err == nil; i++ {
			err = bk.Put([]byte(benchKey(i)), x.value)
		}
		return err
	}); err != nil {
		b.Fatal(err)
	}
	return x
}

func benchKey(i int) string { return fmt.Sprintf("key-%08d", i) }

func (x *bench) rawGet(i int) error {
	return x.raw.View(func(tx *bbolt.Tx) error {
		if v := bytes.Clone(tx.Bucket([]byte("b")).Get([]byte(benchKey(i)))); len(v) != benchValue {
			return memory.ErrNotFound
		}
		return nil
	})
}

func (x *bench) viewGet(i int) error {
	_, err := x.read.Read(x.w.Context(), ref(benchKey(i)))
	return err
}

func (x *bench) rawPut(do func(func(*bbolt.Tx) error) error) error {
	k := []byte(benchKey(int(x.seq.Add(1)) + 1_000_000))
	return do(func(tx *bbolt.Tx) error { return tx.Bucket([]byte("b")).Put(k, x.value) })
}

func (x *bench) viewPut() error {
	k := benchKey(int(x.seq.Add(1)) + 1_000_000)
	_, _, err := x.write.Write(x.w.Context(), memory.Put{Ref: ref(k), Value: x.value, MediaType: "application/octet-stream"})
	return err
}

// timed runs fn n times over workers goroutines.
func timed(b *testing.B, workers, n int, fn func(i int) error) time.Duration {
	b.Helper()
	errs := make(chan error, workers)
	start := time.Now()
	for w := range workers {
		go func() {
			var err error
			for i := w; i < n && err == nil; i += workers {
				err = fn(i * 7919 % benchEntries)
			}
			errs <- err
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(start)
}

// ratio runs raw and store alternately in one process and reports the median ratio of their throughput. Absolute times on a
// shared machine say little; the ratio is what a change may not worsen.
func ratio(b *testing.B, workers, n int, raw, store func(i int) error) {
	b.Helper()
	b.ReportAllocs()
	var ratios, rawRate, storeRate []float64
	for b.Loop() {
		for range rounds {
			r, s := timed(b, workers, n, raw), timed(b, workers, n, store)
			ratios = append(ratios, r.Seconds()/s.Seconds())
			rawRate, storeRate = append(rawRate, float64(n)/r.Seconds()), append(storeRate, float64(n)/s.Seconds())
		}
	}
	for _, s := range [][]float64{ratios, rawRate, storeRate} {
		slices.Sort(s)
	}
	b.ReportMetric(ratios[len(ratios)/2], "ratio")
	b.ReportMetric(rawRate[len(rawRate)/2], "raw/s")
	b.ReportMetric(storeRate[len(storeRate)/2], "store/s")
	b.ReportMetric(0, "ns/op")
}

func BenchmarkReadAgainstBolt(b *testing.B) {
	for _, workers := range []int{1, 8} {
		b.Run(fmt.Sprintf("goroutines=%d", workers), func(b *testing.B) {
			x := newBench(b, benchEntries)
			ratio(b, workers, 20_000, x.rawGet, x.viewGet)
		})
	}
}

func BenchmarkWriteAgainstBolt(b *testing.B) {
	for _, c := range []struct {
		name    string
		workers int
		tune    func(*bbolt.DB)
		batch   bool
	}{
		{"writers=1/against=Update", 1, func(*bbolt.DB) {}, false},
		{"writers=64/against=Batch", 64, func(*bbolt.DB) {}, true},
		{"writers=64/against=Batch2ms256", 64, func(db *bbolt.DB) { db.MaxBatchDelay, db.MaxBatchSize = 2*time.Millisecond, 256 }, true},
	} {
		b.Run(c.name, func(b *testing.B) {
			x := newBench(b, benchEntries)
			c.tune(x.raw)
			do := x.raw.Update
			if c.batch {
				do = x.raw.Batch
			}
			ratio(b, c.workers, 30*c.workers, func(int) error { return x.rawPut(do) }, func(int) error { return x.viewPut() })
		})
	}
}

// BenchmarkRead is one warm read, for allocations and time.
func BenchmarkRead(b *testing.B) {
	x := newBench(b, benchEntries)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if i++; x.viewGet(i*7919%benchEntries) != nil {
			b.Fatal("read")
		}
	}
}
