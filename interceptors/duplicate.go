package interceptors

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// Two processes of one SPIFFE ID have SVIDs with different keys. So has one process over time: its SVID is replaced, its connections
// drain and come back. What one process never does is go back: once it has used a new key, every connection that it opens
// has that key, and the connections with the old one take new calls only until they are cut for their age. Hence the proof of a second
// process is either a connection that is opened with a key after a newer key was seen (and the handshakes of that moment are over),
// or a new call on a connection of a key when no connection that is older than the newer key can still be alive.
//
// Of the two the newcomer is the second process: the one that was there first goes on, so that a stolen or forgotten credential
// cannot push an agent out, and the newcomer may begin as soon as the first has ended or is idle. A key that was gone and comes back is a
// newcomer too, and at once known as one where another key is live. Only a thief who has used the key of a process without a
// break since before that process replaced it looks like the one that was there first, until the certificate of the key ends.

// Bounds of the notice of duplicate identities.
const (
	// DefaultDuplicateGrace is longer than a connection takes new calls: 20 minutes, a tenth of jitter, and five to drain.
	DefaultDuplicateGrace = 27 * time.Minute
	// DefaultDuplicateSlack is longer than a handshake takes, which may have begun before the key was replaced.
	DefaultDuplicateSlack = 20 * time.Second
	// duplicateRecords is how often one pair of keys is recorded.
	duplicateRecords = time.Minute
	// maxLiveKeys bounds the keys of one peer that are remembered; one process has two at most.
	maxLiveKeys = 8
)

// presence is the keys that one peer has come with. There is one for each registered identity that has ever connected.
type presence struct {
	mu   sync.Mutex
	keys []*liveKey // in the order of their first connections
	// contested is until when a second process was noticed a moment ago. Then a single call on an older key is proof.
	contested time.Time
}

// liveKey is one key of a peer. Its fields but refused belong to the lock of its presence.
type liveKey struct {
	spki     [32]byte
	serial   string // of the certificate that it first came with
	first    time.Time
	used     time.Time // the last connection opened or ended, or call
	conns    int
	back     bool     // it was gone when its newest connection was opened
	rival    *liveKey // the older key that was proven to live beside this one, nil when there is none
	recorded time.Time

	refused atomic.Bool // messages on open streams are refused too
}

// duplicatePair is what a record says: an older and a newer key of one peer.
type duplicatePair struct{ older, newer string }

// join notes a new connection of p.
func (e *Enforcer) join(p identity.Peer, now time.Time) (*presence, *liveKey) {
	if p.Leaf == nil {
		return nil, nil
	}
	e.presencesMu.Lock()
	at := e.presences[p.Agent]
	if at == nil {
		at = &presence{}
		e.presences[p.Agent] = at
	}
	e.presencesMu.Unlock()
	at.mu.Lock()
	defer at.mu.Unlock()
	spki := sha256.Sum256(p.Leaf.RawSubjectPublicKeyInfo)
	for _, k := range at.keys {
		if k.spki == spki {
			if k.back = k.conns == 0 && now.Sub(k.used) > e.slack; k.back {
				k.first = now
			}
			k.conns++
			return at, k
		}
	}
	if len(at.keys) >= maxLiveKeys {
		at.forget(now, e.grace)
	}
	k := &liveKey{spki: spki, serial: p.Serial, first: now, used: now, conns: 1}
	at.keys = append(at.keys, k)
	return at, k
}

// forget makes room for one key: those that have ended and been quiet go, otherwise the one that has been quiet for longest, of those
// without a connection where there are any. A process that is started again and again does not push out one that stays.
func (at *presence) forget(now time.Time, grace time.Duration) {
	at.keys = slices.DeleteFunc(at.keys, func(k *liveKey) bool { return k.conns == 0 && now.Sub(k.used) > grace })
	if len(at.keys) < maxLiveKeys {
		return
	}
	quiet := 0
	for i, k := range at.keys {
		other := at.keys[quiet]
		if ended := k.conns == 0; ended != (other.conns == 0) && ended || ended == (other.conns == 0) && k.used.Before(other.used) {
			quiet = i
		}
	}
	at.keys = slices.Delete(at.keys, quiet, quiet+1)
}

// Track returns conn such that the session learns of its end; without it a key counts as gone when its connections are idle. The
// session may be nil.
func (s *Session) Track(conn net.Conn) net.Conn {
	if s == nil || s.presence == nil {
		return conn
	}
	return &trackedConn{Conn: conn, session: s}
}

type trackedConn struct {
	net.Conn
	session *Session
	once    sync.Once
}

