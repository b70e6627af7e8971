package delegation

import (
	"crypto/ed25519"
	"errors"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// KeyView finds the grant keys of authorities. Implementations are safe for concurrent use and never block.
type KeyView interface {
	// GrantKey returns the key of that id, when issuer has it in its key set and it is valid at that time.
	GrantKey(issuer, keyID string, at time.Time) (ed25519.PublicKey, bool)
	// Generation moves with every change of any key set.
	Generation() uint64
}

// RevocationView answers for what was revoked. Implementations are safe for concurrent use and never block.
type RevocationView interface {
	// Epoch moves with every change. A reader takes it before it looks, so that a concurrent change makes what it remembers
	// stale and never wrongly fresh.
	Epoch() uint64
	// Revoked reports whether any of the handles is revoked. See AgentHandle for what handles are.
	Revoked(handles [][32]byte) bool
}

// Config is what a Verifier works with.
type Config struct {
	Self    identity.AgentID
	Keys    KeyView
	Bundles x509bundle.Source
	// BundleGeneration moves with every change of any bundle: cached certificates and chains are verified again after it.
	BundleGeneration func() uint64
	// Revoked may be nil: nothing is revoked.
	Revoked RevocationView
	Now     func() time.Time
	Limits  Limits
}

// Verifier verifies chains for one identity. It is safe for concurrent use.
type Verifier struct {
	cfg     Config
	lineage time.Duration
	latest  atomic.Int64                 // highest time seen, in milliseconds
	links   *cache[[sigSize]byte, *Leaf] // by the signature of the last statement
	seals   *cache[[digestSize]byte, seal]
	certs   *cache[[digestSize]byte, *certificate]
}

// NewVerifier returns an error when a part is missing or a limit is outside the bounds of the format.
func NewVerifier(cfg Config) (*Verifier, error) {
	switch {
	case cfg.Self.IsZero():
		return nil, errors.New("new verifier: no identity of its own")
	case cfg.Keys == nil || cfg.Bundles == nil || cfg.BundleGeneration == nil || cfg.Now == nil:
		return nil, errors.New("new verifier: keys, bundles, their generation and a clock are needed")
	case cfg.Limits.Lineage < 0 || cfg.Limits.Lineage > MaxLineage:
		return nil, errors.New("new verifier: lineage limit out of range")
	case cfg.Limits.CachedLinks < 0 || cfg.Limits.CachedSeals < 0 || cfg.Limits.CachedCerts < 0:
		return nil, errors.New("new verifier: negative cache size")
	}
	v := &Verifier{cfg: cfg, lineage: cfg.Limits.Lineage}
	if v.lineage == 0 {
		v.lineage = DefaultLineage
	}
	links, seals, certs := cfg.Limits.CachedLinks, cfg.Limits.CachedSeals, cfg.Limits.CachedCerts
	if links == 0 {
		links = defaultLinks
	}
	if seals == 0 {
		seals = defaultSeals
	}
	if certs == 0 {
		certs = defaultCerts
	}
	v.links, v.certs = newCache[[sigSize]byte, *Leaf](links), newCache[[digestSize]byte, *certificate](certs)
	v.links.weigh = (*Leaf).weight
	v.seals = newCache[[digestSize]byte, seal](seals)
	return v, nil
}

// Verify decides whether peer may use the chain towards this process: steps 1 to 16. The last issuer must be the peer, the
// last delegate this process. It keeps no reference to c. Every refusal is an *Error.
//
// Per message, and for leaves from Resolve, Recheck has the last word.
func (v *Verifier) Verify(c *v1.DelegationChain, peer identity.Peer) (*Leaf, error) {
	var f frame
	if err := f.measure(c); err != nil {
		return nil, err
	}
	f.bind(c.GetCerts(), peer)
	f.presenter = peer.Agent
	return v.verify(&f)
}

// VerifyGrant verifies a grant without hops that names this process as its delegate: the root that it acts under. The leaf
// goes into Append; nobody presents it. Every refusal is an *Error.
func (v *Verifier) VerifyGrant(g *v1.SignedStatement) (*Leaf, error) {
	var f frame
	if err := f.measure(&v1.DelegationChain{Grant: g}); err != nil {
		return nil, err
	}
	f.own = true
	return v.verify(&f)
}

// verify runs steps 2 to 16.
func (v *Verifier) verify(f *frame) (*Leaf, error) {
	now, err := v.now()
	if err != nil {
		return nil, err
	}
	gen := v.generation()
	known := v.longestPrefix(f, now, gen)
	if known == nil || known.position < len(f.hops) {
		return v.extend(f, known, now, gen)
	}
	if err := v.checkFrame(f, known); err != nil {
		return nil, err
	}
	if err := known.checkTime(now); err != nil {
		return nil, err
	}
	return known, v.checkRevoked(known)
}

// now is the clock in milliseconds. A clock that steps back would revive what has expired, so that is step 2's refusal.
func (v *Verifier) now() (int64, error) {
	now := v.cfg.Now().UnixMilli()
	for {
		latest := v.latest.Load()
		if now < latest-clockStep.Milliseconds() {
			return now, refusef(whole, v1.Reason_REASON_CHAIN_TIME, "the clock stepped back by %d ms", latest-now)
		}
		if now <= latest || v.latest.CompareAndSwap(latest, now) {
			return now, nil
		}
	}
}

// generation is read before anything is verified, so that a concurrent change makes the result stale.
func (v *Verifier) generation() generation {
	return generation{keys: v.cfg.Keys.Generation(), bundles: v.cfg.BundleGeneration()}
}

// longestPrefix is step 4: the longest cached prefix of the chain that a cold verification would accept as well, or nil. An entry
// is found by a signature and held against the received bytes, all of them: that says what its link says, without hashing.
func (v *Verifier) longestPrefix(f *frame, now int64, gen generation) *Leaf {
	if f.badRefs != nil {
		return nil
	}
	for d := len(f.hops); d >= 0; d-- {
		key := [sigSize]byte(f.statement(d).GetSignature())
		x, found := v.links.get(key)
		switch {
		case !found || !f.startsWith(x):
		case now >= x.expires || gen != x.generation:
			v.links.drop(key)
		case v.holds(x, now):
			return x
		}
	}
	return nil
}

// holds reports whether what x was verified with is valid now: the certificates of every hop, those above them, and the grant key.
func (v *Verifier) holds(x *Leaf, now int64) bool {
	return now >= x.certSince && now <= x.certUntil && v.keyHolds(x.root, now)
}

// keyHolds asks for the grant key again: it may have been withdrawn, or its time may be over.
func (v *Verifier) keyHolds(r *root, now int64) bool {
	key, found := v.cfg.Keys.GrantKey(r.keyIssuer, r.keyID, time.UnixMilli(now))
	return found && key.Equal(r.key)
}

// checkFrame is step 8 for a chain, for a grant that nobody presents, or for a chain that its holder renews.
func (v *Verifier) checkFrame(f *frame, x *Leaf) error {
	if f.own {
		return v.checkAudience(x)
	}
	if f.held {
		return v.checkHolder(x, f.presenter)
	}
	return v.checkPresenter(x, f.presenter)
}

// checkPresenter: the chain is used by the agent that signed its last statement, towards the one it names.
func (v *Verifier) checkPresenter(x *Leaf, peer identity.AgentID) error {
	if x.issuer != peer && !mutant.Off(mutant.StolenChain) {
		return refusef(x.position, v1.Reason_REASON_CHAIN_PRESENTER, "%s presents what another signed", peer)
	}
	return v.checkAudience(x)
}

func (v *Verifier) checkAudience(x *Leaf) error {
	if x.delegate != v.cfg.Self {
		return refusef(x.position, v1.Reason_REASON_CHAIN_AUDIENCE, "presented to %s, who is not the delegate", v.cfg.Self)
	}
	return nil
}

// checkRevoked is one comparison while the epoch stands still. A leaf that a verifier made was looked at once.
func (v *Verifier) checkRevoked(x *Leaf) error {
	if v.cfg.Revoked == nil {
		return nil
	}
	epoch := v.cfg.Revoked.Epoch()
	if x.epoch.Load() == epoch {
		return nil
	}
	return v.lookRevoked(x, epoch)
}

// lookRevoked looks at every handle of x and remembers the epoch that was read before.
func (v *Verifier) lookRevoked(x *Leaf, epoch uint64) error {
	if v.cfg.Revoked.Revoked(x.handles) {
		return refusef(x.position, v1.Reason_REASON_CHAIN_HANDLE_REVOKED, "a part of the chain is revoked")
	}
	x.epoch.Store(epoch)
	return nil
}
