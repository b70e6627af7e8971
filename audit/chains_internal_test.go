package audit

import (
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// A segment may be started between the look at what is spelled out and the place in the buffer: the record is made anew.
func TestEpochEndsWhileARecordIsMade(t *testing.T) {
	d := newMemDir()
	cfg := memConfig(d)
	cfg.SegmentBytes = DefaultSegmentBytes
	var log atomic.Pointer[Log]
	cfg.Now = func() time.Time {
		if l := log.Swap(nil); l != nil {
			l.epoch.Add(1)
		}
		return time.Now()
	}
	l, err := Open("mem", cfg)
	if err != nil {
		t.Fatal(err)
	}
	for n, turn := range []bool{false, false, true, false} {
		if turn {
			log.Store(l)
		}
		if _, err := l.AppendChain(t.Context(), Effect, underChain(uint64(2*n)), oneLink{}); err != nil {
			t.Fatal(err)
		}
	}
	var got []int
	for rec, err := range l.Read(t.Context(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, len(rec.Event.GetChain()))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if len(got) != 4 || got[0] != 1 || got[1] != 0 || got[2] != 1 || got[3] != 0 {
		t.Errorf("links in the records: %v, want 1 0 1 0", got)
	}
}

// What a log cannot say any more, it says as far as its other records go.
func TestExpandWithoutTheIntent(t *testing.T) {
	var x Expander
	out, in := intent(1), underChain(2)
	out.Direction = v1.EventDirection_EVENT_DIRECTION_OUTBOUND
	for _, ev := range []*Event{out, in} {
		x.Expand(Record{Event: ev})
	}
	late := &Event{Kind: out.Kind, Phase: v1.EventPhase_EVENT_PHASE_OUTCOME, Direction: out.Direction, InteractionId: id(9), Peer: &v1.Party{SpiffeId: "c"}}
	if got := x.Expand(Record{Event: late}).Event; got.GetActor().GetSpiffeId() != out.Actor.SpiffeId || got.GetPeer().GetSpiffeId() != "c" || got.Action != "" {
		t.Errorf("the outcome of a call of our own: %v", got)
	}
	later := underChain(3)
	later.Peer = nil
	if got := x.Expand(Record{Event: later}); !got.ChainMissing || got.Event.GetPeer().GetSpiffeId() != in.Peer.SpiffeId {
		t.Errorf("an intent whose chain is missing: %v", got.Event)
	}
	odd := &Event{Kind: out.Kind, Phase: v1.EventPhase_EVENT_PHASE_OUTCOME, Peer: &v1.Party{SpiffeId: "c"}}
	if got := x.Expand(Record{Event: odd}).Event; got.Actor != nil || got.GetPeer().GetSpiffeId() != "c" {
		t.Errorf("an outcome of no interaction: %v", got)
	}
}

// The index forgets the oldest half, and never what was said last.
func TestAges(t *testing.T) {
	a := ages[int, int]{most: 4}
	for k := range 11 {
		a.put(k, k)
		if v, ok := a.get(k); !ok || v != k {
			t.Fatalf("%d is forgotten at once", k)
		}
	}
	for k, want := range []bool{0: false, 1: false, 2: false, 3: false, 4: true, 7: true, 8: true, 10: true} {
		if _, ok := a.get(k); ok != want && (k < 4 || want) {
			t.Errorf("%d is known %v, want %v", k, ok, want)
		}
	}
	a.forget(4)
	a.forget(10)
	if _, ok := a.get(4); ok || a.has(10) {
		t.Error("what was forgotten is known")
	}
}
