package agenttest_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	hellov1 "github.com/safeconduct/safeconduct/examples/hello/gen/hello/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

func TestExample(t *testing.T) { greetsThePrincipal(t) }

// stage is a caller and a greeter; nothing is permitted yet.
type stage struct {
	*agenttest.World
	caller, server *runtime.Agent
}

func newStage(t *testing.T, options ...agenttest.AgentOption) *stage {
	t.Helper()
	w := agenttest.New(t)
	return &stage{World: w, caller: w.Agent("caller", options...), server: w.Agent("greeter", options...)}
}

func (s *stage) serve() {
	hellov1.RegisterGreeterServiceServer(s.server, greeter{})
	s.Serve(s.server)
}

func (s *stage) greet(ctx context.Context) error {
	_, err := hellov1.NewGreeterServiceClient(s.Dial(s.caller, s.server)).Greet(ctx, &hellov1.GreetRequest{Name: "ada"})
	return err
}

func (s *stage) alice(options ...agenttest.GrantOption) context.Context {
	return s.As("alice@acme.example", s.caller, append(options, agenttest.Can("hello.greet", "agent", "greeter"))...)
}

func wantReason(t *testing.T, err error, want v1.Reason) {
	t.Helper()
	var r *runtime.Refusal
	if !errors.As(err, &r) || r.Reason != want {
		t.Errorf("error %v, want a refusal with reason %s", err, want)
	}
}

func TestNothingIsPermittedUntilTheTestSaysSo(t *testing.T) {
	s := newStage(t)
	s.serve()
	ctx := s.alice()
	wantReason(t, s.greet(ctx), v1.Reason_REASON_POLICY)
	s.Allow(s.caller, s.server, "hello.greet")
	if err := s.greet(ctx); err != nil {
		t.Errorf("greet after Allow: %v", err)
	}
	wantReason(t, s.greet(s.As("bob", s.caller)), v1.Reason_REASON_SCOPE)
	s.Revoke("hello.greet")
	wantReason(t, s.greet(ctx), v1.Reason_REASON_POLICY)
}

func TestStateAndClockAreInForceAtOnce(t *testing.T) {
	s := newStage(t)
	s.serve()
	s.Allow(s.caller, s.server, "hello.greet")
	ctx := s.alice(agenttest.Life(2 * time.Minute))
	if err := s.greet(ctx); err != nil {
		t.Fatal(err)
	}
	s.SetState(s.caller, identity.StateSuspended)
	wantReason(t, s.greet(ctx), v1.Reason_REASON_AGENT_STATE)
	s.SetState(s.caller, identity.StateActive)
	if err := s.greet(ctx); err != nil {
		t.Errorf("greet of an active agent: %v", err)
	}
	s.Advance(5 * time.Minute)
	wantReason(t, s.greet(ctx), v1.Reason_REASON_CHAIN_EXPIRED)
}

func TestTapSeesEveryEnvelope(t *testing.T) {
	s := newStage(t)
	var mu sync.Mutex
	var got []agenttest.Message
	s.Tap(func(m agenttest.Message) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, m)
	})
	s.serve()
	s.Allow(s.caller, s.server, "hello.greet")
	if err := s.greet(s.alice()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != 2 {
		t.Fatalf("%d messages, want a request and a reply", len(got))
	}
	request, reply := got[0], got[1]
	if request.Reply || request.From != s.caller.ID().String() || request.To != s.server.ID().String() ||
		request.Envelope.GetMethod() != hellov1.GreeterService_Greet_FullMethodName || !strings.Contains(string(request.Envelope.GetPayload()), "ada") {
		t.Errorf("request: %+v", request)
	}
	if !reply.Reply || reply.From != s.server.ID().String() || !strings.Contains(string(reply.Envelope.GetPayload()), "Hello, alice") {
		t.Errorf("reply: %+v", reply)
	}
}

func TestRestartKeepsIdentityAndLog(t *testing.T) {
	s := newStage(t)
	s.serve()
	s.Allow(s.caller, s.server, "hello.greet")
	ctx := s.alice()
	if err := s.greet(ctx); err != nil {
		t.Fatal(err)
	}
	before := len(s.Records(s.server))
	s.server = s.Restart(s.server)
	s.serve()
	if err := s.greet(ctx); err != nil {
		t.Errorf("greet after a restart: %v", err)
	}
	if after := len(s.Records(s.server)); after <= before {
		t.Errorf("%d records after the restart, %d before", after, before)
	}
}

func TestShortLivedIdentitiesAreReplaced(t *testing.T) {
	s := newStage(t, agenttest.SVIDLife(2*time.Second))
	first, err := s.caller.Source().GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	<-s.caller.Source().Updated()
	second, err := s.caller.Source().GetX509SVID()
	if err != nil || first.Certificates[0].Equal(second.Certificates[0]) {
		t.Errorf("the SVID was not replaced: %v", err)
	}
}
