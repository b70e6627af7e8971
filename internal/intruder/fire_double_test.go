package intruder_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/intruder"
)

// doubled is an endpoint that decides as answer says.
func doubled(t *testing.T, answer func(context.Context, int) error) (*double, intruder.Endpoint) {
	t.Helper()
	d, cfg := newDouble(t, answer)
	return d, intruder.Endpoint{
		Source: cfg.Source, Target: cfg.Target, Address: cfg.TargetAddr, Grant: cfg.Grant, Purpose: cfg.Purpose, ClosedGrant: cfg.OtherGrant,
		StolenChain: cfg.StolenChain, Method: rpcv1.File_safeconduct_rpc_v1_memory_proto.Services().ByName("MemoryService").Methods().ByName("List"),
		Request: &rpcv1.ListRequest{Ns: &v1.Path{Labels: cfg.Namespace}}, Now: cfg.Now, Timeout: 10 * time.Second,
	}
}

func TestEveryViolationIsSeenToGetIn(t *testing.T) {
	t.Parallel()
	d, e := doubled(t, admitAll)
	e.Stuffing = 4
	tally, outcomes := fire(t, e)
	for _, o := range outcomes {
		if o.Verdict != intruder.VerdictAdmitted && o.Verdict != intruder.VerdictNotRun || o.Why == "" {
			t.Errorf("%s = %s: %s; want admitted", o.Name, o.Verdict, o.Why)
		}
	}
	if tally.Held() || tally.Admitted < 50 {
		t.Errorf("%+v holds: %v; want all admitted", tally, tally.Held())
	}
	if n := d.asked.Load(); n > int64(tally.Calls) || tally.Calls > intruder.MaxCalls {
		t.Errorf("%d calls arrived, %d were counted, want at most %d", n, tally.Calls, intruder.MaxCalls)
	}
}

// An endpoint that answers with as much as it can fills neither memory nor screen.
func TestLongAnswersAreCutShort(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"a long one": 20 << 10, "one beyond what is received": 1 << 20} {
		_, e := doubled(t, func(_ context.Context, n int) error {
			if n == 0 {
				return nil // the control
			}
			return refuse(codes.PermissionDenied, "safeconduct", strings.Repeat("\u00e9", size/2))
		})
		tally, err := intruder.Fire(t.Context(), e, []string{"added-capability"}, nil, func(o intruder.Outcome) {
			if o.Verdict != intruder.VerdictInconclusive || len(o.Why) > 4<<10 || len(o.Steps) == 0 {
				t.Errorf("%s: %s with %d steps, and %d bytes about it", name, o.Verdict, len(o.Steps), len(o.Why))
			}
			for _, s := range o.Steps {
				if len(s.Got)+len(s.Text) > 1<<10 || !utf8.ValidString(s.Got+s.Text) {
					t.Errorf("%s: %d bytes are kept of an answer", name, len(s.Got)+len(s.Text))
				}
			}
		})
		if err != nil || tally.Inconclusive != 1 {
			t.Errorf("%s: %+v, %v", name, tally, err)
		}
	}
}

func TestFireIsInconclusive(t *testing.T) {
	t.Parallel()
	mesh := func(reason string) error { return refuse(codes.PermissionDenied, "safeconduct", reason) }
	tests := []struct {
		name   string
		answer func(context.Context, int) error
		why    string
	}{
		{"control unavailable", after(0, status.Error(codes.Unavailable, "gone")), "control failed: UNAVAILABLE"},
		{"control refused with the wanted reason", after(0, mesh("CHAIN_INVALID")), "control failed: CHAIN_INVALID"},
		{"internal error", after(1, status.Error(codes.Internal, "bug")), "got INTERNAL (bug), want CHAIN_INVALID"},
		{"unavailable", after(1, status.Error(codes.Unavailable, "gone")), "got UNAVAILABLE (gone), want CHAIN_INVALID"},
		{"another reason", after(1, mesh("SCOPE")), "got SCOPE (not permitted), want CHAIN_INVALID"},
		{"the wanted reason of another domain", after(1, refuse(codes.PermissionDenied, "elsewhere", "CHAIN_INVALID")), "got PERMISSION_DENIED"},
		{"the wanted reason in the text only", after(1, status.Error(codes.PermissionDenied, "CHAIN_INVALID")), "got PERMISSION_DENIED"},
		{"the wanted reason under another code", after(1, refuse(codes.InvalidArgument, "safeconduct", "CHAIN_INVALID")), "got CHAIN_INVALID"},
		{"a reason that calls itself admitted", after(0, mesh("ADMITTED")), "control failed: ADMITTED"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, e := doubled(t, tc.answer)
			tally, outcomes := fire(t, e, "removed-hop")
			o := outcomes[0]
			if o.Verdict != intruder.VerdictInconclusive || !strings.Contains(o.Why, tc.why) {
				t.Errorf("%s = %s, %q, want inconclusive because %q", o.Name, o.Verdict, o.Why, tc.why)
			}
			if tally.Held() || tally.Inconclusive != 1 {
				t.Errorf("%+v holds: %v; want one inconclusive", tally, tally.Held())
			}
		})
	}
}

