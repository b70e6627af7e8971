package meshtest

import (
	"sync"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Registry is a registry that tests change. It implements identity.Registry and is safe for concurrent use.
type Registry struct {
	mu         sync.Mutex
	records    map[identity.AgentID]*identity.Record
	generation uint64
}

var _ identity.Registry = (*Registry)(nil)

// Agent implements identity.Registry.
func (r *Registry) Agent(id identity.AgentID) *identity.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.records[id]
}

// Generation implements identity.Registry.
func (r *Registry) Generation() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation
}

// Put registers an agent or replaces its record.
func (r *Registry) Put(rec identity.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.records == nil {
		r.records = map[identity.AgentID]*identity.Record{}
	}
	r.records[rec.ID] = &rec
	r.generation++
}

// Remove takes an agent out of the registry.
func (r *Registry) Remove(id identity.AgentID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.records, id)
	r.generation++
}

// Touch moves the generation without a change, as a change of another agent does.
func (r *Registry) Touch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.generation++
}

// SetState changes the state of a registered agent.
func (r *Registry) SetState(id identity.AgentID, s identity.State) {
	r.update(id, func(rec *identity.Record) { rec.State = s })
}

// SetCap changes the integrity cap of a registered agent.
func (r *Registry) SetCap(id identity.AgentID, c v1.Integrity) {
	r.update(id, func(rec *identity.Record) { rec.IntegrityCap = int32(c) })
}

// SetClass changes the class of a registered agent.
func (r *Registry) SetClass(id identity.AgentID, class string) {
	r.update(id, func(rec *identity.Record) { rec.Class = class })
}

func (r *Registry) update(id identity.AgentID, change func(*identity.Record)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.records[id]; old != nil {
		rec := *old
		change(&rec)
		r.records[id] = &rec
	}
	r.generation++
}
