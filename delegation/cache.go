package delegation

import "sync"

// cache maps digests of verified things to what was verified. It holds positive results only: an attacker must not be able to
// fill it with refusals. It is bounded; a full shard drops some entry, which costs its owner time and nothing else.
type cache[V any] struct {
	shards [cacheShards]shard[V]
	bound  int // per shard
}

type shard[V any] struct {
	mu      sync.RWMutex
	entries map[[32]byte]V
}

func newCache[V any](bound int) *cache[V] {
	c := &cache[V]{bound: max(1, bound/cacheShards)}
	for i := range c.shards {
		c.shards[i].entries = make(map[[32]byte]V)
	}
	return c
}

func (c *cache[V]) get(key [32]byte) (V, bool) {
	s := &c.shards[key[0]%cacheShards]
	s.mu.RLock()
	v, found := s.entries[key]
	s.mu.RUnlock()
	return v, found
}

func (c *cache[V]) put(key [32]byte, v V) {
	s := &c.shards[key[0]%cacheShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, found := s.entries[key]; !found && len(s.entries) >= c.bound {
		for victim := range s.entries { // iteration starts at a random entry
			delete(s.entries, victim)
			break
		}
	}
	s.entries[key] = v
}

func (c *cache[V]) drop(key [32]byte) {
	s := &c.shards[key[0]%cacheShards]
	s.mu.Lock()
	delete(s.entries, key)
	s.mu.Unlock()
}
