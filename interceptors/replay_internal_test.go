package interceptors

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
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
	binary.BigEndian.PutUint64(key[:], n)
	key[31] = byte(n)
	return key
}

func wantFresh(t *testing.T, what string, s delegation.ReplayStore, key [32]byte, until time.Time, want bool, wantErr error) {
	t.Helper()
	fresh, err := s.Insert(t.Context(), "acme", key, until)
	if fresh != want || !errors.Is(err, wantErr) || wantErr == nil && err != nil {
		t.Errorf("%s: Insert() = %v, %v, want %v, %v", what, fresh, err, want, wantErr)
	}
}

// A key is found as long as its message could be admitted, whatever the generations do.
func TestReplayKeyLivesUntilItsEnd(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{time.Second, time.Minute, directLife, proofLife} {
		c := newClock()
		s := NewMemoryReplay(0, proofLife, c.now)
		// Others keep the generations turning.
		n, until := uint64(1), c.now().Add(life)
		wantFresh(t, "the first", s, keyOf(0), until, true, nil)
		for !c.now().After(until.Add(replaySlack)) {
			if seen, err := s.Seen(keyOf(0)); !seen || err != nil {
				t.Fatalf("life %v: Seen() = %v, %v, %v before its end", life, seen, err, until.Sub(c.now()))
			}
			wantFresh(t, "again", s, keyOf(0), until, false, nil)
			wantFresh(t, "another", s, keyOf(n), c.now().Add(proofLife), true, nil)
			n++
			c.move(20 * time.Second)
		}
	}
}

func TestReplayKeysAreForgottenAfterTheirEnd(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := NewMemoryReplay(100, time.Minute, c.now)
	for n := range uint64(1000) { // ten times the bound, in ten minutes
		wantFresh(t, "a key", s, keyOf(n), c.now().Add(time.Minute), true, nil)
		c.move(3 * time.Second)
	}
	c.move(time.Hour)
	wantFresh(t, "the last", s, keyOf(1000), c.now(), true, nil)
	live := 0
	for i := range s.shards {
		live += len(s.shards[i].cur.keys) + len(s.shards[i].prev.keys)
	}
	if live != 1 {
		t.Errorf("%d keys are held after their end, want 1", live)
	}
	c.move(time.Hour)
	if _, err := s.Insert(t.Context(), "globex", keyOf(1001), c.now()); err != nil {
		t.Fatal(err)
	}
	if _, held := s.tenants.Load("acme"); held {
		t.Error("a tenant without keys is still counted")
	}
}

func TestReplayClockStepsBack(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := NewMemoryReplay(0, directLife, c.now)
	until := c.now().Add(time.Minute)
	wantFresh(t, "the first", s, keyOf(1), until, true, nil)
	c.move(-time.Hour)
	wantFresh(t, "it again, an hour earlier", s, keyOf(1), c.now().Add(time.Minute), false, nil)
	c.move(time.Hour)
	wantFresh(t, "and back", s, keyOf(1), until, false, nil)

	// A clock that was ahead has made the store forget; what ends as early as what was forgotten cannot be told any more.
	c.move(24 * time.Hour)
	wantFresh(t, "a day later", s, keyOf(2), c.now().Add(time.Minute), true, nil)
	c.move(-24 * time.Hour)
	wantFresh(t, "the forgotten key", s, keyOf(1), until, false, delegation.ErrReplayForgotten)
	wantFresh(t, "a key that ends later", s, keyOf(3), until.Add(time.Second), true, nil)
	wantFresh(t, "the key of the day ahead", s, keyOf(2), c.now().Add(time.Minute), false, nil)
}

func TestReplayLifeIsBounded(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := NewMemoryReplay(0, directLife, c.now)
	wantFresh(t, "too long", s, keyOf(1), c.now().Add(directLife+1), false, delegation.ErrReplayLife)
	wantFresh(t, "the longest", s, keyOf(1), c.now().Add(directLife), true, nil)
	if s.Shared() {
		t.Error("a store in memory claims to be shared")
	}
}

// Many insert the same keys while the generations turn: each key has one winner, and the bound holds.
func TestReplayOneWinnerWhileTheGenerationsTurn(t *testing.T) {
	t.Parallel()
	const keys, copies = 2000, 4
	c := newClock()
	s := NewMemoryReplay(0, time.Minute, c.now)
	var won [keys]atomic.Int32
	var wg sync.WaitGroup
	for range copies {
		wg.Go(func() {
			for n := range uint64(keys) {
				fresh, err := s.Insert(t.Context(), "acme", keyOf(n), c.now().Add(time.Minute))
				if err != nil {
					t.Error(err)
				}
				if fresh {
					won[n].Add(1)
				}
				c.move(10 * time.Millisecond) // 80 s in all: the generations turn at least once, and no key has ended when it comes again
			}
		})
	}
	wg.Wait()
	for n := range won {
		if won[n].Load() != 1 {
			t.Fatalf("key %d has %d winners", n, won[n].Load())
		}
	}
}

