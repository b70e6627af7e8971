package runtime

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
)

// Narrowing is what further calls through a [Conn] may carry at most. Zero fields pass on what the caller's chain holds and its reach
// lets travel. A call to a service of the control plane ends there whatever it says: a service hands nothing on.
type Narrowing struct {
	Capabilities []*v1.Capability
	Delegates    []string
	MaxDepth     uint32
	// Lifetime is how long the callee may act. What is given with a Lifetime cannot be renewed, however long the caller's chain lives.
	Lifetime time.Duration
}

// narrowed is a Narrowing and the key under which its hops are kept, zero for none.
type narrowed struct {
	Narrowing
	key [32]byte
	// fill makes the capabilities, which are asked for when a hop is signed.
	fill func() []*v1.Capability
}

// With returns a Conn over the same connection whose calls carry no more than n. What n names beyond the caller's chain is refused
// when a call is made.
func (c *Conn) With(n Narrowing) *Conn {
	dup := *c
	dup.narrow, dup.least = narrowed{Narrowing: n}, false
	if n.Capabilities != nil || n.Delegates != nil || n.MaxDepth != 0 || n.Lifetime != 0 {
		dup.narrow.key = n.key()
	}
	return &dup
}

// Least returns a Conn over the same connection whose calls carry no more than each of them needs: what the called method declares, on
// the resource of that one call, to be handed on to nobody. It is for callees that do what they are asked by themselves. A method and a
// resource cost one signature and are kept like any other hop. A stream whose resource is in its messages has none when it begins, and
// fails with InvalidArgument.
func (c *Conn) Least() *Conn {
	dup := *c
	dup.narrow, dup.least = narrowed{}, true
	return &dup
}

// key tells narrowings apart.
func (n *Narrowing) key() [32]byte {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(&v1.HopPayload{
		Capabilities: n.Capabilities, Delegates: n.Delegates, MaxDepth: n.MaxDepth, ExpiresAtMs: int64(n.Lifetime),
	})
	if err != nil {
		raw = nil // text that is no UTF-8: Append refuses it
	}
	kind := byte(1)
	if n.Capabilities != nil {
		kind |= 2 // no capabilities at all is not the same as those of the parent
	}
	if n.Delegates != nil {
		kind |= 4 // nor is nobody the same as the delegates of the parent
	}
	return sha256.Sum256(append(raw, kind))
}

// narrowing is what a hop for one call carries at most.
func (c *Conn) narrowing(parent *delegation.Leaf, m *interceptors.Method, req proto.Message, resource []string) (narrowed, error) {
	switch {
	case c.least && req == nil && m.HasResource():
		return narrowed{}, status.Errorf(codes.InvalidArgument, "%s has no resource before its first message, which Least needs", m.Procedure)
	case c.least:
		return least(parent, m, resource), nil
	}
	n := c.narrow
	if c.peer.IsService() {
		n.MaxDepth, n.Delegates = parent.Depth()+1, nil
	}
	return n, nil
}

// least is the narrowing for one call: every capability that covers what the method needs, on the resource itself.
func least(parent *delegation.Leaf, m *interceptors.Method, resource []string) narrowed {
	depth := parent.Depth() + 1
	actions := append([]string{m.Intent.GetAction()}, m.Intent.GetScopes()...)
	key := []byte{3}
	for _, list := range [][]string{actions, resource} {
		key = binary.BigEndian.AppendUint32(key, uint32(len(list))) //nolint:gosec // G115: both are bounded.
		for _, s := range list {
			key = append(binary.BigEndian.AppendUint32(key, uint32(len(s))), s...) //nolint:gosec // G115: as above.
		}
	}
	fill := func() []*v1.Capability {
		needed := []*v1.Capability{}
		for _, have := range parent.Capabilities() {
			if slices.Contains(actions, have.GetAction()) && have.GetReach() >= depth && delegation.CoversResource(have, resource) {
				needed = append(needed, &v1.Capability{
					Action: have.GetAction(), Resource: resource, Constraints: have.GetConstraints(), Reach: depth,
				})
			}
		}
		return needed
	}
	return narrowed{Narrowing: Narrowing{MaxDepth: depth}, key: sha256.Sum256(key), fill: fill}
}
