package interceptors_test

import (
	"strings"
	"testing"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
)

const (
	duplicate = v1.Reason_REASON_PEER_DUPLICATE
	grace     = interceptors.DefaultDuplicateGrace
	slack     = interceptors.DefaultDuplicateSlack
)

// twins is writer, called by processes that all are relay.
type twins struct{ *scene }

func newTwins(t *testing.T, single bool) *twins {
	s := newScene(t)
	s.end = s.Enforcer(t, s.writer, meshMethods(t)) // nobody has connected to it
	if single {
		rec := *s.Registry.Agent(s.relay)
		rec.SingleProcess = true
		s.Registry.Put(rec)
	}
	return &twins{s}
}

// process is one process of relay, with one connection at a time.
type process struct {
	w       *twins
	src     *meshtest.Source
	session *interceptors.Session
}

func (w *twins) process() *process {
	p := &process{w: w, src: w.Source(w.relay, meshtest.TTL(48*time.Hour))}
	p.connect()
	return p
}

// connect opens a connection with the newest SVID; the one before ends.
func (p *process) connect() {
	p.w.t.Helper()
	p.session.End()
	session, err := p.w.end.Accept(p.src.Peer())
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.session = session
}

// callOn opens one call and returns why it was refused.
func (w *twins) callOn(s *interceptors.Session) v1.Reason {
	w.t.Helper()
	_, in, err := w.end.Open(w.t.Context(), &interceptors.Call{Session: s, Procedure: unary, Transport: interceptors.TransportGRPC}, nil)
	why := reason(w.t, err)
	in.Close(&err)
	return why
}

func (w *twins) wantCall(what string, p *process, want v1.Reason) {
	w.t.Helper()
	if got := w.callOn(p.session); got != want {
		w.t.Errorf("%s: %s, want %s", what, got, want)
	}
}

func (w *twins) records() (out []*v1.AuditEvent) {
	for _, ev := range w.end.Log.Events() {
		if ev.GetKind() == v1.EventKind_EVENT_KIND_DUPLICATE_IDENTITY {
			out = append(out, ev)
		}
	}
	return out
}

func (w *twins) wantRecords(what string, n int) {
	w.t.Helper()
	if got := w.records(); len(got) != n {
		w.t.Errorf("%s: %d records of a duplicate identity, want %d: %v", what, len(got), n, got)
	}
}

// One process over two days: its SVID is replaced every half hour, its connections are cut every twenty minutes, while one drains
// the next one is open, and a second channel to the same callee is cut at other times.
func TestRotationReconnectAndDrainAreNoSecondProcess(t *testing.T) {
	t.Parallel()
	w := newTwins(t, true)
	p := w.process()
	other := &process{w: w, src: p.src}
	other.connect()
	var draining *interceptors.Session
	for minute := 1; minute <= 48*60-1; minute++ {
		w.Advance(time.Minute)
		if minute%30 == 0 {
			p.src.Rotate()
		}
		if minute%20 == 0 {
			draining = p.session
			session, err := w.end.Accept(p.src.Peer())
			if err != nil {
				t.Fatal(err)
			}
			p.session = session
		}
		if minute%20 == 5 && draining != nil { // calls that were on their way when the new connection was made are long in by now
			draining.End()
			draining = nil
		}
		if minute%22 == 13 {
			other.connect()
		}
		w.wantCall("a call", p, 0)
		w.wantCall("a call of the other channel", other, 0)
		if draining != nil && minute%20 == 0 {
			if why := w.callOn(draining); why != 0 {
				t.Errorf("a call that was under way to the old connection: %s", why)
			}
		}
	}
	w.wantRecords("one process", 0)
}

// A handshake that began before the SVID was replaced may end after one that began later.
func TestHandshakesOfAReplacementAreNoSecondProcess(t *testing.T) {
	t.Parallel()
	w := newTwins(t, true)
	p := w.process()
	old := p.src.Peer()
	p.src.Rotate()
	p.connect()
	w.Advance(slack - time.Second)
	if _, err := w.end.Accept(old); err != nil {
		t.Fatal(err)
	}
	w.wantCall("a call", p, 0)
	w.wantRecords("a late handshake", 0)
}

