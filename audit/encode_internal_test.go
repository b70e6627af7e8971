package audit

import (
	"bytes"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func TestASCII(t *testing.T) {
	for n := range 40 {
		b := make([]byte, n)
		for i := range b {
			b[i] = 'a'
		}
		if !ascii(string(b)) {
			t.Errorf("%d letters are not plain", n)
		}
		for i := range b {
			b[i] = 0x80
			if ascii(string(b)) || validStrings(string(b)) {
				t.Errorf("a broken byte at %d of %d is not seen", i, n)
			}
			b[i] = 'a'
		}
	}
	for _, s := range []string{"", "ä", "grüße an alle", "€uro \U0001F600"} {
		if !validStrings(s) || ascii(s) != (len(s) == utf8.RuneCountInString(s)) {
			t.Errorf("%q: plain %v, valid %v", s, ascii(s), validStrings(s))
		}
	}
}

func BenchmarkValidText(b *testing.B) {
	ev := underChain(1)
	ev.Tenant, ev.PeerTenant, ev.Method, ev.Purpose, ev.Transport = "acme", "acme", "/mesh.v1.MeshService/Foreign", "test of the mesh", "deliver"
	ev.Resource, ev.Policies = []string{"agent", "writer"}, []string{"row-1"}
	ev.Actor.AgentClass, ev.Actor.Serial = "worker", "524baa576fbb2ddab7aa3396780d0b"
	b.ReportAllocs()
	for b.Loop() {
		if !validText(ev) {
			b.Fatal("refused")
		}
	}
}

// A record says neither which start it belongs to nor its own decision id; every reader finds both, and those of version 1 too.
func TestWhatARecordLeavesToItsPlace(t *testing.T) {
	d := newMemDir()
	var boots [][16]byte
	for n := range uint64(2) {
		l, err := Open("mem", memConfig(d))
		if err != nil {
			t.Fatal(err)
		}
		boots = append(boots, l.BootID())
		ev, told := intent(n), outcome(n)
		ev.DecisionId, told.DecisionId = ev.InteractionId, id(77)
		for _, ev := range []*Event{ev, told} {
			decision := string(ev.DecisionId)
			if _, err := l.Append(t.Context(), Effect, ev); err != nil {
				t.Fatal(err)
			}
			if string(ev.DecisionId) != decision || [16]byte(ev.BootId) != boots[n] {
				t.Errorf("Append leaves decision %x and boot %x in the event", ev.DecisionId, ev.BootId)
			}
		}
		at := 0
		for rec, err := range l.Read(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case rec.Event.Kind == v1.EventKind_EVENT_KIND_BOOT:
				at++
			case rec.BootID != boots[at-1] || [16]byte(rec.Event.BootId) != boots[at-1] || bytes.Contains(rec.Raw, boots[at-1][:]):
				t.Errorf("record %d is of boot %x, want %x, unsaid", rec.Seq, rec.BootID, boots[at-1])
			case rec.Event.Phase == v1.EventPhase_EVENT_PHASE_INTENT && !bytes.Equal(rec.Event.DecisionId, rec.Event.InteractionId),
				rec.Event.Phase == v1.EventPhase_EVENT_PHASE_OUTCOME && !bytes.Equal(rec.Event.DecisionId, id(77)):
				t.Errorf("record %d: decision %x of %x", rec.Seq, rec.Event.DecisionId, rec.Event.InteractionId)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	old := intent(1)
	old.SchemaVersion, old.RecordNonce, old.BootId = oldSchema, id(1), id(2)
	for _, tt := range []struct {
		name  string
		spoil func(*Event)
		want  bool
	}{
		{"version 1", func(*Event) {}, true},
		{"version 1 without a boot id", func(e *Event) { e.BootId = nil }, false},
		{"version 2 with one", func(e *Event) { e.SchemaVersion = SchemaVersion }, false},
		{"version 2", func(e *Event) { e.SchemaVersion, e.BootId = SchemaVersion, nil }, true},
		{"version 3", func(e *Event) { e.SchemaVersion = SchemaVersion + 1 }, false},
	} {
		ev, ok := proto.Clone(old).(*Event)
		if !ok {
			t.Fatal("not an event")
		}
		tt.spoil(ev)
		raw, err := proto.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := decodeEvent(raw, id(9)); ok != tt.want || (ok && len(got.BootId) != 16) || (tt.name == "version 1" && !bytes.Equal(got.BootId, id(2))) {
			t.Errorf("%s: read %v as %v, want %v", tt.name, ok, got, tt.want)
		}
	}
}
