package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const testOrigin = "mesh.example/safeconduct/test"

func id(n uint64) []byte {
	b := make([]byte, 16)
	binary.BigEndian.PutUint64(b[8:], n+1)
	return b
}

func intent(n uint64) *Event {
	return &Event{
		Kind: v1.EventKind_EVENT_KIND_CALL, Phase: v1.EventPhase_EVENT_PHASE_INTENT,
		Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND, InteractionId: id(n), EnvelopeId: id(n),
		Actor: &v1.Party{SpiffeId: "spiffe://mesh.example/a"}, Peer: &v1.Party{SpiffeId: "spiffe://mesh.example/b"},
		Action: "memory.read", Decision: v1.EventDecision_EVENT_DECISION_ALLOW,
	}
}

func outcome(n uint64) *Event {
	ev := intent(n)
	ev.Phase = v1.EventPhase_EVENT_PHASE_OUTCOME
	return ev
}

// underChain returns the intent of a call that acts under one of two chains.
func underChain(n uint64) *Event {
	ev := intent(n)
	ev.ChainRef = bytes.Repeat([]byte{byte(n % 2)}, linkBytes)
	return ev
}

// oneLink spells every chain out as one link.
type oneLink struct{}

func (oneLink) Spell(e *Event) {
	e.Chain = []*v1.ChainLink{{Delegator: "a", Delegate: "b"}}
}

func memConfig(d *memDir) Config {
	return Config{Origin: testOrigin, BufferBytes: minBufferBytes, SegmentBytes: minSegmentBytes, files: d}
}

// workload runs one process until it ends or the machine does. It returns the positions that were acknowledged as durable.
func workload(d *memDir, calls uint64) (acked []Position, err error) {
	ctx := context.Background()
	l, err := Open("mem", memConfig(d))
	if err != nil {
		return nil, err
	}
	for n := range calls {
		for i, step := range []struct {
			class Class
			event *Event
		}{
			{Class(n % 3), underChain(n)},
			{Reply, outcome(n)},
		} {
			if n%4 == 2 && i == 1 {
				continue // a call that never ends
			}
			pos, err := l.AppendChain(ctx, step.class, step.event, oneLink{})
			if err != nil {
				return acked, errors.Join(err, l.Close())
			}
			if step.class != Buffered {
				acked = append(acked, pos)
			}
		}
	}
	return acked, nil // no Close: the process just ends
}

// checkSurvivor opens what a crash left and checks rows U1's promises.
func checkSurvivor(t *testing.T, d *memDir, acked []Position) {
	t.Helper()
	l, err := Open("mem", memConfig(d))
	if err != nil {
		t.Fatalf("Open after the crash: %v", err)
	}
	leaves := map[uint64][32]byte{}
	open := map[string]bool{}
	for rec, err := range Expanded(l.Read(context.Background(), 0)) {
		if err != nil {
			t.Fatalf("Read after the crash: %v", err)
		}
		leaves[rec.Seq] = rec.Leaf
		if rec.ChainMissing {
			t.Fatalf("the record that spells out the chain of seq %d is gone", rec.Seq)
		}
		switch rec.Event.Phase {
		case v1.EventPhase_EVENT_PHASE_INTENT:
			open[string(rec.Event.InteractionId)] = true
		case v1.EventPhase_EVENT_PHASE_OUTCOME, v1.EventPhase_EVENT_PHASE_UNKNOWN:
			if !open[string(rec.Event.InteractionId)] {
				t.Fatalf("seq %d closes a call that is not open", rec.Seq)
			}
			delete(open, string(rec.Event.InteractionId))
		default:
		}
	}
	for _, p := range acked {
		if leaves[p.Seq] != p.Leaf {
			t.Fatalf("acknowledged record %d is gone or changed", p.Seq)
		}
	}
	if len(open) != 0 {
		t.Fatalf("%d calls have neither OUTCOME nor UNKNOWN", len(open))
	}
	if err := l.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	if rep, err := verify(d); err != nil || rep.Verdict != Good {
		t.Fatalf("verify = %v (%s), %v, want good", rep.Verdict, rep.Reason, err)
	}
}

// pass waits in a synctest bubble: no real time passes.
func pass(d time.Duration) { <-time.After(d) }

