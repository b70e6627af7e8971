package interceptors_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/policy"
)

const canary = "canary-4711-secret"

// However a call ends, its log has one intent and one outcome, and the peer gets what the outcome says.
func TestEveryEndIsRecordedOnce(t *testing.T) {
	fail := func(err error) handler {
		return func(context.Context) (proto.Message, error) { return nil, err }
	}
	tests := []struct {
		name     string
		handler  handler
		code     interceptors.Code
		decision v1.EventDecision
		reason   v1.Reason
	}{
		{"success", succeed, interceptors.CodeOK, allow, 0},
		{"bare error", fail(errors.New(canary)), interceptors.CodeInternal, allow, v1.Reason_REASON_HANDLER_ERROR},
		{"public error", fail(interceptors.Public(interceptors.CodeNotFound, "no such note")), interceptors.CodeNotFound, allow, v1.Reason_REASON_HANDLER_ERROR},
		{"public error of code 0", fail(interceptors.Public(interceptors.CodeOK, "x")), interceptors.CodeInternal, allow, v1.Reason_REASON_HANDLER_ERROR},
		{"public error of no code", fail(interceptors.Public(4242, "x")), interceptors.CodeInternal, allow, v1.Reason_REASON_HANDLER_ERROR},
		{"refusal by the handler", fail(interceptors.Refuse(v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE, errors.New(canary))), interceptors.CodeNotFound, denied, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE},
		{"context cancelled", fail(context.Canceled), interceptors.CodeCanceled, allow, v1.Reason_REASON_CANCELLED},
		{"deadline", fail(context.DeadlineExceeded), interceptors.CodeDeadlineExceeded, allow, v1.Reason_REASON_CANCELLED},
		{"unfinished", fail(interceptors.ErrUnfinished), interceptors.CodeInternal, allow, v1.Reason_REASON_HANDLER_UNFINISHED},
		{"panic", func(context.Context) (proto.Message, error) { panic(canary) }, interceptors.CodeInternal, allow, v1.Reason_REASON_HANDLER_PANIC},
		{"panic of nil", func(context.Context) (proto.Message, error) { panic(nil) }, interceptors.CodeInternal, allow, v1.Reason_REASON_HANDLER_PANIC},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			err := s.serve(t.Context(), s.call(), request(s.envelope()), tt.handler)
			if got := interceptors.CodeOf(err); got != tt.code {
				t.Errorf("code %d (%v), want %d", got, err, tt.code)
			}
			intent, outcome := s.pair()
			if intent.GetDecision() != allow || len(intent.GetChain()) != 2 || intent.GetDecisionInput() == nil || len(intent.GetPolicies()) == 0 {
				t.Errorf("intent: %v", intent)
			}
			if outcome.GetDecision() != tt.decision || outcome.GetReason() != tt.reason || outcome.GetOutcome().GetCode() != uint32(tt.code) {
				t.Errorf("outcome: %s %s, code %d", outcome.GetDecision(), outcome.GetReason(), outcome.GetOutcome().GetCode())
			}
			var d *interceptors.Denial
			if errors.As(err, &d) && len(s.end.Log.Decision(d.DecisionHex())) != 2 {
				t.Errorf("decision %s of %v is not in the log", d.DecisionHex(), err)
			}
		})
	}
}

func TestGoexitIsRecorded(t *testing.T) {
	s := newScene(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.serve(context.Background(), s.call(), request(s.envelope()), func(context.Context) (proto.Message, error) {
			runtime.Goexit()
			return nil, nil
		})
	}()
	<-done
	_, outcome := s.pair()
	if outcome.GetReason() != v1.Reason_REASON_HANDLER_UNFINISHED || outcome.GetOutcome().GetCode() != uint32(interceptors.CodeInternal) {
		t.Errorf("outcome: %v", outcome)
	}
}

