package delegation

import (
	"crypto/ed25519"
	"crypto/sha256"
	"math"
	"slices"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

func idOf(pae []byte) [32]byte { return sha256.Sum256(pae) }

// extend runs steps 5 to 16 on the statements above a cached prefix, known, which is nil when nothing is cached. Each step
// runs over all statements before the next begins, so that nothing costs a signature that could be refused without.
func (v *Verifier) extend(f *frame, known *Leaf, now int64, gen generation) (*Leaf, error) {
	drafts, err := f.parse(known)
	if err != nil {
		return nil, err
	}
	last := drafts[len(drafts)-1].Leaf
	if err := f.checkDrafts(drafts, v.lineage, func() error { return v.checkFrame(f, last) }, now); err != nil {
		return nil, err
	}
	for _, d := range drafts {
		if d.position > 0 {
			f.signers[d.position-1].hash()
		}
	}
	if v.cfg.Revoked != nil {
		for _, d := range drafts {
			d.handles = f.handles(d.Leaf, v.cfg.Keys, now)
		}
		if err := v.lookRevoked(last, v.cfg.Revoked.Epoch()); err != nil {
			return nil, err
		}
	}
	sealed := v.unseal(f, known, drafts, now, gen)
	certs, n := v.cachedCertificates(f, drafts[sealed:], now, gen)
	if n > 0 && v.cfg.Limits.Allow != nil && !f.own && !v.cfg.Limits.Allow(f.presenter, n) {
		return nil, refusef(whole, v1.Reason_REASON_CHAIN_COLD_LIMIT, "%d signatures for %s", n, f.presenter)
	}
	if err := v.checkSignatures(f, drafts[sealed:], certs, now, gen); err != nil {
		return nil, err
	}
	f.seal(v, drafts, gen)
	return last, nil
}

// parse is steps 5 and 6. It returns at least one draft.
func (f *frame) parse(known *Leaf) ([]*draft, error) {
	drafts := make([]*draft, 0, 1+len(f.hops))
	parent, next := known, 0
	if known == nil {
		d, err := parseGrant(f.grant)
		if err != nil {
			return nil, err
		}
		drafts, parent = append(drafts, d), d.Leaf
	} else {
		next = known.position
	}
	for _, h := range f.hops[next:] {
		d, err := parseHop(h, parent)
		if err != nil {
			return nil, err
		}
		drafts, parent = append(drafts, d), d.Leaf
	}
	return drafts, nil
}

// checkDrafts is steps 7 to 10: what needs neither a signature nor a view.
func (f *frame) checkDrafts(drafts []*draft, lineage time.Duration, present func() error, now int64) error {
	for _, d := range drafts {
		if err := d.checkStructure(); err != nil {
			return err
		}
	}
	if f.badRefs != nil {
		return f.badRefs
	}
	if err := present(); err != nil {
		return err
	}
	for _, d := range drafts {
		if err := d.checkLifetime(lineage); err != nil {
			return err
		}
	}
	if err := drafts[len(drafts)-1].checkTime(now); err != nil {
		return err
	}
	for _, d := range drafts {
		if err := d.checkNarrowing(); err != nil {
			return err
		}
	}
	return nil
}

// handles lists everything whose revocation kills the statement, its parents' first. Issuers are the parents' delegates.
func (f *frame) handles(x *Leaf, keys KeyView, now int64) [][32]byte {
	if x.parent != nil {
		return append(slices.Clone(x.parent.handles), AgentHandle(x.delegate), x.id, f.signers[x.position-1].id)
	}
	list := [][32]byte{
		TenantHandle(x.root.trustDomain, x.tenant), PrincipalHandle(x.root.principal), ChainHandle(x.chainID),
		AgentHandle(x.issuer), AgentHandle(x.delegate), x.id,
	}
	if key, found := keys.GrantKey(x.root.keyIssuer, x.root.keyID, time.UnixMilli(now)); found {
		list = append(list, keyHash(key))
	}
	return append(list, x.root.pastHandles()...)
}

// cachedCertificates returns the cached certificate of every draft, nil for those that must be verified, and how many
// signatures are left to verify: the drafts' own and those on the certificates.
func (v *Verifier) cachedCertificates(f *frame, drafts []*draft, now int64, gen generation) ([]*certificate, int) {
	certs, n := make([]*certificate, len(drafts)), len(drafts)
	for i, d := range drafts {
		if d.position == 0 {
			continue
		}
		s := &f.signers[d.position-1]
		if certs[i] = v.knownCertificate(s, now, gen); certs[i] == nil {
			n += 1 + len(s.intermediates)
		}
	}
	return certs, n
}

// checkSignatures is steps 13 to 15, in the order of the chain.
func (v *Verifier) checkSignatures(f *frame, drafts []*draft, certs []*certificate, now int64, gen generation) error {
	for i, d := range drafts {
		if d.position == 0 {
			if err := v.checkGrant(d, now); err != nil {
				return err
			}
			continue
		}
		s := &f.signers[d.position-1]
		c, err := v.signerOf(s, d, certs[i], now, gen)
		if err != nil {
			return err
		}
		if err := c.checkHop(d); err != nil {
			return err
		}
		d.certs = c.der
		d.certSince, d.certUntil = max(d.parent.certSince, c.since), min(d.parent.certUntil, c.until)
	}
	return nil
}

// checkGrant is step 13. Only the authority of this trust domain is a root here. That the grant is for this trust domain follows
// from steps 7 and 8: its delegates lie in its trust domain, and the last of them is this process.
func (v *Verifier) checkGrant(d *draft, now int64) error {
	td := v.cfg.Self.TrustDomain()
	if !isAuthority(d.issuer, td.Name()) {
		return refusef(0, v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT, "not a grant of the authority of %s", td)
	}
	key, found := v.cfg.Keys.GrantKey(d.root.keyIssuer, d.root.keyID, time.UnixMilli(now))
	if !found || len(key) != ed25519.PublicKeySize {
		return refusef(0, v1.Reason_REASON_CHAIN_KEY, "the authority has no such key")
	}
	if !ed25519.Verify(key, d.pae, d.statement.GetSignature()) {
		return refusef(0, v1.Reason_REASON_CHAIN_BAD_SIGNATURE, "not signed by the grant key")
	}
	d.root.key = slices.Clone(key)
	d.certUntil = math.MaxInt64
	return nil
}

// isAuthority reports whether id is the authority of that trust domain.
func isAuthority(id identity.AgentID, trustDomain string) bool {
	return id.IsService() && id.Name() == "authority" && id.TrustDomain().Name() == trustDomain
}

// seal is step 16: the whole chain is verified, and its drafts become leaves that later chains may build on.
func (f *frame) seal(v *Verifier, drafts []*draft, gen generation) {
	epoch := drafts[len(drafts)-1].epoch.Load()
	for _, d := range drafts {
		d.owner, d.generation = v, gen
		d.epoch.Store(epoch)
		if d.parent == nil {
			d.link = grantLink(d.statement, keyHash(d.root.key))
		} else {
			d.link = hopLink(d.parent.link, d.statement, f.signers[d.position-1].id)
		}
	}
	for _, d := range drafts {
		v.links.put([sigSize]byte(d.statement.GetSignature()), d.Leaf)
		v.seals.put(d.sealKey, seal{gen, d.certSince, d.certUntil})
	}
}