// TestU1CrashAtEveryWriteOffset stops the machine after every single byte that a process writes.
func TestU1CrashAtEveryWriteOffset(t *testing.T) {
	const calls = 4
	whole := newMemDir()
	if _, err := workload(whole, calls); err != nil {
		t.Fatal(err)
	}
	if segs, err := listSegments(whole); err != nil || len(segs) < 2 {
		t.Fatalf("the workload fills %d segments, %v; want a rotation", len(segs), err)
	}
	for _, tc := range []struct {
		name string
		loss loss
		step int64
	}{
		{"killed", killed, 1},
		{"power, unsynced gone", unsyncedGone, 11},
		{"power, torn", unsyncedTorn, 7},
		{"power, reordered", unsyncedReordered, 7},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(1, uint64(tc.loss))) // a reproducible choice of what is lost
			for offset := int64(0); offset <= whole.written; offset += tc.step {
				d := newMemDir()
				d.budget = offset
				acked, err := workload(d, calls)
				if err != nil && !errors.Is(err, errCrashed) {
					t.Fatalf("offset %d: %v", offset, err)
				}
				next := d.after(tc.loss, rnd)
				if offset%4 == 0 { // the next start crashes too
					next.budget = rnd.Int64N(2000)
					_, _ = workload(next, 1) // its own records are not looked at
					next = next.after(tc.loss, rnd)
				}
				checkSurvivor(t, next, acked)
			}
		})
	}
}

// TestU2LossWithinOneFlushInterval kills the process under buffered load.
func TestU2LossWithinOneFlushInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemDir()
		l, err := Open("mem", memConfig(d))
		if err != nil {
			t.Fatal(err)
		}
		var accepted []time.Time
		var last Position
		for n := range uint64(100) {
			if last, err = l.Append(t.Context(), Buffered, intent(n)); err != nil {
				t.Fatal(err)
			}
			accepted = append(accepted, time.Now())
			pass(300 * time.Microsecond)
		}
		died := time.Now()
		next := d.after(killed, nil)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		survivor, err := Open("mem", memConfig(next))
		if err != nil {
			t.Fatal(err)
		}
		defer survivor.Close()
		var kept int
		var recovered *Event
		for rec, err := range survivor.Read(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			if rec.Event.Phase == v1.EventPhase_EVENT_PHASE_INTENT {
				kept++
			}
			if rec.Event.Kind == v1.EventKind_EVENT_KIND_RECOVERED {
				recovered = rec.Event
			}
		}
		if kept == len(accepted) {
			t.Fatal("nothing was lost: the test proves nothing")
		}
		for _, at := range accepted[kept:] {
			if age := died.Sub(at); age > DefaultFlushInterval {
				t.Errorf("a record accepted %s before the kill is lost", age)
			}
		}
		if recovered == nil || last.Seq < recovered.RecoveredFromSeq || last.BootID == survivor.BootID() {
			t.Fatalf("the lost position %d is not covered by %v", last.Seq, recovered)
		}
	})
}

// TestU3DiskFailsPoisons fails the disk in four ways under an effect.
func TestU3DiskFailsPoisons(t *testing.T) {
	for _, tc := range []struct {
		name   string
		breaks func(*memDir)
		want   error
	}{
		{"disk full", func(d *memDir) {
			d.onWrite = func(_ string, n int) (int, error) { return n / 2, syscall.ENOSPC }
		}, syscall.ENOSPC},
		{"write EIO", func(d *memDir) {
			d.onWrite = func(string, int) (int, error) { return 0, syscall.EIO }
		}, syscall.EIO},
		{"short write", func(d *memDir) {
			d.onWrite = func(_ string, n int) (int, error) { return n - 1, nil }
		}, nil},
		{"fsync EIO", func(d *memDir) {
			d.onSync = func(string) error { return syscall.EIO }
		}, syscall.EIO},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newMemDir()
			l, err := Open("mem", memConfig(d))
			if err != nil {
				t.Fatal(err)
			}
			good, err := l.Append(t.Context(), Effect, intent(1))
			if err != nil {
				t.Fatal(err)
			}
			d.mu.Lock()
			tc.breaks(d)
			d.mu.Unlock()
			if _, err := l.Append(t.Context(), Effect, intent(2)); !errors.Is(err, ErrPoisoned) || (tc.want != nil && !errors.Is(err, tc.want)) {
				t.Fatalf("Append on the failing disk = %v, want ErrPoisoned with %v", err, tc.want)
			}
			<-l.Poisoned()
			d.mu.Lock()
			d.onWrite, d.onSync = nil, nil // the disk is well again; the log must not try
			writes, syncs := d.writes, d.syncs
			d.mu.Unlock()
			for _, c := range []Class{Effect, Reply, Buffered} {
				if _, err := l.Append(t.Context(), c, intent(3)); !errors.Is(err, ErrPoisoned) {
					t.Errorf("Append(%s) after the failure = %v, want ErrPoisoned", c, err)
				}
			}
			if err := l.Err(); !errors.Is(err, ErrPoisoned) {
				t.Errorf("Err() = %v, want ErrPoisoned", err)
			}
			if err := l.Close(); !errors.Is(err, ErrPoisoned) {
				t.Errorf("Close() = %v, want ErrPoisoned", err)
			}
			if d.writes != writes || d.syncs != syncs {
				t.Errorf("the poisoned log wrote or synced again")
			}
			checkSurvivor(t, d, []Position{good})
		})
	}
}

