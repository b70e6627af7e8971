package interceptors_test

import (
	"context"
	"crypto/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
)

func TestReplay(t *testing.T) {
	s := newScene(t)
	e := s.envelope()
	wantReason(t, "the first", s.send(e), 0)
	wantReason(t, "the second", s.send(e), v1.Reason_REASON_REPLAYED)
	again := s.envelope()
	again.Id = e.GetId()
	wantReason(t, "another message with the id", s.send(again), v1.Reason_REASON_REPLAYED)
	s.session = s.Session(t, s.end, s.relay)
	wantReason(t, "on another connection", s.send(e), v1.Reason_REASON_REPLAYED)

	// The id belongs to its sender: another agent may use the same.
	other := s.Agent("acme", "other")
	mine := s.Envelope(other, unary, "mesh.call")
	mine.Id = e.GetId()
	mine.Chain = s.Chain(t, []identity.AgentID{other, s.writer}, meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh")))
	s.session = s.Session(t, s.end, other)
	wantReason(t, "another sender", s.send(mine), 0)
}

func TestOneOfAHundredCopiesIsAdmitted(t *testing.T) {
	s := newScene(t, func(c *interceptors.Config) { c.AgentBudget.InFlight = 1000 })
	e := s.envelope()
	var admitted, replayed atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	for range 100 {
		wg.Go(func() {
			<-start
			switch err := s.send(e); reason(t, err) {
			case 0:
				admitted.Add(1)
			case v1.Reason_REASON_REPLAYED:
				replayed.Add(1)
			default:
				t.Errorf("a copy: %v", err)
			}
		})
	}
	close(start)
	wg.Wait()
	if admitted.Load() != 1 || replayed.Load() != 99 {
		t.Errorf("%d copies admitted and %d refused, want 1 and 99", admitted.Load(), replayed.Load())
	}
	ran := 0
	for _, ev := range s.end.Log.Events() {
		if ev.GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME && ev.GetDecision() == allow {
			ran++
		}
	}
	if ran != 1 {
		t.Errorf("%d outcomes say allowed, want 1", ran)
	}
}

// between is a registry that runs one function when it is asked the next time.
type between struct {
	identity.Registry
	once func()
}

func (b *between) Generation() uint64 {
	if f := b.once; f != nil {
		b.once = nil
		f()
	}
	return b.Registry.Generation()
}

// A copy that is admitted while the other one is being verified spends the id: the first look at the set was too early.
func TestCopyThatOvertakesIsTheOnlyOne(t *testing.T) {
	var registry *between
	s := newScene(t, func(c *interceptors.Config) {
		registry = &between{Registry: c.Registry}
		c.Registry = registry
	})
	st := s.openStream()
	e := s.envelope()
	registry.once = func() { wantReason(t, "the copy that overtakes", s.send(e), 0) }
	wantReason(t, "the one that was overtaken", st.admit(request(e)), replayed)
	if registry.once != nil {
		t.Error("no copy overtook")
	}
}

// overtaken is a replay store in which somebody else spends first.
type overtaken struct {
	delegation.ReplayStore
	once func()
}

func (o *overtaken) Insert(ctx context.Context, tenant string, key [32]byte, until time.Time) (bool, error) {
	if f := o.once; f != nil {
		o.once = nil
		f()
	}
	return o.ReplayStore.Insert(ctx, tenant, key, until)
}

// The same for a proof under which two messages come at once: the one that spends it first is admitted.
func TestProofThatIsSpentMeanwhileIsRefused(t *testing.T) {
	store := &overtaken{ReplayStore: interceptors.NewMemoryReplay(0, time.Hour, time.Now)}
	s := proofScene(t, func(c *interceptors.Config) { c.Replay = store })
	first := s.prove(s.open(proved))
	second := s.withJTI(s.open(proved), delegation.ClaimedJTI(first.GetProof()))
	store.once = func() { wantReason(t, "the message that overtakes", s.carry(second), 0) }
	wantReason(t, "the one that was overtaken", s.carry(first), replayed)
	if store.once != nil {
		t.Error("no message overtook")
	}
}

func TestRefusedMessageDoesNotBurnItsID(t *testing.T) {
	s := newScene(t)
	leaf := s.Leaf(t, s.chain, s.relay, s.writer)
	link := leaf.Link()
	e := s.envelope()
	e.Chain, e.ChainRef = nil, link[:]
	wantReason(t, "an unknown reference", s.send(e), v1.Reason_REASON_CHAIN_UNKNOWN)
	e.Chain, e.ChainRef = s.chain, nil
	wantReason(t, "the full chain with the same id", s.send(e), 0)
	next := s.envelope()
	next.Chain, next.ChainRef = nil, link[:]
	wantReason(t, "the reference afterwards", s.send(next), 0)

	full := s.envelope()
	s.end.Log.Fail(func(*audit.Event) error { return audit.ErrFull })
	wantReason(t, "a full log", s.send(full), v1.Reason_REASON_AUDIT_FULL)
	s.end.Log.Fail(nil)
	// Its id was spent before the log refused: an effect that is not recorded is worse than a resend that is refused.
	wantReason(t, "the same id afterwards", s.send(full), v1.Reason_REASON_REPLAYED)
}

func TestReplaySetIsBoundedPerTenantAndNeverEvicts(t *testing.T) {
	s := newScene(t, func(c *interceptors.Config) { c.ReplayKeys = 3 })
	first := s.envelope()
	wantReason(t, "the first", s.send(first), 0)
	wantReason(t, "the second", s.send(s.envelope()), 0)
	wantReason(t, "the third", s.send(s.envelope()), 0)
	wantReason(t, "the fourth", s.send(s.envelope()), v1.Reason_REASON_LIMIT)
	wantReason(t, "the first again", s.send(first), v1.Reason_REASON_REPLAYED)

	// A message is forgotten only when its deadline has refused it for good.
	s.Advance(5 * time.Minute)
	late := proto.CloneOf(first)
	late.DeadlineUnixMs = s.Now().Add(time.Minute).UnixMilli() // a changed message must not pass either
	late.Chain = s.newChain()
	wantReason(t, "the first after five minutes", s.send(late), v1.Reason_REASON_REPLAYED)
	s.Advance(8 * time.Minute)
	e := s.envelope()
	e.Chain = s.newChain()
	wantReason(t, "a new one after two generations", s.send(e), 0)
}

func TestReplaySetOfOneTenantDoesNotFillAnothers(t *testing.T) {
	w := meshtest.New(t)
	service := w.Service("memory")
	end := w.Enforcer(t, service, meshMethods(t), func(c *interceptors.Config) { c.ReplayKeys = 1 })
	send := func(agent identity.AgentID) error {
		w.Table.Allow(agent.Tenant().Name(), meshtest.DefaultClass, "mesh.call", []string{"mesh"}, false, service.String())
		s := &scene{World: w, t: t, relay: agent, writer: service, end: end, session: w.Session(t, end, agent)}
		s.chain = w.Chain(t, []identity.AgentID{agent, service}, meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh")))
		return s.send(s.envelope())
	}
	acme, globex := w.Agent("acme", "a"), w.Agent("globex", "a")
	wantReason(t, "acme", send(acme), 0)
	wantReason(t, "acme over its bound", send(acme), v1.Reason_REASON_LIMIT)
	wantReason(t, "globex", send(globex), 0)
}

func TestRestartRebuildsTheReplaySet(t *testing.T) {
	s := newScene(t)
	e := s.envelope()
	wantReason(t, "before the restart", s.send(e), 0)
	restarted := s.Enforcer(t, s.writer, meshMethods(t))
	for _, ev := range s.end.Log.Events() {
		if ev.GetPhase() != v1.EventPhase_EVENT_PHASE_INTENT || ev.GetDecision() != allow {
			continue
		}
		sender, err := identity.ParseAgent(ev.GetActor().GetSpiffeId())
		if err != nil {
			t.Fatal(err)
		}
		restarted.Admitted(sender, ev.GetEnvelopeId())
	}
	s.end, s.session = restarted, s.Session(t, restarted, s.relay)
	wantReason(t, "the same bytes after the restart", s.send(e), v1.Reason_REASON_REPLAYED)
	wantReason(t, "another message", s.send(s.envelope()), 0)
}

// Strangers allocate nothing: an identity that is not registered has no account, whatever it tries.
func TestStrangersSpendNobodysBudget(t *testing.T) {
	s := newScene(t, func(c *interceptors.Config) { c.AgentBudget.Burst = 2; c.AgentBudget.Rate = 1e-9 })
	var id [16]byte
	for range 50 {
		_, _ = rand.Read(id[:])
		if _, err := s.end.Accept(s.Peer(s.ID("acme", "stranger"))); reason(t, err) != v1.Reason_REASON_PEER_UNREGISTERED {
			t.Fatalf("Accept(stranger) = %v", err)
		}
	}
	stranger := s.Agent("acme", "stranger")
	s.session = s.Session(t, s.end, stranger)
	for range 2 {
		_, in, err := s.end.Open(t.Context(), s.call(), nil)
		wantReason(t, "a call inside the budget", err, 0)
		in.Close(&err)
	}
}