func TestRestartIsNoSecondProcess(t *testing.T) {
	t.Parallel()
	w := newTwins(t, true)
	for range 20 {
		p := w.process()
		w.wantCall("a call", p, 0)
		w.Advance(time.Minute)
		p.session.End()
		w.Advance(time.Second)
	}
	w.wantRecords("one process after the other", 0)
}

// Two processes are noticed when the older one connects again, or when its connection is used for longer than one process would.
func TestSecondProcessIsRecorded(t *testing.T) {
	t.Parallel()
	for name, proof := range map[string]func(w *twins, first *process){
		"connects again": func(w *twins, first *process) {
			w.Advance(slack + time.Second)
			first.connect()
		},
		"goes on calling": func(w *twins, first *process) {
			for at := time.Duration(0); at < grace-time.Minute; at += time.Minute {
				w.wantCall("the first", first, 0)
				w.wantRecords("within the grace", 0)
				w.Advance(time.Minute)
			}
			w.Advance(time.Minute)
			w.wantCall("the first, after the grace", first, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTwins(t, false)
			first := w.process()
			w.Advance(time.Minute)
			second := w.process()
			w.wantCall("the second", second, 0)
			proof(w, first)
			w.wantRecords("after the proof", 1)
			ev := w.records()[0]
			if ev.GetActor().GetSpiffeId() != w.relay.String() || ev.GetActor().GetSerial() != second.src.Peer().Serial ||
				!strings.Contains(ev.GetDetail(), first.src.Peer().Serial) || ev.GetDecision() != allow || ev.GetTenant() != "acme" {
				t.Errorf("record %v", ev)
			}
			for range 100 { // recorded once a minute, refused never
				w.wantCall("the first", first, 0)
				w.wantCall("the second", second, 0)
			}
			w.wantRecords("within a minute", 1)
			w.Advance(time.Minute)
			w.wantCall("the first", first, 0)
			w.wantCall("the second", second, 0)
			w.wantRecords("a minute later", 2)
		})
	}
}

// An agent that is registered as one process: the newcomer is refused as long as the first lives, and goes on when it has ended.
func TestSecondProcessIsRefused(t *testing.T) {
	t.Parallel()
	w := newTwins(t, true)
	first := w.process()
	w.Advance(time.Minute)
	second := w.process()
	w.wantCall("the second, before it can be known", second, 0)
	w.Advance(slack + time.Second)
	first.connect()
	w.wantCall("the first", first, 0)
	w.wantCall("the second", second, duplicate)
	ev := w.records()[0]
	if ev.GetDecision() != denied || ev.GetReason() != duplicate || ev.GetWireReason() != v1.Reason_REASON_AGENT_STATE {
		t.Errorf("record %v", ev)
	}
	second.connect()
	w.wantCall("the second on another connection", second, duplicate)
	for range 5 {
		w.Advance(5 * time.Minute) // idle, and connected
		w.wantCall("the second", second, duplicate)
	}
	w.wantCall("the first", first, 0)

	first.session.End()
	w.wantCall("the second while the first may be coming back", second, duplicate)
	w.Advance(slack)
	w.wantCall("the second after the end of the first", second, 0)
}

func TestFirstProcessThatIsIdleHoldsTheSecondOnlyForTheGrace(t *testing.T) {
	t.Parallel()
	w := newTwins(t, true)
	first := w.process()
	second := w.process()
	w.Advance(slack + time.Second)
	first.connect()
	w.wantCall("the second", second, duplicate)
	w.Advance(grace)
	w.wantCall("the second after the grace", second, 0)
	// The first was there before: when it comes again, it is the second that stands back.
	w.wantCall("the first", first, 0)
	w.wantCall("the second", second, duplicate)
}

