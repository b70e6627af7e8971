package runtime

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/safeconduct/safeconduct/identity"
)

// locator resolves a SPIFFE ID to the address that its workload announced. It asks again when grpc could not connect, when a
// connection has ended, and by itself while there is no answer, because grpc does not ask a resolver again that reported an error.
type locator struct {
	trust Trust
	id    identity.AgentID

	mu      sync.Mutex
	current *located
}

// Scheme implements resolver.Builder.
func (*locator) Scheme() string { return "safeconduct" }

// Build implements resolver.Builder.
func (l *locator) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &located{locator: l, cc: cc, cancel: cancel, ask: make(chan struct{}, 1), answered: make(chan struct{})}
	r.wg.Add(1)
	go r.run(ctx)
	r.ResolveNow(resolver.ResolveNowOptions{})
	l.mu.Lock()
	l.current = r
	l.mu.Unlock()
	return r, nil
}

// refresh asks again and waits for the answer, so that the first call after a callee's restart goes to its new address.
func (l *locator) refresh(ctx context.Context) {
	l.mu.Lock()
	r := l.current
	l.mu.Unlock()
	if r == nil {
		return // the first call asks anyway
	}
	r.mu.Lock()
	answered := r.answered
	r.mu.Unlock()
	r.ResolveNow(resolver.ResolveNowOptions{})
	select {
	case <-answered:
	case <-ctx.Done():
	}
}

type located struct {
	*locator
	cc     resolver.ClientConn
	cancel context.CancelFunc
	ask    chan struct{}
	wg     sync.WaitGroup

	mu       sync.Mutex
	answered chan struct{} // closed and replaced with each answer
}

func (r *located) run(ctx context.Context) {
	defer r.wg.Done()
	defer r.answer() // nobody waits for a resolver that has ended
	wait, known := minRetry, false
	again := time.NewTimer(wait)
	again.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.ask:
		case <-again.C:
		}
		lctx, cancel := context.WithTimeout(ctx, startTimeout)
		addr, err := r.trust.Locate(lctx, r.id)
		cancel()
		switch {
		case err == nil:
			known, wait = true, minRetry
			again.Stop()
			_ = r.cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: addr, ServerName: r.id.DNSName()}}})
		case !known: // an address that was good is tried on while the authority is away
			r.cc.ReportError(err)
			again.Reset(wait)
			wait = min(2*wait, maxRetry)
		}
		r.answer()
	}
}

func (r *located) answer() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.answered)
	r.answered = make(chan struct{})
}

// ResolveNow implements resolver.Resolver.
func (r *located) ResolveNow(resolver.ResolveNowOptions) {
	select {
	case r.ask <- struct{}{}:
	default:
	}
}

// Close implements resolver.Resolver.
func (r *located) Close() {
	r.locator.mu.Lock()
	if r.current == r {
		r.current = nil
	}
	r.locator.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}
