package runtime_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// duplicates returns the records of a second process in the log of a.
func (s *scene) duplicates(a *runtime.Agent) (out []*v1.AuditEvent) {
	s.t.Helper()
	for _, ev := range s.Records(a) {
		if ev.GetKind() == v1.EventKind_EVENT_KIND_DUPLICATE_IDENTITY {
			out = append(out, ev)
		}
	}
	return out
}

// caller is one process of relay that goes on calling writer until it is stopped.
type caller struct {
	agent         *runtime.Agent
	done, refused atomic.Int64
	mu            sync.Mutex
	other         []error
	stop          func()
}

func (s *scene) callAlways(a *runtime.Agent) *caller {
	s.t.Helper()
	c := &caller{agent: a}
	client := meshpb.NewMeshServiceClient(s.Dial(a, s.writer))
	ctx := s.As(alice, a, agenttest.Can("mesh.call", "mesh"), agenttest.Can("mesh.foreign", "agent", "writer"), agenttest.Life(10*time.Minute))
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for tick := time.NewTicker(5 * time.Millisecond); ; {
				select {
				case <-ctx.Done():
					tick.Stop()
					return
				case <-tick.C:
				}
				_, err := client.Foreign(ctx, &meshpb.ForeignRequest{Text: "x"})
				var r *runtime.Refusal
				switch {
				case err == nil:
					c.done.Add(1)
				case errors.As(err, &r) && r.Reason == v1.Reason_REASON_AGENT_STATE:
					c.refused.Add(1)
				case ctx.Err() == nil:
					c.mu.Lock()
					c.other = append(c.other, err)
					c.mu.Unlock()
				}
			}
		})
	}
	c.stop = func() { cancel(); wg.Wait() }
	s.t.Cleanup(c.stop)
	return c
}

// await waits until holds does.
func (s *scene) await(what string, holds func() bool) {
	s.t.Helper()
	end := time.NewTimer(2 * time.Minute)
	defer end.Stop()
	for tick := time.NewTicker(50 * time.Millisecond); !holds(); {
		select {
		case <-tick.C:
		case <-end.C:
			s.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// newTwins is a scene whose relay keeps one key for the whole test, so that the order of its connections does not depend on how fast
// the machine replaces keys. writer takes a connection with an older key for proof of a second process after a tenth of life.
func newTwins(t *testing.T, life time.Duration, options ...agenttest.AgentOption) *scene {
	t.Helper()
	s := &scene{World: agenttest.New(t), t: t, node: &node{}}
	s.relay = s.Agent("relay", append(options, agenttest.Config(roomy))...)
	s.writer = s.Agent("writer", agenttest.SVIDLife(life), agenttest.Config(roomy))
	s.start()
	return s
}

// reconnect opens one more connection of a to writer and ends it, as a does when one of its own has reached its age.
func (s *scene) reconnect(a *runtime.Agent) {
	s.t.Helper()
	conn := s.connected(a, s.writer, s.writer.Addr())
	if _, err := conn.Read(make([]byte, 1)); err != nil { // its server speaks first when it knows who has come
		s.t.Errorf("a connection of %s: %v", a.ID(), err)
	}
	_ = conn.Close()
}

// One process of each agent, certificates of ten seconds, connections of less than four: keys are replaced, connections drain and come
// back, and nobody takes that for a second process.
func TestReplacedCertificatesAreNoSecondProcess(t *testing.T) {
	t.Parallel()
	s := newScene(t, agenttest.SVIDLife(10*time.Second), agenttest.SingleProcess(), agenttest.Config(roomy))
	c := s.callAlways(s.relay)
	keys := map[string]bool{}
	s.await("two replaced certificates", func() bool {
		svid, err := s.relay.Source().GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		keys[svid.Certificates[0].SerialNumber.String()] = true
		return len(keys) > 2
	})
	done := c.done.Load()
	s.await("calls after the last one", func() bool { return c.done.Load() > done+100 })
	c.stop()
	if c.refused.Load() != 0 || len(c.other) != 0 {
		t.Errorf("%d calls done, %d refused, errors %v", c.done.Load(), c.refused.Load(), c.other)
	}
	if got := s.duplicates(s.writer); len(got) != 0 {
		t.Errorf("records of a second process: %v", got)
	}
}

// Two processes of one SPIFFE ID, each with SVIDs of its own, over real connections: both work, and it is recorded.
func TestTwoProcessesOfOneIdentityAreRecorded(t *testing.T) {
	t.Parallel()
	s := newTwins(t, 10*time.Second)
	first := s.callAlways(s.relay)
	s.await("the first to call", func() bool { return first.done.Load() > 0 })
	second := s.callAlways(s.Twin(s.relay))
	s.await("the second to call", func() bool { return second.done.Load() > 0 })
	s.await("the record", func() bool { s.reconnect(s.relay); return len(s.duplicates(s.writer)) > 0 })
	first.stop()
	second.stop()
	for name, c := range map[string]*caller{"first": first, "second": second} {
		if c.refused.Load() != 0 || len(c.other) != 0 || c.done.Load() == 0 {
			t.Errorf("%s: %d calls done, %d refused, errors %v", name, c.done.Load(), c.refused.Load(), c.other)
		}
	}
	ev := s.duplicates(s.writer)[0]
	if ev.GetActor().GetSpiffeId() != s.relay.ID().String() || ev.GetDecision() != v1.EventDecision_EVENT_DECISION_ALLOW {
		t.Errorf("record %v", ev)
	}
}

// The same with an agent that is one process: one of them goes on, the other is refused until that one has ended. A first process that
// is away for three seconds would count as ended.
func TestSecondProcessOfASingleProcessIsRefused(t *testing.T) {
	t.Parallel()
	s := newTwins(t, 30*time.Second, agenttest.SingleProcess())
	first := s.callAlways(s.relay)
	s.await("the first to call", func() bool { return first.done.Load() > 10 })
	second := s.callAlways(s.Twin(s.relay))
	s.await("the second to be refused", func() bool { s.reconnect(s.relay); return second.refused.Load() > 10 })
	if first.refused.Load() != 0 {
		t.Errorf("%d calls of the first are refused", first.refused.Load())
	}
	if got := s.duplicates(s.writer); len(got) == 0 || got[0].GetReason() != v1.Reason_REASON_PEER_DUPLICATE {
		t.Errorf("records %v", got)
	}
	first.stop()
	s.Stop(s.relay)
	done := second.done.Load()
	s.await("the second to go on after the end of the first", func() bool { return second.done.Load() > done+10 })
	second.stop()
	if len(first.other) != 0 || len(second.other) != 0 {
		t.Errorf("other errors: %v, %v", first.other, second.other)
	}
}
