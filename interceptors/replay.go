package interceptors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// Bounds of a replay set in memory.
const (
	replayShards      = 16
	defaultReplayKeys = 1_000_000
	// directLife is the longest that an id of a direct message can be needed: a deadline may be maxDeadline and the skew ahead, and is
	// accepted until it is past by the skew.
	directLife = maxDeadline + 2*clockSkew
	// proofLife is the same for an invocation proof, which ends with its chain at the latest.
	proofLife = delegation.MaxGrantLife + 2*clockSkew
	// replaySlack is how much longer than asked a key is kept, so that a small correction of the clock finds it.
	replaySlack = clockSkew
)

// MemoryReplay is a delegation.ReplayStore in the memory of this process. Keys stand in two generations, the one that is filled and
// the one before it, so that forgetting is the drop of a whole map. It is bounded per tenant and never evicts: a tenant that is at its
// bound is refused until keys have ended. The clock decides when keys are forgotten, and a clock that steps back afterwards finds
// the moment of the last forgotten key and refuses what ends earlier.
type MemoryReplay struct {
	limit int64
	life  time.Duration
	now   func() time.Time

	turned  atomic.Int64 // when the generations turned last, Unix nanoseconds
	floor   atomic.Int64 // the latest end of a forgotten key, Unix nanoseconds
	turning sync.Mutex
	shards  [replayShards]replayShard
	tenants sync.Map // string to *tenantKeys; one per tenant with live keys
}

// shortKey is the half of a key that is kept: half the memory, and two keys that agree in it only refuse the second one.
type shortKey [16]byte

type replayShard struct {
	mu        sync.Mutex
	cur, prev replayKeys
}

type replayKeys struct {
	keys map[shortKey]struct{}
	last int64 // the latest end of its keys, Unix nanoseconds
}

// tenantKeys counts the live keys of one tenant. A counter is written only under the lock of a shard and read without.
type tenantKeys struct{ cur, prev atomic.Int64 }

// NewMemoryReplay returns a store that holds up to perTenant keys of each tenant, 0 for 1,000,000, and refuses a key that would have to
// be remembered for longer than life.
func NewMemoryReplay(perTenant int, life time.Duration, now func() time.Time) *MemoryReplay {
	if perTenant <= 0 {
		perTenant = defaultReplayKeys
	}
	m := &MemoryReplay{limit: int64(perTenant), life: life, now: now}
	m.turned.Store(now().UnixNano())
	for i := range m.shards {
		m.shards[i].cur.keys = map[shortKey]struct{}{}
	}
	return m
}

// Seen implements delegation.ReplayStore. It never fails.
func (m *MemoryReplay) Seen(key [32]byte) (bool, error) { return m.seen(key, m.now()), nil }

func (m *MemoryReplay) seen(key [32]byte, at time.Time) bool {
	m.keepTurning(at.UnixNano())
	sh, k := m.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.holds(k)
}

// Insert implements delegation.ReplayStore. It does not block, and nothing of it survives the process.
func (m *MemoryReplay) Insert(_ context.Context, tenant string, key [32]byte, until time.Time) (fresh bool, err error) {
	return m.insert(tenant, key, until, m.now())
}

// Shared implements delegation.ReplayStore.
func (m *MemoryReplay) Shared() bool { return false }

func (m *MemoryReplay) insert(tenant string, key [32]byte, until, at time.Time) (fresh bool, err error) {
	now, end := at.UnixNano(), until.UnixNano()
	if end-now > int64(m.life) {
		return false, fmt.Errorf("%w: %v", delegation.ErrReplayLife, until.Sub(at))
	}
	m.keepTurning(now)
	sh, k := m.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.holds(k) {
		return false, nil
	}
	if end <= m.floor.Load() { // read under the lock that forgetting takes
		return false, delegation.ErrReplayForgotten
	}
	if !m.charge(tenant) {
		return false, delegation.ErrReplayFull
	}
	sh.cur.keys[k], sh.cur.last = struct{}{}, max(sh.cur.last, end)
	return true, nil
}

func (m *MemoryReplay) shard(key [32]byte) (*replayShard, shortKey) {
	return &m.shards[key[31]%replayShards], shortKey(key[:16])
}

func (sh *replayShard) holds(k shortKey) bool {
	if _, ok := sh.cur.keys[k]; ok {
		return true
	}
	_, ok := sh.prev.keys[k]
	return ok
}

