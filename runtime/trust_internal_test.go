package runtime

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// press is an authority as far as its trust bundles go.
type press struct {
	t            *testing.T
	feed, policy ed25519.PrivateKey
	self         identity.AgentID
}

func newPress(t *testing.T) *press {
	t.Helper()
	self, err := identity.ParseAgent("spiffe://press.test/tenant/acme/agent/reader")
	if err != nil {
		t.Fatal(err)
	}
	return &press{t: t, feed: newKey(t), policy: newKey(t), self: self}
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (p *press) publicKey(key ed25519.PrivateKey, use v1.KeyUse) *v1.PublicKey {
	p.t.Helper()
	pub, _ := key.Public().(ed25519.PublicKey)
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		p.t.Fatal(err)
	}
	id, err := delegation.KeyID(pub)
	if err != nil {
		p.t.Fatal(err)
	}
	return &v1.PublicKey{KeyId: id, Use: use, Spki: spki}
}

// bundle returns a signed bundle; change may alter it before it is signed, by key.
func (p *press) bundle(serial uint64, key ed25519.PrivateKey, change func(*v1.TrustBundle)) *v1.Dsse {
	p.t.Helper()
	b := &v1.TrustBundle{
		Version: 1, TrustDomain: "press.test", Serial: serial, IssuedAtMs: time.Now().UnixMilli(),
		Keys:   []*v1.PublicKey{p.publicKey(p.feed, v1.KeyUse_KEY_USE_FEED), p.publicKey(p.policy, v1.KeyUse_KEY_USE_POLICY)},
		Agents: []*v1.Agent{{SpiffeId: p.self.String(), AgentClass: "reader", State: v1.AgentState_AGENT_STATE_ACTIVE}},
	}
	if change != nil {
		change(b)
	}
	payload, err := proto.Marshal(b)
	if err != nil {
		p.t.Fatal(err)
	}
	d, err := delegation.SealDsse(delegation.TypeBundle, payload, key)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func (p *press) table(key ed25519.PrivateKey) *v1.Dsse {
	p.t.Helper()
	d, err := policy.SignTable(&v1.CapabilityTable{Version: 1, TrustDomain: "press.test", Serial: 1, IssuedAtMs: 1}, key)
	if err != nil {
		p.t.Fatal(err)
	}
	return d
}

func TestTrustBundleIsVerified(t *testing.T) {
	p := newPress(t)
	first, err := openBundle(p.bundle(5, p.feed, nil), p.self, bundleView{})
	if err != nil || first.serial != 5 || first.agents[p.self] == nil {
		t.Fatalf("first bundle: %v, %v", first, err)
	}
	stranger := newKey(t)
	tests := []struct {
		name string
		d    *v1.Dsse
		ok   bool
	}{
		{"the next", p.bundle(6, p.feed, nil), true},
		{"the same again", p.bundle(5, p.feed, nil), true},
		{"with a table", p.bundle(6, p.feed, func(b *v1.TrustBundle) { b.Table = p.table(p.policy) }), true},
		{"an older one", p.bundle(4, p.feed, nil), false},
		{"serial 0", p.bundle(0, p.feed, nil), false},
		{"signed by a key that it brings itself", p.bundle(6, stranger, func(b *v1.TrustBundle) {
			b.Keys = append(b.Keys, p.publicKey(stranger, v1.KeyUse_KEY_USE_FEED))
		}), false},
		{"signed by a key for another use", p.bundle(6, p.policy, nil), false},
		{"a key under the id of another", p.bundle(6, p.feed, func(b *v1.TrustBundle) {
			b.Keys[1].Spki = p.publicKey(stranger, 0).GetSpki()
		}), false},
		{"a key that does not parse", p.bundle(6, p.feed, func(b *v1.TrustBundle) { b.Keys[1].Spki = []byte("x") }), false},
		{"another trust domain", p.bundle(6, p.feed, func(b *v1.TrustBundle) { b.TrustDomain = "other.test" }), false},
		{"another version", p.bundle(6, p.feed, func(b *v1.TrustBundle) { b.Version = 2 }), false},
		{"an agent without identity", p.bundle(6, p.feed, func(b *v1.TrustBundle) { b.Agents[0].SpiffeId = "spiffe://" }), false},
		{"a table signed by the feed key", p.bundle(6, p.feed, func(b *v1.TrustBundle) { b.Table = p.table(p.feed) }), false},
		{"a table signed by a stranger", p.bundle(6, p.feed, func(b *v1.TrustBundle) { b.Table = p.table(stranger) }), false},
		{"nothing", nil, false},
		{"no bundle", &v1.Dsse{Payload: []byte("\xff")}, false},
		{"oversize", &v1.Dsse{Payload: make([]byte, maxBundleBytes+1)}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := openBundle(tt.d, p.self, first); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrBundle) {
				t.Errorf("openBundle() = %v, want ok %v", err, tt.ok)
			}
		})
	}
}

// A feed key is replaced in two bundles: the old key signs the one that brings the new key.
func TestFeedKeyIsReplaced(t *testing.T) {
	p := newPress(t)
	next := newKey(t)
	first, err := openBundle(p.bundle(1, p.feed, nil), p.self, bundleView{})
	if err != nil {
		t.Fatal(err)
	}
	both := func(b *v1.TrustBundle) { b.Keys = append(b.Keys, p.publicKey(next, v1.KeyUse_KEY_USE_FEED)) }
	second, err := openBundle(p.bundle(2, p.feed, both), p.self, first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openBundle(p.bundle(3, next, both), p.self, second); err != nil {
		t.Errorf("bundle under the new key: %v", err)
	}
}

func TestConnectionEndsBeforeTheSVID(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		name         string
		before, left time.Duration
		want         time.Duration // the life that counts
	}{
		{"fresh, an hour", 0, time.Hour, time.Hour},
		{"backdated, four seconds", 10 * time.Second, 4 * time.Second, 4 * time.Second},
		{"at half of its life", 30 * time.Minute, 30 * time.Minute, 30 * time.Minute},
		{"about to be replaced", time.Hour, time.Second, time.Hour / 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := lifeOf(&x509.Certificate{NotBefore: now.Add(-tt.before), NotAfter: now.Add(tt.left)})
			if d := got - tt.want; d > time.Second || d < -time.Second {
				t.Errorf("lifeOf() = %v, want %v", got, tt.want)
			}
			age, grace := connectionAge(got)
			if end := age + age/10 + grace; end > got*45/100 {
				t.Errorf("a connection may live %v of %v", end, got)
			}
		})
	}
}

func TestStreamsFollowTheBudget(t *testing.T) {
	for n, want := range map[int64]uint32{1: minStreams, 64: 128, 1000: 2000, 1 << 40: maxStreams} {
		if got := streamsFor(n); got != want {
			t.Errorf("streamsFor(%d) = %d, want %d", n, got, want)
		}
	}
}

func TestRetryAfterIsBounded(t *testing.T) {
	with := func(d time.Duration) *status.Status {
		s, err := status.New(codes.ResourceExhausted, "").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for d, want := range map[time.Duration]time.Duration{time.Second: time.Second, -time.Hour: 0, 1000 * time.Hour: maxRetryAfter} {
		if got := retryAfter(with(d)); got != want {
			t.Errorf("retryAfter(%v) = %v, want %v", d, got, want)
		}
	}
	if got := retryAfter(status.New(codes.Internal, "")); got != 0 {
		t.Errorf("retryAfter() = %v without a detail", got)
	}
}
