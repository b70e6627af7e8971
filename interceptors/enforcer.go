package interceptors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// Config is what an Enforcer works with. Every field but the budgets is required: there is no option to run unaudited.
type Config struct {
	Self     identity.AgentID
	Registry identity.Registry
	Verifier *delegation.Verifier
	Engine   *policy.Engine
	Audit    audit.Recorder
	Methods  *Methods
	Now      func() time.Time

	// Zero budgets are conduct.DefaultAgent and conduct.DefaultTenant.
	AgentBudget, TenantBudget conduct.Budget
	// Meter replaces the one that is made from the budgets, where the verifier spends from it too.
	Meter *conduct.Meter
	// ReplayKeys bounds the admitted messages remembered per tenant; 0 is 1,000,000.
	ReplayKeys int
	// Replay remembers which invocation proofs were spent, for all transports. Nil is a store in memory, which forgets them with
	// the process.
	Replay delegation.ReplayStore
	// DuplicateGrace is for how long at most a peer's connection takes new calls, and DuplicateSlack for how long at most a handshake
	// may last: a peer that uses an old key for longer, after it has used a new one, is two processes. Zeros are the defaults.
	DuplicateGrace, DuplicateSlack time.Duration
}

// Enforcer guards one endpoint. It is safe for concurrent use.
type Enforcer struct {
	cfg   Config
	party *v1.Party // the endpoint itself in records; shared and never changed
	// resource is what methods act on that name nothing else; shared and never changed.
	resource []string
	own      atomic.Pointer[pinnedRecord]
	drafts   sync.Pool
	meter    *conduct.Meter
	replay   *MemoryReplay          // ids of direct messages; rebuilt from the audit log at start
	proofs   delegation.ReplayStore // of invocation proofs

	presencesMu  sync.Mutex
	presences    map[identity.AgentID]*presence
	grace, slack time.Duration
	talks        conversations
	refusals     refusals // before any call
	denials      refusals // of calls
	late         late
}

// New returns an enforcer, or an error that names what is missing.
func New(cfg Config) (*Enforcer, error) {
	for _, need := range []struct {
		name string
		ok   bool
	}{
		{"self", !cfg.Self.IsZero()},
		{"registry", cfg.Registry != nil},
		{"verifier", cfg.Verifier != nil},
		{"policy engine", cfg.Engine != nil},
		{"audit recorder", cfg.Audit != nil},
		{"method table", cfg.Methods != nil},
		{"clock", cfg.Now != nil},
	} {
		if !need.ok {
			return nil, fmt.Errorf("enforcer: no %s", need.name)
		}
	}
	if cfg.Meter == nil {
		cfg.Meter = conduct.NewMeter(cfg.AgentBudget, cfg.TenantBudget)
	}
	e := &Enforcer{
		cfg: cfg, party: &v1.Party{SpiffeId: cfg.Self.String()}, resource: DefaultResource(cfg.Self), meter: cfg.Meter, proofs: cfg.Replay,
		replay: NewMemoryReplay(cfg.ReplayKeys, directLife, cfg.Now),
	}
	e.presences, e.grace, e.slack = map[identity.AgentID]*presence{}, cfg.DuplicateGrace, cfg.DuplicateSlack
	if e.grace <= 0 {
		e.grace = DefaultDuplicateGrace
	}
	if e.slack <= 0 {
		e.slack = DefaultDuplicateSlack
	}
	if e.proofs == nil {
		e.proofs = NewMemoryReplay(cfg.ReplayKeys, proofLife, cfg.Now)
	}
	return e, nil
}

// Self returns the endpoint's own identity.
func (e *Enforcer) Self() identity.AgentID { return e.cfg.Self }

// InFlight returns how many calls of one agent may be in flight, for transports that bound streams.
func (e *Enforcer) InFlight() int64 { return e.meter.InFlight() }

// Methods returns the method table.
func (e *Enforcer) Methods() *Methods { return e.cfg.Methods }

// Admitted notes a message that an earlier process of this identity admitted, so that its bytes are refused after a restart.
// It is called for the intent records of the audit log before the first connection is accepted.
// An error means that the replay set has no room for it, and that serving would risk a second effect.
func (e *Enforcer) Admitted(sender identity.AgentID, id []byte) error {
	now := e.cfg.Now()
	if _, err := e.replay.insert(sender.Tenant().String(), directKey(sender, id), now.Add(directLife), now); err != nil {
		return replayDenial(err)
	}
	return nil
}

// Call is one logical call as every transport sees it.
type Call struct {
	Session   *Session // nil is refused
	Procedure string
	Transport Transport
	Metadata  []byte // the envelope in metadata, where the request has no field for one
	Remote    string // address, for the record only
	Peer      string // SPIFFE ID of a verified peer that has no session, for the record only
}

