package audit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const headerBytes = 256

// goodLog returns a directory with one segment of n records and the bytes of its frames. The note of the clean close is removed,
// so that the frames alone must show what is wrong.
func goodLog(t *testing.T, n int) (dir string, header []byte, frames [][]byte) {
	t.Helper()
	dir = t.TempDir()
	l := openLog(t, dir, audit.Config{})
	for i := range uint64(n - 1) { // the first one is BOOT
		appendOne(t, l, audit.Buffered, event(i, v1.EventPhase_EVENT_PHASE_OUTCOME))
	}
	closeLog(t, l)
	remove(t, dir, "closed")
	b, err := os.ReadFile(segmentFiles(t, dir)[0])
	if err != nil {
		t.Fatal(err)
	}
	header, b = b[:headerBytes], b[headerBytes:]
	for len(b) > 0 {
		size := 40 + int(binary.LittleEndian.Uint32(b))
		frames = append(frames, b[:size])
		b = b[size:]
	}
	if len(frames) != n {
		t.Fatalf("%d frames, want %d", len(frames), n)
	}
	return dir, header, frames
}

func writeSegment(t *testing.T, dir string, parts ...[]byte) {
	t.Helper()
	if err := os.WriteFile(segmentFiles(t, dir)[0], bytes.Join(parts, nil), 0o600); err != nil {
		t.Fatal(err)
	}
}

// fixCRC makes a changed frame pass its checksum.
func fixCRC(frame []byte) {
	sum := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Update(crc32.Checksum(frame[:4], sum), sum, frame[8:len(frame)-32])
	binary.LittleEndian.PutUint32(frame[4:], crc)
}

// TestU4FirstBadSeq changes a log of ten records in every way and wants the first bad seq.
func TestU4FirstBadSeq(t *testing.T) {
	const n = 10
	for _, tc := range []struct {
		name   string
		change func(f [][]byte) [][]byte
		bad    uint64
		want   audit.Verdict
	}{
		{"edit", func(f [][]byte) [][]byte { f[4][20] ^= 1; return f }, 4, audit.Bad},
		{"edit with a fitting checksum", func(f [][]byte) [][]byte { f[4][len(f[4])-40] ^= 1; fixCRC(f[4]); return f }, 4, audit.Bad},
		{"edit of the newest record with a fitting checksum", func(f [][]byte) [][]byte {
			f[9][len(f[9])-40] ^= 1
			fixCRC(f[9])
			return f
		}, 9, audit.Bad},
		{"edit of a chain hash", func(f [][]byte) [][]byte { f[4][len(f[4])-1] ^= 1; return f }, 4, audit.Bad},
		{"delete", func(f [][]byte) [][]byte { return slices.Delete(f, 4, 5) }, 4, audit.Bad},
		{"delete the first", func(f [][]byte) [][]byte { return f[1:] }, 0, audit.Bad},
		{"swap", func(f [][]byte) [][]byte { f[4], f[5] = f[5], f[4]; return f }, 4, audit.Bad},
		{"insert", func(f [][]byte) [][]byte { return slices.Insert(f, 4, f[8]) }, 4, audit.Bad},
		{"duplicate", func(f [][]byte) [][]byte { return slices.Insert(f, 4, f[3]) }, 4, audit.Bad},
		{"duplicate the newest", func(f [][]byte) [][]byte { return append(f, f[9]) }, 10, audit.Bad},
		{"frame cut short in the middle", func(f [][]byte) [][]byte { f[4] = f[4][:len(f[4])/2]; return f }, 4, audit.Bad},
		{"length zero", func(f [][]byte) [][]byte { clear(f[4][:4]); return f }, 4, audit.Bad},
		{"zeros at the end", func(f [][]byte) [][]byte { return append(f, make([]byte, 100)) }, 10, audit.Bad},
		{"newest frame cut short", func(f [][]byte) [][]byte { f[9] = f[9][:len(f[9])-1]; return f }, 9, audit.Incomplete},
		{"newest frame cut in its head", func(f [][]byte) [][]byte { f[9] = f[9][:5]; return f }, 9, audit.Incomplete},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, header, frames := goodLog(t, n)
			writeSegment(t, dir, header, bytes.Join(tc.change(frames), nil))
			rep, err := audit.Verify(dir)
			if err != nil || rep.Verdict != tc.want || rep.FirstBad != tc.bad || rep.Reason == "" {
				t.Errorf("Verify() = %v at seq %d (%s), %v, want %v at %d", rep.Verdict, rep.FirstBad, rep.Reason, err, tc.want, tc.bad)
			}
			count := uint64(0)
			var last error
			for _, err := range audit.ReadDir(dir) {
				if last = err; err == nil {
					count++
				}
			}
			if count != tc.bad || (tc.want == audit.Bad) != errors.Is(last, audit.ErrTampered) {
				t.Errorf("ReadDir gives %d records and ends with %v", count, last)
			}
		})
	}
}