// Close implements net.Conn.
func (c *trackedConn) Close() error {
	c.once.Do(c.session.End)
	return c.Conn.Close()
}

// End notes that the connection has ended, for a transport that has no net.Conn to [Session.Track]. It is called once.
func (s *Session) End() {
	if s == nil || s.presence == nil {
		return
	}
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	s.key.conns--
	s.key.used = s.now()
}

// notice holds a new call, or a connection just opened, against the other keys of the peer. It records a second process, and
// refuses it where the registry says that the agent is one process.
func (e *Enforcer) notice(s *Session, now time.Time, opened bool) *Denial {
	if s.presence == nil {
		return nil
	}
	pair, record, second := s.presence.note(s.key, now, opened, e.grace, e.slack)
	reg, _ := s.record()
	refuse := second && reg != nil && reg.SingleProcess && !mutant.Off(mutant.DuplicateIdentity)
	s.key.refused.Store(refuse)
	if record {
		e.recordDuplicate(s, pair, reg != nil && reg.SingleProcess)
	}
	if refuse {
		return s.duplicate()
	}
	return nil
}

// second refuses the later messages of a stream that was opened before its process was known as the second one.
func (s *Session) second() *Denial {
	if s.key != nil && s.key.refused.Load() {
		return s.duplicate()
	}
	return nil
}

func (s *Session) duplicate() *Denial {
	return denyf(v1.Reason_REASON_PEER_DUPLICATE, "%s is registered as one process, and another one that was there before is live", s.peer.ID)
}

// note reports whether k belongs to a second process now, and a pair that is to be recorded.
func (at *presence) note(k *liveKey, now time.Time, opened bool, grace, slack time.Duration) (pair duplicatePair, record, second bool) {
	at.mu.Lock()
	defer at.mu.Unlock()
	k.used = now
	if len(at.keys) < 2 && k.rival == nil {
		return pair, false, false
	}
	first := at.heldBefore(k, now, grace, slack)
	switch {
	case first == nil:
		k.rival = nil // the first process has gone: this one stands alone
	case opened && k.back && k.rival == nil:
		k.rival = first
	}
	if k.rival == nil {
		return at.prove(k, now, opened, grace, slack)
	}
	at.contested = now.Add(grace)
	if now.Sub(k.recorded) >= duplicateRecords {
		k.recorded, record = now, true
	}
	return duplicatePair{k.rival.serial, k.serial}, record, true
}

// prove finds the keys that a use of k proves to be those of another process.
func (at *presence) prove(k *liveKey, now time.Time, opened bool, grace, slack time.Duration) (pair duplicatePair, record, second bool) {
	allowed := grace
	if opened || now.Before(at.contested) {
		allowed = slack
	}
	for _, o := range at.keys {
		if o.rival != nil || !o.first.After(k.first) || now.Sub(o.first) <= allowed {
			continue
		}
		o.rival, at.contested = k, now.Add(grace)
		if now.Sub(o.recorded) >= duplicateRecords {
			o.recorded, pair, record = now, duplicatePair{k.serial, o.serial}, true
		}
	}
	return pair, record, false
}

// heldBefore returns the key of a process that is not known as a second one and is live beside k, or nil.
func (at *presence) heldBefore(k *liveKey, now time.Time, grace, slack time.Duration) *liveKey {
	for _, o := range at.keys {
		idle := now.Sub(o.used)
		if o != k && o.rival == nil && (idle < slack || o.conns > 0 && idle < grace) {
			return o
		}
	}
	return nil
}

// recordDuplicate writes one record of two processes of one identity. It stands beside the calls, whose own records say what became
// of them.
func (e *Enforcer) recordDuplicate(s *Session, pair duplicatePair, single bool) {
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	id := randomID()
	ev := &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_DUPLICATE_IDENTITY, Phase: v1.EventPhase_EVENT_PHASE_OUTCOME,
		Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND, DecisionId: id[:], InteractionId: id[:],
		Tenant: s.peer.Tenant.Name(), Actor: &v1.Party{SpiffeId: s.peer.ID.String(), Serial: pair.newer}, Peer: e.party,
		Decision: v1.EventDecision_EVENT_DECISION_ALLOW,
		Detail: fmt.Sprintf("two processes are live: the one with certificate %s, and since later the one with certificate %s",
			pair.older, pair.newer),
	}
	if single {
		ev.Decision, ev.Reason = v1.EventDecision_EVENT_DECISION_DENY, v1.Reason_REASON_PEER_DUPLICATE
		ev.WireReason = wireOf(ev.Reason).reason
	}
	_, _ = e.cfg.Audit.Append(ctx, audit.Effect, ev) // its calls are recorded, or refused, on their own
}
