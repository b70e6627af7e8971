package runtime_test

import (
	"context"
	"crypto/x509"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// office is a Trust whose renewals a test watches.
type office struct {
	runtime.Trust
	asked  atomic.Int64
	answer func(ctx context.Context, honest func() (*v1.SignedStatement, error)) (*v1.SignedStatement, error)
}

func (o *office) RenewGrant(ctx context.Context, chain *v1.DelegationChain) (*v1.SignedStatement, error) {
	o.asked.Add(1)
	honest := func() (*v1.SignedStatement, error) { return o.Trust.(runtime.Renewer).RenewGrant(ctx, chain) }
	if o.answer == nil {
		return honest()
	}
	return o.answer(ctx, honest)
}

// mute is a Trust that renews nothing.
type mute struct{ runtime.Trust }

func at(o *office) agenttest.AgentOption {
	return agenttest.Config(func(c *runtime.Config) {
		if o.Trust == nil { // of the first agent, which is relay
			o.Trust = c.Trust
			c.Trust = o
		}
	})
}

// watched is a scene whose wire and whose authority a test sees.
type watched struct {
	*scene
	*office
	*tape
}

func newWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{office: &office{}, tape: &tape{}}
	w.scene = prepareScene(t, at(w.office))
	w.Tap(w.see)
	w.start()
	return w
}

// lastGrant is what the last call was made under: the grant, and how many hops were on it.
func (w *watched) lastGrant() (*v1.GrantPayload, int) {
	w.t.Helper()
	var p v1.GrantPayload
	hops := 0
	for _, env := range w.requests(meshpb.MeshService_Unary_FullMethodName) {
		if env.GetChain() == nil {
			continue // by reference to the one before
		}
		p = v1.GrantPayload{}
		if err := proto.Unmarshal(env.GetChain().GetGrant().GetPayload(), &p); err != nil {
			w.t.Fatal(err)
		}
		hops = len(env.GetChain().GetHops())
	}
	return &p, hops
}

// An agent works longer than its grant without doing anything for it: the grant is renewed beside its calls.
func TestGrantIsRenewedBesideTheCalls(t *testing.T) {
	w := newWatched(t)
	w.mustCall(w.ctx)
	first, _ := w.lastGrant()
	for i := range 4 {
		w.Advance(8 * time.Minute)
		w.mustCall(w.ctx)
		eventually(t, "the renewal", func() bool { return w.asked.Load() == int64(i)+1 })
		eventually(t, "a call under it", func() bool {
			w.mustCall(w.ctx)
			p, _ := w.lastGrant()
			return p.GetIssuedAtMs() > first.GetIssuedAtMs()+int64(i)*8*60_000
		})
	}
	last, hops := w.lastGrant()
	if string(last.GetChainId()) != string(first.GetChainId()) || last.GetLineageStartMs() != first.GetLineageStartMs() || hops != 1 || last.GetDepthUsed() != 0 {
		t.Errorf("after four renewals: %v with %d hops", last, hops)
	}
	w.wantPairs(w.relay, w.writer)
}

// A call in the last tenth of a grant's life waits for the renewal, and goes out under it.
func TestCallInTheLastTenthWaits(t *testing.T) {
	w := newWatched(t)
	w.Advance(9*time.Minute + 30*time.Second)
	w.mustCall(w.ctx)
	p, hops := w.lastGrant()
	if len(p.GetPreviousLeaf()) != 32 || hops != 1 || w.asked.Load() != 1 {
		t.Errorf("the call went out under %v after %d renewals", p, w.asked.Load())
	}
	w.Advance(5 * time.Minute) // past the end of the first grant
	w.mustCall(w.ctx)
	if n := w.asked.Load(); n != 1 {
		t.Errorf("%d renewals, want 1", n)
	}
}

func TestEarlyCallsRenewNothing(t *testing.T) {
	w := newWatched(t)
	for range 5 {
		w.mustCall(w.ctx)
		w.Advance(70 * time.Second)
	}
	if n := w.asked.Load(); n != 0 {
		t.Errorf("%d renewals within the first six minutes of ten", n)
	}
}

