package audit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func openLog(t *testing.T, dir string, cfg audit.Config) *audit.Log {
	t.Helper()
	if cfg.Origin == "" {
		cfg.Origin = origin
	}
	l, err := audit.Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() }) // a second Close returns what the first one did
	return l
}

func closeLog(t *testing.T, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func appendOne(t *testing.T, l *audit.Log, c audit.Class, ev *audit.Event) audit.Position {
	t.Helper()
	pos, err := l.Append(t.Context(), c, ev)
	if err != nil {
		t.Fatal(err)
	}
	return pos
}

func records(t *testing.T, dir string) []audit.Record {
	t.Helper()
	var out []audit.Record
	for rec, err := range audit.ReadDir(dir) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

// TestConcurrentAppenders states the property: whatever the mix of appenders, seqs have no gap, positions are those of the file,
// and the chain follows from the leaves.
func TestConcurrentAppenders(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, audit.Config{SegmentBytes: 32 << 10, BufferBytes: 80 << 10})
	const appenders, each = 32, 60
	var mu sync.Mutex
	want := map[uint64]audit.Position{}
	var wg sync.WaitGroup
	for g := range uint64(appenders) {
		wg.Go(func() {
			for n := range uint64(each) {
				pos, err := l.Append(context.Background(), audit.Class(n%3), event(g<<32|n, v1.EventPhase_EVENT_PHASE_INTENT))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				want[pos.Seq] = pos
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	if len(want) != appenders*each {
		t.Fatalf("%d distinct seqs, want %d", len(want), appenders*each)
	}
	var chain [32]byte
	for i, rec := range records(t, dir) {
		if rec.Seq != uint64(i) {
			t.Fatalf("record %d has seq %d", i, rec.Seq)
		}
		if p, ok := want[rec.Seq]; ok && p != rec.Position {
			t.Fatalf("position of %d = %v, the caller got %v", i, rec.Position, p)
		}
		delete(want, rec.Seq)
		if leaf := sha256.Sum256(append([]byte{0}, rec.Raw...)); leaf != rec.Leaf {
			t.Fatalf("leaf of %d is not SHA-256(0x00 || record)", i)
		}
		if chain = sha256.Sum256(append(chain[:], rec.Leaf[:]...)); chain != rec.Chain {
			t.Fatalf("chain of %d does not follow", i)
		}
	}
	if len(want) > 0 {
		t.Errorf("%d records are not in the log", len(want))
	}
	if rep, err := audit.Verify(dir); err != nil || rep.Verdict != audit.Good || rep.Segments < 3 {
		t.Errorf("Verify = %+v, %v, want good over several segments", rep, err)
	}
}

// TestU8ClockJumpsBack sets the clock back an hour, and keeps it behind over a restart.
func TestU8ClockJumpsBack(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	cfg := audit.Config{Now: func() time.Time { return now }}
	l := openLog(t, dir, cfg)
	appendOne(t, l, audit.Effect, event(1, v1.EventPhase_EVENT_PHASE_OUTCOME))
	now = now.Add(-time.Hour)
	appendOne(t, l, audit.Effect, event(2, v1.EventPhase_EVENT_PHASE_OUTCOME))
	closeLog(t, l)
	l = openLog(t, dir, cfg)
	now = now.Add(2 * time.Hour)
	appendOne(t, l, audit.Effect, event(3, v1.EventPhase_EVENT_PHASE_OUTCOME))
	closeLog(t, l)
	var regressed []bool
	var mono []int64
	for i, rec := range records(t, dir) {
		if rec.Seq != uint64(i) {
			t.Errorf("record %d has seq %d", i, rec.Seq)
		}
		regressed = append(regressed, rec.Event.ClockRegressed)
		mono = append(mono, rec.Event.MonoNs)
	}
	if want := []bool{false, false, true, true, false}; !slices.Equal(regressed, want) {
		t.Errorf("clock_regressed = %v, want %v", regressed, want)
	}
	if mono[2] <= mono[1] {
		t.Errorf("mono_ns went back: %v", mono)
	}
}

// TestAppendRefuses lists what never becomes a record.
func TestAppendRefuses(t *testing.T) {
	l := openLog(t, t.TempDir(), audit.Config{})
	huge := event(1, v1.EventPhase_EVENT_PHASE_INTENT)
	huge.Purpose = strings.Repeat("x", 1<<20)
	broken := event(2, v1.EventPhase_EVENT_PHASE_INTENT)
	broken.Action = "memory\xff"
	for _, tc := range []struct {
		name  string
		event *audit.Event
		want  error
	}{
		{"nil", nil, audit.ErrInvalid},
		{"no kind", &audit.Event{Action: "x"}, audit.ErrInvalid},
		{"text that is not UTF-8", broken, audit.ErrInvalid},
		{"a megabyte of purpose", huge, audit.ErrTooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := l.Durable()
			if _, err := l.Append(t.Context(), audit.Effect, tc.event); !errors.Is(err, tc.want) {
				t.Errorf("Append() = %v, want %v", err, tc.want)
			}
			if l.Durable() != before {
				t.Error("the refused event took a seq")
			}
		})
	}
	long := event(3, v1.EventPhase_EVENT_PHASE_OUTCOME)
	long.Cause = strings.Repeat("ä", 1<<20) + "\xff"
	appendOne(t, l, audit.Effect, long)
	if len(long.Cause) > audit.MaxTextBytes || !strings.HasSuffix(long.Cause, "...") {
		t.Errorf("a long cause has %d bytes, want at most %d and a mark", len(long.Cause), audit.MaxTextBytes)
	}
}

// TestOpenRefuses lists directories that Open must not touch.
func TestOpenRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, dir string)
		origin string
		want   error
	}{
		{"another origin", nil, "mesh.example/safeconduct/other", audit.ErrForeign},
		{"another key", func(t *testing.T, dir string) {
			other := t.TempDir()
			closeLog(t, openLog(t, other, audit.Config{}))
			copyFile(t, filepath.Join(other, "log.key"), filepath.Join(dir, "log.key"))
		}, origin, audit.ErrForeign},
		{"all segments removed", func(t *testing.T, dir string) {
			remove(t, dir, "seg-00000000000000000000.log")
		}, origin, audit.ErrTampered},
		{"log.json removed", func(t *testing.T, dir string) { remove(t, dir, "log.json") }, origin, audit.ErrTampered},
		{"segment of another log", func(t *testing.T, dir string) {
			other := t.TempDir()
			closeLog(t, openLog(t, other, audit.Config{}))
			const seg = "seg-00000000000000000000.log"
			copyFile(t, filepath.Join(other, seg), filepath.Join(dir, seg))
		}, origin, audit.ErrTampered},
		{"newest record cut off after a clean close", func(t *testing.T, dir string) {
			recs := records(t, dir)
			cut(t, dir, len(recs[len(recs)-1].Raw)+40)
		}, origin, audit.ErrTampered},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			l := openLog(t, dir, audit.Config{})
			appendOne(t, l, audit.Effect, event(1, v1.EventPhase_EVENT_PHASE_OUTCOME))
			closeLog(t, l)
			if tc.change != nil {
				tc.change(t, dir)
			}
			l, err := audit.Open(dir, audit.Config{Origin: tc.origin})
			if !errors.Is(err, tc.want) {
				t.Errorf("Open() = %v, want %v", err, tc.want)
			}
			if err == nil {
				closeLog(t, l)
			}
		})
	}
}

