package agenttest_test

import (
	"context"
	"testing"

	hellov1 "github.com/safeconduct/safeconduct/examples/hello/gen/hello/v1"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// greeter is the agent under test.
type greeter struct {
	hellov1.UnimplementedGreeterServiceServer
}

// Greet implements hellov1.GreeterServiceServer.
func (greeter) Greet(ctx context.Context, _ *hellov1.GreetRequest) (*hellov1.GreetResponse, error) {
	return &hellov1.GreetResponse{Text: "Hello, " + runtime.Principal(ctx).GetSubject()}, nil
}

func greetsThePrincipal(t *testing.T) {
	w := agenttest.New(t)
	server, caller := w.Agent("greeter"), w.Agent("caller")
	hellov1.RegisterGreeterServiceServer(server, greeter{})
	w.Serve(server)
	w.Allow(caller, server, "hello.greet")
	ctx := w.As("alice@acme.example", caller, agenttest.Can("hello.greet", "agent", "greeter"))

	resp, err := hellov1.NewGreeterServiceClient(w.Dial(caller, server)).Greet(ctx, &hellov1.GreetRequest{})
	if want := "Hello, alice@acme.example"; err != nil || resp.GetText() != want {
		t.Errorf("Greet() = %q, %v, want %q", resp.GetText(), err, want)
	}
}

// A test of an agent: two agents, one rule of the organisation, one grant of a user, one call.
func Example() {
	_ = greetsThePrincipal // as TestGreet(t *testing.T) in an author's repository
}