// A call that is refused leaves one intent and one outcome too, whichever check refused it.
func TestEveryRefusalIsRecordedOnce(t *testing.T) {
	for i, f := range faults {
		switch f.name {
		case "rate spent", "slots taken": // they need further calls
			continue
		case "audit log full":
			continue // below
		}
		t.Run(f.name, func(t *testing.T) {
			s := newScene(t, func(c *interceptors.Config) {
				if f.config != nil {
					f.config(c)
				}
			})
			a := &attempt{scene: s, c: s.call(), env: s.envelope()}
			a.req = request(a.env)
			faults[i].spoil(a)
			ran := false
			err := s.serve(t.Context(), a.c, a.req, func(ctx context.Context) (proto.Message, error) {
				ran = true
				return succeed(ctx)
			})
			wantReason(t, "the call", err, f.want)
			if ran {
				t.Error("the handler ran")
			}
			intent, outcome := s.pair()
			for _, ev := range []*audit.Event{intent, outcome} {
				if ev.GetDecision() != denied || ev.GetReason() != f.want || ev.GetWireReason() >= 50 || ev.GetWireReason() == 0 {
					t.Errorf("record: %s %s %s", ev.GetPhase(), ev.GetDecision(), ev.GetReason())
				}
			}
		})
	}
}

func TestCloseBeforeTheFirstMessage(t *testing.T) {
	s := newScene(t)
	_, in, err := s.end.Open(t.Context(), s.call(), nil)
	in.Close(&err)
	in.Close(&err)
	intent, outcome := s.pair()
	if intent.GetDecision() != denied || outcome.GetReason() != v1.Reason_REASON_NO_ENVELOPE {
		t.Errorf("records: %v, %v", intent, outcome)
	}
	wantReason(t, "a call without a message", err, v1.Reason_REASON_NO_ENVELOPE)
}

func TestClientThatLeavesBeforeTheFirstMessage(t *testing.T) {
	s := newScene(t)
	_, in, err := s.end.Open(t.Context(), s.call(), nil)
	if err != nil {
		t.Fatal(err)
	}
	err = context.Canceled
	in.Close(&err)
	intent, outcome := s.pair()
	if intent.GetDecision() != denied || outcome.GetReason() != v1.Reason_REASON_CANCELLED || outcome.GetOutcome().GetCode() != uint32(interceptors.CodeCanceled) {
		t.Errorf("records: %v, %v", intent, outcome)
	}
}

// A handler whose stream was half closed at once holds nobody's authority: nothing of it leaves.
func TestNoReplyWithoutAnAdmittedMessage(t *testing.T) {
	s := newScene(t)
	_, in, err := s.end.Open(t.Context(), s.call(), nil)
	if err != nil {
		t.Fatal(err)
	}
	wantReason(t, "the reply", in.Emit(&meshpb.UnaryResponse{Text: canary}), v1.Reason_REASON_NO_ENVELOPE)
	in.Close(&err)
	wantReason(t, "the call", err, v1.Reason_REASON_NO_ENVELOPE)
}

func TestPanicBeforeTheFirstMessage(t *testing.T) {
	s := newScene(t)
	run := func() (err error) {
		_, in, err := s.end.Open(t.Context(), s.call(), nil)
		defer in.Close(&err)
		if err == nil {
			panic(canary)
		}
		return err
	}
	wantReason(t, "the call", run(), v1.Reason_REASON_HANDLER_PANIC)
	intent, outcome := s.pair()
	if intent.GetReason() != v1.Reason_REASON_HANDLER_PANIC || outcome.GetReason() != v1.Reason_REASON_HANDLER_PANIC || intent.GetDecision() != denied || outcome.GetDecision() != denied {
		t.Errorf("records: %v, %v", intent, outcome)
	}
}

func TestAuditThatRefusesTheIntentStopsTheHandler(t *testing.T) {
	for err, want := range map[error]v1.Reason{
		audit.ErrFull: v1.Reason_REASON_AUDIT_FULL, audit.ErrPoisoned: v1.Reason_REASON_AUDIT_POISONED,
		context.DeadlineExceeded: v1.Reason_REASON_CANCELLED, audit.ErrTooLarge: v1.Reason_REASON_AUDIT_FULL,
	} {
		t.Run(err.Error(), func(t *testing.T) {
			s := newScene(t)
			s.end.Log.Fail(func(*audit.Event) error { return err })
			ran := false
			got := s.serve(t.Context(), s.call(), request(s.envelope()), func(ctx context.Context) (proto.Message, error) {
				ran = true
				return succeed(ctx)
			})
			wantReason(t, "the call", got, want)
			if ran {
				t.Error("the handler ran without an intent record")
			}
		})
	}
}

// acceptedThenFailed accepts records and reports that their wait failed, as a log does whose caller gave up.
type acceptedThenFailed struct{ audit.Recorder }

func (r acceptedThenFailed) Append(ctx context.Context, c audit.Class, e *audit.Event) (audit.Position, error) {
	pos, err := r.Recorder.Append(ctx, c, e)
	if err == nil && c == audit.Effect && e.GetPhase() == v1.EventPhase_EVENT_PHASE_INTENT {
		err = context.DeadlineExceeded
	}
	return pos, err
}

