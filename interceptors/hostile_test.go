package interceptors_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// A second conversation in the same stream would start clean and let the first one's poison out.
func TestLaterMessageCannotChangeTheConversation(t *testing.T) {
	for name, id := range map[string]string{"another": strings.Repeat("b", 16), "none": ""} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			st := s.openStream()
			e := s.envelope()
			e.Conversation = []byte(strings.Repeat("a", 16))
			wantReason(t, "the first message", st.admit(request(e)), 0)
			talk := st.in.Conversation()
			talk.Taint(policy.Label{})
			other := proto.CloneOf(e)
			other.Conversation = []byte(id)
			wantReason(t, "a message of another conversation", st.admit(request(other)), malformed)
			if now := st.in.Conversation(); now != talk || now.Label().Integrity != v1.Integrity_INTEGRITY_UNTRUSTED {
				t.Errorf("the call's conversation is now %x, %s", now.ID(), now.Label())
			}
		})
	}
}

func TestLaterMessageCannotChangeTheCausation(t *testing.T) {
	s := newScene(t)
	st := s.openStream()
	e := s.envelope()
	wantReason(t, "the first message", st.admit(request(e)), 0)
	other := proto.CloneOf(e)
	other.Causation = []byte(strings.Repeat("c", 16))
	wantReason(t, "a message of another cause", st.admit(request(other)), malformed)
}

// One goroutine of a stream's handler may send while another receives.
func TestAdmitAndEmitTogether(t *testing.T) {
	s := newScene(t)
	st := s.openStream()
	wantReason(t, "the first message", st.admit(request(s.envelope())), 0)
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 200 {
			if err := st.in.Emit(&meshpb.UnaryResponse{}); err != nil {
				t.Errorf("Emit() = %v", err)
			}
			_, _ = st.in.Conversation().Label(), st.in.Until()
		}
	})
	for range 200 {
		wantReason(t, "a later message", st.admit(request(nil)), 0)
	}
	wg.Wait()
}

// What an agent has handed on ends with it: each member of a chain is looked up, not only the one that presents it.
func TestSuspendedMemberEndsTheChain(t *testing.T) {
	tests := []struct {
		name string
		end  func(s *scene, head identity.AgentID)
	}{
		{"suspended", func(s *scene, head identity.AgentID) { s.Registry.SetState(head, identity.StateSuspended) }},
		{"quarantined", func(s *scene, head identity.AgentID) { s.Registry.SetState(head, identity.StateQuarantined) }},
		{"retired", func(s *scene, head identity.AgentID) { s.Registry.SetState(head, identity.StateRetired) }},
		{"removed", func(s *scene, head identity.AgentID) { s.Registry.Remove(head) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			head := s.Agent("acme", "head")
			s.chain = s.chainOver(head)
			wantReason(t, "a call while all are active", s.send(s.envelope()), 0)
			st := s.openStream()
			wantReason(t, "a stream's first message", st.admit(request(s.envelope())), 0)
			replies := s.openStream()
			wantReason(t, "a stream of replies", replies.admit(request(s.envelope())), 0)
			tt.end(s, head)
			err := s.serve(t.Context(), s.call(), request(s.envelope()), func(ctx context.Context) (proto.Message, error) {
				t.Error("the handler ran")
				return succeed(ctx)
			})
			wantReason(t, "a call afterwards", err, v1.Reason_REASON_CHAIN_HANDLE_REVOKED)
			var d *interceptors.Denial
			if !errors.As(err, &d) || d.WireName() != "CHAIN_REVOKED" {
				t.Errorf("on the wire: %v, want CHAIN_REVOKED", err)
			}
			wantReason(t, "the stream's next message", st.admit(request(nil)), v1.Reason_REASON_CHAIN_HANDLE_REVOKED)
			wantReason(t, "the next reply", replies.in.Emit(&meshpb.UnaryResponse{}), v1.Reason_REASON_CHAIN_HANDLE_REVOKED)
		})
	}
	t.Run("never registered", func(t *testing.T) {
		s := newScene(t)
		s.chain = s.chainOver(s.ID("acme", "never-registered"))
		wantReason(t, "the call", s.send(s.envelope()), v1.Reason_REASON_CHAIN_HANDLE_REVOKED)
	})
	t.Run("active again", func(t *testing.T) {
		s := newScene(t)
		head := s.Agent("acme", "head")
		s.chain = s.chainOver(head)
		s.Registry.SetState(head, identity.StateSuspended)
		wantReason(t, "while suspended", s.send(s.envelope()), v1.Reason_REASON_CHAIN_HANDLE_REVOKED)
		s.Registry.SetState(head, identity.StateActive)
		wantReason(t, "afterwards", s.send(s.envelope()), 0)
	})
}

