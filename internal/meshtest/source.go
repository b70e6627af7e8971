package meshtest

import (
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/safeconduct/safeconduct/identity"
)

// Source is the identity of one process of the World. It implements identity.Source and is safe for concurrent use.
type Source struct {
	w  *World
	tb testing.TB
	id identity.AgentID

	ca     *CA
	ttl    time.Duration
	change []func(*x509.Certificate)

	mu   sync.Mutex
	svid *x509svid.SVID
	next chan struct{}
}

// SourceOption alters a Source before its first SVID is issued.
type SourceOption func(*Source)

// TTL sets how long the SVIDs of a Source are valid; the default is an hour.
func TTL(d time.Duration) SourceOption { return func(s *Source) { s.ttl = d } }

// IssuedBy lets another CA sign, such as World.Rogue.
func IssuedBy(ca *CA) SourceOption { return func(s *Source) { s.ca = ca } }

// Template alters the certificate before it is signed.
func Template(change func(*x509.Certificate)) SourceOption {
	return func(s *Source) { s.change = append(s.change, change) }
}

// Source returns a new process identity for id. Its bundles are the World's. The agent need not be registered.
func (w *World) Source(id identity.AgentID, opts ...SourceOption) *Source {
	w.tb.Helper()
	s := &Source{w: w, tb: w.tb, id: id, ca: w.CA, ttl: defaultTTL, next: make(chan struct{})}
	for _, o := range opts {
		o(s)
	}
	s.svid = s.ca.Issue(s.tb, id, s.ttl, s.change...)
	return s
}

var _ identity.Source = (*Source)(nil)

// ID returns whose identity it is.
func (s *Source) ID() identity.AgentID { return s.id }

// Rotate replaces the SVID by a new one with a new key.
func (s *Source) Rotate() {
	s.tb.Helper()
	fresh := s.ca.Issue(s.tb, s.id, s.ttl, s.change...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.svid = fresh
	close(s.next)
	s.next = make(chan struct{})
}

// GetX509SVID implements x509svid.Source.
func (s *Source) GetX509SVID() (*x509svid.SVID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.svid, nil
}

// GetX509BundleForTrustDomain implements x509bundle.Source.
func (s *Source) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return s.w.GetX509BundleForTrustDomain(td)
}

// Updated implements identity.Source.
func (s *Source) Updated() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next
}

// Close implements identity.Source.
func (s *Source) Close() error { return nil }

// Peer returns s as the verified peer of a connection.
func (s *Source) Peer() identity.Peer {
	s.tb.Helper()
	svid, _ := s.GetX509SVID()
	p, err := identity.PeerFromLeaf(svid.Certificates[0])
	if err != nil {
		s.tb.Fatalf("peer of %s: %v", s.id, err)
	}
	return p
}