// A hundred calls at once ask once.
func TestCallsShareOneRenewal(t *testing.T) {
	w := newWatched(t)
	release := make(chan struct{})
	w.answer = func(_ context.Context, honest func() (*v1.SignedStatement, error)) (*v1.SignedStatement, error) {
		<-release
		return honest()
	}
	w.Advance(9*time.Minute + 30*time.Second)
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() {
			if _, err := w.call(w.ctx); err != nil {
				t.Errorf("call: %v", err)
			}
		})
	}
	eventually(t, "the request", func() bool { return w.asked.Load() == 1 })
	close(release)
	calls.Wait()
	if n := w.asked.Load(); n != 1 {
		t.Errorf("%d renewals for calls at once, want 1", n)
	}
}

// An authority that does not answer is no reason to stop before the grant ends.
func TestFailedRenewalIsNotFatalUntilTheEnd(t *testing.T) {
	w := newWatched(t)
	w.StopRenewals()
	for _, step := range []time.Duration{8 * time.Minute, 90 * time.Second, 10 * time.Second} {
		w.Advance(step)
		w.mustCall(w.ctx)
	}
	eventually(t, "three requests, with a pause between them", func() bool { return w.asked.Load() == 3 })
	w.mustCall(w.ctx)
	if n := w.asked.Load(); n != 3 {
		t.Errorf("%d requests, want none within the pause", n)
	}
	w.Advance(time.Minute)
	_, err := w.call(w.ctx)
	wantReason(t, err, v1.Reason_REASON_CHAIN_EXPIRED)
	if n := w.asked.Load(); n != 3 {
		t.Errorf("%d requests, want none for what is over", n)
	}
}

// What the authority answers must go on with this chain: another grant of this agent, good as it is, is not taken for it.
func TestForeignRenewalIsNotUsed(t *testing.T) {
	for name, forge := range map[string]func(w *watched) (*v1.SignedStatement, error){
		"another grant of this agent": func(w *watched) (*v1.SignedStatement, error) {
			g, _ := w.Grant(alice, w.relay, agenttest.Can("mesh.call", "mesh"), agenttest.Purpose("tests of the runtime"))
			return g, nil
		},
		"another agent's grant": func(w *watched) (*v1.SignedStatement, error) {
			g, _ := w.Grant(alice, w.writer, agenttest.Can("mesh.call", "mesh"))
			return g, nil
		},
		"nothing": func(*watched) (*v1.SignedStatement, error) { return nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatched(t)
			w.answer = func(context.Context, func() (*v1.SignedStatement, error)) (*v1.SignedStatement, error) {
				return forge(w)
			}
			w.Advance(9*time.Minute + 30*time.Second)
			w.mustCall(w.ctx)
			if p, _ := w.lastGrant(); len(p.GetPreviousLeaf()) != 0 || w.asked.Load() != 1 {
				t.Errorf("the call went out under %v", p)
			}
			if err := w.relay.Renew(w.ctx); !errors.Is(err, runtime.ErrRenewal) {
				t.Errorf("Renew() = %v, want ErrRenewal", err)
			}
			w.Advance(time.Minute)
			_, err := w.call(w.ctx)
			wantReason(t, err, v1.Reason_REASON_CHAIN_EXPIRED)
		})
	}
}

// A handler hands on what it was given, and goes on with it when it works longer: it is the last delegate.
func TestHandlerRenewsWhatItWasGiven(t *testing.T) {
	l := newLine(t)
	kept := make(chan context.Context, 1)
	l.inner = func(ctx context.Context) context.Context {
		kept <- context.WithoutCancel(ctx)
		return ctx
	}
	var depths []uint32
	l.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		if got := runtime.Principal(ctx).GetSubject(); got != alice {
			return nil, errors.New("principal " + got)
		}
		return &meshpb.UnaryResponse{}, nil
	}
	if err := l.call(l.grant()); err != nil {
		t.Fatal(err)
	}
	ctx := receive(t, "the handler's context", kept)
	client := meshpb.NewMeshServiceClient(l.Dial(l.middle, l.writer))
	for range 4 {
		l.Advance(9*time.Minute + 30*time.Second)
		if _, err := client.Unary(ctx, &meshpb.UnaryRequest{Resource: mesh()}); err != nil {
			t.Fatalf("a call after the reply: %v", err)
		}
	}
	for _, ev := range l.Records(l.writer) {
		if ev.GetKind() == v1.EventKind_EVENT_KIND_CALL && ev.GetPhase() == v1.EventPhase_EVENT_PHASE_INTENT {
			depths = append(depths, ev.GetDepth())
		}
	}
	for _, d := range depths {
		if len(depths) != 5 || d != 2 {
			t.Fatalf("writer was called at depths %v, want 2 five times", depths)
		}
	}
}

