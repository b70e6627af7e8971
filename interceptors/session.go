package interceptors

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// Transport is the way a call came.
type Transport uint8

// The transports. The numbers appear nowhere but in this process.
const (
	TransportUnknown Transport = iota
	TransportGRPC
	TransportConnect
	TransportGRPCWeb
	TransportDeliver
)

// String returns the name that audit records carry.
func (t Transport) String() string {
	switch t {
	case TransportGRPC:
		return "grpc"
	case TransportConnect:
		return "connect"
	case TransportGRPCWeb:
		return "grpc-web"
	case TransportDeliver:
		return "deliver"
	case TransportUnknown:
	}
	return "unknown"
}

// Session is what cannot change on one authenticated connection, resolved once: the peer, its account, the chains it has
// presented. It is safe for concurrent use.
type Session struct {
	peer    identity.Peer
	account *conduct.Account
	tenant  *conduct.Account
	chains  *delegation.ConnTable
	signer  delegation.Signer // of receipts; nil where the transport set none
	// tenantName is the peer's tenant as bounds are counted by.
	tenantName string
	pinned     atomic.Pointer[pinnedRecord]
	name       *v1.Party // the peer by its name alone, for records; shared and never changed

	now      func() time.Time
	presence *presence // the peer's keys; nil where nothing is known of them
	key      *liveKey  // the one of this connection

	mu      sync.Mutex
	members map[[32]byte]uint64 // chains by link, and the registry generation at which all of their members were active
}

// maxMembers bounds the chains of one connection whose members are remembered as active; the rest are looked up again.
const maxMembers = 1024

type pinnedRecord struct {
	generation uint64
	record     *identity.Record
	party      *v1.Party // the peer in records; shared and never changed
}

// Peer returns the verified peer.
func (s *Session) Peer() identity.Peer { return s.peer }

// Accept opens a session for a peer whose connection the transport has verified. An unregistered or inactive peer is a Denial,
// already recorded; the transport answers its calls with it or closes the connection.
func (e *Enforcer) Accept(p identity.Peer) (*Session, error) {
	if p.IsZero() {
		return nil, e.RefuseTransport("", denyf(v1.Reason_REASON_PEER_NO_TLS, "no verified peer"))
	}
	s := &Session{peer: p, chains: delegation.NewConnTable(), tenantName: p.Tenant.String(), name: &v1.Party{SpiffeId: p.ID.String()}}
	s.now = e.cfg.Now
	if d := s.refresh(e, s.now()); d != nil {
		return nil, e.RefuseTransport(p.ID.String(), d)
	}
	s.account, s.tenant = e.meter.Agent(p.Agent), e.meter.Tenant(p.Tenant) // after the registry: strangers allocate nothing
	s.presence, s.key = e.join(p, s.now())
	_ = e.notice(s, s.now(), true) // a second process is told so on its calls: it may be the only one by then
	return s, nil
}

// refresh compares what may change on an open connection: the registry record and the certificate's end.
func (s *Session) refresh(e *Enforcer, now time.Time) *Denial {
	if !now.Before(s.peer.NotAfter) {
		return denyf(v1.Reason_REASON_PEER_EXPIRED, "the peer's certificate expired %v ago", now.Sub(s.peer.NotAfter))
	}
	generation := e.cfg.Registry.Generation()
	pin := s.pinned.Load()
	if pin == nil || pin.generation != generation {
		pin = &pinnedRecord{generation: generation, record: e.cfg.Registry.Agent(s.peer.Agent)}
		pin.party = &v1.Party{SpiffeId: s.peer.ID.String(), CertSha256: s.peer.CertID[:], Serial: s.peer.Serial}
		if pin.record != nil {
			pin.party.AgentClass = pin.record.Class
		}
		s.pinned.Store(pin)
	}
	if pin.record == nil {
		return denyf(v1.Reason_REASON_PEER_UNREGISTERED, "%s is not registered", s.peer.ID)
	}
	if r := policy.StateReason(pin.record.State); r != 0 {
		return denyf(r, "%s is %s", s.peer.ID, pin.record.State)
	}
	return nil
}

// cleared reports whether every member of a chain was active when the registry had this generation.
func (s *Session) cleared(link [32]byte, generation uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, known := s.members[link]
	return known && at == generation
}

func (s *Session) clear(link [32]byte, generation uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.members == nil || len(s.members) >= maxMembers {
		s.members = map[[32]byte]uint64{}
	}
	s.members[link] = generation
}

// record returns the registry record that the last refresh found, and the generation that it belongs to.
func (s *Session) record() (*identity.Record, uint64) {
	if pin := s.pinned.Load(); pin != nil {
		return pin.record, pin.generation
	}
	return nil, 0
}

// party returns the peer as records name it. A session that was never refreshed knows the name only.
func (s *Session) party() *v1.Party {
	if pin := s.pinned.Load(); pin != nil {
		return pin.party
	}
	return s.name
}

// gate spends from the peer's own budget, for calls that are denied later too, and then from the tenant's.
func (s *Session) gate(now time.Time) *Denial {
	if wait, ok := s.account.Rate.Take(now, 1); !ok {
		return &Denial{Code: CodeResourceExhausted, Reason: v1.Reason_REASON_RATE, RetryAfter: wait}
	}
	if wait, ok := s.tenant.Rate.Take(now, 1); !ok {
		return &Denial{Code: CodeResourceExhausted, Reason: v1.Reason_REASON_RATE, RetryAfter: wait}
	}
	return nil
}

func (s *Session) acquire() *Denial {
	if !s.account.Slots.Acquire() {
		return deny(v1.Reason_REASON_CONCURRENCY, nil)
	}
	if !s.tenant.Slots.Acquire() {
		s.account.Slots.Release()
		return deny(v1.Reason_REASON_CONCURRENCY, nil)
	}
	return nil
}

func (s *Session) release() {
	s.account.Slots.Release()
	s.tenant.Slots.Release()
}
