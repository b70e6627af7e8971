package audit

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// rawFrame returns a whole frame after chain.
func rawFrame(ev *Event, chain [32]byte) ([]byte, [32]byte) {
	ev.SchemaVersion, ev.RecordNonce = SchemaVersion, id(1)
	b, err := proto.MarshalOptions{}.MarshalAppend(make([]byte, frameHead), ev)
	if err != nil {
		return nil, chain
	}
	leaf := sealFrame(b)
	chain = nextChain(chain, leaf)
	return append(b, chain[:]...), chain
}

func FuzzFrameReader(f *testing.F) {
	one, chain := rawFrame(intent(1), [32]byte{})
	two, _ := rawFrame(outcome(1), chain)
	f.Add(append(bytes.Clone(one), two...))
	f.Add(one[:len(one)-1])
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr := newFrameReader(bytes.NewReader(b), int64(len(b)), 0, 0, [32]byte{})
		for {
			x, err := fr.next()
			if err == nil {
				if len(x.record) == 0 || len(x.record) > MaxRecordBytes {
					t.Fatalf("record of %d bytes", len(x.record))
				}
				continue
			}
			bad := (*fault)(nil)
			switch {
			case errors.Is(err, io.EOF):
				if fr.off != int64(len(b)) {
					t.Fatalf("clean end at %d of %d", fr.off, len(b))
				}
			case !errors.As(err, &bad) || bad.off != fr.off:
				t.Fatalf("error %v", err)
			}
			break
		}
		if cap(fr.buf) > 1+MaxRecordBytes+frameTail {
			t.Fatalf("buffer of %d bytes", cap(fr.buf))
		}
		at, found, err := findFrame(bytes.NewReader(b), 0, int64(len(b)))
		if err != nil || (found && at >= int64(len(b))) {
			t.Fatalf("findFrame = %d, %v, %v", at, found, err)
		}
		if fr.seq > 0 && !found {
			if _, ok := decodeEvent(b[frameHead:int(fr.off)-frameTail], make([]byte, 16)); ok && fr.seq == 1 {
				t.Fatal("findFrame does not find what the reader reads")
			}
		}
	})
}

func FuzzSegmentHeader(f *testing.F) {
	f.Add(segmentHeader{first: 7, time: time.Unix(1, 2)}.encode())
	f.Add([]byte(headerMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHeader(b)
		if err == nil && !bytes.Equal(h.encode(), b) {
			t.Fatalf("decodeHeader takes bytes that encode does not write: %x", b)
		}
	})
}

// TestFindFrameIsBounded gives a search more candidates than its budget.
func TestFindFrameIsBounded(t *testing.T) {
	b := make([]byte, 4<<20)
	for i := 0; i+4 < len(b); i += 4 {
		b[i+1] = 0x7f // at every fourth byte a length of about 32 KiB
	}
	start := time.Now()
	_, found, err := findFrame(bytes.NewReader(b), 0, int64(len(b)))
	if err != nil || !found {
		t.Errorf("findFrame over budget = %v, %v, want the safe answer", found, err)
	}
	if d := time.Since(start); d > 20*time.Second {
		t.Errorf("findFrame took %s", d)
	}
}

func TestSegmentNames(t *testing.T) {
	for _, tc := range []struct {
		name string
		want uint64
		ok   bool
	}{
		{segmentName(0), 0, true},
		{segmentName(1 << 60), 1 << 60, true},
		{"seg-1.log", 0, false},
		{"seg-99999999999999999999.log", 0, false},
		{"seg-0000000000000000000x.log", 0, false},
		{segmentName(1) + ".tmp", 0, false},
	} {
		if got, ok := segmentSeq(tc.name); got != tc.want || ok != tc.ok {
			t.Errorf("segmentSeq(%q) = %d, %v, want %d, %v", tc.name, got, ok, tc.want, tc.ok)
		}
	}
}

// FuzzExpand lets records say anything: expanding must not panic, must leave what it is given alone, and must have nothing left to do
// the second time.
func FuzzExpand(f *testing.F) {
	spelled, named, done := underChain(1), underChain(1), outcome(1)
	oneLink{}.Spell(spelled)
	named.DecisionInput = &v1.DecisionInput{NowUnixMs: 1}
	done.Actor = nil
	seed := func(evs ...*Event) (out [][]byte) {
		for _, ev := range evs {
			b, err := proto.Marshal(ev)
			if err != nil {
				f.Fatal(err)
			}
			out = append(out, b)
		}
		return out
	}
	s := seed(spelled, named, done)
	f.Add(s[0], s[1], s[2])
	f.Add(s[2], s[1], s[0])
	f.Fuzz(func(t *testing.T, a, b, c []byte) {
		var x, y Expander
		for _, raw := range [][]byte{a, b, c} {
			ev := new(Event)
			if proto.Unmarshal(raw, ev) != nil {
				continue
			}
			before := proto.Size(ev)
			once := x.Expand(Record{Event: ev})
			if proto.Size(ev) != before {
				t.Fatalf("Expand changed %v", ev)
			}
			if twice := y.Expand(once); !proto.Equal(once.Event, twice.Event) {
				t.Fatalf("expanded %v, and again %v", once.Event, twice.Event)
			}
		}
	})
}
