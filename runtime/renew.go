package runtime

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// Bounds of renewing.
const (
	// maxRenewals bounds the chains that are kept alive at a time: what the authority renews for one agent in ten minutes is 6,000.
	// Further ones end when they end.
	maxRenewals = 4096
	// sweepPause is between two looks for what is over in a full table: a look is linear.
	sweepPause = time.Second
	// maxFlights bounds the requests to the authority that are on their way. What finds no place is asked for at the next call.
	maxFlights = 32
	// renewTimeout bounds one request.
	renewTimeout = 10 * time.Second
	// renewWait is how long a call waits for an answer in the last tenth of a grant's life, before it goes out under what there is.
	renewWait = 2 * time.Second
	// renewRetry is the longest pause after a request that failed; chains with short lives pause a twentieth of theirs. After a
	// refusal, which seldom changes, it is a tenth of the life.
	renewRetry      = 5 * time.Second
	renewRetryShare = 20
	refusedShare    = 10
)

// giverBudget bounds what is renewed, beside calls, of what one agent has given: whoever sends many chains shortly before they end must not
// use up the table, and what the authority renews for this agent at all, which is ten a second.
var giverBudget = conduct.Budget{Rate: 1, Burst: 50}

// ErrRenewal is returned by Renew when the authority could not be asked or its answer does not continue the chain.
var ErrRenewal = errors.New("the grant was not renewed")

// Renewer is a [Trust] that has grants renewed. With a Trust that is none, an agent works until its grants end.
type Renewer interface {
	// RenewGrant returns the grant by which this workload, the last delegate of chain, goes on. chain is self-contained.
	RenewGrant(ctx context.Context, chain *v1.DelegationChain) (*v1.SignedStatement, error)
}

// RenewGrant implements Renewer.
func (t *remoteTrust) RenewGrant(ctx context.Context, chain *v1.DelegationChain) (*v1.SignedStatement, error) {
	resp, err := t.client.RenewGrant(ctx, &rpcv1.RenewGrantRequest{
		Chain: chain, Envelope: t.envelope(rpcv1.AuthorityService_RenewGrant_FullMethodName),
	})
	if err != nil {
		return nil, refusalOf(err)
	}
	return resp.GetGrant(), nil
}

// Renew renews the authority that ctx acts under now, and returns when that is done. Calls renew it by themselves; Renew is for
// work that makes none for minutes, such as waiting for a person, which would let it end. It has no effect on the context of a
// handler, which ends with the chain that the call came with. A refusal of the authority is a [*Refusal]; other errors wrap
// ErrNoAuthority or ErrRenewal.
func (a *Agent) Renew(ctx context.Context) error {
	in, ok := interceptors.From(ctx)
	if !ok || in.Leaf() == nil {
		return noAuthority{}
	}
	r := &a.renewals
	r.mu.Lock()
	e := r.entry(in.Leaf(), a.cfg.Now())
	if e == nil || !r.launch(a, e) {
		r.mu.Unlock()
		return fmt.Errorf("%w: no authority that renews, or too much to renew", ErrRenewal)
	}
	busy := e.busy
	r.mu.Unlock()
	select {
	case <-busy:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrRenewal, ctx.Err())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return e.err
}

// renewals keeps chains alive while calls are made under them. A chain is renewed when two thirds of its life are over, beside the call
// that finds this out; calls in its last tenth wait a moment for the answer. Nothing runs between calls. What cannot be renewed is used
// until it ends, and refused from then on by the callee as by this side.
type renewals struct {
	run     context.Context //nolint:containedctx // of the agent: it ends the requests on their way.
	renewer Renewer
	givers  *conduct.Meter // one account per agent that has given a verified chain, so bounded by the registry
	wg      sync.WaitGroup

	mu      sync.Mutex
	m       map[[32]byte]*renewal // by the link of the chain that the work began with
	flights int
	swept   time.Time
	closed  bool
}

// renewal is the newest state of one chain. Its fields are guarded by renewals.mu.
type renewal struct {
	leaf  *delegation.Leaf
	busy  chan struct{} // closed when the request on its way is answered; nil when there is none
	err   error         // of the last request
	retry time.Time     // no request before
}

func (r *renewals) open(run context.Context, t Trust) {
	r.run = run
	r.renewer, _ = t.(Renewer) // optional
	r.givers = conduct.NewMeter(giverBudget, conduct.Budget{})
}

// close waits for the requests on their way, which the end of the agent's context has ended.
func (r *renewals) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wg.Wait()
}

