package replaybolt_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	"github.com/safeconduct/safeconduct/internal/boltfile"
	"github.com/safeconduct/safeconduct/internal/replaybolt"
)

// clock is a clock that tests move.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Unix(1_700_000_000, 0).UnixNano())
	return c
}

func (c *clock) now() time.Time       { return time.Unix(0, c.at.Load()) }
func (c *clock) move(d time.Duration) { c.at.Add(int64(d)) }

func keyOf(n uint64) (key [32]byte) {
	binary.BigEndian.PutUint64(key[:], n*0x9e3779b97f4a7c15)
	return key
}

func open(t testing.TB, path string, o replaybolt.Options) *replaybolt.Store {
	t.Helper()
	s, err := replaybolt.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t testing.TB, s *replaybolt.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func wantInsert(t *testing.T, what string, s delegation.ReplayStore, tenant string, key [32]byte, until time.Time, want bool, wantErr error) {
	t.Helper()
	fresh, err := s.Insert(t.Context(), tenant, key, until)
	if fresh != want || !errors.Is(err, wantErr) || wantErr == nil && err != nil {
		t.Errorf("%s: Insert() = %v, %v, want %v, %v", what, fresh, err, want, wantErr)
	}
}

func TestSpentKeysAreRefusedAfterReopening(t *testing.T) {
	t.Parallel()
	c, path := newClock(), filepath.Join(t.TempDir(), "replay.db")
	s := open(t, path, replaybolt.Options{Now: c.now})
	until := c.now().Add(10 * time.Minute)
	wantInsert(t, "a key", s, "acme", keyOf(1), until, true, nil)
	wantInsert(t, "it again", s, "acme", keyOf(1), until, false, nil)
	wantInsert(t, "it again for another tenant, with another end", s, "globex", keyOf(1), until.Add(time.Minute), false, nil)
	closeStore(t, s)
	s = open(t, path, replaybolt.Options{Now: c.now})
	defer closeStore(t, s)
	wantInsert(t, "it after reopening", s, "acme", keyOf(1), until, false, nil)
	for n, want := range map[uint64]bool{1: true, 2: false} {
		if seen, err := s.Seen(keyOf(n)); seen != want || err != nil {
			t.Errorf("Seen(%d) = %v, %v, want %v", n, seen, err, want)
		}
	}
	if s.Shared() {
		t.Error("a file of one process claims to be shared")
	}
}

func TestOneOfAHundredConcurrentInsertsWins(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "replay.db"), replaybolt.Options{})
	defer closeStore(t, s)
	var fresh atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 100 {
		wg.Go(func() {
			<-start
			for n := range uint64(3) {
				ok, err := s.Insert(t.Context(), "acme", keyOf(n), time.Now().Add(time.Minute))
				if err != nil {
					t.Error(err)
				}
				if ok {
					fresh.Add(1)
				}
			}
		})
	}
	close(start)
	wg.Wait()
	if fresh.Load() != 3 {
		t.Errorf("%d inserts of 3 keys are fresh, want 3", fresh.Load())
	}
}

// A tenant at its bound is refused until its keys have ended; nothing is evicted, nobody else notices, and reopening changes nothing.
func TestBoundOfATenantRefusesAndNeverEvicts(t *testing.T) {
	t.Parallel()
	c, path := newClock(), filepath.Join(t.TempDir(), "replay.db")
	o := replaybolt.Options{Now: c.now, PerTenant: 3}
	s := open(t, path, o)
	until := c.now().Add(time.Minute)
	for n := range uint64(3) {
		wantInsert(t, "below the bound", s, "acme", keyOf(n), until, true, nil)
	}
	for range 2 {
		wantInsert(t, "at the bound", s, "acme", keyOf(3), until, false, delegation.ErrReplayFull)
		for n := range uint64(3) {
			wantInsert(t, "a spent key at the bound", s, "acme", keyOf(n), until, false, nil)
		}
		closeStore(t, s)
		s = open(t, path, o)
	}
	defer func() { closeStore(t, s) }()
	wantInsert(t, "another tenant", s, "globex", keyOf(4), until, true, nil)
	c.move(2 * time.Minute)
	wantInsert(t, "after their end", s, "acme", keyOf(3), c.now().Add(time.Minute), true, nil)
	if seen, err := s.Seen(keyOf(0)); seen || err != nil {
		t.Errorf("Seen(ended) = %v, %v, want false", seen, err)
	}
}

