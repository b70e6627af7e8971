package runtime_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// line is relay -> middle -> writer: middle's handler calls writer with nothing but its context.
type line struct {
	*scene
	middle *runtime.Agent
	narrow runtime.Narrowing
	inner  func(context.Context) context.Context
	first  meshpb.MeshServiceClient // relay's, to middle
}

func newLine(t *testing.T) *line {
	t.Helper()
	l := &line{scene: newScene(t), inner: func(ctx context.Context) context.Context { return ctx }}
	l.middle = l.Agent("middle")
	meshpb.RegisterMeshServiceServer(l.middle, &node{unary: func(ctx context.Context, req *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		return meshpb.NewMeshServiceClient(l.Dial(l.middle, l.writer).With(l.narrow)).Unary(l.inner(ctx), req)
	}})
	l.Serve(l.middle)
	l.Allow(l.relay, l.middle, "mesh.call", "mesh")
	l.Allow(l.middle, l.writer, "mesh.call", "mesh")
	l.first = meshpb.NewMeshServiceClient(l.Dial(l.relay, l.middle))
	return l
}

func (l *line) call(ctx context.Context) error {
	_, err := l.first.Unary(ctx, &meshpb.UnaryRequest{Resource: mesh()})
	return err
}

func TestEverythingFlowsThroughThreeAgents(t *testing.T) {
	l := newLine(t)
	ctx, cancel := context.WithTimeout(l.grant(), time.Minute)
	defer cancel()
	var end time.Time
	l.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		end, _ = ctx.Deadline()
		if got := runtime.Principal(ctx).GetSubject(); got != alice {
			return nil, fmt.Errorf("principal %q", got)
		}
		return &meshpb.UnaryResponse{}, nil
	}
	if err := l.call(ctx); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(end); left > time.Minute || left < 30*time.Second {
		t.Errorf("the last handler's context ends in %v, the first caller's in a minute", left)
	}
	var intents []*v1.AuditEvent
	for _, a := range []*runtime.Agent{l.middle, l.writer} {
		for _, evs := range l.calls(a, meshpb.MeshService_Unary_FullMethodName, v1.EventDirection_EVENT_DIRECTION_INBOUND) {
			intents = append(intents, evs[0])
		}
	}
	if len(intents) != 2 {
		t.Fatalf("%d intents at middle and writer", len(intents))
	}
	first, second := intents[0], intents[1]
	for name, pair := range map[string][2][]byte{
		"chain":        {first.GetChainId(), second.GetChainId()},
		"conversation": {first.GetConversationId(), second.GetConversationId()},
		"causation":    {first.GetEnvelopeId(), second.GetCausationId()},
	} {
		if len(pair[0]) != 16 || !slices.Equal(pair[0], pair[1]) {
			t.Errorf("%s: %x at middle, %x at writer", name, pair[0], pair[1])
		}
	}
	if first.GetPurpose() != "tests of the runtime" || second.GetPurpose() != first.GetPurpose() {
		t.Errorf("purpose %q, then %q", first.GetPurpose(), second.GetPurpose())
	}
	if first.GetDepth() != 1 || second.GetDepth() != 2 || second.GetOrigin().GetSubject() != alice {
		t.Errorf("depth %d, then %d, for %q", first.GetDepth(), second.GetDepth(), second.GetOrigin().GetSubject())
	}
	l.wantPairs(l.relay, l.middle, l.writer)
}

func TestConnWithCarriesNoMore(t *testing.T) {
	tests := []struct {
		name   string
		narrow runtime.Narrowing
		want   v1.Reason
	}{
		{"as it is", runtime.Narrowing{}, 0},
		{"another action", runtime.Narrowing{Capabilities: []*v1.Capability{{Action: "mesh.foreign", Resource: []string{"agent", "writer"}, Reach: 1}}}, v1.Reason_REASON_SCOPE},
		{"another resource", runtime.Narrowing{Capabilities: []*v1.Capability{{Action: "mesh.call", Resource: []string{"mesh", "below"}, Reach: 1}}}, v1.Reason_REASON_CHAIN_INVALID},
		{"wider", runtime.Narrowing{Capabilities: []*v1.Capability{{Action: "everything", Resource: mesh(), Reach: 1}}}, v1.Reason_REASON_CHAIN_INVALID},
		{"a shorter life", runtime.Narrowing{Lifetime: time.Minute}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			_, err := meshpb.NewMeshServiceClient(s.Dial(s.relay, s.writer).With(tt.narrow)).Unary(s.ctx, &meshpb.UnaryRequest{Resource: mesh()})
			if tt.want == 0 {
				if err != nil {
					t.Errorf("call: %v", err)
				}
				return
			}
			wantReason(t, err, tt.want)
			s.mustCall(s.ctx) // With narrows its own Conn only
		})
	}
}

