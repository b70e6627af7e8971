package runtime

import (
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
)

// maxHops bounds the hops kept for reuse; when it is reached all are dropped, which costs a signature each.
const maxHops = 4096

// hopCache keeps the hops this agent has signed: one serves all calls under one chain to one callee, so that the callee's
// verification is cached too.
type hopCache struct {
	mu sync.Mutex
	m  map[hopKey]signedHop
}

type hopKey struct {
	parent [32]byte
	callee identity.AgentID
}

type signedHop struct {
	chain *v1.DelegationChain
	renew time.Time
}

// extend returns parent with one more hop to callee. Hops that narrow further are signed anew.
func (h *hopCache) extend(a *Agent, parent *delegation.Leaf, callee identity.AgentID, n Narrowing) (*v1.DelegationChain, error) {
	now := a.cfg.Now()
	plain := n.Capabilities == nil && n.Delegates == nil && n.MaxDepth == 0 && n.Lifetime == 0
	k := hopKey{parent.Link(), callee}
	if plain {
		h.mu.Lock()
		s, ok := h.m[k]
		h.mu.Unlock()
		if ok && now.Before(s.renew) {
			return s.chain, nil
		}
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
	if err != nil || !plain {
		return chain, err
	}
	end := expiryOf(chain, now)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.m == nil || len(h.m) >= maxHops {
		h.m = map[hopKey]signedHop{}
	}
	h.m[k] = signedHop{chain: chain, renew: now.Add(end.Sub(now) * 8 / 10)}
	return chain, nil
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
