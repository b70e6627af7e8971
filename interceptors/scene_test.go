package interceptors_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
)

const (
	unary   = "/mesh.v1.MeshService/Unary"
	foreign = "/mesh.v1.MeshService/Foreign"
	open    = "/mesh.v1.MeshService/Open"
)

// scene is relay, who calls writer with a chain for mesh.call on "mesh" and all below it.
type scene struct {
	*meshtest.World
	t             *testing.T
	relay, writer identity.AgentID
	end           *meshtest.Endpoint
	session       *interceptors.Session
	chain         *v1.DelegationChain
}

func newScene(t *testing.T, change ...func(*interceptors.Config)) *scene {
	t.Helper()
	s := &scene{World: meshtest.New(t), t: t}
	s.relay, s.writer = s.Agent("acme", "relay"), s.Agent("acme", "writer")
	s.Table.Allow("acme", meshtest.DefaultClass, "mesh.call", []string{"mesh"}, false, s.writer.String())
	s.Table.Allow("acme", meshtest.DefaultClass, "mesh.call", []string{"mesh"}, true, s.writer.String())
	s.Table.Allow("acme", meshtest.DefaultClass, "mesh.foreign", []string{"agent", "writer"}, false, s.writer.String())
	s.end = s.Enforcer(t, s.writer, meshMethods(t), change...)
	s.session = s.Session(t, s.end, s.relay)
	s.chain = s.newChain()
	return s
}

func meshMethods(t testing.TB) *interceptors.Methods {
	t.Helper()
	return meshtest.Methods(t, meshpb.File_mesh_v1_mesh_proto.Services().ByName("MeshService"))
}

// newChain returns a chain that no verifier has seen.
func (s *scene) newChain(opts ...meshtest.Option) *v1.DelegationChain {
	s.t.Helper()
	caps := meshtest.Capabilities(
		meshtest.Capability("mesh.call", "mesh"), meshtest.Below("mesh.call", "mesh"), meshtest.Capability("mesh.foreign", "agent", "writer"))
	return s.Chain(s.t, []identity.AgentID{s.relay, s.writer}, append([]meshtest.Option{caps}, opts...)...)
}

// envelope returns a fresh envelope for Unary with the scene's chain.
func (s *scene) envelope() *v1.Envelope {
	e := s.Envelope(s.relay, unary, "mesh.call")
	e.Chain = s.chain
	return e
}

func (s *scene) call() *interceptors.Call {
	return &interceptors.Call{Session: s.session, Procedure: unary, Transport: interceptors.TransportGRPC}
}

func request(e *v1.Envelope) *meshpb.UnaryRequest {
	return &meshpb.UnaryRequest{Resource: []string{"mesh"}, Envelope: e}
}

// opened opens a call that is closed with the test. Close recovers a panic: deferred in a test it would hide the test's own.
func (s *scene) opened(c *interceptors.Call) (context.Context, *interceptors.Interaction) {
	s.t.Helper()
	ctx, in, err := s.end.Open(s.t.Context(), c, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { in.Close(&err) })
	return ctx, in
}

type handler func(ctx context.Context) (proto.Message, error)

func succeed(context.Context) (proto.Message, error) { return &meshpb.UnaryResponse{Text: "done"}, nil }

// serve does what an adapter does with a unary call.
func (s *scene) serve(ctx context.Context, c *interceptors.Call, msg proto.Message, h handler) (err error) {
	ctx, in, err := s.end.Open(ctx, c, nil)
	defer in.Close(&err)
	if err != nil {
		return err
	}
	if _, err = in.Admit(ctx, msg); err != nil {
		return err
	}
	err = interceptors.ErrUnfinished
	resp, err := h(ctx)
	if err == nil {
		err = in.Emit(resp)
	}
	return err
}

// send serves one unary call with envelope e and a handler that succeeds.
func (s *scene) send(e *v1.Envelope) error {
	return s.serve(context.Background(), s.call(), request(e), succeed)
}

// reason returns the audit reason of a denial, 0 for nil.
func reason(t *testing.T, err error) v1.Reason {
	t.Helper()
	if err == nil {
		return 0
	}
	var d *interceptors.Denial
	if !errors.As(err, &d) {
		t.Fatalf("error %v is no Denial", err)
	}
	if d.DecisionID == [16]byte{} {
		t.Errorf("denial %v has no decision id", d)
	}
	return d.Reason
}

func wantReason(t *testing.T, what string, err error, want v1.Reason) {
	t.Helper()
	if got := reason(t, err); got != want {
		t.Errorf("%s: %s (%v), want %s", what, got, err, want)
	}
}

// wantCause demands that the log says why a message was refused: the reason alone is that of many checks.
func wantCause(t *testing.T, what string, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want the cause %q", what, err, want)
	}
}

// pair returns the one intent and the one outcome of the only call recorded, and fails when there is anything else.
func (s *scene) pair() (intent, outcome *audit.Event) {
	s.t.Helper()
	var calls []*audit.Event
	for _, e := range s.end.Log.Events() {
		if e.GetKind() == v1.EventKind_EVENT_KIND_CALL {
			calls = append(calls, e)
		}
	}
	if len(calls) != 2 || calls[0].GetPhase() != v1.EventPhase_EVENT_PHASE_INTENT || calls[1].GetPhase() != v1.EventPhase_EVENT_PHASE_OUTCOME ||
		string(calls[0].GetInteractionId()) != string(calls[1].GetInteractionId()) {
		s.t.Fatalf("records of the call: %v, want one intent and one outcome", calls)
	}
	return calls[0], calls[1]
}

const (
	allow  = v1.EventDecision_EVENT_DECISION_ALLOW
	denied = v1.EventDecision_EVENT_DECISION_DENY
)
