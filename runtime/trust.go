package runtime

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// ErrBundle is returned for a trust bundle that does not verify.
var ErrBundle = errors.New("trust bundle refused")

// maxRunMs is how long a stream without a deadline of its own may run, in milliseconds: the most that a callee accepts. A chain ends
// it earlier.
const maxRunMs = 24 * 60 * 60 * 1000

// Bounds of a trust bundle, and of the pause between attempts to reach the authority.
const (
	maxBundleBytes = 8 << 20
	minRetry       = 100 * time.Millisecond
	maxRetry       = 5 * time.Second
)

// remoteTrust follows the authority's trust bundle over mTLS.
type remoteTrust struct {
	self   identity.AgentID
	issuer string // of grants
	now    func() time.Time
	log    *slog.Logger
	conn   *grpc.ClientConn
	client rpcv1.AuthorityServiceClient
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.RWMutex
	view    bundleView
	address string // announced
	next    chan struct{}
	ready   chan struct{}
}

// bundleView is one verified trust bundle.
type bundleView struct {
	serial uint64
	keys   map[string]publishedKey
	agents map[identity.AgentID]*identity.Record
	table  *policy.Table
	// keyGeneration moves when the keys differ from those of the bundle before.
	keyGeneration uint64
}

type publishedKey struct {
	key            ed25519.PublicKey
	use            v1.KeyUse
	notBefore, end time.Time
}

// dialTrust connects to the authority and waits for the first bundle until ctx ends. The first keys are trusted because they come
// over mTLS from spiffe://<trust domain>/service/authority; each later bundle must be signed by a key of the one before.
func dialTrust(ctx context.Context, self identity.AgentID, src identity.Source, addr string, now func() time.Time, log *slog.Logger) (*remoteTrust, error) {
	authority, err := identity.NewServiceID(self.TrustDomain(), "authority")
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(src, authority))),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxBundleBytes)))
	if err != nil {
		return nil, fmt.Errorf("authority at %s: %w", addr, err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t := &remoteTrust{
		self: self, issuer: authority.String(), now: now, log: log, conn: conn, client: rpcv1.NewAuthorityServiceClient(conn), cancel: cancel,
		next: make(chan struct{}), ready: make(chan struct{}),
	}
	var last error
	t.wg.Add(1)
	go func() {
		defer t.wg.Done()
		t.follow(run, func(err error) { t.mu.Lock(); last = err; t.mu.Unlock() })
	}()
	ctx, stop := context.WithTimeout(ctx, startTimeout)
	defer stop()
	select {
	case <-t.ready:
		return t, nil
	case <-ctx.Done():
		_ = t.Close()
		t.mu.RLock()
		defer t.mu.RUnlock()
		return nil, fmt.Errorf("authority at %s: no trust bundle: %w", addr, errors.Join(ctx.Err(), last))
	}
}

// follow keeps one watch open until ctx ends.
func (t *remoteTrust) follow(ctx context.Context, failed func(error)) {
	wait, lost := minRetry, false
	for ctx.Err() == nil {
		err := t.watch(ctx, func() {
			wait = minRetry
			if lost { // an authority that has started again knows no addresses
				t.mu.RLock()
				address := t.address
				t.mu.RUnlock()
				lost = address != "" && t.Announce(ctx, address) != nil
			}
		})
		if ctx.Err() != nil {
			return
		}
		lost = true
		failed(err)
		t.log.WarnContext(ctx, "authority unreachable; the last trust bundle stays in force", slog.String("error", err.Error()))
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, maxRetry)
	}
}

func (t *remoteTrust) watch(ctx context.Context, alive func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.RLock()
	after := t.view.serial
	t.mu.RUnlock()
	env := t.envelope(rpcv1.AuthorityService_WatchTrust_FullMethodName)
	env.TimeoutMs = maxRunMs
	stream, err := t.client.WatchTrust(ctx, &rpcv1.WatchTrustRequest{AfterSerial: after, Envelope: env})
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := t.apply(resp.GetBundle()); err != nil {
			return err
		}
		alive()
	}
}

// envelope is that of an open method: an id and a deadline, no authority.
func (t *remoteTrust) envelope(method string) *v1.Envelope {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return &v1.Envelope{Id: id, Method: method, Tenant: t.self.Tenant().Name(), DeadlineUnixMs: t.now().Add(30 * time.Second).UnixMilli()}
}

func (t *remoteTrust) apply(d *v1.Dsse) error {
	t.mu.RLock()
	old := t.view
	t.mu.RUnlock()
	view, err := openBundle(d, t.self, old)
	if err != nil {
		return err
	}
	if view.serial == old.serial {
		return nil
	}
	t.mu.Lock()
	t.view = view
	close(t.next)
	t.next = make(chan struct{})
	t.mu.Unlock()
	if old.serial == 0 {
		close(t.ready)
	}
	return nil
}

