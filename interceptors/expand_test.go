package interceptors_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// logged is a scene whose endpoint writes to a log on disk.
type logged struct {
	*scene
	dir string
	log *audit.Log
}

func newLogged(t *testing.T) *logged {
	t.Helper()
	dir := t.TempDir()
	log, err := audit.Open(dir, audit.Config{Origin: meshtest.TrustDomain + "/safeconduct/test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() }) // a test that needs what Close says closes it itself
	budget := conduct.Budget{Rate: 1e9, Burst: 1e9}
	s := newScene(t, func(c *interceptors.Config) { c.Audit, c.AgentBudget, c.TenantBudget = log, budget, budget })
	return &logged{s, dir, log}
}

// expanded returns the records of one interaction as readers see them, and whether the intent spelled its chain out.
func (s *logged) expanded(id [16]byte) (intent, outcome *audit.Event, spelled bool) {
	s.t.Helper()
	if err := s.log.Sync(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	var x audit.Expander
	for rec, err := range audit.ReadDir(s.dir) {
		if err != nil {
			s.t.Fatal(err)
		}
		whole := x.Expand(rec)
		if whole.ChainMissing {
			s.t.Fatalf("the chain of record %d is missing", rec.Seq)
		}
		if string(rec.Event.GetInteractionId()) != string(id[:]) {
			continue
		}
		if rec.Event.GetPhase() == v1.EventPhase_EVENT_PHASE_INTENT {
			intent, spelled = whole.Event, len(rec.Event.GetChain()) > 0
		} else {
			outcome = whole.Event
		}
	}
	if intent == nil || outcome == nil {
		s.t.Fatalf("the log has %v and %v of the call", intent, outcome)
	}
	return intent, outcome, spelled
}

// same compares what a reader gets with what a record would say in full.
func same(t interface {
	Helper()
	Errorf(format string, args ...any)
}, what string, got, want *audit.Event,
) {
	t.Helper()
	diff := cmp.Diff(want, got, protocmp.Transform(), protocmp.IgnoreFields(&v1.AuditEvent{}, "schema_version", "record_nonce", "time_unix_ns", "mono_ns",
		"boot_id", "clock_regressed", "decision", "reason", "wire_reason", "cause", "outcome", "presented", "peer_receipt"))
	if diff != "" {
		t.Errorf("the %s, expanded (want -, got +): %s", what, diff)
	}
}

// check compares both records of a closed call.
func (s *logged) check(what string, in *interceptors.Interaction) (spelled bool) {
	s.t.Helper()
	intent, outcome, spelled := s.expanded(in.ID())
	same(s.t, what+": intent", intent, in.WholeRecord(v1.EventPhase_EVENT_PHASE_INTENT))
	same(s.t, what+": outcome", outcome, in.WholeRecord(v1.EventPhase_EVENT_PHASE_OUTCOME))
	return spelled
}

// serveIn is serve for a test that wants the interaction.
func (s *logged) serveIn(c *interceptors.Call, msg proto.Message, h handler) (in *interceptors.Interaction, err error) {
	ctx, in, err := s.end.Open(s.t.Context(), c, nil)
	defer in.Close(&err)
	if err == nil {
		_, err = in.Admit(ctx, msg)
	}
	if err == nil {
		var resp proto.Message
		if resp, err = h(ctx); err == nil {
			err = in.Emit(resp)
		}
	}
	return in, err
}

// Whatever a call looks like, its two records say together with those before them what each used to say alone.
func TestExpandedRecordsSayEverything(t *testing.T) {
	s := newLogged(t)
	fail := func(context.Context) (proto.Message, error) { return nil, errors.New("broken") }
	change := func(f func(*v1.Envelope)) *v1.Envelope {
		e := s.envelope()
		f(e)
		return e
	}
	other := s.newChain(meshtest.User("bob"), meshtest.Task("task-7"), meshtest.MaxDepth(3))
	label := policy.Label{
		Integrity: v1.Integrity_INTEGRITY_TRUSTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_CONFIDENTIAL,
		Readers: []string{"spiffe://mesh.test/tenant/acme/agent/writer"}, Tags: []string{"tag:a"}, Sources: []string{"x", "y"},
	}.Proto()
	id := make([]byte, 16)
	id[3] = 9
	for _, tt := range []struct {
		name    string
		env     *v1.Envelope
		res     []string
		h       handler
		call    *interceptors.Call
		refused bool
	}{
		{name: "first", env: s.envelope()},
		{name: "second", env: s.envelope()},
		{name: "handler fails", env: s.envelope(), h: fail},
		{name: "another chain", env: change(func(e *v1.Envelope) { e.Chain = other })},
		{name: "the first chain again", env: s.envelope()},
		{name: "a resource below", env: s.envelope(), res: []string{"mesh", "a", "b"}},
		{name: "a resource outside", env: s.envelope(), res: []string{"other"}, refused: true},
		{name: "another transport", env: s.envelope(), res: []string{"mesh", "a"}, call: &interceptors.Call{Session: s.session, Procedure: unary, Transport: interceptors.TransportConnect}},
		{name: "a label in full", env: change(func(e *v1.Envelope) { e.Control = label })},
		{name: "untrusted", env: change(func(e *v1.Envelope) { e.Control = nil }), refused: true},
		{name: "ids", env: change(func(e *v1.Envelope) {
			e.Causation, e.Conversation, e.Trace = id, id, &v1.TraceContext{TraceId: id, SpanId: id[:8]}
		})},
		{name: "another purpose", env: change(func(e *v1.Envelope) { e.Intent.Purpose = "other" }), refused: true},
		{name: "another tenant", env: change(func(e *v1.Envelope) { e.Tenant = "evil" }), refused: true},
		{name: "no envelope", refused: true},
		{name: "unknown method", env: s.envelope(), call: &interceptors.Call{Session: s.session, Procedure: "/x.Y/Z"}, refused: true},
	} {
		if tt.h == nil {
			tt.h = succeed
		}
		if tt.call == nil {
			tt.call = s.call()
		}
		req := request(tt.env)
		if tt.res != nil {
			req.Resource = tt.res
		}
		in, err := s.serveIn(tt.call, req, tt.h)
		var d *interceptors.Denial
		if errors.As(err, &d) != tt.refused {
			t.Errorf("%s: %v, refused is to be %v", tt.name, err, tt.refused)
		}
		spelled := s.check(tt.name, in)
		if want := tt.name == "first" || tt.name == "another chain"; in.Leaf() != nil && spelled != want {
			t.Errorf("%s: spelled out %v, want %v", tt.name, spelled, want)
		}
	}
}

// A stream asks for one resource after the other; its outcome names the last one.
func TestExpandedRecordsOfAStream(t *testing.T) {
	s := newLogged(t)
	for _, later := range [][]string{{"mesh"}, {"mesh", "a"}, {"other"}} {
		ctx, in, err := s.end.Open(t.Context(), s.call(), nil)
		if err != nil {
			t.Fatal(err)
		}
		env := s.envelope()
		if _, err = in.Admit(ctx, request(env)); err != nil {
			t.Fatal(err)
		}
		_, err = in.Admit(ctx, &meshpb.UnaryRequest{Resource: later, Envelope: env})
		in.Close(&err)
		intent, outcome, _ := s.expanded(in.ID())
		if !slices.Equal(intent.GetResource(), []string{"mesh"}) || !slices.Equal(outcome.GetResource(), later) {
			t.Errorf("intent for %q, outcome for %q, want mesh and %q", intent.GetResource(), outcome.GetResource(), later)
		}
		same(t, "outcome", outcome, in.WholeRecord(v1.EventPhase_EVENT_PHASE_OUTCOME))
	}
}

// The registry may change between calls, and so may what a lean decision input stands for.
func TestExpandedRecordsFollowTheRegistry(t *testing.T) {
	s := newLogged(t)
	s.Table.Allow("acme", "other", "mesh.call", []string{"mesh"}, false, s.writer.String())
	for _, change := range []func(){
		func() {},
		func() { s.Registry.SetCap(s.relay, v1.Integrity_INTEGRITY_ATTESTED) },
		func() { s.Registry.SetClass(s.relay, "other") },
		func() { s.Registry.SetCap(s.relay, v1.Integrity_INTEGRITY_UNSPECIFIED) },
		func() { s.Registry.SetState(s.relay, identity.StateQuarantined) },
	} {
		change()
		in, _ := s.serveIn(s.call(), request(s.envelope()), succeed) // some are refused: their records count too
		s.check("call", in)
	}
}

// Property: the decision input that Expand rebuilds is the one that was asked.
func TestDecisionInputIsRebuilt(t *testing.T) {
	s := newLogged(t)
	chains := []*v1.DelegationChain{s.chain, s.newChain(meshtest.User("bob")), s.newChain(meshtest.MaxDepth(2), meshtest.Task("t"))}
	text := rapid.StringMatching(`[a-z]{1,8}`)
	set := func(t *rapid.T, name string) []string {
		out := rapid.SliceOfNDistinct(text, 0, 3, rapid.ID).Draw(t, name)
		slices.Sort(out)
		return out
	}
	rapid.Check(t, func(t *rapid.T) {
		env := s.envelope()
		env.Chain = rapid.SampledFrom(chains).Draw(t, "chain")
		env.Control = &v1.Label{
			Integrity:       v1.Integrity(rapid.Int32Range(0, 4).Draw(t, "integrity")),
			Confidentiality: v1.Confidentiality(rapid.Int32Range(0, 4).Draw(t, "confidentiality")),
			AnyReader:       rapid.Bool().Draw(t, "any reader"), Tags: set(t, "tags"), Sources: set(t, "sources"),
			SourcesTruncated: rapid.Bool().Draw(t, "truncated"),
		}
		if !env.Control.AnyReader {
			env.Control.Readers = set(t, "readers")
		}
		s.Registry.SetCap(s.relay, v1.Integrity(rapid.Int32Range(0, 4).Draw(t, "cap")))
		req := request(env)
		req.Resource = append([]string{"mesh"}, rapid.SliceOfN(text, 0, 3).Draw(t, "resource")...)
		in, _ := s.serveIn(s.call(), req, succeed) // refusals have inputs too
		intent, outcome, _ := s.expanded(in.ID())
		want := in.WholeRecord(v1.EventPhase_EVENT_PHASE_INTENT)
		if want.GetDecisionInput() == nil {
			t.Fatalf("the policy was not asked")
		}
		same(t, "intent", intent, want)
		same(t, "outcome", outcome, in.WholeRecord(v1.EventPhase_EVENT_PHASE_OUTCOME))
	})
}

func TestExpandedRecordsOfTheCaller(t *testing.T) {
	s := newLogged(t)
	leaf := s.Root(t, s.writer, meshtest.Task("task-1"))
	m := s.end.Methods().Lookup(unary)
	for range 2 {
		env := s.envelope()
		env.Payload = []byte("12345")
		o, err := s.end.OpenOutgoing(t.Context(), s.relay, env, leaf, m)
		if err == nil {
			err = o.Close(nil, &v1.AuditReceipt{Seq: 9}, 3)
		}
		if err != nil {
			t.Fatal(err)
		}
		whole := o.WholeOutgoing(env, leaf, s.relay, v1.EventPhase_EVENT_PHASE_INTENT)
		intent, outcome, _ := s.expanded([16]byte(whole.GetInteractionId()))
		same(t, "intent", intent, whole)
		// The outcome of the caller never repeated purpose and deadline; expanded it does, and says who acted for how long.
		same(t, "outcome", outcome, o.WholeOutgoing(env, leaf, s.relay, v1.EventPhase_EVENT_PHASE_OUTCOME))
		if outcome.GetPeerReceipt().GetSeq() != 9 || outcome.GetOutcome().GetBytesOut() != 5 {
			t.Errorf("outcome %v", outcome)
		}
	}
}

// A caller that says as much of its message as a label can hold does not shorten what the endpoint says of the call.
func TestLabelsDoNotPushTheRestOutOfARecord(t *testing.T) {
	s := newLogged(t)
	set := func(n int) []string {
		list := make([]string, n)
		for i := range list {
			list[i] = strings.Repeat(string(rune('A'+i)), 256)
		}
		return list
	}
	e := s.envelope()
	e.Control = &v1.Label{
		Integrity: v1.Integrity_INTEGRITY_SYSTEM, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL,
		Readers: set(policy.MaxReaders), Tags: set(policy.MaxTags), Sources: set(policy.MaxSources),
	}
	in, err := s.serveIn(s.call(), request(e), succeed)
	if err != nil {
		t.Fatal(err)
	}
	ev, _, spelled := s.expanded(in.ID())
	if !spelled || ev.GetPresented() == nil || ev.GetOrigin() == nil || !slices.Equal(ev.GetResource(), []string{"mesh"}) || len(ev.GetPolicies()) == 0 ||
		len(ev.GetDecisionInput().GetCapabilities()) == 0 {
		t.Errorf("the record of a call with large labels: %v", ev)
	}
	if got := ev.GetControlClaimed(); got.GetIntegrity() != e.GetControl().GetIntegrity() || !got.GetSourcesTruncated() || ev.GetDetail() == "" {
		t.Errorf("claimed %v, detail %q", got, ev.GetDetail())
	}
	if ev.GetControlEffective().GetIntegrity() >= v1.Integrity_INTEGRITY_SYSTEM {
		t.Errorf("effective %v", ev.GetControlEffective())
	}
}
