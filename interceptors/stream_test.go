package interceptors_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
)

// stream is one opened call whose messages a test admits one by one.
type stream struct {
	*scene
	in  *interceptors.Interaction
	ctx context.Context
}

func (s *scene) openStream() *stream {
	s.t.Helper()
	ctx, in := s.opened(s.call())
	return &stream{scene: s, in: in, ctx: ctx}
}

func (st *stream) admit(req *meshpb.UnaryRequest) error {
	a, err := st.in.Admit(st.ctx, req)
	if a.Valid() == (err != nil) {
		st.t.Errorf("Admit() = %v with %v", a.Valid(), err)
	}
	return err
}

func (st *stream) hasPermit() bool {
	p, ok := interceptors.PermitFrom(st.ctx)
	return ok && p.Check(st.Now()) == nil
}

func TestLaterMessages(t *testing.T) {
	tests := []struct {
		name  string
		later func(*stream, *v1.Envelope) *meshpb.UnaryRequest
		want  v1.Reason
	}{
		{"without an envelope", func(*stream, *v1.Envelope) *meshpb.UnaryRequest { return request(nil) }, 0},
		{"with the same envelope", func(_ *stream, e *v1.Envelope) *meshpb.UnaryRequest { return request(e) }, 0},
		{"with another envelope", func(st *stream, _ *v1.Envelope) *meshpb.UnaryRequest { return request(st.envelope()) }, malformed},
		{"for a resource below", func(*stream, *v1.Envelope) *meshpb.UnaryRequest {
			return &meshpb.UnaryRequest{Resource: []string{"mesh", "a"}}
		}, 0},
		{"for a resource outside", func(*stream, *v1.Envelope) *meshpb.UnaryRequest {
			return &meshpb.UnaryRequest{Resource: []string{"other"}}
		}, v1.Reason_REASON_CHAIN_INTERSECTION},
		{"after a suspension", func(st *stream, _ *v1.Envelope) *meshpb.UnaryRequest {
			st.Registry.SetState(st.relay, identity.StateSuspended)
			return request(nil)
		}, v1.Reason_REASON_AGENT_SUSPENDED},
		{"after the end of the chain", func(st *stream, _ *v1.Envelope) *meshpb.UnaryRequest {
			st.Advance(meshtest.DefaultLife)
			return request(nil)
		}, v1.Reason_REASON_CHAIN_TIME},
		{"after the grant key was replaced", func(st *stream, _ *v1.Envelope) *meshpb.UnaryRequest {
			st.Keys.Replace(st.t)
			return request(nil)
		}, v1.Reason_REASON_CHAIN_UNKNOWN},
		{"after the row was removed", func(st *stream, _ *v1.Envelope) *meshpb.UnaryRequest {
			for _, r := range st.Table.Proto().GetRows() {
				st.Table.RemoveRow(r.GetId())
			}
			return request(nil)
		}, v1.Reason_REASON_POLICY_NO_ROW},
		{"with a worse control label", func(_ *stream, e *v1.Envelope) *meshpb.UnaryRequest {
			worse := proto.CloneOf(e)
			worse.Control = nil
			return request(worse)
		}, v1.Reason_REASON_INTEGRITY_FLOOR},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			st := s.openStream()
			e := s.envelope()
			if err := st.admit(request(e)); err != nil || !st.hasPermit() {
				t.Fatalf("the first message: %v", err)
			}
			wantReason(t, "the second", st.admit(tt.later(st, e)), tt.want)
			if tt.want != 0 {
				wantReason(t, "the third, unspoiled", st.admit(request(nil)), tt.want)
			}
		})
	}
}