func TestReplayBoundHoldsUnderConcurrency(t *testing.T) {
	t.Parallel()
	c := newClock()
	s := NewMemoryReplay(100, time.Minute, c.now)
	var fresh, full atomic.Int64
	var wg sync.WaitGroup
	for g := range uint64(8) {
		wg.Go(func() {
			for n := range uint64(50) {
				switch ok, err := s.Insert(t.Context(), "acme", keyOf(g<<32|n), c.now().Add(time.Second)); {
				case ok:
					fresh.Add(1)
				case errors.Is(err, delegation.ErrReplayFull):
					full.Add(1)
				default:
					t.Errorf("Insert() = %v, %v", ok, err)
				}
			}
		})
	}
	wg.Wait()
	if fresh.Load() != 100 || full.Load() != 300 {
		t.Errorf("%d keys and %d refusals, want 100 and 300", fresh.Load(), full.Load())
	}
}

// BenchmarkReplay is what a message pays: the key, the early look and the insert. The figures of one million live keys are there too.
func BenchmarkReplay(b *testing.B) {
	sender := mustAgent(b, "spiffe://mesh.test/tenant/acme/agent/relay")
	for _, prefill := range []uint64{0, 1_000_000} {
		b.Run(map[bool]string{true: "empty", false: "million"}[prefill == 0], func(b *testing.B) {
			s := NewMemoryReplay(1<<62, directLife, time.Now)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			id := make([]byte, 16)
			add := func(n uint64) {
				binary.BigEndian.PutUint64(id, n)
				now := time.Now()
				if fresh, err := s.insert("mesh.test/acme", directKey(sender, id), now.Add(time.Minute), now); !fresh || err != nil {
					b.Fatal(fresh, err)
				}
			}
			for n := range prefill {
				add(n)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportAllocs()
			n, now := prefill, time.Now()
			until := now.Add(time.Minute)
			for b.Loop() {
				n++
				binary.BigEndian.PutUint64(id, n)
				key := directKey(sender, id)
				if s.seen(key, now) {
					b.Fatal("seen")
				}
				if fresh, err := s.insert("mesh.test/acme", key, until, now); !fresh || err != nil {
					b.Fatal(fresh, err)
				}
			}
			if prefill > 0 {
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(prefill), "B/key")
			}
		})
	}
	b.Run("key", func(b *testing.B) {
		id := make([]byte, 16)
		for b.Loop() {
			_ = directKey(sender, id)
		}
	})
}

func mustAgent(tb testing.TB, s string) identity.AgentID {
	tb.Helper()
	id, err := identity.ParseAgent(s)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// BenchmarkNotice is what the look for a second process costs a call, where the peer has one key and where it has two.
func BenchmarkNotice(b *testing.B) {
	for keys := 1; keys <= 2; keys++ {
		b.Run(fmt.Sprint(keys), func(b *testing.B) {
			at, now := &presence{}, time.Now()
			for n := range keys {
				at.keys = append(at.keys, &liveKey{first: now.Add(time.Duration(n)), used: now, conns: 1})
			}
			for b.Loop() {
				if _, _, second := at.note(at.keys[0], now, false, DefaultDuplicateGrace, DefaultDuplicateSlack); second {
					b.Fatal("a second process")
				}
			}
		})
	}
}

// What a store says becomes what the peer may do about it; nothing that it says lets a message pass.
func TestReplayDenials(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want v1.Reason
	}{
		{delegation.ErrReplayFull, v1.Reason_REASON_LIMIT},
		{fmt.Errorf("%w: an hour", delegation.ErrReplayLife), v1.Reason_REASON_LIMIT},
		{delegation.ErrReplayForgotten, v1.Reason_REASON_AUDIT_UNAVAILABLE},
		{context.Canceled, v1.Reason_REASON_CANCELLED},
		{context.DeadlineExceeded, v1.Reason_REASON_CANCELLED},
		{errors.New("disk"), v1.Reason_REASON_AUDIT_UNAVAILABLE},
	} {
		if got := replayDenial(c.err); got.Reason != c.want || !errors.Is(got.Err, c.err) {
			t.Errorf("replayDenial(%v) = %v, want %s", c.err, got, c.want)
		}
	}
}

// A connection that ends takes its key with it, once, and one without a session stays what it is.
func TestTrackedConnection(t *testing.T) {
	t.Parallel()
	c := newClock()
	near, far := net.Pipe()
	defer far.Close()
	if got := (*Session)(nil).Track(near); got != near {
		t.Error("a connection without a session is wrapped")
	}
	k := &liveKey{conns: 2}
	s := &Session{presence: &presence{keys: []*liveKey{k}}, key: k, now: c.now}
	conn := s.Track(near)
	for range 2 {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
	if k.conns != 1 || !k.used.Equal(c.now()) {
		t.Errorf("%d connections after the end of one of two, used %v", k.conns, k.used)
	}
}
