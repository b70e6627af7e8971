package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	stdruntime "runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/policy/conduct"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// soak makes the tests of this file that depend on time run long.
const soak = "SAFECONDUCT_SOAK"

// roomy is a budget that no test reaches.
func roomy(c *runtime.Config) {
	c.AgentBudget = conduct.Budget{Rate: 1e6, Burst: 1e6, InFlight: 1e6}
	c.TenantBudget = c.AgentBudget
}

// failures counts what went wrong, by its text.
type failures struct {
	mu sync.Mutex
	n  map[string]int
}

func (f *failures) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n == nil {
		f.n = map[string]int{}
	}
	var r *runtime.Refusal
	if errors.As(err, &r) {
		f.n[r.Reason.String()]++
		return
	}
	f.n[err.Error()]++
}

// Identities and connections are replaced all the time, and no call notices.
func TestShortLivedSVIDsUnderLoad(t *testing.T) {
	t.Parallel()
	life, run := 10*time.Second, 10*time.Second // an SVID is replaced after four seconds
	if os.Getenv(soak) != "" {
		life, run = 20*time.Second, 3*time.Minute
	}
	s := newScene(t, agenttest.SVIDLife(life), agenttest.Config(roomy))
	var failed failures
	var calls, streams atomic.Int64
	ctx := s.grant()
	end := time.NewTimer(run)
	defer end.Stop()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	work := func(every time.Duration, one func() error, n *atomic.Int64) {
		wg.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				n.Add(1)
				if err := one(); err != nil {
					failed.add(err)
				}
			}
		})
	}
	for range 4 {
		work(5*time.Millisecond, func() error {
			_, err := s.client.Foreign(ctx, &meshpb.ForeignRequest{Text: "x"})
			return err
		}, &calls)
	}
	work(20*time.Millisecond, func() error {
		// What a stream brings is untrusted, so each one belongs to a conversation of its own.
		stream, err := s.client.ServerStream(s.grant(), &meshpb.ServerStreamRequest{Resource: mesh()})
		text, err := down(t, stream, err)
		if err == nil && text != "abc" {
			err = fmt.Errorf("received %q", text)
		}
		return err
	}, &streams)
	<-end.C
	close(stop)
	wg.Wait()
	if len(failed.n) > 0 {
		t.Errorf("failed calls: %v", failed.n)
	}
	if calls.Load() < 100 || streams.Load() < 10 {
		t.Errorf("only %d calls and %d streams in %v", calls.Load(), streams.Load(), run)
	}
	s.Stop(s.writer)
	s.wantPairs(s.writer, s.relay)
}

// Ten thousand calls of one client are in flight at once; under the race detector, which costs ten times the work, two thousand.
func TestManyCallsInFlight(t *testing.T) {
	n := int64(10_000)
	if raceDetector && os.Getenv(soak) == "" {
		n = 2_000
	}
	base := stdruntime.NumGoroutine()
	s := newScene(t, agenttest.Config(roomy))
	var running, refused, answered atomic.Int64
	release := make(chan struct{})
	s.node.foreign = func(ctx context.Context, _ *meshpb.ForeignRequest) (*meshpb.ForeignResponse, error) {
		if running.Add(1)+refused.Load() == n {
			close(release)
		}
		select {
		case <-release:
			return &meshpb.ForeignResponse{}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if _, err := s.client.Open(t.Context(), &meshpb.OpenRequest{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, 2*time.Minute)
	defer cancel()
	var unnamed, named failures
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			_, err := s.client.Foreign(ctx, &meshpb.ForeignRequest{})
			var r *runtime.Refusal
			switch {
			case err == nil:
				answered.Add(1)
			case errors.As(err, &r):
				named.add(err)
				if refused.Add(1)+running.Load() == n {
					close(release)
				}
			default:
				unnamed.add(err)
			}
		})
	}
	wg.Wait()
	if got := answered.Load() + refused.Load(); got != n || len(unnamed.n) > 0 {
		t.Errorf("%d answered, %d refused, of %d; the rest: %v", answered.Load(), refused.Load(), n, unnamed.n)
	}
	if answered.Load() < n/2 {
		t.Errorf("only %d calls were answered; the others: %v", answered.Load(), named.n)
	}
	stdruntime.GC()
	var mem stdruntime.MemStats
	stdruntime.ReadMemStats(&mem)
	if mem.HeapAlloc > 256<<20 {
		t.Errorf("%d MiB of heap after all calls have ended", mem.HeapAlloc>>20)
	}
	s.Stop(s.writer)
	s.Stop(s.relay)
	s.wantPairs(s.relay, s.writer)
	eventually(t, "the goroutines to end", func() bool { return stdruntime.NumGoroutine() <= base+5 })
}

