package audit

import (
	"bytes"
	"cmp"
	"iter"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// activeState is the state of the caller that a lean decision input does not name.
const activeState = "active"

// maxRememberedCalls bounds the intents of one log whose outcome has not come yet; the oldest are forgotten first.
const maxRememberedCalls = 1 << 14

// Expander writes out what records of calls leave unsaid because an earlier record of the same log says it:
//
//   - a chain is spelled out once in a while and named by chain_ref otherwise ([ChainRecorder]); what follows from it (chain_id, origin,
//     task_id, depth, max_depth, peer) is left out with it;
//   - a decision input without a principal is lean: every field that it leaves unset is what the record says elsewhere (capabilities:
//     those of the last link; principal_state: active), and control_effective, where it is unset, equals control_claimed;
//   - an outcome says only what its intent does not.
//
// It must see the records of each log in order. Its memory is bounded: [MaxSpelledChains] twice and as many unfinished calls for each
// log. The zero value is ready; it is not safe for concurrent use.
type Expander struct {
	logs map[[16]byte]*sayings
}

// sayings is what one log has said so far.
type sayings struct {
	chains ages[[linkBytes]byte, *Event]
	calls  ages[callKey, Record]
	// self is the owner of the log, by the direction of its calls.
	self map[v1.EventDirection]*v1.Party
}

// Expand returns rec with a complete Event. Raw, Leaf and Chain stay those of the record as stored, and its event is not changed.
// ChainMissing is set where the chain is named and no record seen spells it out.
func (x *Expander) Expand(rec Record) Record {
	if rec.Event.GetKind() != v1.EventKind_EVENT_KIND_CALL {
		return rec
	}
	s := x.logs[rec.LogID]
	if s == nil {
		s = &sayings{self: make(map[v1.EventDirection]*v1.Party, 2)}
		s.chains.most, s.calls.most = MaxSpelledChains, maxRememberedCalls
		if x.logs == nil {
			x.logs = make(map[[16]byte]*sayings)
		}
		x.logs[rec.LogID] = s
	}
	if rec.Event.Phase == v1.EventPhase_EVENT_PHASE_INTENT {
		return s.intent(rec)
	}
	return s.outcome(rec)
}

// Expanded yields records as an Expander of its own expands them. Expanding twice changes nothing.
func Expanded(records iter.Seq2[Record, error]) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		var x Expander
		for rec, err := range records {
			if err == nil {
				rec = x.Expand(rec)
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

func (s *sayings) intent(rec Record) Record {
	ev := rec.Event
	if link, named := linkOf(ev); named {
		said, known := s.chains.get(link)
		switch {
		case len(ev.Chain) > 0:
			s.chains.put(link, chainOf(ev))
		case known:
			ev = fork(ev)
			ev.Chain = said.Chain
			ev.ChainId, ev.Origin = either(ev.ChainId, said.ChainId), cmp.Or(ev.Origin, said.Origin)
			ev.TaskId, ev.Peer = cmp.Or(ev.TaskId, said.TaskId), cmp.Or(ev.Peer, said.Peer)
			ev.Depth, ev.MaxDepth = cmp.Or(ev.Depth, said.Depth), cmp.Or(ev.MaxDepth, said.MaxDepth)
		default:
			rec.ChainMissing = true
			if ev.Peer == nil && s.self[ev.Direction] != nil {
				ev = fork(ev)
				ev.Peer = s.self[ev.Direction]
			}
		}
	}
	if in := ev.DecisionInput; in != nil && in.Principal == "" {
		if ev == rec.Event {
			ev = fork(ev)
		}
		if ev.ControlEffective == nil {
			ev.ControlEffective = ev.ControlClaimed
		}
		ev.DecisionInput = wholeInput(ev)
	}
	rec.Event = ev
	if self := ownParty(ev); self != nil {
		s.self[ev.Direction] = self
	}
	if id, ok := id16(ev.InteractionId); ok {
		s.calls.put(callKey{id, ev.Direction}, Record{Event: callOf(ev), ChainMissing: rec.ChainMissing})
	}
	return rec
}

// wholeInput returns the decision input of an expanded intent whose input is lean.
func wholeInput(ev *Event) *v1.DecisionInput {
	in, ok := proto.Clone(ev.DecisionInput).(*v1.DecisionInput)
	if !ok {
		return ev.DecisionInput
	}
	in.Principal = ev.GetActor().GetSpiffeId()
	in.PrincipalClass = cmp.Or(in.PrincipalClass, ev.GetActor().GetAgentClass())
	in.PrincipalState = cmp.Or(in.PrincipalState, activeState)
	in.Action, in.Purpose = cmp.Or(in.Action, ev.Action), cmp.Or(in.Purpose, ev.Purpose)
	in.Callee, in.Tenant = cmp.Or(in.Callee, ev.GetPeer().GetSpiffeId()), cmp.Or(in.Tenant, ev.PeerTenant)
	in.Origin = cmp.Or(in.Origin, ev.GetOrigin().GetSubject())
	in.Resource = either(in.Resource, ev.Resource)
	in.Control = cmp.Or(in.Control, ev.ControlClaimed)
	in.Depth, in.MaxDepth = cmp.Or(in.Depth, ev.Depth), cmp.Or(in.MaxDepth, ev.MaxDepth)
	if n := len(ev.Chain); n > 0 {
		in.Capabilities = either(in.Capabilities, ev.Chain[n-1].GetCapabilities())
	}
	return in
}

func (s *sayings) outcome(rec Record) Record {
	ev := fork(rec.Event)
	rec.Event = ev
	id, ok := id16(ev.InteractionId)
	if !ok {
		return rec
	}
	key := callKey{id, ev.Direction}
	said, known := s.calls.get(key)
	if !known { // the intent is in a segment that is not there
		if self := s.self[ev.Direction]; ev.Direction == v1.EventDirection_EVENT_DIRECTION_OUTBOUND {
			ev.Actor = cmp.Or(ev.Actor, self)
		} else {
			ev.Peer = cmp.Or(ev.Peer, self)
		}
		return rec
	}
	if ev.Phase != v1.EventPhase_EVENT_PHASE_PROGRESS {
		s.calls.forget(key)
	}
	rec.ChainMissing = said.ChainMissing
	in := said.Event
	for _, f := range []struct {
		field *[]byte
		said  []byte
	}{
		{&ev.DecisionId, in.DecisionId},
		{&ev.EnvelopeId, in.EnvelopeId},
		{&ev.CausationId, in.CausationId},
		{&ev.ConversationId, in.ConversationId},
		{&ev.TraceId, in.TraceId},
		{&ev.SpanId, in.SpanId},
		{&ev.ChainRef, in.ChainRef},
		{&ev.ChainId, in.ChainId},
		{&ev.RequestDigest, in.RequestDigest},
	} {
		*f.field = either(*f.field, f.said)
	}
	for _, f := range []struct {
		field *string
		said  string
	}{
		{&ev.TaskId, in.TaskId},
		{&ev.Tenant, in.Tenant},
		{&ev.PeerTenant, in.PeerTenant},
		{&ev.Action, in.Action},
		{&ev.Method, in.Method},
		{&ev.Purpose, in.Purpose},
		{&ev.Transport, in.Transport},
	} {
		*f.field = cmp.Or(*f.field, f.said)
	}
	ev.Actor, ev.Peer = sameParty(ev.Actor, in.Actor), sameParty(ev.Peer, in.Peer)
	ev.Origin = cmp.Or(ev.Origin, in.Origin)
	ev.Resource = either(ev.Resource, in.Resource)
	ev.Depth, ev.MaxDepth = cmp.Or(ev.Depth, in.Depth), cmp.Or(ev.MaxDepth, in.MaxDepth)
	ev.RequestBytes, ev.DeadlineUnixMs = cmp.Or(ev.RequestBytes, in.RequestBytes), cmp.Or(ev.DeadlineUnixMs, in.DeadlineUnixMs)
	return rec
}

// sameParty returns said for a party that is named alone or not at all.
func sameParty(p, said *v1.Party) *v1.Party {
	if p == nil || (said != nil && p.SpiffeId == said.SpiffeId) {
		return said
	}
	return p
}

// ownParty is the owner of the log.
func ownParty(ev *Event) *v1.Party {
	if ev.Direction == v1.EventDirection_EVENT_DIRECTION_OUTBOUND {
		return ev.Actor
	}
	return ev.Peer
}

func either[T any](a, b []T) []T {
	if len(a) > 0 {
		return a
	}
	return b
}

// fork returns a copy of ev that shares everything below its fields.
func fork(ev *Event) *Event {
	out := new(Event)
	from, to := ev.ProtoReflect(), out.ProtoReflect()
	from.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		to.Set(fd, v)
		return true
	})
	to.SetUnknown(bytes.Clone(from.GetUnknown()))
	return out
}

// ages is a map that forgets the older half when it holds twice most.
type ages[K comparable, V any] struct {
	most       int
	newer, old map[K]V
}

func (a *ages[K, V]) get(k K) (V, bool) {
	if v, ok := a.newer[k]; ok {
		return v, true
	}
	v, ok := a.old[k]
	return v, ok
}

func (a *ages[K, V]) put(k K, v V) {
	if a.newer == nil || (len(a.newer) >= a.most && !a.has(k)) {
		a.newer, a.old = make(map[K]V), a.newer
	}
	a.newer[k] = v
}

func (a *ages[K, V]) has(k K) bool {
	_, ok := a.newer[k]
	return ok
}

func (a *ages[K, V]) forget(k K) {
	delete(a.newer, k)
	delete(a.old, k)
}

// callOf returns what the index keeps of an intent until its outcome comes.
func callOf(ev *Event) *Event {
	return &Event{
		DecisionId: ev.DecisionId, EnvelopeId: ev.EnvelopeId, CausationId: ev.CausationId, ConversationId: ev.ConversationId, TraceId: ev.TraceId,
		SpanId: ev.SpanId, ChainRef: ev.ChainRef, ChainId: ev.ChainId, RequestDigest: ev.RequestDigest, TaskId: ev.TaskId, Tenant: ev.Tenant,
		PeerTenant: ev.PeerTenant, Action: ev.Action, Method: ev.Method, Purpose: ev.Purpose, Transport: ev.Transport, Actor: ev.Actor, Peer: ev.Peer,
		Origin: ev.Origin, Resource: ev.Resource, Depth: ev.Depth, MaxDepth: ev.MaxDepth, RequestBytes: ev.RequestBytes, DeadlineUnixMs: ev.DeadlineUnixMs,
	}
}

// chainOf returns what the index keeps of a record that spells a chain out.
func chainOf(ev *Event) *Event {
	return &Event{
		Chain: ev.Chain, ChainId: ev.ChainId, Origin: ev.Origin, TaskId: ev.TaskId, Depth: ev.Depth, MaxDepth: ev.MaxDepth, Peer: ev.Peer,
	}
}
