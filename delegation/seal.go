package delegation

import (
	"slices"
	"time"
)

// seal remembers that every signature of a chain up to one statement was verified, and nothing else of it: a chain that is known by
// its seal alone is parsed and checked again from its bytes, but costs no signature. Seals are a hundred bytes where a leaf is
// thousands, so there are many more of them.
type seal struct {
	generation
	certSince, certUntil int64 // the interval in which all certificates of the chain verify
}

// unseal returns how many drafts, from the first on, lie under a seal that still holds, and fills in them what the signatures would have
// given. It sets the seal key of every draft. A key commits to every byte that was verified: all statements so far, their
// signatures, their signers' certificates with intermediates, and the grant key.
func (v *Verifier) unseal(f *frame, known *Leaf, drafts []*draft, now int64, gen generation) int {
	key, r := [32]byte{}, drafts[0].root
	if known != nil {
		key = known.sealKey
	}
	grantKey, found := v.cfg.Keys.GrantKey(r.keyIssuer, r.keyID, time.UnixMilli(now))
	for _, d := range drafts {
		if d.position == 0 {
			key = grantLink(d.statement, keyHash(grantKey))
		} else {
			key = hopLink(key, d.statement, f.signers[d.position-1].key)
		}
		d.sealKey = key
	}
	if !found {
		return 0
	}
	for n := len(drafts); n > 0; n-- {
		x, sealed := v.seals.get(drafts[n-1].sealKey)
		switch {
		case !sealed:
		case x.generation != gen:
			v.seals.drop(drafts[n-1].sealKey)
		case now >= x.certSince && now <= x.certUntil:
			for _, d := range drafts[:n] {
				d.certSince, d.certUntil = x.certSince, x.certUntil
				if d.position > 0 {
					d.certs = v.sharedCerts(&f.signers[d.position-1])
				} else {
					d.root.key = slices.Clone(grantKey)
				}
			}
			return n
		}
	}
	return 0
}

// sharedCerts returns the certificates of s, of which the certificate cache holds one copy for all chains.
func (v *Verifier) sharedCerts(s *signer) [][]byte {
	if c, found := v.certs.get(s.key); found {
		return c.der
	}
	return s.certs()
}