func TestKeyIsKeptUntilItsEnd(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := open(t, filepath.Join(t.TempDir(), "replay.db"), replaybolt.Options{Now: c.now})
	defer closeStore(t, s)
	until := c.now().Add(replaybolt.DefaultLife)
	wantInsert(t, "too long", s, "acme", keyOf(0), until.Add(1), false, delegation.ErrReplayLife)
	wantInsert(t, "the longest", s, "acme", keyOf(0), until, true, nil)
	for n := uint64(1); !c.now().After(until); n++ {
		wantInsert(t, "the key", s, "acme", keyOf(0), until, false, nil)
		wantInsert(t, "another", s, "acme", keyOf(n), c.now().Add(time.Second), true, nil)
		c.move(30 * time.Second)
	}
}

// A clock that was ahead made the store forget. It refuses what it can no longer tell, also after reopening.
func TestClockThatStepsBackForgetsNothingEarly(t *testing.T) {
	t.Parallel()
	c, path := newClock(), filepath.Join(t.TempDir(), "replay.db")
	s := open(t, path, replaybolt.Options{Now: c.now})
	until := c.now().Add(time.Minute)
	wantInsert(t, "a key", s, "acme", keyOf(1), until, true, nil)
	c.move(-time.Hour)
	wantInsert(t, "it, an hour earlier", s, "acme", keyOf(1), c.now().Add(time.Minute), false, nil)
	c.move(25 * time.Hour)
	wantInsert(t, "a key of the day after", s, "acme", keyOf(2), c.now().Add(time.Minute), true, nil)
	c.move(-24 * time.Hour)
	for range 2 {
		wantInsert(t, "the forgotten key", s, "acme", keyOf(1), until, false, delegation.ErrReplayForgotten)
		wantInsert(t, "a new key that ends as early", s, "acme", keyOf(3), until, false, delegation.ErrReplayForgotten)
		closeStore(t, s)
		s = open(t, path, replaybolt.Options{Now: c.now})
	}
	defer func() { closeStore(t, s) }()
	wantInsert(t, "a key that ends later", s, "acme", keyOf(4), until.Add(time.Second), true, nil)
}

// Forgetting goes in steps, so that no insert waits for all of it, and goes on until nothing is left.
func TestEndedKeysGoInSteps(t *testing.T) {
	t.Parallel()
	const keys = 5000
	c, path := newClock(), filepath.Join(t.TempDir(), "replay.db")
	s := open(t, path, replaybolt.Options{Now: c.now, PerTenant: keys})
	var wg sync.WaitGroup
	for g := range uint64(50) {
		wg.Go(func() {
			for n := range uint64(keys / 50) {
				if fresh, err := s.Insert(t.Context(), "acme", keyOf(g<<32|n), c.now().Add(time.Minute)); !fresh || err != nil {
					t.Errorf("Insert() = %v, %v", fresh, err)
					return
				}
			}
		})
	}
	wg.Wait()
	c.move(time.Hour)
	wantInsert(t, "an hour later", s, "acme", keyOf(1<<60), c.now().Add(time.Minute), true, nil)
	for deadline := time.Now().Add(time.Minute); ; {
		left := 0
		for g := range uint64(50) {
			for n := range uint64(keys / 50) {
				if seen, err := s.Seen(keyOf(g<<32 | n)); err != nil {
					t.Fatal(err)
				} else if seen {
					left++
				}
			}
		}
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d ended keys are still held", left)
		}
	}
	closeStore(t, s)
}

func TestSecondProcessIsToldWhatToDo(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "replay.db")
	s := open(t, path, replaybolt.Options{})
	defer closeStore(t, s)
	_, err := replaybolt.Open(path, replaybolt.Options{})
	if !errors.Is(err, boltfile.ErrLocked) || !strings.Contains(err.Error(), "end it, or give this one a folder of its own") {
		t.Errorf("Open() of a file in use = %v", err)
	}
}

// After a write has failed nothing is fresh until the file is opened again.
func TestFailedWriteRefusesEveryInsert(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "replay.db")
	var file *os.File
	s := open(t, path, replaybolt.Options{OpenFile: func(name string, flag int, mode fs.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, mode)
		file = f
		return f, err
	}})
	until := time.Now().Add(time.Minute)
	wantInsert(t, "before", s, "acme", keyOf(1), until, true, nil)
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	for n := range uint64(3) {
		wantInsert(t, "on a failed file", s, "acme", keyOf(2+n), until, false, replaybolt.ErrFailed)
	}
	_ = s.Close()
	s = open(t, path, replaybolt.Options{})
	defer closeStore(t, s)
	wantInsert(t, "the spent key after reopening", s, "acme", keyOf(1), until, false, nil)
	wantInsert(t, "the refused key after reopening", s, "acme", keyOf(2), until, true, nil)
}

func TestDamagedFileIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string][]byte{"text": []byte(strings.Repeat("not a database ", 4000)), "short": {1, 2, 3}} {
		path := filepath.Join(dir, name+".db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := replaybolt.Open(path, replaybolt.Options{}); err == nil {
			t.Errorf("%s: opened", name)
			_ = s.Close()
		}
	}
}

func TestInsertAfterCloseAndWithAnEndedContext(t *testing.T) {
	t.Parallel()
	s := open(t, filepath.Join(t.TempDir(), "replay.db"), replaybolt.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for n := range uint64(20) {
		if fresh, err := s.Insert(ctx, "acme", keyOf(n), time.Now().Add(time.Minute)); fresh && err != nil {
			t.Errorf("Insert() with an ended context = %v, %v", fresh, err)
		}
	}
	closeStore(t, s)
	wantInsert(t, "after Close", s, "acme", keyOf(100), time.Now().Add(time.Minute), false, replaybolt.ErrClosed)
	if seen, err := s.Seen(keyOf(100)); seen || err == nil {
		t.Errorf("Seen() after Close = %v, %v, want an error", seen, err)
	}
}

// BenchmarkInsert is one durable insert, by how many come at once.
func BenchmarkInsert(b *testing.B) {
	for _, together := range []int{1, 16, 256} {
		b.Run(fmt.Sprint(together), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "replay.db"), replaybolt.Options{})
			defer closeStore(b, s)
			until := time.Now().Add(10 * time.Minute)
			var next atomic.Uint64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range together {
				wg.Go(func() {
					for {
						n := next.Add(1)
						if n > uint64(b.N) {
							return
						}
						if fresh, err := s.Insert(b.Context(), "acme", keyOf(n), until); !fresh || err != nil {
							b.Error(fresh, err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// BenchmarkSeen is the early look with 100,000 keys in the file.
func BenchmarkSeen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "replay.db")
	s := open(b, path, replaybolt.Options{})
	defer closeStore(b, s)
	const keys = 100_000
	var wg sync.WaitGroup
	for g := range uint64(500) {
		wg.Go(func() {
			for n := range uint64(keys / 500) {
				if _, err := s.Insert(b.Context(), "acme", keyOf(g<<32|n), time.Now().Add(time.Minute)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		n++
		if _, err := s.Seen(keyOf(n)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(info.Size())/keys, "B/key")
}

// What a crash can leave of a write keeps every acknowledged key; what it cannot leave is refused, and never taken for an empty file.
func TestTornFile(t *testing.T) {
	t.Parallel()
	const page = 4096
	for name, c := range map[string]struct {
		tear func(raw []byte) []byte
		open bool
	}{
		"pages of a commit that never ended": {func(raw []byte) []byte { return append(raw, make([]byte, 3*page)...) }, true},
		"garbage at the end":                 {func(raw []byte) []byte { return append(raw, []byte(strings.Repeat("x", page+7))...) }, true},
		"the older meta page":                {func(raw []byte) []byte { return tornMeta(raw, page, false) }, true},
		"both meta pages":                    {func(raw []byte) []byte { return tornMeta(tornMeta(raw, page, false), page, true) }, false},
	} {
		path := filepath.Join(t.TempDir(), "replay.db")
		s := open(t, path, replaybolt.Options{})
		until := time.Now().Add(time.Minute)
		for n := range uint64(100) {
			wantInsert(t, name, s, "acme", keyOf(n), until, true, nil)
		}
		closeStore(t, s)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, c.tear(raw), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err = replaybolt.Open(path, replaybolt.Options{})
		if (err == nil) != c.open {
			t.Errorf("%s: Open() = %v, want it opened: %v", name, err, c.open)
		}
		if err != nil {
			continue
		}
		for n := range uint64(100) {
			wantInsert(t, name, s, "acme", keyOf(n), until, false, nil)
		}
		closeStore(t, s)
	}
}

// tornMeta spoils the older or the newer of the two meta pages: the transaction number stands at byte 64 of each.
func tornMeta(raw []byte, page int, newer bool) []byte {
	txid := func(i int) uint64 { return binary.LittleEndian.Uint64(raw[i*page+16+48:]) }
	at := 0
	if (txid(1) > txid(0)) == newer {
		at = 1
	}
	raw[at*page+16+20] ^= 0xff
	return raw
}