// A rotation of the first process does not make the second one first, and a rotation of the second one is noticed at the next call.
func TestRotationsOfTwoProcesses(t *testing.T) {
	t.Parallel()
	w := newTwins(t, true)
	first, second := w.process(), w.process()
	w.Advance(slack + time.Second)
	first.connect()
	w.wantCall("the second", second, duplicate)
	for range 4 {
		w.Advance(30 * time.Minute)
		w.wantCall("the first", first, 0)
		first.src.Rotate()
		first.connect()
		w.wantCall("the first, with a new key", first, 0)
		w.Advance(slack + time.Second)
		w.wantCall("the second", second, duplicate)
		w.wantCall("the first", first, 0)
		second.src.Rotate()
		second.connect()
		w.Advance(slack + time.Second)
		w.wantCall("the first", first, 0)
		w.wantCall("the second, with a new key", second, duplicate)
	}
}

// A stream that the second process had open is cut at its next message.
func TestOpenStreamOfASecondProcessEnds(t *testing.T) {
	t.Parallel()
	w := newTwins(t, true)
	first := w.process()
	w.Advance(time.Second)
	w.session = w.Session(t, w.end, w.relay)
	second := &process{w: w, session: w.session}
	st := w.openStream()
	wantReason(t, "the first message", st.admit(request(w.envelope())), 0)
	w.Advance(slack + time.Second)
	first.connect()
	w.wantCall("a call of the second", second, duplicate)
	wantReason(t, "a later message of its stream", st.admit(request(nil)), duplicate)
}

// However many keys a peer comes with, few are remembered, and the first process goes on.
func TestKeysOfAPeerAreBounded(t *testing.T) {
	t.Parallel()
	w := newTwins(t, true)
	first := w.process()
	for range 100 {
		w.process()
		w.wantCall("the first", first, 0)
	}
	w.Advance(slack + time.Second)
	first.connect()
	w.wantCall("the first", first, 0)
	if n := len(w.records()); n > 8 {
		t.Errorf("%d records, want at most one for each key that is remembered", n)
	}
}

// The key that an agent had before its SVID was replaced, in the hands of a thief: it is he who comes late, though the key was first.
func TestReplacedKeyThatComesBackPushesNobodyOut(t *testing.T) {
	t.Parallel()
	w := newTwins(t, true)
	p := w.process()
	stolen := p.src.Peer()
	p.src.Rotate()
	p.connect()
	for range 10 {
		w.Advance(time.Minute)
		w.wantCall("the agent", p, 0)
	}
	thief, err := w.end.Accept(stolen)
	if err != nil {
		t.Fatal(err)
	}
	w.wantRecords("when the old key comes back", 1)
	if ev := w.records()[0]; ev.GetActor().GetSerial() != stolen.Serial || ev.GetDecision() != denied {
		t.Errorf("record %v", ev)
	}
	for range 40 {
		w.Advance(time.Minute)
		if why := w.callOn(thief); why != duplicate {
			t.Errorf("the thief: %s, want %s", why, duplicate)
		}
		w.wantCall("the agent", p, 0)
	}
	p.src.Rotate()
	p.connect()
	w.wantCall("the agent with a third key", p, 0)
	if why := w.callOn(thief); why != duplicate {
		t.Errorf("the thief after that: %s, want %s", why, duplicate)
	}
}

// A process that is started over and over has a new key each time. The agent, connected and quiet, is not forgotten for them.
func TestRestartsPushNobodyOut(t *testing.T) {
	t.Parallel()
	w := newTwins(t, true)
	p := w.process()
	for range 20 {
		w.Advance(30 * time.Second)
		other := w.process()
		other.session.End()
	}
	w.Advance(slack + time.Second)
	p.connect()
	last := w.process()
	w.Advance(slack + time.Second)
	p.connect()
	w.wantCall("the agent", p, 0)
	w.wantCall("the last of the others", last, duplicate)
}
