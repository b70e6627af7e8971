package audit_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// spell spells out a chain of one link and counts how often it is asked to.
type spell struct {
	asked     int
	presented int // bytes of evidence
	links     int
}

func (s *spell) Spell(e *audit.Event) {
	s.asked++
	e.ChainId, e.Origin, e.TaskId = e.ChainRef[:16], &v1.Principal{Type: v1.Principal_TYPE_USER, Subject: "alice"}, "task"
	e.Depth, e.MaxDepth = 1, 4
	for range max(s.links, 1) {
		e.Chain = append(e.Chain, &v1.ChainLink{Delegator: agent("root"), Delegate: agent("relay"), Capabilities: []*v1.Capability{{Action: "memory.read"}}})
	}
	e.Presented = &v1.DelegationChain{Grant: &v1.SignedStatement{Payload: make([]byte, max(s.presented, 8))}}
}

// named is the intent n under chain c.
func named(n uint64, c uint32) *audit.Event {
	ev := event(n, v1.EventPhase_EVENT_PHASE_INTENT)
	ev.ChainRef = make([]byte, 32)
	binary.BigEndian.PutUint32(ev.ChainRef, c)
	return ev
}

func appendChain(t *testing.T, l *audit.Log, c audit.Class, ev *audit.Event, s audit.Speller) {
	t.Helper()
	if _, err := l.AppendChain(t.Context(), c, ev, s); err != nil {
		t.Fatal(err)
	}
}

// saying is what the intents of a log say about their chains: S spells one out, r names it.
func saying(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for _, rec := range records(t, dir) {
		switch {
		case rec.Event.GetPhase() != v1.EventPhase_EVENT_PHASE_INTENT:
		case len(rec.Event.GetChain()) > 0 && rec.Event.GetPresented() != nil:
			b.WriteByte('S')
		case rec.Event.GetOrigin() == nil && rec.Event.GetChainId() == nil:
			b.WriteByte('r')
		default:
			b.WriteByte('?')
		}
	}
	return b.String()
}

// A chain is spelled out once, and again by the next process and in the next segment.
func TestChainIsSpelledOutOnce(t *testing.T) {
	dir := t.TempDir()
	s := &spell{}
	l := openLog(t, dir, audit.Config{SegmentBytes: 8 << 10})
	for n := range uint64(4) {
		appendChain(t, l, audit.Buffered, named(n, uint32(n%2)), s)
	}
	closeLog(t, l)
	l = openLog(t, dir, audit.Config{SegmentBytes: 8 << 10})
	for n := range uint64(3) {
		appendChain(t, l, audit.Buffered, named(n, 0), s)
	}
	if got := saying(t, dir); len(got) < 4 || !strings.HasPrefix("SSrrSrr", got) { // some of the later ones may be in memory still
		t.Errorf("the records of a second process: %s", got)
	}
	before := s.asked
	for n := uint64(0); len(segmentFiles(t, dir)) == 1; n++ {
		appendChain(t, l, audit.Effect, named(n, 0), s)
	}
	appendChain(t, l, audit.Effect, named(0, 0), s)
	closeLog(t, l)
	if s.asked != before+1 {
		t.Errorf("spelled out %d times in the next segment, want once", s.asked-before)
	}
	checkChains(t, dir)
}

// checkChains holds the contract of AppendChain: whoever names a chain follows, in the same segment or the one before it, a record of
// the same process that spells it out.
func checkChains(t *testing.T, dir string) (spelled, named int) {
	t.Helper()
	var starts []uint64
	for _, f := range segmentFiles(t, dir) {
		first, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "seg-"), ".log"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		starts = append(starts, first)
	}
	type place struct {
		segment int
		boot    [16]byte
	}
	said := map[string]place{}
	for _, rec := range records(t, dir) {
		at := place{boot: rec.BootID}
		for at.segment+1 < len(starts) && starts[at.segment+1] <= rec.Seq {
			at.segment++
		}
		switch ref := string(rec.Event.GetChainRef()); {
		case ref == "":
		case len(rec.Event.GetChain()) > 0:
			said[ref] = at
			spelled++
		default:
			named++
			if was, ok := said[ref]; !ok || was.boot != at.boot || at.segment-was.segment > 1 {
				t.Errorf("record %d in segment %d names a chain last spelled out in segment %d, known %v", rec.Seq, at.segment, was.segment, ok)
			}
		}
	}
	return spelled, named
}

