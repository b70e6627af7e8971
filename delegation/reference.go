package delegation

import (
	"crypto/sha256"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Reference returns the link of a chain that Append made from parent: what a Verifier at the callee keys the chain by, and what the
// sender may send in its place once the callee has admitted it. It is false for a chain without a hop of its own or without the
// certificate of its signer. It verifies nothing: a chain that is not parent's with one more hop gets a reference that nobody knows.
func Reference(parent *Leaf, c *v1.DelegationChain) (ref [32]byte, ok bool) {
	if parent == nil || parent.owner == nil || len(c.GetHops()) != parent.position+1 {
		return ref, false
	}
	last := c.GetHops()[parent.position]
	cert := last.GetCertRef()
	if cert == 0 || uint64(cert) > uint64(len(c.GetCerts())) || len(last.GetPayload()) > MaxPayloadBytes {
		return ref, false
	}
	return hopLink(parent.link, last, sha256.Sum256(c.GetCerts()[cert-1].GetLeaf())), true
}