// TestU4EveryByte flips one bit of every byte of a log.
func TestU4EveryByte(t *testing.T) {
	dir, header, frames := goodLog(t, 5)
	whole := append(slices.Clone(header), bytes.Join(frames, nil)...)
	seqAt := func(off int) uint64 {
		off -= headerBytes
		for seq, f := range frames {
			if off < len(f) {
				return uint64(max(0, seq))
			}
			off -= len(f)
		}
		return 0
	}
	for off := range whole {
		want := uint64(0)
		if off >= headerBytes {
			want = seqAt(off)
		}
		b := slices.Clone(whole)
		b[off] ^= 1 << (off % 8)
		writeSegment(t, dir, b)
		rep, err := audit.Verify(dir)
		if err != nil || rep.Verdict != audit.Bad || rep.FirstBad != want {
			t.Fatalf("bit flip at %d: %v at seq %d (%s), %v, want bad at %d", off, rep.Verdict, rep.FirstBad, rep.Reason, err, want)
		}
	}
	writeSegment(t, dir, whole)
	if rep, err := audit.Verify(dir); err != nil || rep.Verdict != audit.Good || rep.Verdict.ExitCode() != 0 {
		t.Errorf("Verify of the unchanged log = %+v, %v", rep, err)
	}
}

// TestOpenTellsTornFromTampered wants a start after a torn tail, with the bytes kept, and no start after a change.
func TestOpenTellsTornFromTampered(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(f [][]byte) [][]byte
		want   error
	}{
		{"edit in the middle", func(f [][]byte) [][]byte { f[4][20] ^= 1; return f }, audit.ErrTampered},
		{"chain hash in the middle", func(f [][]byte) [][]byte { f[4][len(f[4])-1] ^= 1; return f }, audit.ErrTampered},
		{"deleted", func(f [][]byte) [][]byte { return slices.Delete(f, 4, 5) }, audit.ErrTampered},
		{"swapped", func(f [][]byte) [][]byte { f[4], f[5] = f[5], f[4]; return f }, audit.ErrTampered},
		{"length destroyed in the middle", func(f [][]byte) [][]byte { f[4][3] = 0xff; return f }, audit.ErrTampered},
		{"torn", func(f [][]byte) [][]byte { f[9] = f[9][:30]; return f }, nil},
		{"newest frame half written", func(f [][]byte) [][]byte { clear(f[9][30:]); return f }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, header, frames := goodLog(t, 10)
			parts := tc.change(frames)
			torn := parts[len(parts)-1]
			writeSegment(t, dir, header, bytes.Join(parts, nil))
			before, err := os.ReadFile(segmentFiles(t, dir)[0])
			if err != nil {
				t.Fatal(err)
			}
			l, err := audit.Open(dir, audit.Config{Origin: origin})
			if !errors.Is(err, tc.want) {
				t.Fatalf("Open() = %v, want %v", err, tc.want)
			}
			if err != nil {
				if after, err := os.ReadFile(segmentFiles(t, dir)[0]); err != nil || !bytes.Equal(before, after) {
					t.Error("a refused log was changed")
				}
				return
			}
			closeLog(t, l)
			kept, err := os.ReadFile(filepath.Join(dir, "torn-9.bin"))
			if err != nil || !bytes.Equal(kept, torn) {
				t.Errorf("the torn tail is not kept: %v", err)
			}
			recs := records(t, dir)
			rec := recs[len(recs)-1].Event
			if rec.Kind != v1.EventKind_EVENT_KIND_RECOVERED || rec.RecoveredFromSeq != 9 || rec.RecoveredBytes != uint64(len(torn)) {
				t.Errorf("last record = %v, want RECOVERED from 9 with %d bytes", rec, len(torn))
			}
		})
	}
}