func TestFireGivesUpOnADeadPort(t *testing.T) {
	t.Parallel()
	d, e := doubled(t, admitAll)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.Address = l.Addr().String()
	_ = l.Close()
	tally, outcomes := fire(t, e)
	if tally.Inconclusive != 3 || tally.Held() || tally.Refused+tally.Admitted != 0 || len(outcomes) != len(intruder.Violations()) {
		t.Errorf("%+v, want three inconclusive and the rest not run", tally)
	}
	if n := d.asked.Load(); n != 0 {
		t.Errorf("%d calls to an address that was not named", n)
	}
}

func TestSilenceEndsInTime(t *testing.T) {
	t.Parallel()
	_, e := doubled(t, func(ctx context.Context, _ int) error { <-ctx.Done(); return ctx.Err() })
	e.Timeout = 50 * time.Millisecond
	tally, outcomes := fire(t, e)
	if tally.Inconclusive != 3 || tally.Held() || !strings.Contains(outcomes[0].Why, "DEADLINE_EXCEEDED") {
		t.Errorf("%+v, %q; want three inconclusive", tally, outcomes[0].Why)
	}
}

func TestRetryInfoIsHonouredOnce(t *testing.T) {
	t.Parallel()
	limited := func(wait time.Duration) error {
		s, err := status.New(codes.ResourceExhausted, "over a limit").WithDetails(
			&errdetails.ErrorInfo{Reason: "RATE", Domain: "safeconduct"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
		if err != nil {
			t.Error(err)
			return err
		}
		return s.Err()
	}
	answers := []error{limited(time.Millisecond), nil, limited(time.Millisecond), limited(time.Millisecond), limited(time.Hour)}
	_, e := doubled(t, func(_ context.Context, call int) error { return answers[call] })
	_, outcomes := fire(t, e, "removed-hop", "swapped-hops")
	if o := outcomes[0]; o.Verdict != intruder.VerdictInconclusive || !strings.Contains(o.Why, "got RATE") {
		t.Errorf("a budget that refuses twice = %+v, want inconclusive", o)
	}
	if o := outcomes[1]; o.Verdict != intruder.VerdictInconclusive || !strings.Contains(o.Why, "control failed: RATE") {
		t.Errorf("a budget that asks for an hour = %+v, want inconclusive at once", o)
	}
}

func TestFireEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	_, e := doubled(t, func(context.Context, int) error { cancel(); return nil })
	notRun := 0
	tally, err := intruder.Fire(ctx, e, nil, nil, func(o intruder.Outcome) {
		if o.Verdict == intruder.VerdictNotRun {
			notRun++
		}
	})
	if !errors.Is(err, context.Canceled) || tally.Held() || notRun < len(intruder.Violations())-2 {
		t.Errorf("Fire() = %+v, %v with %d not run; want all but the first not run", tally, err, notRun)
	}
}

func TestFireRefusesInputs(t *testing.T) {
	t.Parallel()
	_, good := doubled(t, admitAll)
	open := rpcv1.File_safeconduct_rpc_v1_authority_proto.Services().ByName("AuthorityService").Methods()
	tests := []struct {
		name   string
		change func(*intruder.Endpoint)
		only   []string
	}{
		{"no such violation", nil, []string{"nothing"}},
		{"no source", func(e *intruder.Endpoint) { e.Source = nil }, nil},
		{"no target", func(e *intruder.Endpoint) { e.Target = identity.AgentID{} }, nil},
		{"no address", func(e *intruder.Endpoint) { e.Address = "" }, nil},
		{"no grant", func(e *intruder.Endpoint) { e.Grant = nil }, nil},
		{"another agent's grant", func(e *intruder.Endpoint) { e.Grant = &v1.SignedStatement{} }, nil},
		{"another purpose", func(e *intruder.Endpoint) { e.Purpose = "mischief" }, nil},
		{"a closed grant that is none", func(e *intruder.Endpoint) { e.ClosedGrant = &v1.SignedStatement{} }, nil},
		{"a stolen chain without hops", func(e *intruder.Endpoint) { e.StolenChain = &v1.DelegationChain{} }, nil},
		{"a grant that is nearly over", func(e *intruder.Endpoint) {
			now := time.Now().Add(time.Hour)
			e.Now = func() time.Time { return now }
		}, nil},
		{"a request that the grant does not cover", func(e *intruder.Endpoint) {
			e.Request = &rpcv1.ListRequest{Ns: &v1.Path{Labels: []string{"payroll"}}}
		}, nil},
		{"another request", func(e *intruder.Endpoint) { e.Request = &rpcv1.GetRequest{} }, nil},
		{"an open method", func(e *intruder.Endpoint) { e.Method, e.Request = open.ByName("Locate"), &rpcv1.LocateRequest{} }, nil},
		{"a stream", func(e *intruder.Endpoint) {
			e.Method, e.Request = open.ByName("WatchTrust"), &rpcv1.WatchTrustRequest{}
		}, nil},
		{"no method", func(e *intruder.Endpoint) { e.Method = nil }, nil},
		{"a long time-out", func(e *intruder.Endpoint) { e.Timeout = time.Hour }, nil},
		{"too much stuffing", func(e *intruder.Endpoint) { e.Stuffing = intruder.MaxStuffing + 1 }, nil},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			e := good
			e.Dial = func(context.Context, string) (net.Conn, error) {
				t.Error("something was dialed")
				return nil, net.ErrClosed
			}
			if tc.change != nil {
				tc.change(&e)
			}
			_, err := intruder.Fire(t.Context(), e, tc.only, nil, func(o intruder.Outcome) { t.Errorf("reported %+v", o) })
			if !errors.Is(err, intruder.ErrInput) {
				t.Errorf("Fire() = %v, want ErrInput", err)
			}
		})
	}
	if _, err := intruder.Fire(t.Context(), good, []string{"replay"}, []string{"replay"}, nil); !errors.Is(err, intruder.ErrInput) {
		t.Errorf("Fire of nothing = %v, want ErrInput", err)
	}
}

