package intruder_test

import (
	"context"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	hellov1 "github.com/safeconduct/safeconduct/examples/hello/gen/hello/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/intruder"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// greeter is the agent under attack.
type greeter struct {
	hellov1.UnimplementedGreeterServiceServer
}

func (greeter) Greet(context.Context, *hellov1.GreetRequest) (*hellov1.GreetResponse, error) {
	return &hellov1.GreetResponse{Text: "hello"}, nil
}

func greetMethod(t *testing.T) protoreflect.MethodDescriptor {
	t.Helper()
	md := hellov1.File_hello_v1_hello_proto.Services().ByName("GreeterService").Methods().ByName("Greet")
	if md == nil {
		t.Fatal("no method Greet")
	}
	return md
}

// mark is a real agent over TLS, and what somebody who may call it needs to attack it.
type mark struct {
	*agenttest.World
	greeter, caller *runtime.Agent
	endpoint        intruder.Endpoint
	mu              sync.Mutex
	dialed          map[string]int
}

func newMark(t *testing.T, register ...func(*mark)) *mark {
	t.Helper()
	w := agenttest.New(t)
	m := &mark{World: w, greeter: w.Agent("greeter"), caller: w.Agent("intruder"), dialed: map[string]int{}}
	hellov1.RegisterGreeterServiceServer(m.greeter, greeter{})
	for _, f := range register {
		f(m)
	}
	w.Serve(m.greeter)
	w.Allow(m.caller, m.greeter, "hello.greet")
	grant, purpose := w.Grant("alice", m.caller, agenttest.Can("hello.greet", "agent", "greeter"))
	closed, _ := w.Grant("alice", m.caller, agenttest.Can("hello.greet", "agent", "greeter"),
		agenttest.Delegates("spiffe://"+agenttest.TrustDomain+"/service/memory"))
	m.endpoint = intruder.Endpoint{
		Source: m.caller.Source(), Target: m.greeter.ID(), Address: m.greeter.Addr(), Grant: grant, Purpose: purpose, ClosedGrant: closed,
		Method: greetMethod(t), Request: &hellov1.GreetRequest{Name: "Ada"}, Now: w.Now, Timeout: 20 * time.Second, Dial: m.dial,
	}
	return m
}

func (m *mark) dial(ctx context.Context, addr string) (net.Conn, error) {
	m.mu.Lock()
	m.dialed[addr]++
	m.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// capture is a chain that another agent has made to the same target under a grant of the same purpose.
func (m *mark) capture(t *testing.T) *v1.DelegationChain {
	t.Helper()
	victim := m.Agent("victim")
	grant, purpose := m.Grant("alice", victim, agenttest.Can("hello.greet", "agent", "greeter"))
	chain, err := intruder.OwnChain(intruder.Config{
		Self: victim.ID(), Source: victim.Source(), Target: m.greeter.ID(), Purpose: purpose, Now: m.Now,
	}, grant)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func fire(t *testing.T, e intruder.Endpoint, only ...string) (intruder.Tally, []intruder.Outcome) {
	t.Helper()
	var out []intruder.Outcome
	tally, err := intruder.Fire(t.Context(), e, only, nil, func(o intruder.Outcome) { out = append(out, o) })
	if err != nil {
		t.Fatal(err)
	}
	return tally, out
}

func TestEveryViolationIsRefusedForItsReason(t *testing.T) {
	t.Parallel()
	m := newMark(t)
	m.endpoint.StolenChain = m.capture(t)
	m.refusesAll(t, "constraint-loosened", "constraint-dropped", "outlives-certificate", "self-as-user", "no-proof")
	if len(m.dialed) != 1 || m.dialed[m.endpoint.Address] == 0 {
		t.Errorf("dialed %v, want %s only", m.dialed, m.endpoint.Address)
	}
}

// prover serves a method that demands proofs and signs receipts.
type prover struct {
	meshpb.UnimplementedProofServiceServer
}

func (prover) Both(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
	return &meshpb.UnaryResponse{}, nil
}

func TestMethodThatDemandsProofs(t *testing.T) {
	t.Parallel()
	m := newMark(t, func(m *mark) { meshpb.RegisterProofServiceServer(m.greeter, prover{}) })
	m.Allow(m.caller, m.greeter, "mesh.call", "mesh")
	m.endpoint.Grant, m.endpoint.Purpose = m.Grant("alice", m.caller, agenttest.Can("mesh.call", "mesh"))
	m.endpoint.ClosedGrant = nil
	m.endpoint.Method = meshpb.File_mesh_v1_mesh_proto.Services().ByName("ProofService").Methods().ByName("Both")
	m.endpoint.Request = &meshpb.UnaryRequest{Resource: []string{"mesh"}}
	m.refusesAll(t, "constraint-loosened", "constraint-dropped", "outlives-certificate", "self-as-user", "captured-chain",
		"closed-delegates", "bare-call", "envelope-in-headers")
}

// refusesAll makes every violation and demands that it is refused, and that the log of the agent names a cause that fits. The
// violations of notRun cannot be made with what the endpoint holds.
func (m *mark) refusesAll(t *testing.T, notRun ...string) {
	t.Helper()
	tally, outcomes := fire(t, m.endpoint)
	reasons := map[string]string{}
	for _, ev := range m.Records(m.greeter) {
		if ev.GetReason() != 0 {
			reasons[hex.EncodeToString(ev.GetDecisionId())] = strings.TrimPrefix(ev.GetReason().String(), "REASON_")
		}
	}
	for _, o := range outcomes {
		if slices.Contains(notRun, o.Name) {
			if o.Verdict != intruder.VerdictNotRun || o.Why == "" {
				t.Errorf("%s = %s, %q, want not run and why", o.Name, o.Verdict, o.Why)
			}
			continue
		}
		if o.Verdict != intruder.VerdictRefused {
			t.Errorf("%s = %s: %s", o.Name, o.Verdict, o.Why)
		}
		for _, s := range o.Steps {
			cause, recorded := reasons[s.DecisionID]
			switch {
			case s.DecisionID == "" && o.Name == "forged-handshake": // nobody could be told
			case !recorded:
				t.Errorf("%s, %s: no record of %q", o.Name, s.Name, s.DecisionID)
			case !slices.Contains(o.Causes, cause):
				t.Errorf("%s, %s: recorded as %s, want %v", o.Name, s.Name, cause, o.Causes)
			}
		}
	}
	if len(outcomes) != len(intruder.Violations()) || tally.NotRun != len(notRun) || !tally.Held() || tally.Calls > intruder.MaxCalls {
		t.Errorf("%d outcomes, %+v; want all %d, refused but for %d", len(outcomes), tally, len(intruder.Violations()), len(notRun))
	}
}