func TestKeyFileMode(t *testing.T) {
	dir := t.TempDir()
	closeLog(t, openLog(t, dir, audit.Config{}))
	key := filepath.Join(dir, "log.key")
	st, err := os.Stat(key)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("key mode = %v, %v, want 0600", st.Mode(), err)
	}
	if err := os.Chmod(key, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(dir, audit.Config{Origin: origin}); err == nil {
		t.Error("Open takes a key that others can read")
	}
}

// TestRestart keeps the log id, changes the boot id and finds the recent records of the process before.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	now := start
	cfg := audit.Config{Now: func() time.Time { return now }, SegmentBytes: 1 << 10}
	l := openLog(t, dir, cfg)
	logID, boot := l.LogID(), l.BootID()
	for n := range uint64(20) {
		ev := event(n, v1.EventPhase_EVENT_PHASE_INTENT)
		ev.DeadlineUnixMs = now.Add(time.Minute).UnixMilli()
		if n%2 == 1 {
			ev.Direction = v1.EventDirection_EVENT_DIRECTION_OUTBOUND
		}
		appendOne(t, l, audit.Effect, ev)
		now = now.Add(time.Minute)
	}
	closeLog(t, l)
	l = openLog(t, dir, cfg)
	if l.LogID() != logID || l.BootID() == boot {
		t.Error("want the same log id and another boot id")
	}
	var got []time.Time
	for rec, err := range l.Since(now.Add(-5*time.Minute - 30*time.Second)) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Event.GetPhase() == v1.EventPhase_EVENT_PHASE_INTENT {
			got = append(got, time.UnixMilli(rec.Event.GetDeadlineUnixMs()).UTC())
		}
	}
	var want []time.Time
	for n := 16; n <= 20; n++ {
		want = append(want, start.Add(time.Duration(n)*time.Minute))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("deadlines of recent intents (-want +got):\n%s", diff)
	}
	unknown := 0
	for rec, err := range l.Read(t.Context(), 21) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Event.Phase == v1.EventPhase_EVENT_PHASE_UNKNOWN {
			unknown++
		}
	}
	if unknown != 20 {
		t.Errorf("%d UNKNOWN records, want 20", unknown)
	}
	closeLog(t, l)
	l = openLog(t, dir, cfg)
	for rec, err := range l.Read(t.Context(), 42) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Event.Phase == v1.EventPhase_EVENT_PHASE_UNKNOWN {
			t.Error("a second start writes UNKNOWN again")
		}
	}
	closeLog(t, l)
}

