package policy

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Config is what an Engine decides with. Every field is required.
type Config struct {
	Self     identity.AgentID
	Registry identity.Registry
	Now      func() time.Time
}

// Engine decides requests at one endpoint and mints Permits. It is safe for concurrent use. An engine without a table denies
// everything.
type Engine struct {
	cfg   Config
	table atomic.Pointer[Table]
}

// NewEngine returns an engine that denies everything until a table is activated.
func NewEngine(cfg Config) (*Engine, error) {
	if cfg.Self.IsZero() || cfg.Registry == nil || cfg.Now == nil {
		return nil, errors.New("policy engine: self, registry and clock are required")
	}
	return &Engine{cfg: cfg}, nil
}

// Activate puts t in force for every later decision. A table of another trust domain, or with a lower serial than the one in
// force, is refused with an error that wraps ErrTable; the same serial again must have the same content.
func (e *Engine) Activate(t *Table) error {
	if t == nil {
		return fmt.Errorf("%w: no table", ErrTable)
	}
	if t.td != e.cfg.Self.TrustDomain().Name() {
		return fmt.Errorf("%w: trust domain %q, want %q", ErrTable, t.td, e.cfg.Self.TrustDomain().Name())
	}
	for {
		old := e.table.Load()
		if old != nil && (t.serial < old.serial || t.serial == old.serial && t.sum != old.sum) {
			return fmt.Errorf("%w: serial %d after %d", ErrTable, t.serial, old.serial)
		}
		if e.table.CompareAndSwap(old, t) {
			return nil
		}
	}
}

// Table returns the table in force, nil when there is none.
func (e *Engine) Table() *Table { return e.table.Load() }

// Request is one question, made of verified values by the enforcement core.
type Request struct {
	DecisionID [16]byte
	// Peer is the acting agent; Record its registry record, nil when it has none; Generation the registry's when Record was read.
	// A Permit of an older generation looks at the registry again, so zero is safe.
	Peer       identity.Peer
	Record     *identity.Record
	Generation uint64
	// Leaf is the verified chain, rechecked for this message.
	Leaf *delegation.Leaf
	// Action and Resource are derived from the method and the decoded request.
	Action   string
	Resource []string
	// Claimed is the control label of the message as its sender claims it.
	Claimed Label
	// MinIntegrity is the method's floor; unspecified reads as ATTESTED.
	MinIntegrity v1.Integrity
	// MaxDepth is the method's bound on hops; 0 reads as 4.
	MaxDepth     uint32
	Conversation []byte
	Purpose      string
	// NotAfter ends the permit earlier than the chain would; zero does not.
	NotAfter time.Time
}

// Decision is the outcome of one request. The zero value is a denial.
type Decision struct {
	allowed bool
	// Reason is why not, as an audit reason; zero when allowed.
	Reason v1.Reason
	// Cause says it in words, for the audit log only.
	Cause string
	// Policies are the ids of the rows that allowed it.
	Policies []string
	Serial   uint64
	SHA256   [32]byte
	// Effective is the control label after the caps of the peer.
	Effective Label
}

// Allowed reports whether the request was allowed.
func (d Decision) Allowed() bool { return d.allowed }

// Decide answers r: the invariants first, then the table. The Permit is zero unless the decision is allowed.
func (e *Engine) Decide(r *Request) (Permit, Decision) {
	now := e.cfg.Now()
	d := Decision{Effective: effective(r)}
	if t := e.table.Load(); t != nil {
		d.Serial, d.SHA256 = t.serial, t.sum
	}
	tenant, reason, cause := invariants(e.cfg.Self, r, d.Effective, now)
	if reason != 0 {
		d.Reason, d.Cause = reason, cause
		return Permit{}, d
	}
	subtree, ok := e.consult(&d, tenant, r.Record.Class, r.Action, r.Resource)
	if !ok {
		return Permit{}, d
	}
	notAfter := r.Leaf.Expires()
	if !r.NotAfter.IsZero() && r.NotAfter.Before(notAfter) {
		notAfter = r.NotAfter
	}
	d.allowed = true
	return Permit{f: &facts{
		engine: e, decisionID: r.DecisionID, peer: r.Peer, tenant: tenant, leaf: r.Leaf, conversation: r.Conversation,
		purpose: r.Purpose, action: r.Action, resource: r.Resource, subtree: subtree && r.Leaf.CoversBelow(r.Action, r.Resource),
		control: d.Effective, limit: integrityCap(r.Record), notAfter: notAfter, generation: r.Generation,
	}}, d
}

// Derive decides a further action for the same call: never beyond the chain, the table, or the life of p.
func (e *Engine) Derive(p Permit, action string, resource []string) (Permit, Decision) {
	d := Decision{Reason: v1.Reason_REASON_SCOPE_MISSING, Cause: "no permit to derive from"}
	if p.Check(e.cfg.Now()) != nil || p.f.engine != e {
		return Permit{}, d
	}
	d.Effective = p.f.control
	if t := e.table.Load(); t != nil {
		d.Serial, d.SHA256 = t.serial, t.sum
	}
	rec := e.cfg.Registry.Agent(p.f.peer.Agent)
	if rec == nil || !ValidAction(action) || !ValidResource(resource) || !coversFreely(p.f.leaf, action, resource) {
		d.Cause = fmt.Sprintf("the chain does not cover %s on %q", action, resource)
		return Permit{}, d
	}
	d.Reason, d.Cause = 0, ""
	subtree, ok := e.consult(&d, p.f.tenant, rec.Class, action, resource)
	if !ok {
		return Permit{}, d
	}
	f := *p.f
	f.action, f.resource, f.subtree = action, resource, subtree && f.leaf.CoversBelow(action, resource)
	d.allowed = true
	return Permit{f: &f}, d
}

func (e *Engine) consult(d *Decision, tenant identity.Tenant, class, action string, resource []string) (subtree, ok bool) {
	t := e.table.Load()
	if t == nil {
		d.Reason, d.Cause = v1.Reason_REASON_POLICY_NO_TABLE, "no capability table is in force"
		return false, false
	}
	d.Serial, d.SHA256 = t.serial, t.sum
	d.Policies, subtree = t.Permits(tenant.Name(), class, action, resource, e.cfg.Self)
	if len(d.Policies) == 0 {
		d.Reason = v1.Reason_REASON_POLICY_NO_ROW
		d.Cause = fmt.Sprintf("no row lets class %s of tenant %s do %s on %q at %s", class, tenant.Name(), action, resource, e.cfg.Self)
		return false, false
	}
	return subtree, true
}

// effective is the claimed label, bounded by what the peer's registration lets it claim.
func effective(r *Request) Label { return r.Claimed.WithIntegrityCap(integrityCap(r.Record)) }

func integrityCap(rec *identity.Record) v1.Integrity {
	if rec == nil {
		return v1.Integrity_INTEGRITY_UNTRUSTED
	}
	return max(v1.Integrity(rec.IntegrityCap), v1.Integrity_INTEGRITY_UNTRUSTED)
}

// coversFreely reports whether a capability without constraints covers the resource. Derive knows no request whose fields could
// meet a constraint.
func coversFreely(leaf *delegation.Leaf, action string, resource []string) bool {
	for _, c := range leaf.Capabilities() {
		if c.GetAction() == action && len(c.GetConstraints()) == 0 && delegation.CoversResource(c, resource) {
			return true
		}
	}
	return false
}
