package audit

import (
	"encoding/hex"
	"iter"
	"slices"
	"strings"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// CallState is how a call ended as far as the records say. The zero value is CallUnknown.
type CallState uint8

const (
	// CallUnknown is an intent without an outcome.
	CallUnknown CallState = iota
	// CallDenied is a call refused by a decision.
	CallDenied
	// CallAllowed is a call decided for, and finished.
	CallAllowed
)

// String returns unknown, denied or allowed.
func (s CallState) String() string {
	switch s {
	case CallDenied:
		return "denied"
	case CallAllowed:
		return "allowed"
	default:
		return "unknown"
	}
}

// side is what one log says about a call.
type side struct {
	seen, done, denied, allowed bool
	pos                         Position
	reason, wire                v1.Reason
}

func (s *side) add(rec Record) {
	ev := rec.Event
	if !s.seen {
		s.seen, s.pos = true, rec.Position
	}
	s.done = s.done || ev.Phase == v1.EventPhase_EVENT_PHASE_OUTCOME
	s.denied = s.denied || ev.Decision == v1.EventDecision_EVENT_DECISION_DENY
	s.allowed = s.allowed || ev.Decision == v1.EventDecision_EVENT_DECISION_ALLOW
	if ev.Reason != 0 {
		s.reason = ev.Reason
	}
	if ev.WireReason != 0 {
		s.wire = ev.WireReason
	}
}

// state reads an absent decision as a denial.
func (s *side) state() CallState {
	switch {
	case s.denied:
		return CallDenied
	case !s.done:
		return CallUnknown
	case s.allowed:
		return CallAllowed
	default:
		return CallDenied
	}
}

// callerState is state for the caller's record alone: it knows of the callee's decision by the wire reason only.
func (s *side) callerState() CallState {
	st := s.state()
	if st != CallAllowed {
		return st
	}
	switch s.wire {
	case v1.Reason_REASON_UNSPECIFIED, v1.Reason_REASON_INTERNAL:
		return CallAllowed
	case v1.Reason_REASON_OUTCOME_UNKNOWN, v1.Reason_REASON_DEADLINE:
		return CallUnknown
	default:
		return CallDenied
	}
}

// call is one call, seen from one side or both.
type call struct {
	from, to, action    string
	fromClass, toClass  string
	tenant, peerTenant  string
	origin              string
	envelope, causation [16]byte
	conversation, trace [16]byte
	chain               [16]byte
	caller, callee      side
	chainMissing        bool
	count               uint64
	firstNs, lastNs     int64
}

func (c *call) state() CallState {
	if c.callee.seen {
		return c.callee.state()
	}
	return c.caller.callerState()
}

func (c *call) reason() v1.Reason {
	if c.callee.seen && c.callee.reason != 0 {
		return c.callee.reason
	}
	if c.caller.reason != 0 {
		return c.caller.reason
	}
	return c.caller.wire
}

func (c *call) side(d v1.EventDirection) *side {
	if d == v1.EventDirection_EVENT_DIRECTION_OUTBOUND {
		return &c.caller
	}
	return &c.callee
}

// LogSeen says how much of one log went into an answer.
type LogSeen struct {
	LogID   [16]byte
	Records uint64
	// Newest is the highest seq seen.
	Newest uint64
}

// pairKey finds the calls of one envelope that still lack the record of one side.
type pairKey struct {
	caller   string
	envelope [16]byte
	missing  v1.EventDirection
}

type interactionKey struct {
	log, interaction [16]byte
	direction        v1.EventDirection
}

// callFold joins records into calls. The caller's outbound and the callee's inbound records of a call have the caller's id and the
// envelope id in common. An envelope that comes twice is two calls: the second one was refused as a replay.
type callFold struct {
	limit        int
	list         []*call
	pairs        map[pairKey][]*call
	interactions map[interactionKey]*call
	names        map[string]string
	logs         []LogSeen
	truncated    bool
}

func foldCalls(limit int, logs []iter.Seq2[Record, error]) (*callFold, error) {
	f := &callFold{
		limit: limit, pairs: make(map[pairKey][]*call), interactions: make(map[interactionKey]*call),
		names: make(map[string]string),
	}
	for _, log := range logs {
		for rec, err := range Expanded(log) {
			if err != nil {
				return nil, err
			}
			f.add(rec)
		}
	}
	return f, nil
}

func (f *callFold) add(rec Record) {
	f.saw(rec)
	ev := rec.Event
	if ev.Kind != v1.EventKind_EVENT_KIND_CALL && ev.Kind != v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED {
		return
	}
	interaction, known := id16(ev.InteractionId)
	key := interactionKey{rec.LogID, interaction, ev.Direction}
	c := f.interactions[key]
	if c == nil || !known {
		if c = f.pair(ev); c == nil {
			return
		}
		if known {
			f.interactions[key] = c
		}
	}
	f.merge(c, rec)
}

func (f *callFold) saw(rec Record) {
	i := slices.IndexFunc(f.logs, func(s LogSeen) bool { return s.LogID == rec.LogID })
	if i < 0 {
		f.logs = append(f.logs, LogSeen{LogID: rec.LogID})
		i = len(f.logs) - 1
	}
	f.logs[i].Records++
	f.logs[i].Newest = max(f.logs[i].Newest, rec.Seq)
}

// pair returns the call of the other side's record, or a new one, or nil when the limit is reached.
func (f *callFold) pair(ev *Event) *call {
	env, ok := id16(ev.EnvelopeId)
	from, to := ev.GetActor().GetSpiffeId(), ev.GetPeer().GetSpiffeId()
	if ok {
		key := pairKey{from, env, ev.Direction}
		for i, c := range f.pairs[key] {
			if c.to == "" || to == "" || c.to == to {
				f.pairs[key] = slices.Delete(f.pairs[key], i, i+1)
				return c
			}
		}
	}
	if len(f.list) >= f.limit {
		f.truncated = true
		return nil
	}
	c := &call{envelope: env}
	f.list = append(f.list, c)
	if ok {
		key := pairKey{f.name(from), env, otherSide(ev.Direction)}
		f.pairs[key] = append(f.pairs[key], c)
	}
	return c
}

func otherSide(d v1.EventDirection) v1.EventDirection {
	if d == v1.EventDirection_EVENT_DIRECTION_OUTBOUND {
		return v1.EventDirection_EVENT_DIRECTION_INBOUND
	}
	return v1.EventDirection_EVENT_DIRECTION_OUTBOUND
}

// name makes equal strings share their memory.
func (f *callFold) name(s string) string {
	if n, ok := f.names[s]; ok {
		return n
	}
	f.names[s] = s
	return s
}

func (f *callFold) merge(c *call, rec Record) {
	ev := rec.Event
	c.side(ev.Direction).add(rec)
	c.chainMissing = c.chainMissing || rec.ChainMissing
	inbound := ev.Direction != v1.EventDirection_EVENT_DIRECTION_OUTBOUND
	// The callee's words about the call win over the caller's.
	set := func(field *string, value string) {
		if value != "" && (*field == "" || inbound) {
			*field = f.name(value)
		}
	}
	set(&c.from, ev.GetActor().GetSpiffeId())
	set(&c.to, ev.GetPeer().GetSpiffeId())
	set(&c.fromClass, ev.GetActor().GetAgentClass())
	set(&c.toClass, ev.GetPeer().GetAgentClass())
	set(&c.action, ev.Action)
	set(&c.tenant, ev.Tenant)
	set(&c.peerTenant, ev.PeerTenant)
	set(&c.origin, principalText(ev.Origin))
	for _, id := range []struct {
		field *[16]byte
		value []byte
	}{{&c.causation, ev.CausationId}, {&c.conversation, ev.ConversationId}, {&c.trace, ev.TraceId}} {
		if v, ok := id16(id.value); ok {
			*id.field = v
		}
	}
	if v, ok := id16(ev.ChainId); ok && (inbound || c.chain == [16]byte{}) {
		c.chain = v
	}
	c.count = max(c.count, ev.RepeatedCount, 1)
	if c.firstNs == 0 || ev.TimeUnixNs < c.firstNs {
		c.firstNs = ev.TimeUnixNs
	}
	c.lastNs = max(c.lastNs, ev.TimeUnixNs)
}

// principalText returns "user alice (issuer)", or "" for no principal.
func principalText(p *v1.Principal) string {
	if p == nil || (p.Subject == "" && p.Type == 0) {
		return ""
	}
	kind := strings.ToLower(strings.TrimPrefix(p.Type.String(), "TYPE_"))
	s := kind + " " + p.Subject
	if p.Issuer != "" {
		s += " (" + p.Issuer + ")"
	}
	return s
}

// idText is the short form of an id for people: all of it, since a prefix can be made to collide.
func idText(id [16]byte) string { return hex.EncodeToString(id[:]) }

func reasonText(r v1.Reason) string { return strings.TrimPrefix(r.String(), "REASON_") }
