package interceptors

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	// lookEvery is how long after its end a call is looked at that nobody has seen; it is recorded at the second look.
	lookEvery = 20 * time.Millisecond
	// keptCalls is how many calls that were seen a connection may keep in memory until the next look.
	keptCalls = 64
)

var errUnseen = errors.New("grpc ended the call before the enforcement core saw it: its body, its compression or its deadline")

// Unseen records the calls of one connection that ended in grpc-go itself, before any interceptor saw them: bodies that do not decode or
// are too large, compressions that are not known. It is safe for concurrent use. grpc tells of the begin of a call and not of its end,
// unless it is asked to report every step of every call, which costs more than most checks of a call together. So each call is noted when
// it begins and looked at until it was seen, or is over.
type Unseen struct {
	e   *Enforcer
	who string // the SPIFFE ID of a verified peer

	mu    sync.Mutex
	calls []*began
	limit int // calls at which the seen ones are dropped
	armed bool
}

// began is the context of a call that has begun.
type began struct {
	context.Context
	seen atomic.Bool
	over bool // found to have ended unseen, once; under the lock of Unseen
}

type seenKey struct{}

// Value implements context.Context.
func (b *began) Value(key any) any {
	if _, own := key.(seenKey); own {
		return b
	}
	return b.Context.Value(key)
}

// MarkSeen notes that an interceptor has taken the call over.
func MarkSeen(ctx context.Context) {
	if b, ok := ctx.Value(seenKey{}).(*began); ok {
		b.seen.Store(true)
	}
}

// Unseen returns the record of one connection; peer is the SPIFFE ID that it was verified for, if it was.
func (e *Enforcer) Unseen(peer string) *Unseen { return &Unseen{e: e, who: peer} }

// Begin notes a call that has begun and returns its context. It does not block.
func (u *Unseen) Begin(ctx context.Context) context.Context {
	b := &began{Context: ctx}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.calls) >= max(u.limit, keptCalls) {
		u.drop(func(b *began) bool { return !b.seen.Load() })
		u.limit = 2 * len(u.calls)
	}
	u.calls = append(u.calls, b)
	if !u.armed {
		u.armed = true
		u.e.Later(lookEvery, u.look)
	}
	return b
}

// drop keeps the calls that keep names. The caller holds mu.
func (u *Unseen) drop(keep func(*began) bool) {
	kept := u.calls[:0]
	for _, b := range u.calls {
		if keep(b) {
			kept = append(kept, b)
		}
	}
	clear(u.calls[len(kept):])
	u.calls = kept
}

// look records the calls that are over and were not seen at two looks: a call that its client ends is seen by an interceptor a moment later.
func (u *Unseen) look() {
	lost := 0
	u.mu.Lock()
	u.drop(func(b *began) bool {
		switch {
		case b.seen.Load():
			return false
		case b.Err() == nil:
			return true
		case !b.over:
			b.over = true
			return true
		}
		lost++
		return false
	})
	u.limit = 0
	if u.armed = len(u.calls) > 0; u.armed {
		u.e.Later(lookEvery, u.look)
	}
	u.mu.Unlock()
	for range lost {
		_ = u.e.RefuseTransport(u.who, Refuse(v1.Reason_REASON_TRANSPORT_REFUSED, errUnseen))
	}
}

// RefuseBody records a message that the transport could not hand over, at once and with the cause, for a handler that decodes by itself.
// It returns cause.
func (e *Enforcer) RefuseBody(ctx context.Context, s *Session, cause error) error {
	MarkSeen(ctx)
	who := ""
	if s != nil {
		who = s.peer.ID.String()
	}
	_ = e.RefuseTransport(who, Refuse(v1.Reason_REASON_TRANSPORT_REFUSED, cause))
	return cause
}