// TestU12StalledDisk stalls the disk for 2 s and for 20 s.
func TestU12StalledDisk(t *testing.T) {
	for _, tc := range []struct {
		name     string
		stall    time.Duration
		deadline time.Duration
		refused  bool
	}{
		{"2 s, callers wait 5 s", 2 * time.Second, 5 * time.Second, false},
		{"20 s, callers wait 5 s", 20 * time.Second, 5 * time.Second, true},
		{"20 s, callers without a deadline", 20 * time.Second, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { stalledDisk(t, tc.stall, tc.deadline, tc.refused) })
		})
	}
}

func stalledDisk(t *testing.T, stall, deadline time.Duration, refused bool) {
	d := newMemDir()
	l, err := Open("mem", memConfig(d))
	if err != nil {
		t.Fatal(err)
	}
	until := time.Now().Add(stall)
	d.mu.Lock()
	d.onWrite = func(_ string, n int) (int, error) {
		pass(time.Until(until))
		return n, nil
	}
	d.mu.Unlock()
	var accepted []Position
	full := 0
	for n := range uint64(2000) { // more than both buffers hold
		ctx, cancel := t.Context(), context.CancelFunc(func() {})
		if deadline > 0 {
			ctx, cancel = context.WithTimeout(ctx, deadline)
		}
		pos, err := l.Append(ctx, Buffered, intent(n))
		cancel()
		switch {
		case err == nil:
			accepted = append(accepted, pos)
		case errors.Is(err, ErrFull):
			full++
		default:
			t.Fatalf("Append on a stalled disk = %v", err)
		}
	}
	if refused != (full > 0) {
		t.Errorf("%d appends were refused, want some: %v", full, refused)
	}
	if time.Now().Before(until) {
		pass(time.Until(until))
	}
	if _, err := l.Append(t.Context(), Effect, intent(math.MaxUint32)); err != nil {
		t.Fatalf("Append after the stall = %v, want recovery without a restart", err)
	}
	i := 0
	for rec, err := range l.Read(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if i < len(accepted) && rec.Seq == accepted[i].Seq {
			if rec.Leaf != accepted[i].Leaf {
				t.Fatalf("record %d is another one", rec.Seq)
			}
			i++
		}
	}
	if i != len(accepted) {
		t.Fatalf("%d of %d accepted records are in the log", i, len(accepted))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestWaitEndsWithItsContext proves that neither a full buffer nor a stalled sync holds a caller.
func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemDir()
		l, err := Open("mem", memConfig(d))
		if err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		d.mu.Lock()
		d.onSync = func(string) error { <-release; return nil }
		d.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		pos, err := l.Append(ctx, Effect, intent(1))
		if !errors.Is(err, context.DeadlineExceeded) || pos.Seq == 0 {
			t.Errorf("Append on a stalled sync = %v, %v, want a position and the deadline", pos.Seq, err)
		}
		close(release)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(t.Context(), Buffered, intent(2)); !errors.Is(err, ErrClosed) {
			t.Errorf("Append after Close = %v, want ErrClosed", err)
		}
	})
}