// charge counts one key of the tenant. The caller holds the lock of a shard, so that the generations do not turn meanwhile.
func (m *MemoryReplay) charge(tenant string) bool {
	v, ok := m.tenants.Load(tenant)
	if !ok {
		v, _ = m.tenants.LoadOrStore(tenant, new(tenantKeys))
	}
	t := v.(*tenantKeys) //nolint:errcheck,forcetypeassert // nothing else is stored
	if t.cur.Add(1)+t.prev.Load() > m.limit {
		t.cur.Add(-1)
		return false
	}
	return true
}

// keepTurning turns the generations when it is time. A clock that was turned back starts the generation again: keys then live
// longer, and never shorter.
func (m *MemoryReplay) keepTurning(now int64) {
	if age := now - m.turned.Load(); age >= int64(m.life+replaySlack) || age < -int64(replaySlack) {
		m.turn(now)
	}
}

// turn drops the generations whose keys have all ended, and starts a new one. It stops every insert for the moment.
func (m *MemoryReplay) turn(now int64) {
	m.turning.Lock()
	defer m.turning.Unlock()
	age := now - m.turned.Load()
	if age < int64(m.life+replaySlack) && age >= -int64(replaySlack) {
		return // another insert has turned them
	}
	var prev, cur int64
	for i := range m.shards {
		m.shards[i].mu.Lock()
		defer m.shards[i].mu.Unlock()
		prev, cur = max(prev, m.shards[i].prev.last), max(cur, m.shards[i].cur.last)
	}
	m.turned.Store(now)
	ended := now - int64(replaySlack)
	if age < 0 || prev >= ended {
		return // something of the older generation may be needed yet
	}
	m.floor.Store(max(m.floor.Load(), prev))
	both := cur < ended
	if both {
		m.floor.Store(max(m.floor.Load(), cur))
	}
	for i := range m.shards {
		sh := &m.shards[i]
		sh.prev, sh.cur = sh.cur, replayKeys{keys: map[shortKey]struct{}{}}
		if both {
			sh.prev = replayKeys{}
		}
	}
	m.tenants.Range(func(name, v any) bool {
		t := v.(*tenantKeys) //nolint:errcheck,forcetypeassert // nothing else is stored
		t.prev.Store(t.cur.Swap(0))
		if both {
			t.prev.Store(0)
		}
		if t.prev.Load() == 0 {
			m.tenants.Delete(name)
		}
		return true
	})
}

// directKey names one message by its sender and its id. The transport is no part of it.
func directKey(sender identity.AgentID, id []byte) [32]byte {
	return delegation.ReplayKey(delegation.ReplayDirect, sender, id)
}

// proofSeen refuses an invocation proof that was spent, before any signature is checked. It spends nothing.
func (e *Enforcer) proofSeen(key [32]byte) *Denial {
	seen, err := e.proofs.Seen(key)
	switch {
	case err != nil:
		return replayDenial(err)
	case seen && !mutant.Off(mutant.ReplayDurable):
		return denyf(v1.Reason_REASON_REPLAYED, "the invocation proof was used before")
	}
	return nil
}

// spendProof spends an invocation proof, as the last check before the effect. tenant is the caller's; ends is the proof's end.
func (e *Enforcer) spendProof(ctx context.Context, tenant string, key [32]byte, ends time.Time) *Denial {
	fresh, err := e.proofs.Insert(ctx, tenant, key, ends.Add(clockSkew))
	switch {
	case err != nil:
		return replayDenial(err)
	case !fresh && !mutant.Off(mutant.ReplayDurable):
		return denyf(v1.Reason_REASON_REPLAYED, "the invocation proof was used before")
	}
	return nil
}

// replayDenial maps what a replay store says to what the peer may do about it. That nothing can be said of a key is for the peer the
// same as that nothing can be recorded: it may come again later, with a new id.
func replayDenial(err error) *Denial {
	switch {
	case errors.Is(err, delegation.ErrReplayFull), errors.Is(err, delegation.ErrReplayLife):
		return deny(v1.Reason_REASON_LIMIT, err)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return deny(v1.Reason_REASON_CANCELLED, err)
	}
	return deny(v1.Reason_REASON_AUDIT_UNAVAILABLE, err)
}
