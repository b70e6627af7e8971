package delegation

import (
	"sync"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// ConnTable remembers the chains that were presented on one connection, so that later messages may carry a 32-byte reference.
// It belongs to the connection and dies with it. It is safe for concurrent use.
type ConnTable struct {
	mu     sync.Mutex
	leaves map[[32]byte]*Leaf
	order  [][32]byte // the oldest first
	weight int
}

// NewConnTable returns an empty table.
func NewConnTable() *ConnTable { return &ConnTable{leaves: make(map[[32]byte]*Leaf)} }

// Remember makes a leaf from Verify known under its Link. Of more than MaxRemembered the oldest is forgotten. It ignores
// leaves that no Verifier made.
func (t *ConnTable) Remember(x *Leaf) {
	if x == nil || x.owner == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, found := t.leaves[x.link]; found {
		t.leaves[x.link] = x // of the same bytes
		return
	}
	for t.weight += x.weight(); t.weight > MaxRemembered; t.order = t.order[1:] {
		t.weight -= t.leaves[t.order[0]].weight()
		delete(t.leaves, t.order[0])
	}
	t.leaves[x.link], t.order = x, append(t.order, x.link)
}

// lookup returns nil for a reference that is not known or not 32 bytes.
func (t *ConnTable) lookup(ref []byte) *Leaf {
	if t == nil || len(ref) != digestSize {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leaves[[32]byte(ref)]
}

// Resolve is step 3: the leaf that peer refers to on the connection of t. It refuses with CHAIN_UNKNOWN what the connection
// does not know, what keys or bundles have changed under, and what it was verified with is over: a certificate of any hop, one above
// it, or the grant key. The peer answers with the full chain, once, and is told there what is wrong. A reference is
// neither a secret nor authority: the leaf is held against the peer here and, with everything else, in Recheck.
func (v *Verifier) Resolve(t *ConnTable, ref []byte, peer identity.Peer) (*Leaf, error) {
	now, err := v.now()
	if err != nil {
		return nil, err
	}
	x := t.lookup(ref)
	if x == nil || x.owner != v {
		return nil, refusef(whole, v1.Reason_REASON_CHAIN_UNKNOWN, "no such chain on this connection")
	}
	if err := x.checkTime(now); err != nil {
		return nil, err
	}
	if err := v.checkGeneration(x); err != nil {
		return nil, err
	}
	if !v.holds(x, now) {
		return nil, refusef(whole, v1.Reason_REASON_CHAIN_UNKNOWN, "a certificate or the grant key is no longer valid")
	}
	if err := v.checkPresenter(x, peer.Agent); err != nil {
		return nil, err
	}
	return x, nil
}

// checkGeneration refuses a leaf that was verified against other keys or bundles than those of now.
func (v *Verifier) checkGeneration(x *Leaf) error {
	if x.generation != v.generation() {
		return refusef(whole, v1.Reason_REASON_CHAIN_UNKNOWN, "keys or bundles have changed")
	}
	return nil
}
