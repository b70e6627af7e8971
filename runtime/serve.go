package runtime

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/signal"
	"syscall"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// Bounds of a shutdown: how long it waits for calls in flight, and then for handlers whose contexts have ended.
const (
	drainTimeout = 10 * time.Second
	haltTimeout  = 5 * time.Second
)

// ErrStuck is returned at shutdown when a handler still runs though its context has ended.
var ErrStuck = errors.New("a handler ignores the end of its context")

// Run serves until ctx ends or the process gets SIGTERM or SIGINT, drains, and closes the agent.
func (a *Agent) Run(ctx context.Context) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := a.Serve(ctx)
	return errors.Join(err, a.Close())
}

// Serve listens, announces the address to the authority, and serves until ctx ends; then it takes no new calls and waits up to
// 10 s for those in flight. It refuses to start when a registered method may not be served.
func (a *Agent) Serve(ctx context.Context) error {
	l, err := a.Listen(ctx)
	if err != nil {
		return err
	}
	return a.ServeListener(ctx, l)
}

// Listen opens the configured listener.
func (a *Agent) Listen(ctx context.Context) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", a.cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	return l, nil
}

// ServeListener is Serve on a listener of the caller's. It closes l.
func (a *Agent) ServeListener(ctx context.Context, l net.Listener) error {
	a.mu.Lock()
	problems := errors.Join(a.problems...)
	a.addr = l.Addr().String()
	a.mu.Unlock()
	if problems != nil {
		_ = l.Close()
		return fmt.Errorf("runtime: %w", problems)
	}
	if err := a.startEdge(ctx); err != nil {
		_ = l.Close()
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- a.server.Serve(l) }()
	if err := a.announce(ctx); err != nil {
		return errors.Join(err, a.stop())
	}
	a.health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	select {
	case err := <-failed:
		a.stopEdge()
		return err
	case <-ctx.Done():
	}
	a.health.Shutdown()
	if err := a.stop(); err != nil {
		return err // the server's goroutine ends with the handlers that do not
	}
	return <-failed
}

func (a *Agent) announce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return a.trust.Announce(ctx, a.Addr())
}

// stop drains: no new calls, then an end to those that outlast the drain.
func (a *Agent) stop() error {
	edge := make(chan struct{})
	go func() { defer close(edge); a.stopEdge() }()
	drained := make(chan struct{})
	go func() { defer close(drained); a.server.GracefulStop() }()
	timer := time.NewTimer(drainTimeout)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
	}
	<-edge
	return a.halt()
}

// halt ends every connection and waits for the handlers, whose contexts are over; one that goes on regardless holds nobody up.
func (a *Agent) halt() error {
	stopped := make(chan struct{})
	go func() { defer close(stopped); a.server.Stop() }()
	timer := time.NewTimer(haltTimeout)
	defer timer.Stop()
	select {
	case <-stopped:
		return nil
	case <-timer.C:
		return ErrStuck
	}
}

// Close ends everything that New started. Records already acknowledged are durable before it returns.
func (a *Agent) Close() error {
	var err error
	a.once.Do(func() {
		a.cancel()
		a.mu.Lock()
		conns := a.conns
		a.conns = nil
		a.mu.Unlock()
		for _, c := range conns {
			err = errors.Join(err, c.close())
		}
		a.stopEdge()
		if a.server != nil {
			err = errors.Join(err, a.halt())
		}
		a.wg.Wait()
		a.renewals.close()
		if a.enforcer != nil {
			a.enforcer.Flush()
		}
		if a.replays != nil {
			err = errors.Join(err, a.replays.close())
		}
		if a.trust != nil && a.cfg.Trust == nil {
			err = errors.Join(err, a.trust.Close())
		}
		if a.log != nil && a.cfg.Audit == nil {
			err = errors.Join(err, a.log.Close())
		}
		if a.src != nil && a.cfg.Source == nil {
			err = errors.Join(err, a.src.Close())
		}
	})
	return err
}
