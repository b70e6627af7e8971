package runtime

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/safeconduct/safeconduct/identity"
)

// locator resolves a SPIFFE ID to the address that its workload announced. It asks again when grpc could not connect, and by itself
// while there is no answer, because grpc does not ask a resolver again that has reported an error.
type locator struct {
	trust Trust
	id    identity.AgentID
}

// Scheme implements resolver.Builder.
func (*locator) Scheme() string { return "safeconduct" }

// Build implements resolver.Builder.
func (l *locator) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &located{locator: l, cc: cc, cancel: cancel, ask: make(chan struct{}, 1)}
	r.wg.Add(1)
	go r.run(ctx)
	r.ResolveNow(resolver.ResolveNowOptions{})
	return r, nil
}

type located struct {
	*locator
	cc     resolver.ClientConn
	cancel context.CancelFunc
	ask    chan struct{}
	wg     sync.WaitGroup
}

func (r *located) run(ctx context.Context) {
	defer r.wg.Done()
	wait := minRetry
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
		if err != nil {
			r.cc.ReportError(err)
			again.Reset(wait)
			wait = min(2*wait, maxRetry)
			continue
		}
		wait = minRetry
		again.Stop()
		_ = r.cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: addr, ServerName: r.id.DNSName()}}})
	}
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
	r.cancel()
	r.wg.Wait()
}
