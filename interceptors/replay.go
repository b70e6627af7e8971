package interceptors

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

// Bounds of the replay set. A key lives until its message's deadline plus the skew; a set that is full refuses new messages of
// that tenant and never evicts.
const (
	replayShards      = 16
	replayGeneration  = maxDeadline + 2*clockSkew
	defaultReplayKeys = 1_000_000
)

// replaySet remembers which messages were admitted. Keys are kept in two generations: one that is filled and the one before it,
// so a key lives at least one generation and forgetting is the drop of a whole map.
type replaySet struct {
	limit  int
	shards [replayShards]replayShard
	mu     sync.Mutex
	used   map[identity.Tenant]*tenantKeys
}

type tenantKeys struct {
	turn      time.Time
	cur, prev int
}

type replayShard struct {
	mu        sync.Mutex
	turn      time.Time
	cur, prev map[[32]byte]struct{}
}

func newReplaySet(limit int) *replaySet {
	if limit <= 0 {
		limit = defaultReplayKeys
	}
	return &replaySet{limit: limit, used: map[identity.Tenant]*tenantKeys{}}
}

// replayKey names one message: who sent it and its id. The transport is no part of it.
func replayKey(sender identity.AgentID, id []byte) [32]byte {
	const kind = "safeconduct/replay/v1\x00direct\x00"
	buf := make([]byte, 0, len(kind)+identity.MaxID/8+1+16)
	buf = append(append(buf, kind...), sender.String()...)
	return sha256.Sum256(append(append(buf, 0), id...))
}

// seen reports whether key was inserted.
func (s *replaySet) seen(key [32]byte, now time.Time) bool {
	sh := &s.shards[key[0]%replayShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.rotate(now)
	_, a := sh.cur[key]
	_, b := sh.prev[key]
	return a || b
}

// insert adds key; exactly one of several concurrent inserts is fresh. full means that the tenant has no room.
func (s *replaySet) insert(tenant identity.Tenant, key [32]byte, now time.Time) (fresh, full bool) {
	sh := &s.shards[key[0]%replayShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.rotate(now)
	if _, ok := sh.cur[key]; ok {
		return false, false
	}
	if _, ok := sh.prev[key]; ok {
		return false, false
	}
	if !s.charge(tenant, now) {
		return false, true
	}
	sh.cur[key] = struct{}{}
	return true, false
}

// charge counts one key of the tenant. The counters turn with the same period as the shards.
func (s *replaySet) charge(tenant identity.Tenant, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.used[tenant]
	if t == nil {
		t = &tenantKeys{turn: now}
		s.used[tenant] = t
	}
	for range 2 {
		if now.Sub(t.turn) < replayGeneration {
			break
		}
		t.prev, t.cur, t.turn = t.cur, 0, t.turn.Add(replayGeneration)
	}
	if now.Sub(t.turn) >= replayGeneration {
		t.turn = now
	}
	if t.cur+t.prev >= s.limit {
		return false
	}
	t.cur++
	return true
}

func (sh *replayShard) rotate(now time.Time) {
	switch age := now.Sub(sh.turn); {
	case sh.cur == nil || age >= 2*replayGeneration:
		sh.cur, sh.prev, sh.turn = map[[32]byte]struct{}{}, nil, now
	case age >= replayGeneration:
		sh.prev, sh.cur, sh.turn = sh.cur, map[[32]byte]struct{}{}, now
	}
}
