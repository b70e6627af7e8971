package delegation

import "sync"

// cache maps digests or signatures of verified things to what was verified. It holds positive results only: an attacker must not be able to
// fill it with refusals. It is bounded; a full shard drops some entry, which costs its owner time and nothing else.
type cache[K cacheKey, V any] struct {
	shards [cacheShards]shard[K, V]
	bound  int         // per shard
	weigh  func(V) int // what of the bound an entry takes; nil is 1
}

// cacheKey is a digest or a signature: its first byte picks the shard.
type cacheKey interface {
	[digestSize]byte | [sigSize]byte
}

type shard[K cacheKey, V any] struct {
	mu      sync.RWMutex
	entries map[K]V
	weight  int
}

func newCache[K cacheKey, V any](bound int) *cache[K, V] {
	c := &cache[K, V]{bound: max(1, bound/cacheShards)}
	for i := range c.shards {
		c.shards[i].entries = make(map[K]V)
	}
	return c
}

func (c *cache[K, V]) get(key K) (V, bool) {
	s := &c.shards[key[0]%cacheShards]
	s.mu.RLock()
	v, found := s.entries[key]
	s.mu.RUnlock()
	return v, found
}

func (c *cache[K, V]) put(key K, v V) {
	s, weight := &c.shards[key[0]%cacheShards], c.weightOf(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.remove(s, key)
	for victim := range s.entries { // iteration starts at a random entry
		if s.weight+weight <= c.bound {
			break
		}
		c.remove(s, victim)
	}
	s.entries[key], s.weight = v, s.weight+weight
}

// remove is called with the lock of s.
func (c *cache[K, V]) remove(s *shard[K, V], key K) {
	if v, found := s.entries[key]; found {
		delete(s.entries, key)
		s.weight -= c.weightOf(v)
	}
}

func (c *cache[K, V]) weightOf(v V) int {
	if c.weigh == nil {
		return 1
	}
	return c.weigh(v)
}

func (c *cache[K, V]) drop(key K) {
	s := &c.shards[key[0]%cacheShards]
	s.mu.Lock()
	c.remove(s, key)
	s.mu.Unlock()
}