// chainOver returns a chain that began at head and reaches writer through relay.
func (s *scene) chainOver(head identity.AgentID) *v1.DelegationChain {
	s.t.Helper()
	return s.Chain(s.t, []identity.AgentID{head, s.relay, s.writer}, meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh")))
}

// A request that no record could hold is refused, and the refusal is in the log.
func TestOversizeResourceStillLeavesARecord(t *testing.T) {
	for name, resource := range map[string][]string{
		"64 KiB": {strings.Repeat("x", 64<<10)}, "control characters": {"a\x1b[2J\nb"}, "an empty label": {""}, "many labels": make([]string, 1000),
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			req := request(s.envelope())
			req.Resource = resource
			wantReason(t, "the call", s.serve(t.Context(), s.call(), req, succeed), malformed)
			intent, outcome := s.pair()
			if intent.GetDecision() != denied || outcome.GetDecision() != denied || outcome.GetReason() != malformed {
				t.Errorf("records: %v, %v", intent, outcome)
			}
			if len(intent.GetResource())+len(outcome.GetResource()) != 0 {
				t.Errorf("the records repeat the resource %.40q", intent.GetResource())
			}
		})
	}
}

// Where the log refuses a record for its size or its text, a shorter one takes its place.
func TestRecordThatDoesNotFitIsShortened(t *testing.T) {
	for _, why := range []error{audit.ErrTooLarge, fmt.Errorf("%w: text", audit.ErrInvalid)} {
		s := newScene(t)
		s.end.Log.Fail(func(e *audit.Event) error {
			if len(e.GetResource()) > 0 || len(e.GetChain()) > 0 || e.GetDecisionInput() != nil {
				return why
			}
			return nil
		})
		req := request(s.envelope())
		req.Resource = []string{"other"}
		wantReason(t, "a refused call", s.serve(t.Context(), s.call(), req, succeed), v1.Reason_REASON_CHAIN_INTERSECTION)
		_, outcome := s.pair()
		if outcome.GetReason() != v1.Reason_REASON_CHAIN_INTERSECTION || outcome.GetActor().GetSpiffeId() != s.relay.String() {
			t.Errorf("%v: outcome %v", why, outcome)
		}
	}
}

// A peer that is refused at the gate cannot fill the log: ten of a kind in a second are written down, the others are a number.
func TestGateFloodIsCounted(t *testing.T) {
	const flood = 2000
	tests := []struct {
		name   string
		budget conduct.Budget
		spoil  func(*scene)
		want   v1.Reason
	}{
		{"rate", conduct.Budget{Rate: 1e-9, Burst: 1, InFlight: 4}, func(s *scene) { wantReason(s.t, "the one that fits", s.send(s.envelope()), 0) }, v1.Reason_REASON_RATE},
		{"suspended", conduct.Budget{}, func(s *scene) { s.Registry.SetState(s.relay, identity.StateSuspended) }, v1.Reason_REASON_AGENT_SUSPENDED},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			at := time.Now()
			s := newScene(t, func(c *interceptors.Config) { c.AgentBudget, c.Now = tt.budget, func() time.Time { return at } })
			tt.spoil(s)
			s.end.Log.Reset()
			e := s.envelope()
			for range flood {
				wantReason(t, "a call over the limit", s.send(e), tt.want)
			}
			if n := len(s.end.Log.Events()); n != 20 {
				t.Errorf("%d calls in one second left %d records, want ten pairs", flood, n)
			}
			at = at.Add(2 * time.Second)
			wantReason(t, "a call later", s.send(e), tt.want)
			calls, counted := len(s.end.Log.Phases()), uint64(0)
			for _, ev := range s.end.Log.Events() {
				if n := ev.GetRepeatedCount(); n > 0 && ev.GetReason() == tt.want && ev.GetActor().GetSpiffeId() == s.relay.String() {
					counted += n
				}
			}
			if calls != 11 || counted != flood-10 {
				t.Errorf("%d calls recorded and %d counted, want 11 and %d", calls, counted, flood-10)
			}
		})
	}
}