func TestIntentThatWasAcceptedIsNotWrittenTwice(t *testing.T) {
	s := newScene(t)
	log := s.end.Log
	s.end = s.Enforcer(t, s.writer, meshMethods(t), func(c *interceptors.Config) { c.Audit = acceptedThenFailed{log} })
	s.end.Log, s.session = log, s.Session(t, s.end, s.relay)
	wantReason(t, "the call", s.send(s.envelope()), v1.Reason_REASON_CANCELLED)
	if _, outcome := s.pair(); outcome.GetDecision() != denied {
		t.Errorf("outcome: %v", outcome)
	}
}

func TestAuditThatRefusesTheOutcomeReplacesTheReply(t *testing.T) {
	s := newScene(t)
	s.end.Log.Fail(func(e *audit.Event) error {
		if e.GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME {
			return audit.ErrPoisoned
		}
		return nil
	})
	err := s.send(s.envelope())
	wantReason(t, "the call", err, v1.Reason_REASON_OUTCOME_UNKNOWN)
	if interceptors.CodeOf(err) != interceptors.CodeUnavailable {
		t.Errorf("code %d, want UNAVAILABLE", interceptors.CodeOf(err))
	}
}

func TestPanicInAdmissionDenies(t *testing.T) {
	s := newScene(t)
	s.end = s.Enforcer(t, s.writer, meshMethods(t), func(c *interceptors.Config) { c.Engine = nil; c.Engine = new(policy.Engine) })
	s.session = s.Session(t, s.end, s.relay)
	err := s.send(s.envelope())
	wantReason(t, "the call", err, v1.Reason_REASON_INTERNAL)
	if _, outcome := s.pair(); outcome.GetReason() != v1.Reason_REASON_INTERNAL {
		t.Errorf("outcome: %v", outcome)
	}
}

func TestConcurrencySlotsComeBack(t *testing.T) {
	s := newScene(t, func(c *interceptors.Config) { c.AgentBudget.InFlight = 1 })
	for _, h := range []handler{succeed, func(context.Context) (proto.Message, error) { panic("x") }, func(context.Context) (proto.Message, error) { return nil, errors.New("x") }} {
		_ = s.serve(t.Context(), s.call(), request(s.envelope()), h)
	}
	e := s.envelope()
	e.Tenant = "globex"
	wantReason(t, "a refused call", s.send(e), v1.Reason_REASON_TENANT_MISMATCH)
	wantReason(t, "the call after them", s.send(s.envelope()), 0)
}

func TestHandlersSeeThePermitAndThePeer(t *testing.T) {
	s := newScene(t)
	var held policy.Permit
	err := s.serve(t.Context(), s.call(), request(s.envelope()), func(ctx context.Context) (proto.Message, error) {
		p, ok := interceptors.PermitFrom(ctx)
		peer, peerOK := interceptors.PeerFrom(ctx)
		in, inOK := interceptors.From(ctx)
		if !ok || !peerOK || !inOK || p.Check(s.Now()) != nil || !p.Allows("mesh.call", []string{"mesh", "a"}) || peer.Agent != s.relay ||
			p.DecisionID() != in.ID() || in.Leaf() == nil || in.Conversation() == nil || in.Position() == nil || in.Method().Procedure != unary ||
			in.Purpose() == "" || in.Envelope() == nil || !in.Until().After(s.Now()) {
			t.Errorf("the handler's context: %v %v %v", p, peer, in)
		}
		held = p
		return succeed(ctx)
	})
	if err != nil || held.IsZero() {
		t.Fatalf("the call: %v", err)
	}
	ctx := context.Background()
	if _, ok := interceptors.PermitFrom(ctx); ok {
		t.Error("PermitFrom(no call) finds one")
	}
	if _, ok := interceptors.PeerFrom(ctx); ok {
		t.Error("PeerFrom(no call) finds one")
	}
	if (interceptors.Admitted{}).Valid() {
		t.Error("the zero Admitted is valid")
	}
}

