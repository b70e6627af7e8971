package interceptors_test

import (
	"context"
	"errors"
	"testing"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// attempt is one call that a test spoils.
type attempt struct {
	*scene
	c   *interceptors.Call
	env *v1.Envelope
	req *meshpb.UnaryRequest
}

// faults spoil a call so that exactly one check finds it. They stand in the order of the checks.
var faults = []struct {
	name   string
	config func(*interceptors.Config)
	spoil  func(*attempt)
	want   v1.Reason
}{
	{"no session", nil, func(a *attempt) { a.c.Session = nil }, v1.Reason_REASON_PEER_NO_TLS},
	{"agent quarantined", nil, func(a *attempt) { a.Registry.SetState(a.relay, identity.StateQuarantined) }, v1.Reason_REASON_AGENT_QUARANTINED},
	{"agent suspended", nil, func(a *attempt) { a.Registry.SetState(a.relay, identity.StateSuspended) }, v1.Reason_REASON_AGENT_SUSPENDED},
	{
		"rate spent", func(c *interceptors.Config) { c.AgentBudget.Rate, c.AgentBudget.Burst = 1e-9, 5 },
		func(a *attempt) {
			for range 6 {
				_, in, err := a.end.Open(context.Background(), a.call(), nil)
				in.Close(&err)
			}
		},
		v1.Reason_REASON_RATE,
	},
	{
		"slots taken", func(c *interceptors.Config) { c.AgentBudget.InFlight = 1 },
		func(a *attempt) {
			_, in, err := a.end.Open(context.Background(), a.call(), nil)
			a.t.Cleanup(func() { in.Close(&err) })
		},
		v1.Reason_REASON_CONCURRENCY,
	},
	{"unknown method", nil, func(a *attempt) { a.c.Procedure = "/mesh.v1.MeshService/Missing" }, v1.Reason_REASON_UNKNOWN_METHOD},
	{"no envelope", nil, func(a *attempt) { a.req.Envelope = nil }, v1.Reason_REASON_NO_ENVELOPE},
	{"critical field unknown", nil, func(a *attempt) { a.env.Critical = []uint32{20} }, v1.Reason_REASON_EXTENSION_UNKNOWN},
	{"id too short", nil, func(a *attempt) { a.env.Id = a.env.GetId()[:15] }, v1.Reason_REASON_MALFORMED},
	{"another method", nil, func(a *attempt) { a.env.Method = open }, v1.Reason_REASON_MALFORMED},
	{"a digest beside the request", nil, func(a *attempt) { a.env.Intent.ArgumentsDigest = make([]byte, 32) }, v1.Reason_REASON_MALFORMED},
	{"another recipient", nil, func(a *attempt) { a.env.Recipient = a.relay.String() }, v1.Reason_REASON_CHAIN_AUDIENCE},
	{"another tenant", nil, func(a *attempt) { a.env.Tenant = "globex" }, v1.Reason_REASON_TENANT_MISMATCH},
	{"deadline passed", nil, func(a *attempt) { a.env.DeadlineUnixMs = a.Now().UnixMilli() - 60_000 }, v1.Reason_REASON_DEADLINE},
	{
		"replayed", func(c *interceptors.Config) { c.ReplayKeys = 2 },
		func(a *attempt) { a.end.Admitted(a.relay, a.env.GetId()) },
		v1.Reason_REASON_REPLAYED,
	},
	{"chain unknown", nil, func(a *attempt) { a.env.Chain, a.env.ChainRef = nil, make([]byte, 32) }, v1.Reason_REASON_CHAIN_UNKNOWN},
	{"intent mismatch", nil, func(a *attempt) { a.env.Intent.Action = "mesh.other" }, v1.Reason_REASON_INTENT_MISMATCH},
	{"label unknown", nil, func(a *attempt) { a.env.Control.Integrity = 9 }, v1.Reason_REASON_LABEL_UNKNOWN},
	{"outside the chain", nil, func(a *attempt) { a.req.Resource = []string{"other"} }, v1.Reason_REASON_CHAIN_INTERSECTION},
	{"under the floor", nil, func(a *attempt) { a.env.Control = &v1.Label{} }, v1.Reason_REASON_INTEGRITY_FLOOR},
	{"no row", nil, func(a *attempt) { a.Registry.SetClass(a.relay, "stranger") }, v1.Reason_REASON_POLICY_NO_ROW},
	{
		"replay set full", func(c *interceptors.Config) { c.ReplayKeys = max(c.ReplayKeys, 1) },
		func(a *attempt) { a.end.Admitted(a.relay, make([]byte, 16)) },
		v1.Reason_REASON_LIMIT,
	},
	{"audit log full", nil, func(a *attempt) { a.end.Log.Fail(func(*audit.Event) error { return audit.ErrFull }) }, v1.Reason_REASON_AUDIT_FULL},
}

// spoiled returns the outcome of a call with the faults from first to last.
func spoiled(t *testing.T, first, last int) error {
	t.Helper()
	s := newScene(t, func(c *interceptors.Config) {
		c.TenantBudget = conduct.Budget{Rate: 1e6, Burst: 1e6}
		for _, f := range faults[first:last] {
			if f.config != nil {
				f.config(c)
			}
		}
	})
	a := &attempt{scene: s, c: s.call(), env: s.envelope()}
	a.req = request(a.env)
	for i := last - 1; i >= first; i-- { // what is checked late is spoiled first: calls that spoil need what is checked early
		faults[i].spoil(a)
	}
	return s.serve(context.Background(), a.c, a.req, succeed)
}

// Each check is the only one that stands in the way of its fault: without it the call would pass.
func TestEachCheckStandsAlone(t *testing.T) {
	if err := spoiled(t, 0, 0); err != nil {
		t.Fatalf("the call without a fault: %v", err)
	}
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) { wantReason(t, "the call", spoiled(t, i, i+1), f.want) })
	}
}