// A stream may be open for long; what leaves on it is held against the time of the call.
func TestEmitAfterTheEndOfTheCall(t *testing.T) {
	s := newScene(t)
	st := s.openStream()
	wantReason(t, "the first message", st.admit(request(s.envelope())), 0)
	if err := st.in.Emit(&meshpb.UnaryResponse{}); err != nil {
		t.Fatalf("Emit() = %v", err)
	}
	s.Advance(2 * time.Minute)
	err := st.in.Emit(&meshpb.UnaryResponse{})
	wantReason(t, "a reply after the end", err, v1.Reason_REASON_CHAIN_TIME)
	var d *interceptors.Denial
	if !errors.As(err, &d) || d.WireName() != "CHAIN_EXPIRED" {
		t.Errorf("on the wire: %v, want CHAIN_EXPIRED", err)
	}
}

// The call's time never reaches past its chain.
func TestCallEndsWithItsChain(t *testing.T) {
	s := newScene(t)
	s.chain = s.newChain(meshtest.Life(20 * time.Second))
	st := s.openStream()
	e := s.envelope()
	e.TimeoutMs = 3600_000
	wantReason(t, "the first message", st.admit(request(e)), 0)
	if left := st.in.Until().Sub(s.Now()); left > 20*time.Second {
		t.Errorf("the call runs for %v, its chain for 20s", left)
	}
}

func TestOpenStreamEndsWithItsPeer(t *testing.T) {
	s := newScene(t)
	c := s.call()
	c.Procedure = open
	e := s.Envelope(s.relay, open, "")
	e.Control = nil
	ctx, in := s.opened(c)
	if _, err := in.Admit(ctx, &meshpb.OpenRequest{Envelope: e}); err != nil {
		t.Fatal(err)
	}
	if err := in.Emit(&meshpb.OpenResponse{}); err != nil {
		t.Fatalf("Emit() = %v", err)
	}
	s.Registry.SetState(s.relay, identity.StateSuspended)
	wantReason(t, "a reply after the suspension", in.Emit(&meshpb.OpenResponse{}), v1.Reason_REASON_AGENT_SUSPENDED)
}

// A stream whose messages cannot be looked at in time does not reach its handler.
func TestStreamOfUnknownRequestsIsRefused(t *testing.T) {
	s := newScene(t)
	c := s.call()
	c.Procedure = "/mesh.v1.Elsewhere/Stream"
	add := &interceptors.Method{Procedure: c.Procedure, Intent: &v1.MethodIntent{Action: "mesh.call"}}
	if err := s.end.Methods().Add(add); err != nil {
		t.Fatal(err)
	}
	ctx, in := s.opened(c)
	_, err := in.Prefetch(ctx, func(proto.Message) error { return nil })
	wantReason(t, "the stream", err, v1.Reason_REASON_UNKNOWN_METHOD)
}

// A stream that ends before its first message does not reach its handler, and neither does one whose first message is refused.
func TestStreamWithoutAFirstMessageIsRefused(t *testing.T) {
	s := newScene(t)
	ctx, in := s.opened(s.call())
	first, err := in.Prefetch(ctx, func(proto.Message) error { return io.EOF })
	wantReason(t, "half closed at once", err, v1.Reason_REASON_NO_ENVELOPE)
	if first != nil {
		t.Errorf("Prefetch() = %v with a refusal", first)
	}
	ctx, in = s.opened(s.call())
	broken := errors.New("connection reset")
	if _, err := in.Prefetch(ctx, func(proto.Message) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("Prefetch(broken stream) = %v", err)
	}
	ctx, in = s.opened(s.call())
	_, err = in.Prefetch(ctx, func(proto.Message) error { return nil })
	wantReason(t, "a message without an envelope", err, v1.Reason_REASON_NO_ENVELOPE)
}

