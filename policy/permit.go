package policy

import (
	"errors"
	"slices"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// What a use of a Permit may be refused for.
var (
	ErrNoPermit      = errors.New("no permit")
	ErrPermitExpired = errors.New("permit has expired")
	ErrPermitRevoked = errors.New("permit is no longer backed by an active agent")
)

// Permit proves one decision: this peer may do one action on one resource, for this principal, under this chain, until then.
// Only an [Engine] mints a live one; the zero value opens nothing. Permits are immutable and safe for concurrent use.
type Permit struct{ f *facts }

type facts struct {
	engine       *Engine
	decisionID   [16]byte
	peer         identity.Peer
	tenant       identity.Tenant
	leaf         *delegation.Leaf
	conversation []byte
	purpose      string
	action       string
	resource     []string
	subtree      bool
	control      Label
	limit        v1.Integrity
	notAfter     time.Time
	generation   uint64
}

// IsZero reports whether p opens nothing.
func (p Permit) IsZero() bool { return p.f == nil }

// Check is called before every effect. It returns ErrNoPermit, ErrPermitExpired, or ErrPermitRevoked when the registry changed
// and the peer is no longer active. A change of other agents does not end a permit.
func (p Permit) Check(now time.Time) error {
	if p.f == nil {
		return ErrNoPermit
	}
	if !now.Before(p.f.notAfter) && !mutant.Off(mutant.ExpiredGrant) {
		return ErrPermitExpired
	}
	if reg := p.f.engine.cfg.Registry; reg.Generation() != p.f.generation {
		if rec := reg.Agent(p.f.peer.Agent); rec == nil || rec.State != identity.StateActive {
			return ErrPermitRevoked
		}
	}
	return nil
}

// Allows reports whether p is for this action and for this resource path: the permit's own path or, where chain and policy both
// cover it, a path below. The zero Permit allows nothing.
func (p Permit) Allows(action string, path []string) bool {
	if p.f == nil || action != p.f.action || len(path) < len(p.f.resource) {
		return false
	}
	if !slices.Equal(path[:len(p.f.resource)], p.f.resource) {
		return false
	}
	return len(path) == len(p.f.resource) || p.f.subtree
}

// DecisionID returns the opaque id under which the decision is found in the audit log.
func (p Permit) DecisionID() [16]byte {
	if p.f == nil {
		return [16]byte{}
	}
	return p.f.decisionID
}

// Action returns the one action that p is for.
func (p Permit) Action() string {
	if p.f == nil {
		return ""
	}
	return p.f.action
}

// Resource returns a copy of the resource path that p is for: the path itself is shared by all calls of a method that declares none.
func (p Permit) Resource() []string {
	if p.f == nil {
		return nil
	}
	return slices.Clone(p.f.resource)
}

// Tenant returns the tenant in which p acts: the peer's, never one that a request named.
func (p Permit) Tenant() identity.Tenant {
	if p.f == nil {
		return identity.Tenant{}
	}
	return p.f.tenant
}

// Peer returns the verified peer.
func (p Permit) Peer() identity.Peer {
	if p.f == nil {
		return identity.Peer{}
	}
	return p.f.peer
}

// Leaf returns the verified chain, nil for the zero Permit.
func (p Permit) Leaf() *delegation.Leaf {
	if p.f == nil {
		return nil
	}
	return p.f.leaf
}

// Principal returns on whose behalf the chain acts. The caller must not change it.
func (p Permit) Principal() *v1.Principal {
	if p.f == nil {
		return nil
	}
	return p.f.leaf.Principal()
}

// ChainID returns the id of the chain, kept over renewals.
func (p Permit) ChainID() [16]byte {
	if p.f == nil {
		return [16]byte{}
	}
	return p.f.leaf.ChainID()
}

// LeafID returns the statement id of the chain's last hop.
func (p Permit) LeafID() [32]byte {
	if p.f == nil {
		return [32]byte{}
	}
	return p.f.leaf.ID()
}

// Conversation returns the conversation id, 16 bytes or empty. The caller must not change it.
func (p Permit) Conversation() []byte {
	if p.f == nil {
		return nil
	}
	return p.f.conversation
}

// Purpose returns the purpose of the intent, fixed by the chain.
func (p Permit) Purpose() string {
	if p.f == nil {
		return ""
	}
	return p.f.purpose
}

// Control returns the label of what decided the intent, already capped by what the peer may claim.
func (p Permit) Control() Label {
	if p.f == nil {
		return Label{}
	}
	return p.f.control
}

// IntegrityCap returns the highest integrity that anything the peer says may have.
func (p Permit) IntegrityCap() v1.Integrity {
	if p.f == nil {
		return v1.Integrity_INTEGRITY_UNTRUSTED
	}
	return p.f.limit
}

// NotAfter returns when p ends.
func (p Permit) NotAfter() time.Time {
	if p.f == nil {
		return time.Time{}
	}
	return p.f.notAfter
}
