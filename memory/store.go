package memory

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// The actions of a permit that open memory.
const (
	ActionRead    = "memory.read"
	ActionList    = "memory.list"
	ActionWrite   = "memory.write"
	ActionResolve = "context.resolve"
)

// First labels with a rule of their own.
const (
	labelSys   = "sys"   // operator data, never written through the agent API
	labelAgent = "agent" // ["agent", name, ...] belongs to the agent of that name
)

// Label is an information-flow label.
type Label = policy.Label

// Limits are the bounds that a deployment may tighten; zero is the documented maximum.
type Limits struct {
	// ValueBytes bounds one value, at most MaxValueBytes.
	ValueBytes int
	// Page bounds the entries of a page, at most MaxPage.
	Page int
}

// Config is what a Store is made of. Driver, Recorder, Now and Self are required.
type Config struct {
	Driver   Driver
	Recorder Recorder
	Now      func() time.Time
	// Self is the identity that references name as the one that resolves them.
	Self   identity.AgentID
	Limits Limits
}

// Store is the guarded memory of all tenants of one driver. It is safe for concurrent use. It does not close its driver.
type Store struct {
	cfg    Config
	tokens cipher.AEAD
}

// New returns a store. Page tokens of another Store, also one of the same driver, are not valid in it.
func New(_ context.Context, c Config) (*Store, error) {
	if c.Driver == nil || c.Recorder == nil || c.Now == nil || c.Self.IsZero() {
		return nil, errors.New("memory store: driver, recorder, clock and self are required")
	}
	if c.Limits.ValueBytes < 0 || c.Limits.ValueBytes > MaxValueBytes || c.Limits.Page < 0 || c.Limits.Page > MaxPage {
		return nil, fmt.Errorf("memory store: limits %+v are outside the documented bounds", c.Limits)
	}
	if c.Limits.ValueBytes == 0 {
		c.Limits.ValueBytes = MaxValueBytes
	}
	if c.Limits.Page == 0 {
		c.Limits.Page = MaxPage
	}
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return nil, fmt.Errorf("memory store: token key: %w", err)
	}
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("memory store: token key: %w", err)
	}
	tokens, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("memory store: token key: %w", err)
	}
	return &Store{cfg: c, tokens: tokens}, nil
}

// AddTenant makes room for a tenant that the registry knows. An existing one is left as it is. A permit of a tenant that was never
// added finds nothing.
func (s *Store) AddTenant(ctx context.Context, t identity.Tenant) error {
	if err := s.cfg.Driver.CreateTenant(ctx, t); err != nil {
		return wrap(err)
	}
	return nil
}

// Open is the only door to content. It refuses the zero permit, an expired or revoked one, one whose action is none of this
// package, a namespace outside the permit's scope, another agent's ["agent", name], and writing under "sys". Each refusal is
// ErrNotFound with its reason; the zero namespace is ErrInvalid. The View dies with the permit.
func (s *Store) Open(p policy.Permit, ns Namespace) (*View, error) {
	v := &View{store: s, permit: p, ns: ns, tenant: p.Tenant(), id: StorageID(p.Tenant())}
	if err := v.check(p.Action()); err != nil {
		return nil, err
	}
	switch p.Action() {
	case ActionRead, ActionList, ActionWrite, ActionResolve:
	default:
		return nil, refuse(ErrNotFound, v1.Reason_REASON_MEMORY_WRONG_ACTION, "a permit for "+p.Action()+" opens no memory")
	}
	if ns.IsZero() {
		return nil, badNamespace("no namespace")
	}
	if p.Tenant().IsZero() || p.Peer().IsZero() {
		return nil, refuse(ErrNotFound, v1.Reason_REASON_MEMORY_NO_PERMIT, "the permit names no tenant or no agent")
	}
	if err := v.covers(ns); err != nil {
		return nil, err
	}
	return v, nil
}

// View is one permit's access to one namespace. It is safe for concurrent use and is not kept beyond the call it was opened for.
type View struct {
	store  *Store
	permit policy.Permit
	ns     Namespace
	tenant identity.Tenant
	id     [16]byte
}

// Namespace returns the namespace that v was opened at.
func (v *View) Namespace() Namespace { return v.ns }

// Sub returns a view of a namespace below v, if the permit covers it. Errors are those of [Store.Open].
func (v *View) Sub(labels ...string) (*View, error) {
	ns, err := v.ns.Sub(labels...)
	if err != nil {
		return nil, err
	}
	return v.store.Open(v.permit, ns)
}

// check holds at the start of every method: a live permit for exactly this action.
func (v *View) check(action string) error {
	switch err := v.permit.Check(v.store.cfg.Now()); {
	case err == nil:
	case errors.Is(err, policy.ErrNoPermit):
		return refuse(ErrNotFound, v1.Reason_REASON_MEMORY_NO_PERMIT, err.Error())
	case errors.Is(err, policy.ErrPermitRevoked):
		return refuse(ErrNotFound, v1.Reason_REASON_AGENT_STATE, err.Error())
	default:
		return refuse(ErrNotFound, v1.Reason_REASON_MEMORY_PERMIT_EXPIRED, err.Error())
	}
	if v.permit.Action() != action {
		return refuse(ErrNotFound, v1.Reason_REASON_MEMORY_WRONG_ACTION, "a permit for "+v.permit.Action()+" does not do "+action)
	}
	return nil
}

// covers reports why ns, the view's namespace or one below it, is out of reach.
func (v *View) covers(ns Namespace) error {
	if !v.ns.Contains(ns) || !v.permit.Allows(v.permit.Action(), ns.labels) {
		return refuse(ErrNotFound, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE, "the permit does not cover "+ns.String())
	}
	switch ns.labels[0] {
	case labelSys:
		if v.permit.Action() == ActionWrite {
			return refuse(ErrNotFound, v1.Reason_REASON_MEMORY_RESERVED, "sys is not written through the agent API")
		}
	case labelAgent:
		if len(ns.labels) < 2 || ns.labels[1] != v.permit.Peer().Agent.Name() || v.permit.Peer().Agent.IsService() {
			return refuse(ErrNotFound, v1.Reason_REASON_MEMORY_RESERVED, ns.String()+" belongs to another agent")
		}
	}
	return nil
}

// coversBelow reports why not everything below ns is in reach. Permit has one subtree flag for its whole path, so that one label
// below stands for all.
func (v *View) coversBelow(ns Namespace) error {
	if !v.permit.Allows(v.permit.Action(), append(ns.Labels(), "_")) {
		return refuse(ErrNotFound, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE, "the permit does not cover what is below "+ns.String())
	}
	return nil
}

// wrap turns an error of a driver into one of this package.
func wrap(err error) error {
	var r *Refusal
	switch {
	case err == nil, errors.As(err, &r), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, ErrNoTenant):
		return refuse(ErrNotFound, v1.Reason_REASON_MEMORY_ABSENT, err.Error())
	case errors.Is(err, ErrConflict):
		return refuse(ErrConflict, v1.Reason_REASON_CONFLICT, err.Error())
	case errors.Is(err, ErrTooLarge):
		return refuse(ErrTooLarge, v1.Reason_REASON_LIMIT, err.Error())
	case errors.Is(err, ErrInvalid):
		return refuse(ErrInvalid, v1.Reason_REASON_MALFORMED, err.Error())
	}
	return refuse(ErrUnavailable, v1.Reason_REASON_INTERNAL, err.Error())
}