// Open starts the interaction of one call. It always returns an Interaction, also with an error, so that [Interaction.Close]
// records the refusal. refused is why the transport already knows that the call must fail, or nil.
func (e *Enforcer) Open(ctx context.Context, c *Call, refused error) (context.Context, *Interaction, error) {
	in := e.newInteraction(c)
	in.open = opened{ctx, in}
	ctx = &in.open
	if d := in.admitCall(refused); d != nil {
		in.atGate = true
		return ctx, in, in.refuse(d)
	}
	return ctx, in, nil
}

// Present verifies a chain and remembers it on the session; it spends the peer's budget, is recorded, and has no other effect.
func (e *Enforcer) Present(ctx context.Context, c *Call, chain *v1.DelegationChain) (leaf *delegation.Leaf, err error) {
	in := e.newInteraction(c)
	in.method = presentMethod()
	defer in.Close(&err)
	if d := in.admitCall(nil); d != nil {
		in.atGate = true
		return nil, in.refuse(d)
	}
	leaf, d := in.verify(chain, nil)
	if d != nil {
		return nil, in.refuse(d)
	}
	in.setLeaf(leaf)
	if err := in.recordIntent(ctx, audit.Buffered, nil); err != nil {
		return nil, in.refuse(err)
	}
	c.Session.chains.Remember(leaf)
	return leaf, nil
}

// presentMethod stands for ExchangeService.Present, which has no intent of its own.
func presentMethod() *Method {
	return &Method{
		Procedure: "/safeconduct.rpc.v1.ExchangeService/Present",
		Intent:    &v1.MethodIntent{Open: true, Audit: v1.AuditClass_AUDIT_CLASS_BUFFERED},
	}
}

// refusals counts what was refused before an interaction existed. The first of a peer and reason in a second are single
// records; the rest of that second is one number.
type refusals struct {
	mu     sync.Mutex
	second int64
	counts map[refusalKey]uint64
}

type refusalKey struct {
	peer   string
	reason v1.Reason
}

const (
	singleRefusals = 10
	maxRefusalKeys = 1024
)

// single reports whether this refusal gets a record of its own, and hands back the surplus of the second that has ended.
func (r *refusals) single(k refusalKey, now time.Time) (own bool, surplus map[refusalKey]uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Unix() != r.second {
		surplus = r.turn()
		r.second = now.Unix()
	}
	if _, known := r.counts[k]; !known && len(r.counts) >= maxRefusalKeys {
		k = refusalKey{}
	}
	r.counts[k]++
	return r.counts[k] <= singleRefusals, surplus
}

// turn starts the counts again and returns those that were not recorded one by one. The caller holds mu.
func (r *refusals) turn() map[refusalKey]uint64 {
	surplus := map[refusalKey]uint64{}
	for k, n := range r.counts {
		if n > singleRefusals {
			surplus[k] = n - singleRefusals
		}
	}
	r.counts = map[refusalKey]uint64{}
	return surplus
}

// Flush writes down the refusals that were counted and not recorded yet. It is called before the audit log is closed.
func (e *Enforcer) Flush() {
	e.late.wait()
	e.refusals.mu.Lock()
	surplus := e.refusals.turn()
	e.refusals.mu.Unlock()
	for k, n := range surplus {
		e.recordRefusal(k.peer, &Denial{Reason: k.reason, DecisionID: randomID()}, n)
	}
}

// RefuseTransport records a refusal that the transport made before there was a call: a failed handshake, a body it could not
// decode. It returns the Denial with its decision id filled in. peer is the verified SPIFFE ID or, when there is none, empty.
func (e *Enforcer) RefuseTransport(peer string, cause error) error {
	d := denialOf(cause, v1.Reason_REASON_TRANSPORT_REFUSED)
	if d.DecisionID == [16]byte{} {
		d.DecisionID = randomID()
	}
	if e.countRefusal(peer, d.Reason) {
		e.recordRefusal(peer, d, 0)
	}
	return d
}

// countRefusal reports whether a refusal gets records of its own, and writes down how many did not in the second that has ended.
func (e *Enforcer) countRefusal(peer string, reason v1.Reason) (own bool) {
	own, surplus := e.refusals.single(refusalKey{peer, reason}, e.cfg.Now())
	for k, n := range surplus {
		e.recordRefusal(k.peer, &Denial{Reason: k.reason, DecisionID: randomID()}, n)
	}
	return own
}

// denialOf returns err as a fresh Denial, with reason for errors that carry none.
func denialOf(err error, reason v1.Reason) *Denial {
	var d *Denial
	if errors.As(err, &d) {
		dup := *d
		return &dup
	}
	if r := delegation.ReasonOf(err); r != 0 {
		reason = r
	}
	return deny(reason, err)
}