func TestOpenRefusesConfig(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  audit.Config
	}{
		{"no origin", audit.Config{}},
		{"origin with a line end", audit.Config{Origin: "a\nb"}},
		{"buffer smaller than a record", audit.Config{Origin: origin, BufferBytes: 100}},
		{"segment without room", audit.Config{Origin: origin, SegmentBytes: 1}},
		{"negative interval", audit.Config{Origin: origin, FlushInterval: -1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if l, err := audit.Open(t.TempDir(), tc.cfg); err == nil {
				closeLog(t, l)
				t.Error("Open() = nil, want an error")
			}
		})
	}
}

func TestReadDirWithoutLog(t *testing.T) {
	for _, err := range audit.ReadDir(t.TempDir()) {
		if !errors.Is(err, audit.ErrNoLog) {
			t.Errorf("ReadDir = %v, want ErrNoLog", err)
		}
	}
	if _, err := audit.Verify(t.TempDir()); !errors.Is(err, audit.ErrNoLog) {
		t.Errorf("Verify = %v, want ErrNoLog", err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, bytes.Clone(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func segmentFiles(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "seg-*.log"))
	if err != nil || len(names) == 0 {
		t.Fatalf("segments = %v, %v", names, err)
	}
	return names
}

// cut removes n bytes from the end of the newest segment.
func cut(t *testing.T, dir string, n int) {
	t.Helper()
	names := segmentFiles(t, dir)
	last := names[len(names)-1]
	st, err := os.Stat(last)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(last, st.Size()-int64(n)); err != nil {
		t.Fatal(err)
	}
}

func TestPositionProto(t *testing.T) {
	l := openLog(t, t.TempDir(), audit.Config{})
	pos := appendOne(t, l, audit.Effect, event(1, v1.EventPhase_EVENT_PHASE_OUTCOME))
	got := pos.Proto()
	logID, bootID := l.LogID(), l.BootID()
	if !bytes.Equal(got.LogId, logID[:]) || !bytes.Equal(got.BootId, bootID[:]) || got.Seq != 1 || !bytes.Equal(got.LeafHash, pos.Leaf[:]) {
		t.Errorf("Proto() = %v", got)
	}
}

func TestParseID(t *testing.T) {
	for _, tc := range []struct {
		name, input string
		ok          bool
	}{
		{"good", strings.Repeat("0a", 16), true},
		{"short", "0a", false},
		{"long", strings.Repeat("0a", 17), false},
		{"not hex", strings.Repeat("zz", 16), false},
	} {
		if _, err := audit.ParseID(tc.input); (err == nil) != tc.ok {
			t.Errorf("ParseID %s = %v", tc.name, err)
		}
	}
}
