package delegation

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// ClaimedReference returns the chain reference that c would have under a grant key. It verifies nothing: it is for looking a chain up, in a
// log, and never for trusting one. It returns an error when the chain is over the bounds of the format, and when a
// certificate that the reference commits to is not in the chain.
func ClaimedReference(c *v1.DelegationChain, key ed25519.PublicKey) ([32]byte, error) {
	if len(key) != ed25519.PublicKeySize {
		return [32]byte{}, errors.New("chain reference: not a grant key")
	}
	var f frame
	if err := f.measure(c); err != nil {
		return [32]byte{}, err
	}
	if f.bind(c.GetCerts(), identity.Peer{}); f.badRefs != nil {
		return [32]byte{}, f.badRefs
	}
	link := grantLink(f.grant, keyHash(key))
	for i, h := range f.hops {
		link = hopLink(link, h, sha256.Sum256(f.signers[i].leaf))
	}
	return link, nil
}