func TestChainsUnderConcurrency(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, audit.Config{SegmentBytes: 16 << 10, BufferBytes: 40 << 10})
	var wg sync.WaitGroup
	for g := range uint64(16) {
		wg.Go(func() {
			for n := range uint64(200) {
				ev := named(g<<32|n, uint32((g+n)%5))
				if _, err := l.AppendChain(context.Background(), audit.Class(n%3), ev, &spell{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	spelled, named := checkChains(t, dir)
	if spelled+named != 16*200 || named < spelled || len(segmentFiles(t, dir)) < 4 {
		t.Errorf("%d spelled out and %d named in %d segments", spelled, named, len(segmentFiles(t, dir)))
	}
	for rec, err := range audit.Expanded(audit.ReadDir(dir)) {
		if err != nil || rec.ChainMissing || (rec.Event.GetChainRef() != nil && rec.Event.GetOrigin().GetSubject() != "alice") {
			t.Fatalf("record %d expanded: chain missing %v, %v", rec.Seq, rec.ChainMissing, err)
		}
	}
}

// A record that the log refused has spelled out nothing.
func TestRefusedRecordSpellsNothingOut(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, audit.Config{})
	s := &spell{}
	bad := named(1, 7)
	bad.Purpose = "\xff"
	if _, err := l.AppendChain(t.Context(), audit.Buffered, bad, s); !errors.Is(err, audit.ErrInvalid) {
		t.Fatalf("a purpose that is no UTF-8: %v", err)
	}
	long := named(2, 7)
	long.Resource = []string{strings.Repeat("x", audit.MaxRecordBytes)}
	if _, err := l.AppendChain(t.Context(), audit.Buffered, long, s); !errors.Is(err, audit.ErrTooLarge) {
		t.Fatalf("a record that is too large: %v", err)
	}
	appendChain(t, l, audit.Buffered, named(3, 7), s)
	appendChain(t, l, audit.Buffered, named(4, 7), s)
	closeLog(t, l)
	if got := saying(t, dir); got != "Sr" || s.asked != 3 {
		t.Errorf("records %s after %d spellings, want Sr after 3", got, s.asked)
	}
}

// A caller that gave up waiting has its record in the log all the same: it counts.
func TestGivenUpRecordCounts(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, audit.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.AppendChain(ctx, audit.Effect, named(1, 7), &spell{}); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	appendChain(t, l, audit.Buffered, named(2, 7), &spell{})
	closeLog(t, l)
	if got := saying(t, dir); got != "Sr" {
		t.Errorf("records %s, want Sr", got)
	}
}

func TestEvidenceIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name string
		s    spell
		want bool
	}{
		{"fits", spell{presented: audit.MaxPresentedBytes - 100}, true},
		{"too large", spell{presented: audit.MaxPresentedBytes + 1}, false},
		{"does not fit beside the links", spell{presented: audit.MaxPresentedBytes - 100, links: 150}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			l := openLog(t, dir, audit.Config{})
			appendChain(t, l, audit.Buffered, named(1, 7), &tt.s)
			appendChain(t, l, audit.Buffered, named(2, 7), &tt.s)
			closeLog(t, l)
			recs := records(t, dir)
			if ev := recs[1].Event; len(ev.GetChain()) == 0 || (ev.GetPresented() != nil) != tt.want || tt.s.asked != 1 {
				t.Errorf("%d links, evidence %v, want %v", len(ev.GetChain()), ev.GetPresented() != nil, tt.want)
			}
		})
	}
}

// The memory of what was said is bounded on both sides, and by the same bound.
func TestSpelledChainsAreBounded(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, audit.Config{})
	s := &spell{}
	for c := range uint32(audit.MaxSpelledChains) {
		appendChain(t, l, audit.Buffered, named(uint64(c), c), s)
	}
	appendChain(t, l, audit.Buffered, named(1, 0), s)
	if s.asked != audit.MaxSpelledChains {
		t.Errorf("the first chain is forgotten after %d others", audit.MaxSpelledChains-1)
	}
	appendChain(t, l, audit.Buffered, named(2, audit.MaxSpelledChains), s)
	appendChain(t, l, audit.Buffered, named(3, 0), s)
	if s.asked != audit.MaxSpelledChains+2 {
		t.Errorf("spelled out %d times, want again after %d chains", s.asked, audit.MaxSpelledChains)
	}
	closeLog(t, l)
	for rec, err := range audit.Expanded(audit.ReadDir(dir)) {
		if err != nil || rec.ChainMissing {
			t.Fatalf("record %d: the reader has forgotten a chain, %v", rec.Seq, err)
		}
	}
}

