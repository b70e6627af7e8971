package vectors_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/vectors"
)

// skewMs is how long a replay key outlives its message.
const skewMs = 30_000

// codes are the reasons whose code is not their name.
func codes() map[v1.Reason]string {
	return map[v1.Reason]string{
		v1.Reason_REASON_CHAIN_PRESENTER: "PRESENTER_MISMATCH", v1.Reason_REASON_CHAIN_HANDLE_REVOKED: "REVOKED",
		v1.Reason_REASON_CHAIN_UNKNOWN: "CHAIN_UNKNOWN", v1.Reason_REASON_PROOF_BINDING: "BINDING",
	}
}

func codeOf(err error) string {
	if err == nil {
		return vectors.Allow
	}
	reason := delegation.ReasonOf(err)
	if code, found := codes()[reason]; found {
		return code
	}
	if reason == 0 {
		return err.Error()
	}
	return strings.TrimPrefix(reason.String(), "REASON_CHAIN_")
}

// errReplay is the refusal of a message that was seen.
var errReplay = errors.New("REPLAY")

// run is one vector before a verifier.
type run struct {
	t        *testing.T
	f        *vectors.File
	v        *vectors.Vector
	verifier *delegation.Verifier
	trust    *trustView
	nowMs    int64
	tables   map[string]*delegation.ConnTable
	replay   *replayStore
}

func newRun(t *testing.T, f *vectors.File, v *vectors.Vector) *run {
	t.Helper()
	r := &run{t: t, f: f, v: v, trust: &trustView{}, replay: &replayStore{until: map[[32]byte]int64{}}}
	r.change(v.Trust)
	r.restart()
	return r
}

func (r *run) change(name string) {
	r.t.Helper()
	spec := r.f.Trust[name]
	if spec == nil {
		r.t.Fatalf("%s: no trust %q", r.v.ID, name)
	}
	if err := r.trust.set(spec); err != nil {
		r.t.Fatalf("%s: %v", r.v.ID, err)
	}
}

