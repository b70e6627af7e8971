package interceptors

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

type interactionKey struct{}

// Interaction is one logical call on its way through this endpoint. Admit is called by one goroutine at a time; the accessors
// are safe for concurrent use once the first message is admitted.
type Interaction struct {
	e       *Enforcer
	call    *Call
	method  *Method
	id      [16]byte
	started time.Time
	held    bool // a concurrency slot
	atGate  bool // refused before any message was looked at
	purpose string
	open    opened
	bound   bounded

	env   *v1.Envelope // of the first message
	sound *v1.Envelope // what CheckCarried let pass
	leaf  *delegation.Leaf
	proof *delegation.Invocation // verified, nil without one
	// Copies of what leaf says, for the records.
	chainID [16]byte
	link    [32]byte
	until   time.Time // when the handler's context ends
	permit  atomic.Pointer[policy.Permit]
	first   policy.Permit // of the first message, and never changed after it
	talk    atomic.Pointer[Conversation]
	pos     audit.Position
	intent  atomic.Pointer[audit.Position] // nil, or pos

	mu       sync.Mutex
	denial   *Denial
	decision policy.Decision
	claimed  policy.Label
	question question
	resource []string
	recorded []string // resource in the intent record
	in, out  traffic
	ahead    uint32 // admissions that stood for no message
	attached []*v1.ContextRef
	receipt  *signedReceipt
	closed   bool
}

type traffic struct {
	messages uint32
	bytes    uint64
}

// Admitted proves that a message was admitted. Only Admit makes one that is usable; dispatchers demand it before a handler.
type Admitted struct{ in *Interaction }

// Valid reports whether the message was admitted.
func (a Admitted) Valid() bool { return a.in != nil }

func randomID() (id [16]byte) {
	_, _ = rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	return id
}

func (e *Enforcer) newInteraction(c *Call) *Interaction {
	return &Interaction{e: e, call: c, id: randomID(), started: e.cfg.Now(), method: e.cfg.Methods.Lookup(c.Procedure)}
}

// admitCall runs the steps that need no message: peer, session, budget.
func (in *Interaction) admitCall(refused error) *Denial {
	if refused != nil {
		return denialOf(refused, v1.Reason_REASON_PEER_UNVERIFIED)
	}
	s := in.call.Session
	if s == nil {
		return denyf(v1.Reason_REASON_PEER_NO_TLS, "the connection has no verified peer")
	}
	if d := s.refresh(in.e, in.started); d != nil {
		return d
	}
	if d := in.e.notice(s, in.started, false); d != nil {
		return d
	}
	if d := s.gate(in.started); d != nil {
		return d
	}
	if d := s.acquire(); d != nil {
		return d
	}
	in.held = true
	if in.method == nil {
		return denyf(v1.Reason_REASON_UNKNOWN_METHOD, "no method %q", in.call.Procedure)
	}
	return nil
}

// refuse notes why the call fails and stamps the denial with the call's decision id.
func (in *Interaction) refuse(d *Denial) error {
	d.DecisionID = in.id
	in.mu.Lock()
	if in.denial == nil {
		in.denial = d
	}
	in.mu.Unlock()
	return d
}

// Emit passes one message that is about to leave.
func (in *Interaction) Emit(msg any) error {
	in.mu.Lock()
	in.out.messages++
	if m, ok := msg.(proto.Message); ok {
		in.out.bytes += uint64(proto.Size(m)) //nolint:gosec // G115: a size is never negative.
	}
	in.mu.Unlock()
	if in.intent.Load() == nil {
		return in.refuse(denyf(v1.Reason_REASON_NO_ENVELOPE, "a reply before any message was admitted"))
	}
	talk := in.talk.Load()
	if in.method == nil || talk == nil {
		if d := in.call.Session.refresh(in.e, in.e.cfg.Now()); d != nil { // an open stream ends with its peer
			return in.refuse(d)
		}
		return nil
	}
	ceiling := in.method.Intent.GetMaxConfidentiality()
	if l := talk.Label(); ceiling != v1.Confidentiality_CONFIDENTIALITY_UNSPECIFIED && l.Confidentiality > ceiling {
		return in.refuse(denyf(v1.Reason_REASON_CONFIDENTIALITY_TOO_HIGH, "the conversation is %s, the method's ceiling %s", l, ceiling))
	}
	if p := in.permit.Load(); p != nil {
		switch err := p.Check(in.e.cfg.Now()); {
		case errors.Is(err, policy.ErrPermitRevoked):
			return in.refuse(deny(v1.Reason_REASON_AGENT_STATE, err))
		case err != nil:
			return in.refuse(deny(v1.Reason_REASON_CHAIN_TIME, err))
		}
		if d := in.checkMembers(in.leaf); d != nil {
			return in.refuse(d)
		}
	}
	return nil
}