// A handler that reads on after a refusal must not get a message that skipped the replay set and the intent record.
func TestNothingIsAdmittedAfterARefusal(t *testing.T) {
	s := newScene(t)
	e := s.envelope()
	wantReason(t, "the original", s.send(e), 0)
	s.end.Log.Reset()
	st := s.openStream()
	wantReason(t, "the replay", st.admit(request(e)), v1.Reason_REASON_REPLAYED)
	wantReason(t, "a message after it", st.admit(request(e)), v1.Reason_REASON_REPLAYED)
	wantReason(t, "a fresh message after it", st.admit(request(s.envelope())), v1.Reason_REASON_REPLAYED)
	if st.hasPermit() {
		t.Error("a call without an admitted message has a Permit")
	}
	// A handler that calls it a success does not make it one.
	err := error(nil)
	st.in.Close(&err)
	wantReason(t, "the end", err, v1.Reason_REASON_REPLAYED)
	if _, outcome := s.pair(); outcome.GetDecision() != denied {
		t.Errorf("outcome: %v", outcome)
	}
}

func TestLaterMessagesDoNotStretchTheCall(t *testing.T) {
	s := newScene(t)
	st := s.openStream()
	e := s.envelope()
	wantReason(t, "the first", st.admit(request(e)), 0)
	until := st.in.Until()
	longer := proto.CloneOf(e)
	longer.DeadlineUnixMs, longer.TimeoutMs = s.Now().Add(23*time.Hour).UnixMilli(), 3600_000
	wantReason(t, "a message that asks for more time", st.admit(request(longer)), 0)
	if !st.in.Until().Equal(until) {
		t.Errorf("the call now runs until %v, before it was %v", st.in.Until(), until)
	}
	p, _ := interceptors.PermitFrom(st.ctx)
	if p.NotAfter().After(until) {
		t.Errorf("the permit runs until %v, after the call's %v", p.NotAfter(), until)
	}
}

func TestTimeoutBoundsTheCall(t *testing.T) {
	s := newScene(t)
	st := s.openStream()
	e := s.envelope()
	e.TimeoutMs = 5000
	wantReason(t, "the first", st.admit(request(e)), 0)
	if left := st.in.Until().Sub(s.Now()); left > 5*time.Second || left < 3*time.Second {
		t.Errorf("the call runs for %v, want 5s", left)
	}
}

func TestEmitAfterASuspension(t *testing.T) {
	s := newScene(t)
	st := s.openStream()
	wantReason(t, "the first", st.admit(request(s.envelope())), 0)
	if err := st.in.Emit(&meshpb.UnaryResponse{}); err != nil {
		t.Fatalf("Emit() = %v", err)
	}
	s.Agent("acme", "unrelated")
	if err := st.in.Emit(&meshpb.UnaryResponse{}); err != nil {
		t.Fatalf("Emit(after a change of others) = %v", err)
	}
	s.Registry.SetState(s.relay, identity.StateQuarantined)
	wantReason(t, "a reply after the suspension", st.in.Emit(&meshpb.UnaryResponse{}), v1.Reason_REASON_AGENT_STATE)
}

// Emit holds the ceiling of the method against everything the conversation has read.
func TestConfidentialityCeiling(t *testing.T) {
	s := newScene(t)
	send := func(taint *v1.Label) error {
		e := s.Envelope(s.relay, foreign, "mesh.foreign")
		e.Chain = s.chain
		raw, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		c := s.call()
		c.Procedure, c.Metadata = foreign, raw
		return s.serve(t.Context(), c, &meshpb.ForeignRequest{}, func(ctx context.Context) (proto.Message, error) {
			in, _ := interceptors.From(ctx)
			if taint != nil {
				in.Conversation().Taint(label(t, taint))
			}
			return &meshpb.ForeignResponse{Text: canary}, nil
		})
	}
	wantReason(t, "internal content", send(nil), 0)
	confidential := &v1.Label{Integrity: 2, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_CONFIDENTIAL, AnyReader: true}
	wantReason(t, "confidential content", send(confidential), v1.Reason_REASON_CONFIDENTIALITY_TOO_HIGH)
	wantReason(t, "the same conversation later", send(nil), v1.Reason_REASON_CONFIDENTIALITY_TOO_HIGH)
}