func TestDefaultBudgetRefusesTheExcessByName(t *testing.T) {
	s := newScene(t)
	started, release := s.held()
	const n = 200
	results := make(chan error, n)
	for range n {
		go func() {
			_, err := s.call(s.ctx)
			results <- err
		}()
	}
	limit := int(conduct.DefaultAgent.InFlight)
	for range limit {
		receive(t, "the admitted calls", started)
	}
	for range n - limit {
		wantReason(t, receive(t, "a refusal", results), v1.Reason_REASON_CONCURRENCY)
	}
	close(release)
	for range limit {
		if err := receive(t, "an answer", results); err != nil {
			t.Errorf("an admitted call: %v", err)
		}
	}
	s.wantPairs(s.relay, s.writer)
}

func TestRateIsRefusedByNameWithAWait(t *testing.T) {
	s := newScene(t, agenttest.Config(func(c *runtime.Config) {
		c.AgentBudget = conduct.Budget{Rate: 0.001, Burst: 3}
	}))
	for range 3 {
		s.mustCall(s.ctx)
	}
	_, err := s.call(s.ctx)
	wantReason(t, err, v1.Reason_REASON_RATE)
	if wait := retryInfo(err); wait <= 0 || wait > time.Minute {
		t.Errorf("retry after %v, want a wait of at most a minute", wait)
	}
}

func retryInfo(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// A handler that sleeps and a reader that stalls hold nobody up: everything else on the same connection ends first.
func TestOneSlowCallHoldsNobodyUp(t *testing.T) {
	s := newScene(t)
	started, release := s.held()
	blocked := make(chan struct{})
	s.node.down = func(_ *meshpb.ServerStreamRequest, stream grpc.ServerStreamingServer[meshpb.ServerStreamResponse]) error {
		big := make([]byte, 64<<10)
		for i := range 1000 { // more than any window
			if err := stream.Send(&meshpb.ServerStreamResponse{Text: string(big)}); err != nil {
				return err
			}
			if i == 0 {
				close(blocked)
			}
		}
		return errors.New("the whole stream was sent to a reader that does not read")
	}
	slow := s.background(s.ctx)
	receive(t, "the slow call to start", started)
	ctx, cancel := context.WithCancel(s.grant())
	defer cancel()
	stream, err := s.client.ServerStream(ctx, &meshpb.ServerStreamRequest{Resource: mesh()})
	if err != nil {
		t.Fatal(err)
	}
	receive(t, "the stream to fill its window", blocked)
	for i := range 100 {
		if _, err := s.client.Foreign(within(t, s.ctx), &meshpb.ForeignRequest{}); err != nil {
			t.Fatalf("call %d beside a slow one: %v", i, err)
		}
	}
	select {
	case <-slow:
		t.Error("the slow call ended before it was released")
	default:
	}
	cancel()
	if _, err := down(t, stream, nil); err == nil {
		t.Error("the stalled stream ended well")
	}
	close(release)
	if got := receive(t, "the slow call", slow); got.err != nil {
		t.Errorf("the slow call: %v", got.err)
	}
	eventually(t, "all records", func() bool { return pairsDone(s, s.writer) && pairsDone(s, s.relay) })
	s.wantPairs(s.relay, s.writer)
}