func TestOpenMethodsHaveNoPermit(t *testing.T) {
	s := newScene(t)
	c := s.call()
	c.Procedure = open
	e := s.Envelope(s.relay, open, "")
	e.Control = nil
	run := func(e *v1.Envelope) error {
		return s.serve(t.Context(), c, &meshpb.OpenRequest{Envelope: e}, func(ctx context.Context) (proto.Message, error) {
			if _, ok := interceptors.PermitFrom(ctx); ok {
				t.Error("an open method has a Permit")
			}
			return &meshpb.OpenResponse{}, nil
		})
	}
	wantReason(t, "an open method", run(e), 0)
	wantReason(t, "its replay", run(e), v1.Reason_REASON_REPLAYED)
	e = s.Envelope(s.relay, open, "")
	e.Chain = s.chain
	wantReason(t, "a chain on an open method", run(e), malformed)
	wantReason(t, "no envelope", run(nil), v1.Reason_REASON_NO_ENVELOPE)
	e = s.Envelope(s.relay, open, "")
	e.Tenant = "globex"
	wantReason(t, "another tenant", run(e), v1.Reason_REASON_TENANT_MISMATCH)
}

func TestBareMessagesAreForOpenMethodsOnly(t *testing.T) {
	s := newScene(t)
	run := func(procedure string) (err error) {
		c := s.call()
		c.Procedure = procedure
		ctx, in, err := s.end.Open(t.Context(), c, nil)
		defer in.Close(&err)
		if err != nil {
			return err
		}
		if err := in.AdmitBare(ctx); err != nil {
			return err
		}
		return in.AdmitBare(ctx)
	}
	wantReason(t, "a method that needs a chain", run(unary), v1.Reason_REASON_NO_ENVELOPE)
	s.end.Log.Reset()
	wantReason(t, "an open method", run(open), 0)
	if intent, outcome := s.pair(); intent.GetDecision() != allow || outcome.GetDecision() != allow {
		t.Errorf("records: %v, %v", intent, outcome)
	}
}

// Causes stay in the log, and there without control characters; a flood of refusals buys no durable records.
func TestCausesAreClippedAndFloodsAreBuffered(t *testing.T) {
	s := newScene(t)
	for range 25 {
		err := s.serve(t.Context(), s.call(), request(s.envelope()), func(context.Context) (proto.Message, error) {
			return nil, errors.New("evil\x1b[31m\n\u009b" + strings.Repeat("x", 1000))
		})
		if err == nil {
			t.Fatal("no error")
		}
	}
	for _, e := range s.end.Log.Events() {
		if c := e.GetCause(); len(c) > 300 || strings.ContainsAny(c, "\x1b\n\u009b") {
			t.Errorf("cause %q", c)
		}
	}
	s.end.Log.Reset()
	for range 25 {
		e := s.envelope()
		e.Tenant = "globex"
		wantReason(t, "a refused call", s.send(e), v1.Reason_REASON_TENANT_MISMATCH)
	}
	durable := 0
	for i, c := range s.end.Log.Classes() {
		if s.end.Log.Events()[i].GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME && c != audit.Buffered {
			durable++
		}
	}
	if durable == 0 || durable > 20 { // 10 a second, and a second may end in between
		t.Errorf("%d of 25 refusals were durable", durable)
	}
	if n := len(s.end.Log.Events()); n != 50 {
		t.Errorf("%d records of 25 refusals", n)
	}
}

func TestTransportRefusalsAreCounted(t *testing.T) {
	s := newScene(t)
	for range 25 {
		var d *interceptors.Denial
		if err := s.end.RefuseTransport("", errors.New(canary)); !errors.As(err, &d) || d.Wire() != malformed || d.DecisionID == [16]byte{} {
			t.Fatalf("RefuseTransport() = %v", err)
		}
	}
	for s.Advance(2e9); ; {
		// Refusals of calls are counted apart and must not swallow the surplus.
		e := s.envelope()
		e.Tenant = "globex"
		wantReason(t, "a refused call", s.send(e), v1.Reason_REASON_TENANT_MISMATCH)
		break
	}
	_ = s.end.RefuseTransport("", errors.New(canary))
	singles, surplus := 0, uint64(0)
	for _, e := range s.end.Log.Events() {
		if e.GetKind() == v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED {
			surplus += e.GetRepeatedCount()
			if e.GetRepeatedCount() == 0 {
				singles++
			}
		}
	}
	if uint64(singles)+surplus != 26 || surplus == 0 {
		t.Errorf("%d single records and %d counted, want 26 in all", singles, surplus)
	}
}