// What Least sends is enough for the call, and for nothing else.
func TestLeastCarriesOneCallAndNothingElse(t *testing.T) {
	s := newScene(t)
	conn := s.Dial(s.relay, s.writer).Least()
	client := meshpb.NewMeshServiceClient(conn)
	for range 2 {
		if _, err := client.Unary(s.ctx, &meshpb.UnaryRequest{Resource: mesh()}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Foreign(s.ctx, &meshpb.ForeignRequest{}); err != nil {
		t.Fatalf("another method: %v", err)
	}
	_, err := client.Unary(s.ctx, &meshpb.UnaryRequest{Resource: []string{"elsewhere"}})
	wantReason(t, err, v1.Reason_REASON_SCOPE)
	hops := map[string]bool{}
	for _, evs := range s.calls(s.writer, "", v1.EventDirection_EVENT_DIRECTION_INBOUND) {
		ev := evs[0]
		if len(ev.GetChain()) == 0 || ev.GetDecision() != v1.EventDecision_EVENT_DECISION_ALLOW {
			continue
		}
		last := ev.GetChain()[len(ev.GetChain())-1]
		hops[string(last.GetStatementId())] = true
		if caps := last.GetCapabilities(); len(caps) != 1 || caps[0].GetAction() != ev.GetAction() || caps[0].GetSubtree() || caps[0].GetReach() != 1 {
			t.Errorf("a call of %s carries %v", ev.GetAction(), caps)
		}
		if ev.GetMaxDepth() != 1 {
			t.Errorf("%s may be handed on to depth %d", ev.GetAction(), ev.GetMaxDepth())
		}
	}
	if len(hops) != 2 {
		t.Errorf("%d hops were signed for three calls of two methods, want one for each method", len(hops))
	}
	if err := conn.With(runtime.Narrowing{}).Invoke(s.ctx, "/mesh.v1.MeshService/Unary", &meshpb.UnaryRequest{Resource: mesh()}, &meshpb.UnaryResponse{}); err != nil {
		t.Errorf("With on a Conn of Least: %v", err)
	}
	_, err = client.ClientStream(s.ctx)
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a stream whose resource is in its messages: %v, want InvalidArgument", err)
	}
}

func TestNarrowedDepthEndsTheChain(t *testing.T) {
	l := newLine(t)
	only := []string{l.middle.ID().String()}
	narrow := runtime.Narrowing{Delegates: only}
	client := meshpb.NewMeshServiceClient(l.Dial(l.relay, l.middle).With(narrow))
	_, err := client.Unary(l.grant(), &meshpb.UnaryRequest{Resource: mesh()})
	// middle was not allowed to pass it on: its own call fails, and its caller sees the code.
	if err == nil {
		t.Error("a chain for middle alone reached writer")
	}
	if got := l.calls(l.writer, "", v1.EventDirection_EVENT_DIRECTION_INBOUND); len(got) != 0 {
		for _, evs := range got {
			if evs[0].GetDecision() == v1.EventDecision_EVENT_DECISION_ALLOW {
				t.Errorf("writer admitted %v", evs[0])
			}
		}
	}
	if err := l.call(l.grant()); err != nil {
		t.Errorf("the same call without narrowing: %v", err)
	}
}

func TestHopsAreSignedOncePerChainAndCallee(t *testing.T) {
	s := prepareScene(t)
	tp := &tape{}
	s.Tap(tp.see)
	s.start()
	for range 3 {
		s.mustCall(s.ctx)
	}
	s.mustCall(s.grant())
	links := map[string]int{}
	for _, env := range tp.requests(meshpb.MeshService_Unary_FullMethodName) {
		if env.GetChain() != nil { // later calls refer to it
			links[string(env.GetChain().GetHops()[0].GetSignature())]++
		}
	}
	if len(links) != 2 {
		t.Errorf("%d hops signed for two chains", len(links))
	}
}

func TestExpiredGrantIsRefused(t *testing.T) {
	s := newScene(t)
	ctx := s.grant(agenttest.Life(time.Minute))
	s.mustCall(ctx)
	s.Advance(2 * time.Minute)
	_, err := s.call(ctx)
	wantReason(t, err, v1.Reason_REASON_CHAIN_EXPIRED)
}