// current returns the leaf under which a call goes out: the one that the work began with, or what it was renewed to.
func (r *renewals) current(ctx context.Context, a *Agent, first *delegation.Leaf) *delegation.Leaf {
	now := a.cfg.Now()
	if now.Before(renewAt(first)) || r.renewer == nil {
		return first
	}
	r.mu.Lock()
	e := r.m[first.Link()]
	latest, due := first, true
	if e != nil {
		latest, due = e.leaf, e.busy == nil && !now.Before(renewAt(e.leaf)) && !now.Before(e.retry)
	}
	due = due && r.spend(first, now)
	if e == nil && due {
		e = r.entry(first, now)
	}
	if e == nil {
		r.mu.Unlock()
		return first
	}
	if due {
		r.launch(a, e)
	}
	busy := e.busy
	r.mu.Unlock()
	if busy == nil || now.Before(lastTenth(latest)) {
		return latest
	}
	timer := time.NewTimer(renewWait)
	defer timer.Stop()
	select {
	case <-busy:
	case <-ctx.Done():
	case <-timer.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return e.leaf
}

// spend takes a renewal out of the budget of who gave a chain. The agent's own grants have none: people give those.
func (r *renewals) spend(first *delegation.Leaf, now time.Time) bool {
	if first.Issuer().IsService() {
		return true
	}
	_, ok := r.givers.Agent(first.Issuer()).Rate.Take(now, 1)
	return ok
}

// entry returns the state of a chain, nil when there is no place for another. The caller holds mu.
func (r *renewals) entry(first *delegation.Leaf, now time.Time) *renewal {
	k := first.Link()
	if e := r.m[k]; e != nil {
		return e
	}
	if r.renewer == nil || !now.Before(first.Expires()) {
		return nil
	}
	if r.m == nil {
		r.m = map[[32]byte]*renewal{}
	}
	if len(r.m) >= maxRenewals && now.Sub(r.swept) >= sweepPause {
		r.swept = now
		r.sweep(now)
	}
	if len(r.m) >= maxRenewals {
		return nil
	}
	e := &renewal{leaf: first}
	r.m[k] = e
	return e
}

// sweep forgets what is over. The caller holds mu.
func (r *renewals) sweep(now time.Time) {
	for k, e := range r.m {
		if e.busy == nil && !now.Before(e.leaf.Expires()) {
			delete(r.m, k)
		}
	}
}

// launch sends a request unless one is on its way, and reports whether one is. The caller holds mu.
func (r *renewals) launch(a *Agent, e *renewal) bool {
	if e.busy != nil {
		return true
	}
	if r.closed || r.flights >= maxFlights || !a.cfg.Now().Before(e.leaf.Expires()) {
		return false
	}
	e.busy = make(chan struct{})
	r.flights++
	r.wg.Add(1)
	go r.fly(a, e, e.leaf)
	return true
}

func (r *renewals) fly(a *Agent, e *renewal, from *delegation.Leaf) {
	defer r.wg.Done()
	ctx, cancel := context.WithTimeout(r.run, renewTimeout)
	defer cancel()
	next, err := r.renew(ctx, a, from)
	if err != nil && r.run.Err() == nil {
		a.cfg.Logger.WarnContext(ctx, "grant not renewed; it is used until it ends",
			slog.Time("ends", from.Expires()), slog.String("error", err.Error()))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.err = err; err == nil {
		e.leaf = next
	} else {
		e.retry = a.cfg.Now().Add(pauseAfter(err, lifeOfLeaf(from)))
	}
	close(e.busy)
	e.busy = nil
	r.flights--
}

func pauseAfter(err error, life time.Duration) time.Duration {
	if refused := new(Refusal); errors.As(err, &refused) {
		return life / refusedShare
	}
	return min(renewRetry, life/renewRetryShare)
}

// renew asks the authority and verifies the answer: it must go on with this chain, for this purpose, at this depth.
func (r *renewals) renew(ctx context.Context, a *Agent, from *delegation.Leaf) (*delegation.Leaf, error) {
	grant, err := r.renewer.RenewGrant(ctx, from.Chain())
	if err != nil {
		var refused *Refusal
		if errors.As(err, &refused) {
			return nil, refused
		}
		return nil, fmt.Errorf("%w: %w", ErrRenewal, err)
	}
	next, err := a.verifier.VerifyGrant(grant)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRenewal, err)
	}
	if next.ChainID() != from.ChainID() || next.PurposeDigest() != from.PurposeDigest() || next.Depth() != from.Depth() {
		return nil, fmt.Errorf("%w: the authority answered with another chain's grant", ErrRenewal)
	}
	return next, nil
}

func lifeOfLeaf(x *delegation.Leaf) time.Duration { return x.Expires().Sub(x.NotBefore()) }

// renewAt is when two thirds of a leaf's life are over, give or take a tenth, so that what began together is not renewed together. The
// link is as good as random, and the same at every call.
func renewAt(x *delegation.Leaf) time.Time {
	link := x.Link()
	share := time.Duration(binary.BigEndian.Uint16(link[:])) % 201 // 90 to 110 % in all
	return x.NotBefore().Add(lifeOfLeaf(x) * 2 / 3 * (900 + share) / 1000)
}

// lastTenth is when the last tenth of a leaf's life begins.
func lastTenth(x *delegation.Leaf) time.Time { return x.Expires().Add(-lifeOfLeaf(x) / 10) }