// What was received early reaches only a handler that reads that type: nothing is converted.
func TestHandGivesAMessageOfItsTypeOnly(t *testing.T) {
	from := &meshpb.UnaryRequest{Behave: "x", Resource: []string{"mesh"}}
	into := &meshpb.UnaryRequest{Amount: 7}
	if err := interceptors.Hand(from, into); err != nil || !proto.Equal(from, into) {
		t.Errorf("Hand() = %v, %v handed", err, into)
	}
	other := &meshpb.BidiRequest{Behave: "before"}
	wantReasonOnly(t, interceptors.Hand(from, other), v1.Reason_REASON_INTERNAL)
	if other.GetBehave() != "before" {
		t.Errorf("a message of another type was changed to %v", other)
	}
	wantReasonOnly(t, interceptors.Hand(from, new(string)), v1.Reason_REASON_INTERNAL)
}

// An adapter that goes on with a call that was refused at the gate gets no message admitted.
func TestNothingIsAdmittedOnARefusedCall(t *testing.T) {
	for name, spoil := range map[string]func(*interceptors.Call){
		"no session":     func(c *interceptors.Call) { c.Session = nil },
		"unknown method": func(c *interceptors.Call) { c.Procedure = "/mesh.v1.MeshService/Missing" },
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			c := s.call()
			spoil(c)
			ctx, in, err := s.end.Open(t.Context(), c, nil)
			t.Cleanup(func() { in.Close(&err) })
			if err == nil {
				t.Fatal("the call is opened")
			}
			a, got := in.Admit(ctx, request(s.envelope()))
			wantReason(t, "a message", got, v1.Reason_REASON_PEER_UNVERIFIED)
			if a.Valid() {
				t.Error("the message is admitted")
			}
		})
	}
}

// A stream that is admitted by its metadata alone waits for no message, and counts those that came.
func TestStreamAdmittedByItsMetadata(t *testing.T) {
	for messages := range uint32(3) {
		s := newScene(t)
		e := s.Envelope(s.relay, foreign, "mesh.foreign")
		e.Chain = s.chain
		raw, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		c := s.call()
		c.Procedure, c.Metadata = foreign, raw
		ctx, in, err := s.end.Open(t.Context(), c, nil)
		if err != nil {
			t.Fatal(err)
		}
		first, err := in.Prefetch(ctx, func(proto.Message) error { return errors.New("a message was waited for") })
		if err != nil || first != nil {
			t.Fatalf("Prefetch() = %v, %v", first, err)
		}
		if _, ok := interceptors.PermitFrom(ctx); !ok {
			t.Error("no Permit after the admission")
		}
		for range messages {
			if _, err := in.Admit(ctx, &meshpb.ForeignRequest{}); err != nil {
				t.Errorf("a message: %v", err)
			}
		}
		in.Close(&err)
		if _, outcome := s.pair(); outcome.GetOutcome().GetMessagesIn() != messages {
			t.Errorf("the record counts %d messages of %d", outcome.GetOutcome().GetMessagesIn(), messages)
		}
	}
}

// A replay set that cannot hold what was admitted before a restart must not be served with.
func TestFullReplaySetAtStartIsAnError(t *testing.T) {
	s := newScene(t, func(c *interceptors.Config) { c.ReplayKeys = 2 })
	full := 0
	for i := range 8 {
		if err := s.end.Admitted(s.relay, []byte(fmt.Sprintf("%016d", i))); err != nil {
			wantReasonOnly(t, err, v1.Reason_REASON_LIMIT)
			full++
		}
	}
	if full == 0 {
		t.Error("eight messages fit into a set of two")
	}
}

// wantReasonOnly is wantReason for a denial outside of any call, which has no decision id.
func wantReasonOnly(t *testing.T, err error, want v1.Reason) {
	t.Helper()
	var d *interceptors.Denial
	if !errors.As(err, &d) || d == nil || d.Reason != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