// restart forgets everything but the replay store.
func (r *run) restart() {
	r.t.Helper()
	self, err := identity.ParseAgent(r.v.Self)
	if err != nil {
		r.t.Fatal(err)
	}
	r.tables = map[string]*delegation.ConnTable{}
	r.verifier, err = delegation.NewVerifier(delegation.Config{
		Self: self, Keys: r.trust, Bundles: r.trust, BundleGeneration: r.trust.Generation, Revoked: r.trust,
		Now: func() time.Time { return time.UnixMilli(r.nowMs) },
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *run) all() {
	r.t.Helper()
	for i, st := range r.v.Steps {
		r.nowMs = st.NowMs
		if st.Trust != "" {
			r.change(st.Trust)
		}
		if st.Restart {
			r.restart()
		}
		r.trust.revoke(st.Revoked)
		name := fmt.Sprintf("%s step %d (%s)", r.v.ID, i, r.v.Title)
		switch {
		case st.Sweep != nil:
			r.sweep(name, st)
		case st.Times > 1:
			r.concurrent(name, st)
		default:
			x, err := r.take(st, r.chain(st))
			if got := codeOf(err); got != st.Expect {
				r.t.Errorf("%s: %s (%v), want %s", name, got, err, st.Expect)
			} else if st.Leaf != nil {
				r.compare(name, x, st.Leaf)
			}
		}
	}
}

// take is one message: the chain or its reference, the intent, the proof, and last the replay store.
func (r *run) take(st *vectors.Step, chain []byte) (*delegation.Leaf, error) {
	peer := r.peer(st.Presenter)
	x, err := r.leaf(st, chain, peer)
	if err != nil || st.Intent == nil {
		return x, err
	}
	if err := r.verifier.Recheck(x, peer, intent(r.t, st.Intent)); err != nil {
		return x, err
	}
	if st.Proof != nil {
		return x, r.prove(st.Proof, x, peer)
	}
	return x, r.insert(st, peer)
}

// prove holds a proof against its message and spends it.
func (r *run) prove(p *vectors.Proof, x *delegation.Leaf, peer identity.Peer) error {
	message := r.f.Envelopes[p.Envelope]
	if err := r.checkTranscript(message); err != nil {
		return err
	}
	raw, err := p.Proof.Join(r.f.Blobs)
	if err != nil {
		return err
	}
	proof := new(v1.InvocationProof)
	if err := proto.Unmarshal(raw, proof); err != nil {
		return err
	}
	inv, err := r.verifier.VerifyInvocation(x, proof, delegation.EnvelopeFacts{
		Peer: peer, Method: p.Method, Envelope: envelope(r.t, message.Fields), Seen: r.replay.seen,
	})
	if err != nil {
		return err
	}
	fresh, err := r.replay.Insert(r.t.Context(), peer.Tenant.Name(), inv.Key, inv.Expires.Add(skewMs*time.Millisecond))
	if err != nil || !fresh {
		return errReplay
	}
	if !bytes.Equal(inv.Key[:], p.Key) {
		return fmt.Errorf("the replay key is %x, want %x", inv.Key, p.Key)
	}
	return nil
}

// checkTranscript holds the vector's digest against that of its message.
func (r *run) checkTranscript(m *vectors.Digested) error {
	digest, err := delegation.EnvelopeDigest(envelope(r.t, m.Fields))
	if (err != nil) != (len(m.Digest) == 0) {
		return fmt.Errorf("the digest of the envelope is %x, want %x: %w", digest, m.Digest, err)
	}
	if sum := sha256.Sum256(m.Transcript); len(m.Transcript) > 0 && !bytes.Equal(sum[:], m.Digest) {
		return fmt.Errorf("the transcript has the digest %x, want %x", sum, m.Digest)
	}
	if err == nil && !bytes.Equal(digest[:], m.Digest) {
		return fmt.Errorf("the digest of the envelope is %x, want %x", digest, m.Digest)
	}
	return nil
}

func (r *run) leaf(st *vectors.Step, chain []byte, peer identity.Peer) (*delegation.Leaf, error) {
	table := r.tables[st.Connection]
	if table == nil {
		table = delegation.NewConnTable()
		if st.Connection != "" {
			r.tables[st.Connection] = table
		}
	}
	if st.Op == vectors.OpResolve {
		return r.verifier.Resolve(table, st.Reference, peer)
	}
	c, err := delegation.ParseChain(chain)
	if err != nil {
		return nil, err
	}
	x, err := r.verifier.Verify(c, peer)
	if err == nil {
		table.Remember(x)
	}
	return x, err
}

// insert is the replay store, which a message reaches last.
func (r *run) insert(st *vectors.Step, peer identity.Peer) error {
	if m := st.Message; m != nil {
		key := delegation.ReplayKey(delegation.ReplayDirect, peer.Agent, m.EnvelopeID)
		if !bytes.Equal(key[:], m.Key) {
			return fmt.Errorf("the replay key is %x, want %x", key, m.Key)
		}
		fresh, err := r.replay.Insert(r.t.Context(), peer.Tenant.Name(), key, time.UnixMilli(m.DeadlineMs+skewMs))
		if err != nil || !fresh {
			return errReplay
		}
	}
	return nil
}

// chain joins the bytes that a step presents.
func (r *run) chain(st *vectors.Step) []byte {
	b, err := r.f.Chains[st.Chain].Join(r.f.Blobs)
	if err != nil {
		r.t.Errorf("%s: %v", r.v.ID, err)
	}
	return b
}

// sweep flips every bit of a range.
func (r *run) sweep(name string, st *vectors.Step) {
	r.t.Helper()
	chain := r.chain(st)
	for at := st.Sweep.From; at < st.Sweep.To; at++ {
		for bit := range 8 {
			chain[at] ^= 1 << bit
			if _, err := r.take(st, chain); err == nil {
				r.t.Errorf("%s: bit %d of byte %d flipped is allowed", name, bit, at)
			}
			chain[at] ^= 1 << bit
		}
	}
}

// concurrent takes one message many times at once.
func (r *run) concurrent(name string, st *vectors.Step) {
	r.t.Helper()
	var wg sync.WaitGroup
	got := make([]string, st.Times)
	for i := range got {
		wg.Go(func() {
			_, err := r.take(&vectors.Step{
				Op: st.Op, NowMs: st.NowMs, Presenter: st.Presenter, Intent: st.Intent, Message: st.Message, Proof: st.Proof,
			}, r.chain(st))
			got[i] = codeOf(err)
		})
	}
	wg.Wait()
	slices.Sort(got)
	if got[0] != vectors.Allow || got[1] != "REPLAY" || got[len(got)-1] != "REPLAY" {
		r.t.Errorf("%s: %v, want one to pass", name, got)
	}
}

func (r *run) compare(name string, x *delegation.Leaf, want *vectors.Leaf) {
	r.t.Helper()
	id, link, chain := x.ID(), x.Link(), x.ChainID()
	got := &vectors.Leaf{
		StatementID: id[:], Link: link[:], ChainID: chain[:], Issuer: x.Issuer().String(), Delegate: x.Delegate().String(),
		Depth: x.Depth(), ExpiresMs: x.Expires().UnixMilli(),
	}
	if a, b := fmt.Sprintf("%x", *got), fmt.Sprintf("%x", *want); a != b {
		r.t.Errorf("%s: leaf %s, want %s", name, a, b)
	}
}

// peer is the other end of a connection.
func (r *run) peer(name string) identity.Peer {
	p := r.f.Presenters[name]
	if p == nil {
		r.t.Errorf("%s: no presenter %q", r.v.ID, name)
		return identity.Peer{}
	}
	id, err := identity.ParseAgent(p.ID)
	if err != nil {
		r.t.Error(err)
	}
	peer := identity.Peer{ID: id.ID(), Agent: id}
	if len(p.Leaf) > 0 {
		cert, err := x509.ParseCertificate(p.Leaf)
		if err != nil {
			r.t.Error(err)
		}
		if peer, err = identity.PeerFromLeaf(cert); err != nil || peer.Agent != id {
			r.t.Errorf("%s: presenter %q: %v", r.v.ID, name, err)
		}
	}
	if peer.Tenant = (identity.Tenant{}); p.Tenant != "" {
		if peer.Tenant, err = identity.RegisteredTenant(id.TrustDomain(), p.Tenant); err != nil {
			r.t.Error(err)
		}
	}
	return peer
}

func intent(t *testing.T, in *vectors.Intent) delegation.Intent {
	t.Helper()
	out := delegation.Intent{Action: in.Action, Resource: in.Resource, Purpose: in.Purpose}
	for _, f := range in.Facts {
		fact := delegation.Fact{Key: f.Key}
		if v := f.Value; v != nil {
			fact.Value = value(t, v)
		}
		out.Facts = append(out.Facts, fact)
	}
	return out
}

func value(t *testing.T, v *vectors.Value) *v1.Value {
	t.Helper()
	switch {
	case v.Text != nil:
		return &v1.Value{Kind: &v1.Value_Text{Text: *v.Text}}
	case v.Flag != nil:
		return &v1.Value{Kind: &v1.Value_Flag{Flag: *v.Flag}}
	case v.Number != nil:
		n, err := strconv.ParseInt(*v.Number, 10, 64)
		if err != nil {
			t.Error(err)
		}
		return &v1.Value{Kind: &v1.Value_Number{Number: n}}
	}
	return &v1.Value{}
}

// trustView is what a vector configures. It changes between steps only.
type trustView struct {
	spec       *vectors.Trust
	bundles    map[spiffeid.TrustDomain]*x509bundle.Bundle
	revoked    map[[32]byte]bool
	epoch      uint64
	generation uint64
}

func (v *trustView) set(spec *vectors.Trust) error {
	if v.spec == spec {
		return nil
	}
	v.spec, v.bundles = spec, map[spiffeid.TrustDomain]*x509bundle.Bundle{}
	v.generation++
	for _, b := range spec.Bundles {
		td, err := spiffeid.TrustDomainFromString(b.TrustDomain)
		if err != nil {
			return fmt.Errorf("reading a trust domain: %w", err)
		}
		bundle := x509bundle.New(td)
		for _, der := range b.Roots {
			cert, err := x509.ParseCertificate(der)
			if err != nil {
				return fmt.Errorf("reading a root: %w", err)
			}
			bundle.AddX509Authority(cert)
		}
		v.bundles[td] = bundle
	}
	return nil
}

func (v *trustView) revoke(handles []vectors.Hex) {
	if len(handles) == 0 {
		return
	}
	next := maps.Clone(v.revoked)
	if next == nil {
		next = map[[32]byte]bool{}
	}
	for _, h := range handles {
		next[[32]byte(h)] = true
	}
	v.revoked, v.epoch = next, v.epoch+1
}

func (v *trustView) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if b := v.bundles[td]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("no bundle of %s", td)
}

func (v *trustView) GrantKey(issuer, keyID string, at time.Time) (ed25519.PublicKey, bool) {
	for _, k := range v.spec.GrantKeys {
		if ms := at.UnixMilli(); k.Issuer == issuer && k.KeyID == keyID && ms >= k.NotBeforeMs && ms < k.NotAfterMs {
			return ed25519.PublicKey(k.PublicKey), true
		}
	}
	return nil, false
}

func (v *trustView) Generation() uint64 { return v.generation }

func (v *trustView) Epoch() uint64 { return v.epoch }

func (v *trustView) Revoked(handles [][32]byte) bool {
	return slices.ContainsFunc(handles, func(h [32]byte) bool { return v.revoked[h] })
}

// replayStore is the smallest store that keeps its promise.
type replayStore struct {
	mu    sync.Mutex
	until map[[32]byte]int64
}

func (s *replayStore) Insert(_ context.Context, _ string, key [32]byte, until time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, found := s.until[key]; found {
		return false, nil
	}
	s.until[key] = until.UnixMilli()
	return true, nil
}

func (s *replayStore) seen(key [32]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, found := s.until[key]; found {
		return errReplay
	}
	return nil
}