// A caller with a thousand chains that are about to end does not use up what its callee may renew.
func TestOneCallerDoesNotUseUpTheRenewals(t *testing.T) {
	l, o := newLine(t), &office{}
	victim := l.Agent("victim", at(o))
	meshpb.RegisterMeshServiceServer(victim, &node{unary: func(ctx context.Context, req *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		return meshpb.NewMeshServiceClient(l.Dial(victim, l.writer)).Unary(ctx, req)
	}})
	l.Serve(victim)
	l.Allow(l.relay, victim, "mesh.call", "mesh")
	l.Allow(victim, l.writer, "mesh.call", "mesh")
	const chains = 80
	var grants []context.Context
	for range chains {
		grants = append(grants, l.grant())
	}
	g, purpose := l.Grant(alice, victim, agenttest.Can("mesh.call", "mesh"))
	own, err := victim.Act(t.Context(), g, purpose)
	if err != nil {
		t.Fatal(err)
	}
	l.StopRenewals() // so that relay's chains stay as they are
	o.answer = func(context.Context, func() (*v1.SignedStatement, error)) (*v1.SignedStatement, error) {
		return nil, errors.New("not now")
	}
	client := meshpb.NewMeshServiceClient(l.Dial(l.relay, victim))
	for _, wait := range []time.Duration{0, 7*time.Minute + 30*time.Second} {
		l.Advance(wait)
		for _, ctx := range grants {
			if _, err := client.Unary(ctx, &meshpb.UnaryRequest{Resource: mesh()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "what one caller may have renewed", func() bool { return o.asked.Load() >= 40 })
	if n := o.asked.Load(); n > 60 {
		t.Errorf("%d chains of one caller are renewed at once, want about 50 of %d", n, chains)
	}
	before := o.asked.Load()
	if err := victim.Renew(own); err == nil || o.asked.Load() != before+1 {
		t.Errorf("Renew(the agent's own grant) = %v after %d requests", err, o.asked.Load()-before)
	}
	if _, err := meshpb.NewMeshServiceClient(l.Dial(victim, l.writer)).Unary(own, &meshpb.UnaryRequest{Resource: mesh()}); err != nil {
		t.Error(err)
	}
}

func TestRenew(t *testing.T) {
	w := newWatched(t)
	if err := w.relay.Renew(t.Context()); !errors.Is(err, runtime.ErrNoAuthority) {
		t.Errorf("Renew(without authority) = %v, want ErrNoAuthority", err)
	}
	for range 3 { // a person thinks for half an hour
		w.Advance(8 * time.Minute)
		if err := w.relay.Renew(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	w.mustCall(w.ctx)
	if p, _ := w.lastGrant(); len(p.GetPreviousLeaf()) != 32 || w.asked.Load() != 3 {
		t.Errorf("the call went out under %v after %d renewals", p, w.asked.Load())
	}
	w.Advance(11 * time.Minute)
	if err := w.relay.Renew(w.ctx); !errors.Is(err, runtime.ErrRenewal) {
		t.Errorf("Renew(what is over) = %v, want ErrRenewal", err)
	}

	short := w.grant(agenttest.Life(time.Minute))
	ctx, cancel := context.WithCancel(short)
	cancel()
	w.answer = func(ctx context.Context, _ func() (*v1.SignedStatement, error)) (*v1.SignedStatement, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := w.relay.Renew(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Renew(cancelled) = %v, want Canceled", err)
	}
	// The request is still on its way; the agent's end ends it.
	w.Kill(w.relay)
	if err := w.relay.Renew(short); !errors.Is(err, runtime.ErrRenewal) {
		t.Errorf("Renew(closed agent) = %v, want ErrRenewal", err)
	}
}

// What was given for a shorter time than its giver had stays given for that time.
func TestNarrowedLifetimeIsNotRenewed(t *testing.T) {
	l := newLine(t)
	kept := make(chan context.Context, 1)
	l.inner = func(ctx context.Context) context.Context {
		kept <- context.WithoutCancel(ctx)
		return ctx
	}
	short := l.Dial(l.relay, l.middle).With(runtime.Narrowing{Lifetime: time.Minute})
	if _, err := meshpb.NewMeshServiceClient(short).Unary(l.grant(), &meshpb.UnaryRequest{Resource: mesh()}); err != nil {
		t.Fatal(err)
	}
	ctx := receive(t, "the handler's context", kept)
	err := l.middle.Renew(ctx)
	if err == nil {
		t.Error("Renew(of a minute) = nil, want a refusal")
	}
	l.Advance(2 * time.Minute)
	_, err = meshpb.NewMeshServiceClient(l.Dial(l.middle, l.writer)).Unary(ctx, &meshpb.UnaryRequest{Resource: mesh()})
	wantReason(t, err, v1.Reason_REASON_CHAIN_EXPIRED)
}

func TestTrustWithoutRenewals(t *testing.T) {
	s := newScene(t, agenttest.Config(func(c *runtime.Config) { c.Trust = mute{c.Trust} }))
	s.Advance(9*time.Minute + 30*time.Second)
	s.mustCall(s.ctx)
	if err := s.relay.Renew(s.ctx); !errors.Is(err, runtime.ErrRenewal) {
		t.Errorf("Renew() = %v, want ErrRenewal", err)
	}
	s.Advance(time.Minute)
	_, err := s.call(s.ctx)
	wantReason(t, err, v1.Reason_REASON_CHAIN_EXPIRED)
}

// An authority that refuses is not asked again at every call.
func TestRefusedRenewalIsNotRepeatedAtOnce(t *testing.T) {
	w := newWatched(t)
	var refuse atomic.Bool
	refuse.Store(true)
	w.answer = func(_ context.Context, honest func() (*v1.SignedStatement, error)) (*v1.SignedStatement, error) {
		if refuse.Load() {
			return nil, &runtime.Refusal{Reason: v1.Reason_REASON_SCOPE, DecisionID: make([]byte, 16)}
		}
		return honest()
	}
	w.Advance(8 * time.Minute)
	w.mustCall(w.ctx)
	eventually(t, "the first request", func() bool { return w.asked.Load() == 1 })
	var refused *runtime.Refusal
	if err := w.relay.Renew(w.ctx); !errors.As(err, &refused) || refused.Reason != v1.Reason_REASON_SCOPE {
		t.Errorf("Renew() = %v, want the refusal", err)
	}
	w.Advance(30 * time.Second)
	for range 5 {
		w.mustCall(w.ctx)
	}
	if n := w.asked.Load(); n > 2 {
		t.Errorf("%d requests within a minute of a refusal", n)
	}
	w.Advance(time.Minute)
	refuse.Store(false)
	w.mustCall(w.ctx)
	eventually(t, "another request", func() bool { return w.asked.Load() == 3 })
}

// An authority that does not answer at all delays a call in the last tenth for a moment and does not hold it.
func TestSilentAuthorityDoesNotHoldCalls(t *testing.T) {
	w := newWatched(t)
	w.answer = func(ctx context.Context, _ func() (*v1.SignedStatement, error)) (*v1.SignedStatement, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w.Advance(9*time.Minute + 30*time.Second)
	began := time.Now()
	w.mustCall(w.ctx)
	if waited := time.Since(began); waited > 8*time.Second {
		t.Errorf("the call took %v", waited)
	}
}

// TestSVIDRotatesBetweenSigningAndUse is row 53 over real connections: a message that was signed with the SVID before is good on a
// connection of the SVID after, and only until the old one would have ended.
func TestSVIDRotatesBetweenSigningAndUse(t *testing.T) {
	t.Parallel()
	s := newScene(t, agenttest.SVIDLife(4*time.Second))
	serial := func() string {
		svid, err := s.relay.Source().GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		return svid.Certificates[0].SerialNumber.String()
	}
	soon, late := s.envelope(s.ctx), s.envelope(s.ctx)
	signer, err := x509.ParseCertificate(soon.GetChain().GetCerts()[0].GetLeaf())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new SVID", func() bool { return serial() != signer.SerialNumber.String() })
	if _, err := s.exchange(s.relay, s.writer).Deliver(t.Context(), soon); err != nil {
		t.Errorf("signed before the rotation, sent after it: %v", err)
	}
	var hop v1.HopPayload
	if err := proto.Unmarshal(late.GetChain().GetHops()[0].GetPayload(), &hop); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the end of the old SVID", func() bool { return s.Now().UnixMilli() >= hop.GetExpiresAtMs() })
	_, err = s.exchange(s.relay, s.writer).Deliver(t.Context(), late)
	if got := status.Convert(err); got.Code() != codes.PermissionDenied || reasonOf(got) != "CHAIN_EXPIRED" {
		t.Errorf("sent when the signer's SVID was over: %v, want CHAIN_EXPIRED", err)
	}
}

func reasonOf(s *status.Status) string {
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}