// A call with several faults is refused for the one that is checked first: the cheapest, and nothing of a signature before the budget.
func TestOrderOfChecks(t *testing.T) {
	for i, f := range faults {
		t.Run(f.name, func(t *testing.T) { wantReason(t, "the call", spoiled(t, i, len(faults)), f.want) })
	}
}

func TestNewRefusesAnIncompleteConfig(t *testing.T) {
	s := newScene(t)
	full := interceptors.Config{
		Self: s.writer, Registry: s.Registry, Verifier: s.Verifier(s.writer), Engine: s.Engine(s.writer), Audit: s.end.Log,
		Methods: &interceptors.Methods{}, Now: s.Now,
	}
	if e, err := interceptors.New(full); err != nil || e.Self() != s.writer || e.Methods() != full.Methods {
		t.Fatalf("New(full) = %v", err)
	}
	for name, drop := range map[string]func(*interceptors.Config){
		"self":     func(c *interceptors.Config) { c.Self = identity.AgentID{} },
		"registry": func(c *interceptors.Config) { c.Registry = nil },
		"verifier": func(c *interceptors.Config) { c.Verifier = nil },
		"engine":   func(c *interceptors.Config) { c.Engine = nil },
		"audit":    func(c *interceptors.Config) { c.Audit = nil },
		"methods":  func(c *interceptors.Config) { c.Methods = nil },
		"clock":    func(c *interceptors.Config) { c.Now = nil },
	} {
		cfg := full
		drop(&cfg)
		if e, err := interceptors.New(cfg); err == nil || e != nil {
			t.Errorf("New(no %s) succeeds", name)
		}
	}
}

func TestAcceptRefuses(t *testing.T) {
	s := newScene(t)
	stranger, expired := s.ID("acme", "stranger"), s.Peer(s.relay)
	expired.NotAfter = s.Now()
	s.Agent("acme", "gone", func(r *identity.Record) { r.State = identity.StateRetired })
	s.Agent("acme", "contained", func(r *identity.Record) { r.State = identity.StateQuarantined })
	for _, tt := range []struct {
		name string
		peer identity.Peer
		want v1.Reason
	}{
		{"nobody", identity.Peer{}, v1.Reason_REASON_PEER_NO_TLS},
		{"unregistered", s.Peer(stranger), v1.Reason_REASON_PEER_UNREGISTERED},
		{"retired", s.Peer(s.ID("acme", "gone")), v1.Reason_REASON_AGENT_RETIRED},
		{"quarantined", s.Peer(s.ID("acme", "contained")), v1.Reason_REASON_AGENT_QUARANTINED},
		{"certificate expired", expired, v1.Reason_REASON_PEER_EXPIRED},
	} {
		session, err := s.end.Accept(tt.peer)
		wantReason(t, tt.name, err, tt.want)
		if session != nil {
			t.Errorf("%s: a session with a refusal", tt.name)
		}
		var d *interceptors.Denial
		if !errors.As(err, &d) || len(s.end.Log.Decision(d.DecisionHex())) != 1 {
			t.Errorf("%s: the refusal is not in the log", tt.name)
		}
	}
	if got := s.session.Peer().Agent; got != s.relay {
		t.Errorf("Peer() = %s", got)
	}
}
