package delegation

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// HopSpec is what one agent hands to the next. The zero values pass on as much as the parent allows.
type HopSpec struct {
	Delegate identity.AgentID
	// Capabilities are passed on as they are. Nil stands for all of the parent's whose reach allows one more hop; an empty
	// slice for none.
	Capabilities []*v1.Capability
	// Delegates may appear below Delegate. Nil stands for the parent's, or for none when the hop is the last one allowed.
	Delegates []string
	// MaxDepth is absolute. 0 stands for the parent's.
	MaxDepth uint32
	// Lifetime ends before the parent's and shortly before the signer's certificate. 0 stands for as long as possible. Authority that
	// was given for a Lifetime is not renewed.
	Lifetime time.Duration
}

// Append makes the hop from parent's delegate, who is k, to the next agent and returns the whole chain with every certificate
// inlined: it can be stored, relayed and sent over any connection. It refuses with an *Error of the same reason whatever Verify
// would refuse at the callee, whose bundles and revocations it cannot know. A hop is worth keeping: it serves all calls of one
// task to one callee, and verifiers recognise it.
func Append(parent *Leaf, s HopSpec, k Signer, now time.Time) (*v1.DelegationChain, error) {
	if parent == nil || parent.owner == nil {
		return nil, refusef(whole, v1.Reason_REASON_CHAIN_UNKNOWN, "the parent is not a verified leaf")
	}
	payload, err := proto.Marshal(newHop(parent, s, k, now))
	if err != nil {
		return nil, refuse(parent.position+1, v1.Reason_REASON_CHAIN_NON_CANONICAL, err)
	}
	return appendPayload(parent, payload, k, now.UnixMilli())
}

// newHop fills in the spec. It checks nothing.
func newHop(parent *Leaf, s HopSpec, k Signer, now time.Time) *v1.HopPayload {
	depth := parent.depth + 1
	if s.MaxDepth == 0 {
		s.MaxDepth = parent.maxDepth
	}
	if s.Capabilities == nil {
		s.Capabilities = passOn(parent.caps, depth, s.MaxDepth)
	}
	if s.Delegates == nil && s.MaxDepth > depth {
		s.Delegates = parent.delegates
	}
	return &v1.HopPayload{
		Version: wireVersion, ChainId: parent.chainID[:], Depth: depth, ParentId: parent.id[:],
		Issuer: k.ID().String(), Delegate: s.Delegate.String(), Tenant: parent.tenant,
		Capabilities: s.Capabilities, Delegates: s.Delegates, MaxDepth: s.MaxDepth,
		IssuedAtMs: now.UnixMilli(), NotBeforeMs: max(parent.notBefore, now.Add(-backdate).UnixMilli()),
		ExpiresAtMs:    hopExpiry(parent, s.Lifetime, k, now),
		StatementNonce: newNonce(), PurposeDigest: parent.purpose[:],
	}
}

// passOn returns what may travel to depth, with a reach inside maxDepth.
func passOn(caps []*v1.Capability, depth, maxDepth uint32) []*v1.Capability {
	var passed []*v1.Capability
	for _, c := range caps {
		if c.GetReach() < depth {
			continue
		}
		if c.GetReach() > maxDepth {
			c = proto.CloneOf(c)
			c.Reach = maxDepth
		}
		passed = append(passed, c)
	}
	return passed
}

// hopExpiry ends a hop with its parent, and before the certificate of its signer by the smaller of half a minute and a tenth
// of the certificate's life. One that is given a life ends a millisecond before that at the latest: what is cut short is not
// renewed, and so it is cut short also when its giver has less time left than it gives.
func hopExpiry(parent *Leaf, life time.Duration, k Signer, now time.Time) int64 {
	expires := min(parent.expires, lastMoment(k.NotBefore(), k.NotAfter()))
	if life != 0 {
		expires = min(expires-1, now.Add(life).UnixMilli())
	}
	return expires
}

// lastMoment is when the hops end at the latest that a certificate of this life signs.
func lastMoment(notBefore, notAfter time.Time) int64 {
	margin := min(maxMargin, notAfter.Sub(notBefore)/marginShare)
	return notAfter.Add(-margin).UnixMilli()
}

// appendPayload holds a hop against every rule of Verify that needs no view, signs it, and checks what came back: a signer
// with another certificate or a fault in its key is found here and not at the callee.
func appendPayload(parent *Leaf, payload []byte, k Signer, now int64) (*v1.DelegationChain, error) {
	statement := &v1.SignedStatement{Payload: payload, Signature: make([]byte, sigSize)}
	c := parent.Chain()
	c.Hops = append(c.GetHops(), statement)
	if err := new(frame).measure(c); err != nil {
		return nil, err
	}
	d, err := parseHop(statement, parent)
	if err != nil {
		return nil, err
	}
	if err := new(frame).checkDrafts([]*draft{d}, 0, func() error { return nil }, now); err != nil {
		return nil, err
	}
	sig, certs, err := k.Sign(TypeHop, payload)
	if err != nil {
		return nil, fmt.Errorf("appending a hop: %w", err)
	}
	if len(certs) == 0 || len(sig) != sigSize {
		return nil, refusef(d.position, malformed, "a signature of %d bytes with %d certificates", len(sig), len(certs))
	}
	statement.Signature, d.statement.Signature = slices.Clone(sig), sig
	statement.CertRef = inline(c, certs)
	var f frame
	if err := f.measure(c); err != nil {
		return nil, err
	}
	f.bind(c.GetCerts(), identity.Peer{})
	if f.badRefs != nil {
		return nil, f.badRefs
	}
	cert, _, err := readCertificate(&signer{leaf: certs[0]}, d)
	if err != nil {
		return nil, err
	}
	if err := cert.checkHop(d); err != nil {
		return nil, err
	}
	return c, nil
}