// Close records the outcome, exactly once, whatever happened: success, denial, handler error, panic, cancellation,
// runtime.Goexit. It must be deferred directly. A panic is recorded and becomes an INTERNAL Denial in *err, with the panic value
// as its cause. When the outcome of a call that succeeded cannot be recorded, *err says OUTCOME_UNKNOWN.
func (in *Interaction) Close(err *error) {
	if r := recover(); r != nil {
		d := denyf(v1.Reason_REASON_HANDLER_PANIC, "panic: %v", r)
		d.DecisionID = in.id
		in.mu.Lock()
		in.denial = d
		in.mu.Unlock()
	}
	in.finish(err)
}

// verdict is the error that the peer sees. A refusal stands whatever the handler made of it, so that the peer and the record agree.
func (in *Interaction) verdict(err error) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.denial != nil {
		return in.denial
	}
	return err
}

func (in *Interaction) finish(err *error) {
	in.mu.Lock()
	done := in.closed
	in.closed = true
	in.mu.Unlock()
	if done {
		return
	}
	if in.held {
		defer in.call.Session.release()
	}
	if *err != nil {
		var d *Denial
		if errors.As(*err, &d) && d.DecisionID == [16]byte{} { // a handler of ours refused: it knows no decision id
			*err = in.refuse(denialOf(d, d.Reason))
		}
	}
	if *err == nil && in.intent.Load() == nil { // a stream that was half closed at once: the handler ran, on nobody's authority
		_ = in.refuse(denyf(v1.Reason_REASON_NO_ENVELOPE, "the call ended before a message was admitted"))
	}
	*err = in.verdict(*err)
	if rerr := in.recordOutcome(*err); rerr != nil {
		d := denyf(v1.Reason_REASON_OUTCOME_UNKNOWN, "outcome record: %w", rerr)
		d.DecisionID = in.id
		if *err == nil {
			*err = d
		}
	}
}

// ID returns the decision id of the call.
func (in *Interaction) ID() [16]byte { return in.id }

// Envelope returns the envelope of the first message, nil before it is admitted. The caller must not change it. A handler finds no payload in
// it: that is decoded, and gone.
func (in *Interaction) Envelope() *v1.Envelope { return in.env }

// Method returns what the call means, nil for an unknown procedure.
func (in *Interaction) Method() *Method { return in.method }

// Purpose returns the purpose of the intent, which every further call of the chain shares.
func (in *Interaction) Purpose() string { return in.purpose }

// Until returns when the handler's context ends: with the call's time, or with the chain that the call stands on. It is zero for a
// method that has no envelope, which ends with its connection.
func (in *Interaction) Until() time.Time {
	if in.leaf != nil && in.leaf.Expires().Before(in.until) {
		return in.leaf.Expires()
	}
	return in.until
}

// Leaf returns the verified chain, nil for an open method.
func (in *Interaction) Leaf() *delegation.Leaf { return in.leaf }

// Conversation returns the conversation that the call belongs to, nil for an open method.
func (in *Interaction) Conversation() *Conversation { return in.talk.Load() }

// Attach adds context references to the reply, at most 32 in all; the caller can use them without reading the reply.
func (in *Interaction) Attach(refs ...*v1.ContextRef) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.attached)+len(refs) > maxContextRefs {
		return denyf(v1.Reason_REASON_LIMIT, "more than %d context references", maxContextRefs)
	}
	in.attached = append(in.attached, refs...)
	return nil
}

// Attached returns the references that Attach added.
func (in *Interaction) Attached() []*v1.ContextRef {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.attached
}

// Position returns where the intent record stands in the audit log, nil before it is written.
func (in *Interaction) Position() *audit.Position { return in.intent.Load() }

// DefaultResource is the resource of a method that declares no resource field: the callee itself.
func DefaultResource(self identity.AgentID) []string {
	if self.IsService() {
		return []string{"service", self.Name()}
	}
	return []string{"agent", self.Name()}
}

// From returns the Interaction of a handler's context.
func From(ctx context.Context) (*Interaction, bool) {
	in, ok := ctx.Value(interactionKey{}).(*Interaction)
	return in, ok
}

// PermitFrom returns the Permit of the last message admitted; false when there is none, as on open methods.
func PermitFrom(ctx context.Context) (policy.Permit, bool) {
	in, ok := From(ctx)
	if !ok {
		return policy.Permit{}, false
	}
	p := in.permit.Load()
	if p == nil {
		return policy.Permit{}, false
	}
	return *p, true
}

// PeerFrom returns the verified peer of the call.
func PeerFrom(ctx context.Context) (identity.Peer, bool) {
	in, ok := From(ctx)
	if !ok || in.call == nil || in.call.Session == nil {
		return identity.Peer{}, false
	}
	return in.call.Session.peer, true
}

func equalPath(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