// TestUnknownInPasses bounds the table of unfinished calls far below their number.
func TestUnknownInPasses(t *testing.T) {
	d := newMemDir()
	l, err := Open("mem", memConfig(d))
	if err != nil {
		t.Fatal(err)
	}
	const calls = 40
	for n := range uint64(calls) {
		if _, err := l.Append(t.Context(), Buffered, intent(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := recoverLog(d, l.id)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	from := uint64(0)
	for pass := 0; ; pass++ {
		found, more, err := r.openCalls(d, l.id, from, 7)
		if err != nil || len(found) > 7 {
			t.Fatalf("openCalls = %d, %v", len(found), err)
		}
		for _, c := range found {
			seen[c.seq] = true
		}
		if from = more; more == 0 {
			break
		}
	}
	if len(seen) != calls {
		t.Errorf("passes found %d unfinished calls, want %d", len(seen), calls)
	}
}

// TestRotationSyncsTheOldSegment loses the power after a rotation that nobody waited for.
func TestRotationSyncsTheOldSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemDir()
		cfg := memConfig(d)
		cfg.SyncInterval = time.Hour
		l, err := Open("mem", cfg)
		if err != nil {
			t.Fatal(err)
		}
		for n := range uint64(40) {
			if _, err := l.Append(t.Context(), Buffered, intent(n)); err != nil {
				t.Fatal(err)
			}
			pass(DefaultFlushInterval)
		}
		lost := d.after(unsyncedGone, nil)
		if segs, err := listSegments(lost); err != nil || len(segs) < 3 {
			t.Fatalf("%d segments, %v; want several", len(segs), err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		checkSurvivor(t, lost, nil)
	})
}

// TestBufferedBecomesDurable waits for no record and finds it durable within the flush and the sync interval; an idle log then
// does nothing. The bubble also proves that Close leaves no goroutine.
func TestBufferedBecomesDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemDir()
		l, err := Open("mem", memConfig(d))
		if err != nil {
			t.Fatal(err)
		}
		pos, err := l.Append(t.Context(), Buffered, outcome(1))
		if err != nil || l.Durable() > pos.Seq {
			t.Fatalf("Append(Buffered) = %v, %v, durable %d at once", pos.Seq, err, l.Durable())
		}
		pass(DefaultFlushInterval + DefaultSyncInterval + time.Millisecond)
		if l.Durable() != pos.Seq+1 {
			t.Errorf("durable = %d, want %d", l.Durable(), pos.Seq+1)
		}
		syncs, writes := d.syncs, d.writes
		pass(time.Hour)
		if d.syncs != syncs || d.writes != writes {
			t.Error("an idle log writes or syncs")
		}
		if _, err := l.Append(t.Context(), Buffered, outcome(2)); err != nil {
			t.Fatal(err)
		}
		if err := l.Sync(t.Context()); err != nil || l.Durable() != pos.Seq+2 {
			t.Errorf("Sync() = %v, durable %d", err, l.Durable())
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestPowerLossReordersSectors loses some of many unsynced sectors and keeps later ones: no tampering, but a torn tail.
func TestPowerLossReordersSectors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemDir()
		cfg := memConfig(d)
		cfg.SyncInterval, cfg.SegmentBytes = time.Hour, DefaultSegmentBytes
		l, err := Open("mem", cfg)
		if err != nil {
			t.Fatal(err)
		}
		var acked []Position
		for n := range uint64(60) {
			class := Buffered
			if n < 5 {
				class = Effect
			}
			pos, err := l.Append(t.Context(), class, intent(n))
			if err != nil {
				t.Fatal(err)
			}
			if class == Effect {
				acked = append(acked, pos)
			}
		}
		pass(DefaultFlushInterval)
		synctest.Wait()
		holes := 0
		for seed := range uint64(300) {
			lost := d.after(unsyncedReordered, rand.New(rand.NewPCG(seed, 1))) // a reproducible choice
			rep, err := verify(lost)
			if err != nil {
				t.Fatal(err)
			}
			if rep.Verdict == Bad {
				holes++
			}
			checkSurvivor(t, lost, acked)
		}
		if holes < 100 {
			t.Errorf("%d of 300 power losses left a hole: the test proves little", holes)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestPoisonedLogWritesNothing poisons a log that still has records in its buffer.
func TestPoisonedLogWritesNothing(t *testing.T) {
	d := newMemDir()
	l, err := Open("mem", memConfig(d))
	if err != nil {
		t.Fatal(err)
	}
	frame, _ := rawFrame(intent(1), [32]byte{})
	l.mu.Lock()
	l.active.put(frame[:len(frame)-frameTail], [32]byte{})
	l.mu.Unlock()
	l.poison(syscall.EIO)
	writes, syncs := d.writes, d.syncs
	l.flush()
	l.sync()
	if err := l.Close(); !errors.Is(err, ErrPoisoned) {
		t.Errorf("Close() = %v, want ErrPoisoned", err)
	}
	if d.writes != writes || d.syncs != syncs {
		t.Error("a poisoned log wrote or synced")
	}
	if _, ok := d.names[closedName]; ok {
		t.Error("a poisoned log says that it was closed")
	}
}