func TestCheckAddress(t *testing.T) {
	t.Parallel()
	for addr, ok := range map[string]bool{
		"127.0.0.1:7001": true, "[::1]:7001": true, "agent.example:443": true, "a_b-c.example:1": true, "10.0.0.1:65535": true,
		"": false, "127.0.0.1": false, ":7001": false, "127.0.0.1:": false, "127.0.0.1:0": false, "127.0.0.1:65536": false,
		"127.0.0.1:http": false, "127.0.0.1:7001-7010": false, "127.0.0.1:7001,127.0.0.1:7002": false, "a,b:7001": false,
		"10.0.0.0/24:7001": false, "10.0.0.*:7001": false, "0.0.0.0:7001": false, "[::]:7001": false, "224.0.0.1:7001": false,
		"a b:7001": false, "-a:7001": false, "http://a:80": false,
	} {
		if err := intruder.CheckAddress(addr); (err == nil) != ok || err != nil && !errors.Is(err, intruder.ErrInput) {
			t.Errorf("CheckAddress(%q) = %v, want ok: %v", addr, err, ok)
		}
	}
}

// A receiver whose method declares facts would meet the constraint of the control; here a double answers, and what it was sent is
// held against the grant.
func TestConstraintsOfTheGrantAreLoosened(t *testing.T) {
	t.Parallel()
	text := func(s string) *v1.Value { return &v1.Value{Kind: &v1.Value_Text{Text: s}} }
	for name, c := range map[string]*v1.Constraint{
		"eq":     {Key: "a", Rule: &v1.Constraint_Eq{Eq: text("x")}},
		"one of": {Key: "a", Rule: &v1.Constraint_OneOf{OneOf: &v1.ValueSet{Values: []*v1.Value{text("x"), text("y")}}}},
		"range":  {Key: "a", Rule: &v1.Constraint_Range{Range: &v1.Range{Max: proto.Int64(10)}}},
		"prefix": {Key: "a", Rule: &v1.Constraint_Prefix{Prefix: "a/"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, e := doubled(t, admitAll)
			grant := new(v1.GrantPayload)
			if err := proto.Unmarshal(e.Grant.GetPayload(), grant); err != nil {
				t.Fatal(err)
			}
			parent := grant.GetCapabilities()[0]
			parent.Constraints = []*v1.Constraint{c, {Key: "b", Rule: &v1.Constraint_Prefix{Prefix: "b/"}}}
			raw, err := proto.Marshal(grant)
			if err != nil {
				t.Fatal(err)
			}
			e.Grant = &v1.SignedStatement{Payload: raw, Signature: e.Grant.GetSignature()}
			_, outcomes := fire(t, e, "constraint-loosened", "constraint-dropped")
			for _, o := range outcomes {
				if o.Verdict != intruder.VerdictAdmitted {
					t.Errorf("%s = %s: %s; want admitted by a double", o.Name, o.Verdict, o.Why)
				}
			}
			covered, beyond := 0, 0
			for _, hop := range d.hops(t) {
				if delegation.Covers(parent, hop.GetCapabilities()[0]) {
					covered++
				} else {
					beyond++
				}
			}
			if covered != 2 || beyond != 3 {
				t.Errorf("%d hops inside the grant and %d beyond it, want two controls and three violations", covered, beyond)
			}
		})
	}
}