// TestVerifySegments removes, renames and mixes up whole segments.
func TestVerifySegments(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, names []string)
		want   audit.Verdict
	}{
		{"unchanged", func(*testing.T, []string) {}, audit.Good},
		{"first removed", func(t *testing.T, n []string) { mustRemove(t, n[0]) }, audit.Incomplete},
		{"one in the middle removed", func(t *testing.T, n []string) { mustRemove(t, n[1]) }, audit.Bad},
		{"newest removed after a clean close", func(t *testing.T, n []string) { mustRemove(t, n[len(n)-1]) }, audit.Bad},
		{"renamed", func(t *testing.T, n []string) {
			if err := os.Rename(n[1], filepath.Join(filepath.Dir(n[1]), "seg-00000000000000000001.log")); err != nil {
				t.Fatal(err)
			}
		}, audit.Bad},
		{"sealed one cut short", func(t *testing.T, n []string) {
			if err := os.Truncate(n[1], 300); err != nil {
				t.Fatal(err)
			}
		}, audit.Bad},
		{"header only", func(t *testing.T, n []string) {
			if err := os.Truncate(n[0], headerBytes); err != nil {
				t.Fatal(err)
			}
		}, audit.Bad},
		{"empty", func(t *testing.T, n []string) {
			if err := os.Truncate(n[0], 0); err != nil {
				t.Fatal(err)
			}
		}, audit.Bad},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			l := openLog(t, dir, audit.Config{SegmentBytes: 1 << 10})
			for i := range uint64(20) {
				appendOne(t, l, audit.Effect, event(i, v1.EventPhase_EVENT_PHASE_OUTCOME))
			}
			closeLog(t, l)
			tc.change(t, segmentFiles(t, dir))
			rep, err := audit.Verify(dir)
			if err != nil || rep.Verdict != tc.want {
				t.Errorf("Verify() = %v (%s), %v, want %v", rep.Verdict, rep.Reason, err, tc.want)
			}
			l, err = audit.Open(dir, audit.Config{Origin: origin, SegmentBytes: 1 << 10})
			if (tc.want == audit.Good) != (err == nil) {
				t.Errorf("Open() = %v after %s", err, tc.name)
			}
			if err == nil {
				closeLog(t, l)
			}
		})
	}
}

// TestVerifyLiveWriter verifies while a writer is at work: good or incomplete, never bad.
func TestVerifyLiveWriter(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, audit.Config{SegmentBytes: 8 << 10})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range uint64(1500) {
			if _, err := l.Append(t.Context(), audit.Class(i%3), event(i, v1.EventPhase_EVENT_PHASE_OUTCOME)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		rep, err := audit.Verify(dir)
		if err != nil || rep.Verdict == audit.Bad {
			t.Fatalf("Verify of a live log = %v at %d (%s), %v", rep.Verdict, rep.FirstBad, rep.Reason, err)
		}
		for _, err := range audit.ReadDir(dir) {
			if err != nil {
				t.Fatalf("ReadDir of a live log = %v", err)
			}
		}
	}
	closeLog(t, l)
}

func mustRemove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}
