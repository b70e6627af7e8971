package delegation

import (
	"bytes"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// NewRenewal returns the grant by which the holder of x goes on: the same chain id, principal, purpose, task and tenant, no more
// capabilities, delegates or depth than x has, the depth carried forward, and fresh times. lifetime is what the holder wants, 0 as much
// as it may have. The caller may narrow the payload further, sets the policy epoch, and signs it with NewGrant.
//
//   - Capabilities that no further hop could carry are dropped; a chain of which none is left is refused as CHAIN_NOT_DELEGABLE. A
//     grant without hops keeps all, because nothing has changed hands.
//   - A renewal lives no longer than the grant before it did, so a short leash stays short, and never past the lineage limit of the
//     verifier that made x: CHAIN_LIFETIME when that is over.
//   - A hop that its signer made to end before its parent is refused as CHAIN_LIFETIME, anywhere in the chain: who was given a minute
//     does not make it a day. Ending with the signer's certificate is no such wish.
//   - The history gains one entry per hop: who signed it, its statement id and its depth. Nothing is ever dropped from it. It cannot
//     outgrow MaxHistory, as every entry has used up a level of depth; a grant that is so full of capabilities that they do not fit
//     into one payload is refused by NewGrant as CHAIN_TOO_LARGE.
//
// Other refusals are CHAIN_TIME when x is over at now, and CHAIN_UNKNOWN for what no Verifier made. Each is an *Error.
func NewRenewal(x *Leaf, lifetime time.Duration, now time.Time) (*v1.GrantPayload, error) {
	if x == nil || x.owner == nil {
		return nil, refusef(whole, v1.Reason_REASON_CHAIN_UNKNOWN, "not a verified leaf")
	}
	ms := now.UnixMilli()
	if err := x.checkTime(ms); err != nil {
		return nil, err
	}
	expires, err := x.renewedUntil(lifetime, ms)
	if err != nil {
		return nil, err
	}
	caps := x.caps
	if x.parent != nil {
		caps = passOn(caps, x.depth+1, x.maxDepth)
	}
	if len(caps) == 0 {
		return nil, refuse(x.position, notDelegable, errors.New("no capability may travel any further"))
	}
	return &v1.GrantPayload{
		Version: wireVersion, ChainId: bytes.Clone(x.chainID[:]), Issuer: x.root.keyIssuer, TrustDomain: x.root.trustDomain,
		Tenant: x.tenant, Principal: proto.CloneOf(x.root.principal), Delegate: x.delegate.String(),
		Capabilities: cloneCapabilities(caps), Delegates: slices.Clone(x.delegates),
		MaxDepth: x.maxDepth, DepthUsed: x.depth,
		IssuedAtMs: ms, NotBeforeMs: ms, ExpiresAtMs: expires, LineageStartMs: x.root.lineage,
		PurposeDigest: bytes.Clone(x.purpose[:]), TaskId: x.root.taskID, StatementNonce: newNonce(),
		PreviousLeaf: bytes.Clone(x.id[:]), History: x.pastActors(),
	}, nil
}

// renewedUntil is when a renewal of x that begins now ends.
func (x *Leaf) renewedUntil(lifetime time.Duration, now int64) (int64, error) {
	grant := x
	for at := x; at.parent != nil; at = at.parent {
		if at.shortened() {
			return 0, refuse(at.position, v1.Reason_REASON_CHAIN_LIFETIME, errors.New("given for a shorter time than its giver had"))
		}
		grant = at.parent
	}
	life, lineageEnd := grant.expires-grant.issued, x.root.lineage+x.owner.lineage.Milliseconds()
	if lifetime != 0 {
		life = min(life, lifetime.Milliseconds())
	}
	expires := min(now+life, lineageEnd)
	if expires <= now {
		return 0, refuse(whole, v1.Reason_REASON_CHAIN_LIFETIME, errors.New("the lineage is over, or no time was asked for"))
	}
	return expires, nil
}

// shortened reports whether a hop ends before its parent and before its signer's certificate made it.
func (x *Leaf) shortened() bool {
	if x.expires >= x.parent.expires {
		return false
	}
	signer, err := x509.ParseCertificate(x.certs[0])
	return err != nil || x.expires < lastMoment(signer.NotBefore, signer.NotAfter)
}

// pastActors is the history of a renewal of x, oldest first.
func (x *Leaf) pastActors() []*v1.PastActor {
	var hops []*v1.PastActor
	for at := x; at.parent != nil; at = at.parent {
		hops = append(hops, &v1.PastActor{Actor: at.issuer.String(), LeafId: bytes.Clone(at.id[:]), Depth: at.depth})
	}
	slices.Reverse(hops)
	history := make([]*v1.PastActor, 0, len(x.root.history)+len(hops))
	for _, p := range x.root.history {
		history = append(history, proto.CloneOf(p))
	}
	return append(history, hops...)
}