func TestPublicText(t *testing.T) {
	err := interceptors.Public(interceptors.CodeNotFound, "note %d: %s", 7, strings.Repeat("é", 200))
	if len(err.Error()) > 256 || !strings.HasPrefix(err.Error(), "note 7: é") || strings.ContainsRune(err.Error(), '\ufffd') {
		t.Errorf("Public() = %q", err)
	}
	d := interceptors.Refuse(v1.Reason_REASON_POLICY_NO_ROW, errors.New(canary))
	if strings.Contains(d.Message(), canary) || d.WireName() != "POLICY" || !strings.Contains(d.Error(), canary) {
		t.Errorf("Refuse() = %v, %q, %s", d, d.Message(), d.WireName())
	}
}

// Every reason has a code and a wire reason on purpose. Those that read as INTERNAL are named here.
func TestEveryReasonIsMapped(t *testing.T) {
	internal := []v1.Reason{
		v1.Reason_REASON_UNSPECIFIED, v1.Reason_REASON_INTERNAL, v1.Reason_REASON_HANDLER_PANIC, v1.Reason_REASON_HANDLER_UNFINISHED,
		v1.Reason_REASON_HANDLER_ERROR, v1.Reason_REASON_CANCELLED,
	}
	for n, name := range v1.Reason_name {
		r := v1.Reason(n)
		d := interceptors.Refuse(r, nil)
		switch {
		case d.Wire() >= 50 || d.Wire() == 0:
			t.Errorf("%s leaves as %s, which is no wire reason", name, d.Wire())
		case d.Code == interceptors.CodeOK || d.Code > interceptors.CodeUnauthenticated:
			t.Errorf("%s has code %d", name, d.Code)
		case d.Wire() == v1.Reason_REASON_INTERNAL && !slices.Contains(internal, r):
			t.Errorf("%s is not mapped", name)
		case n > 0 && n < 50 && d.Wire() != r:
			t.Errorf("the wire reason %s leaves as %s", name, d.Wire())
		case d.Message() == "" || d.WireName() == "" || strings.HasPrefix(d.WireName(), "REASON_"):
			t.Errorf("%s: message %q, name %q", name, d.Message(), d.WireName())
		}
	}
	if d := interceptors.Refuse(9999, nil); d.Code != interceptors.CodeInternal || d.Wire() != v1.Reason_REASON_INTERNAL {
		t.Errorf("a reason of a later version is %d %s", d.Code, d.Wire())
	}
}

func TestServicePeersTakeTheTenantOfTheChain(t *testing.T) {
	s := newScene(t)
	board := s.Service("board")
	s.relay = board
	s.session = s.Session(t, s.end, board)
	_, err := identity.ParseAgent(board.String())
	if err != nil {
		t.Fatal(err)
	}
	e := s.envelope()
	wantReason(t, "a service with another's chain", s.send(e), v1.Reason_REASON_CHAIN_PRESENTER)
}

func TestAttachedReferencesAreBounded(t *testing.T) {
	s := newScene(t)
	_, in := s.opened(s.call())
	if err := in.Attach(repeat(32, refOf(64))...); err != nil || len(in.Attached()) != 32 {
		t.Errorf("Attach(32) = %v, %d kept", err, len(in.Attached()))
	}
	var d *interceptors.Denial
	if err := in.Attach(refOf(64)); !errors.As(err, &d) || d.Reason != v1.Reason_REASON_LIMIT || len(in.Attached()) != 32 {
		t.Errorf("Attach(33rd) = %v, %d kept", err, len(in.Attached()))
	}
}

func TestDenialsKeepTheirCause(t *testing.T) {
	cause := errors.New(canary)
	if d := interceptors.Refuse(v1.Reason_REASON_POLICY, cause); !errors.Is(d, cause) {
		t.Error("a denial hides its cause from the log")
	}
	if d := interceptors.Refuse(v1.Reason_REASON_POLICY, nil); d.Error() != "REASON_POLICY" || errors.Unwrap(d) != nil {
		t.Errorf("a denial without a cause: %v", d)
	}
}

func TestFloodFollowedBySilenceIsCountedAtTheEnd(t *testing.T) {
	s := newScene(t)
	for range 25 {
		_ = s.end.RefuseTransport("", errors.New(canary))
	}
	s.end.Flush()
	s.end.Flush() // nothing is counted twice
	total := uint64(0)
	for _, e := range s.end.Log.Events() {
		if e.GetKind() == v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED {
			total += max(e.GetRepeatedCount(), 1)
		}
	}
	if total != 25 {
		t.Errorf("%d refusals in the log, want 25", total)
	}
}