// Later records, outcomes and all queries answer as if each record said everything.
func TestReaderWithoutTheFirstSegment(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, audit.Config{SegmentBytes: 4 << 10})
	end := func(n uint64) *audit.Event {
		ev := event(n, v1.EventPhase_EVENT_PHASE_OUTCOME)
		return &audit.Event{
			Kind: ev.Kind, Phase: ev.Phase, Direction: ev.Direction, InteractionId: ev.InteractionId, DecisionId: ev.DecisionId,
			Actor: &v1.Party{SpiffeId: ev.GetActor().GetSpiffeId()}, Decision: v1.EventDecision_EVENT_DECISION_ALLOW, Outcome: &v1.Outcome{},
		}
	}
	late := named(1, 0) // ends in the second segment
	appendChain(t, l, audit.Effect, late, &spell{})
	n := uint64(2)
	for ; len(segmentFiles(t, dir)) == 1; n++ {
		appendChain(t, l, audit.Effect, named(n, 0), &spell{})
	}
	appendOne(t, l, audit.Effect, end(1))
	again := named(n, 0)
	again.DecisionId = ident("again")
	appendChain(t, l, audit.Effect, again, &spell{})
	appendOne(t, l, audit.Effect, end(n))
	closeLog(t, l)
	remove(t, dir, filepath.Base(segmentFiles(t, dir)[0]))
	missing, orphans := 0, 0
	for rec, err := range audit.Expanded(audit.ReadDir(dir)) {
		if err != nil {
			t.Fatal(err)
		}
		var text, line bytes.Buffer
		raw, jerr := rec.JSON()
		if err := errors.Join(rec.Text(&text), jerr); err != nil {
			t.Fatal(err)
		}
		line.Write(raw)
		if rec.ChainMissing {
			missing++
			if !strings.Contains(strings.Join(strings.Fields(text.String()), " "), "no record here spells it out") || !strings.Contains(line.String(), `"chain_missing":true`) {
				t.Errorf("a missing chain goes unsaid:\n%s%s", text.String(), line.String())
			}
		} else if strings.Contains(line.String(), "chain_missing") {
			t.Errorf("record %d: %s", rec.Seq, line.String())
		}
		if bytes.Equal(rec.Event.GetInteractionId(), late.GetInteractionId()) && rec.Event.GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME {
			orphans++
			if rec.Event.GetActor().GetSpiffeId() != late.GetActor().GetSpiffeId() || rec.Event.GetPeer().GetSpiffeId() != late.GetPeer().GetSpiffeId() {
				t.Errorf("the outcome without its intent: %v", rec.Event)
			}
		}
	}
	if missing != 1 || orphans != 1 {
		t.Errorf("%d records without their chain, %d outcomes without their intent, want 1 and 1", missing, orphans)
	}
	g, err := audit.BuildGraph(audit.ReadDir(dir))
	var text bytes.Buffer
	if err = errors.Join(err, g.Text(&text)); err != nil || g.ChainsMissing != 1 || !strings.Contains(strings.Join(strings.Fields(text.String()), " "), "no record here spells out") {
		t.Errorf("graph, %v:\n%s", err, text.String())
	}
	if x, err := audit.Explain(audit.ReadDir(dir), [16]byte(ident("again"))); err != nil || x.ChainMissing || x.Origin != "user alice" || len(x.Links) != 1 {
		t.Errorf("Explain of a call whose chain is there: %+v, %v", x, err)
	}
}

// Expanding what is expanded changes nothing, and the record as stored is left alone.
func TestExpandTwice(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, audit.Config{})
	for n := range uint64(3) {
		ev := named(n, 0)
		ev.DecisionInput = &v1.DecisionInput{NowUnixMs: 1}
		appendChain(t, l, audit.Buffered, ev, &spell{})
	}
	closeLog(t, l)
	stored, twice := records(t, dir), records(t, dir)
	var x, y audit.Expander
	for i, rec := range twice {
		once := x.Expand(rec)
		if diff := cmp.Diff(stored[i].Event, rec.Event, protocmp.Transform()); diff != "" {
			t.Errorf("Expand changed its argument: %s", diff)
		}
		if diff := cmp.Diff(once.Event, y.Expand(once).Event, protocmp.Transform()); diff != "" {
			t.Errorf("expanded twice: %s", diff)
		}
		if i > 0 && (len(once.Event.GetChain()) != 1 || once.Event.GetDecisionInput().GetCapabilities()[0].GetAction() != "memory.read" ||
			once.Event.GetDecisionInput().GetPrincipalState() != "active") {
			t.Errorf("expanded: %v", once.Event)
		}
	}
}