// openBundle verifies one bundle against the one in force. Errors wrap ErrBundle.
func openBundle(d *v1.Dsse, self identity.AgentID, old bundleView) (bundleView, error) {
	if len(d.GetPayload()) > maxBundleBytes {
		return bundleView{}, fmt.Errorf("%w: over %d bytes", ErrBundle, maxBundleBytes)
	}
	var b v1.TrustBundle
	if err := proto.Unmarshal(d.GetPayload(), &b); err != nil {
		return bundleView{}, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	view := bundleView{serial: b.GetSerial(), keys: map[string]publishedKey{}, agents: map[identity.AgentID]*identity.Record{}}
	for _, k := range b.GetKeys() {
		pub, err := x509.ParsePKIXPublicKey(k.GetSpki())
		if err != nil {
			return bundleView{}, fmt.Errorf("%w: key %s: %w", ErrBundle, k.GetKeyId(), err)
		}
		ed, ok := pub.(ed25519.PublicKey)
		id, err := delegation.KeyID(ed)
		if !ok || err != nil || id != k.GetKeyId() {
			return bundleView{}, fmt.Errorf("%w: key %s is not what its id says", ErrBundle, k.GetKeyId())
		}
		pk := publishedKey{key: ed, use: k.GetUse(), notBefore: time.UnixMilli(k.GetNotBeforeMs())}
		if k.GetNotAfterMs() != 0 {
			pk.end = time.UnixMilli(k.GetNotAfterMs())
		}
		view.keys[id] = pk
	}
	trusted := old
	if old.serial == 0 {
		trusted = view // the first bundle, over mTLS from the authority itself
	}
	if _, err := delegation.OpenDsse(d, delegation.TypeBundle, trusted.key(v1.KeyUse_KEY_USE_FEED)); err != nil {
		return bundleView{}, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	switch {
	case b.GetVersion() != 1 || b.GetTrustDomain() != self.TrustDomain().Name() || b.GetSerial() == 0:
		return bundleView{}, fmt.Errorf("%w: version, trust domain or serial", ErrBundle)
	case b.GetSerial() < old.serial:
		return bundleView{}, fmt.Errorf("%w: serial %d after %d", ErrBundle, b.GetSerial(), old.serial)
	}
	for _, a := range b.GetAgents() {
		id, err := identity.ParseAgent(a.GetSpiffeId())
		if err != nil {
			return bundleView{}, fmt.Errorf("%w: %w", ErrBundle, err)
		}
		view.agents[id] = &identity.Record{
			ID: id, Class: a.GetAgentClass(), State: identity.State(a.GetState()), //nolint:gosec // G115: a small enum.
			IntegrityCap: int32(a.GetIntegrityCap()), NotBeforeMs: a.GetNotBeforeMs(),
			SingleProcess: a.GetSingleProcess(), Replicated: a.GetProcesses() > 1,
		}
	}
	view.keyGeneration = old.keyGeneration
	if !maps.EqualFunc(view.keys, old.keys, func(a, b publishedKey) bool { return a.equal(b) }) {
		view.keyGeneration++
	}
	if b.GetTable() != nil {
		table, err := policy.ParseTable(b.GetTable(), view.key(v1.KeyUse_KEY_USE_POLICY))
		if err != nil {
			return bundleView{}, fmt.Errorf("%w: %w", ErrBundle, err)
		}
		view.table = table
	}
	return view, nil
}

func (p publishedKey) equal(o publishedKey) bool {
	return p.use == o.use && p.key.Equal(o.key) && p.notBefore.Equal(o.notBefore) && p.end.Equal(o.end)
}

func (v bundleView) key(use v1.KeyUse) func(string) (ed25519.PublicKey, bool) {
	return func(id string) (ed25519.PublicKey, bool) {
		k, ok := v.keys[id]
		return k.key, ok && k.use == use
	}
}

// Agent implements identity.Registry.
func (t *remoteTrust) Agent(id identity.AgentID) *identity.Record {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.view.agents[id]
}

// Generation implements identity.Registry.
func (t *remoteTrust) Generation() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.view.serial
}

// Keys implements Trust.
func (t *remoteTrust) Keys() delegation.KeyView { return remoteKeys{t} }

type remoteKeys struct{ t *remoteTrust }

// Generation implements delegation.KeyView.
func (k remoteKeys) Generation() uint64 {
	k.t.mu.RLock()
	defer k.t.mu.RUnlock()
	return k.t.view.keyGeneration
}

// GrantKey implements delegation.KeyView: only the trust domain's own authority issues grants here.
func (k remoteKeys) GrantKey(issuer, keyID string, at time.Time) (ed25519.PublicKey, bool) {
	t := k.t
	if issuer != t.issuer {
		return nil, false
	}
	t.mu.RLock()
	key, ok := t.view.keys[keyID]
	t.mu.RUnlock()
	if !ok || key.use != v1.KeyUse_KEY_USE_GRANT || at.Before(key.notBefore) || !key.end.IsZero() && !at.Before(key.end) {
		return nil, false
	}
	return key.key, true
}

// Table implements Trust.
func (t *remoteTrust) Table() *policy.Table {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.view.table
}

// Changed implements Trust.
func (t *remoteTrust) Changed() <-chan struct{} {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.next
}

// Locate implements Trust.
func (t *remoteTrust) Locate(ctx context.Context, id identity.AgentID) (string, error) {
	resp, err := t.client.Locate(ctx, &rpcv1.LocateRequest{
		SpiffeId: id.String(), Envelope: t.envelope(rpcv1.AuthorityService_Locate_FullMethodName),
	})
	if err != nil {
		return "", fmt.Errorf("locating %s: %w", id, err)
	}
	return resp.GetAddress(), nil
}

// Announce implements Trust.
func (t *remoteTrust) Announce(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	_, err := t.client.Announce(ctx, &rpcv1.AnnounceRequest{
		Address: address, Envelope: t.envelope(rpcv1.AuthorityService_Announce_FullMethodName),
	}, grpc.WaitForReady(true))
	if err != nil {
		return fmt.Errorf("announcing %s: %w", address, err)
	}
	t.mu.Lock()
	t.address = address
	t.mu.Unlock()
	return nil
}

// Close implements Trust.
func (t *remoteTrust) Close() error {
	t.cancel()
	t.wg.Wait()
	return t.conn.Close()
}
