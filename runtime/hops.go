package runtime

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
)

// maxHops bounds the hops kept for reuse; when it is reached all are dropped, which costs a signature each.
const maxHops = 4096

// envelopeChain is the field number of a chain in an Envelope.
const envelopeChain = 11

// hopCache keeps the hops this agent has signed: one serves all calls under one chain to one callee, so that the callee's
// verification is cached too.
type hopCache struct {
	mu sync.Mutex
	m  map[hopKey]*signedHop
}

type hopKey struct {
	parent [32]byte
	callee identity.AgentID
	narrow [32]byte // of what the hop narrows, zero for nothing
}

// signedHop is one chain to one callee. It is never changed but for what is believed of the callee.
type signedHop struct {
	chain *v1.DelegationChain
	link  [32]byte // the reference to chain
	size  int      // of chain as a field of an Envelope, at most
	renew time.Time
	known atomic.Pointer[belief]
}

// extend returns parent with one more hop to callee that carries no more than n.
func (h *hopCache) extend(a *Agent, parent *delegation.Leaf, callee identity.AgentID, n narrowed) (*signedHop, error) {
	now := a.cfg.Now()
	k := hopKey{parent.Link(), callee, n.key}
	h.mu.Lock()
	s, ok := h.m[k]
	h.mu.Unlock()
	if ok && now.Before(s.renew) {
		return s, nil
	}
	if n.fill != nil {
		n.Capabilities = n.fill()
	}
	svid, err := a.src.GetX509SVID()
	if err != nil {
		return nil, err
	}
	signer, err := delegation.NewSigner(svid)
	if err != nil {
		return nil, err
	}
	chain, err := delegation.Append(parent, delegation.HopSpec{
		Delegate: callee, Capabilities: n.Capabilities, Delegates: n.Delegates, MaxDepth: n.MaxDepth, Lifetime: n.Lifetime,
	}, signer, now)
	if err != nil {
		return nil, err
	}
	s = &signedHop{chain: chain, size: chain.SizeVT() + protowire.SizeTag(envelopeChain) + protowire.SizeVarint(delegation.MaxChainBytes)}
	s.link, _ = delegation.Reference(parent, chain) // of a chain that Append made
	s.renew = now.Add(expiryOf(chain, now).Sub(now) * 8 / 10)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil || len(h.m) >= maxHops {
		h.m = map[hopKey]*signedHop{}
	}
	h.m[k] = s
	return s, nil
}

func expiryOf(chain *v1.DelegationChain, now time.Time) time.Time {
	hops := chain.GetHops()
	var p v1.HopPayload
	if len(hops) == 0 || proto.Unmarshal(hops[len(hops)-1].GetPayload(), &p) != nil {
		return now
	}
	return time.UnixMilli(p.GetExpiresAtMs())
}

// leafOf is the chain that a call of m goes out under: none for an open method.
func leafOf(in *interceptors.Interaction, m *interceptors.Method) *delegation.Leaf {
	if in == nil || m.Intent.GetOpen() {
		return nil
	}
	return in.Leaf()
}
