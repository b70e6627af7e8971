package interceptors_test

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
)

// A tenant's budget binds all its agents together; a refusal says when to come back.
func TestTenantBudget(t *testing.T) {
	s := newScene(t, func(c *interceptors.Config) { c.TenantBudget.Rate, c.TenantBudget.Burst = 1, 2 })
	for range 2 {
		wantReason(t, "inside the budget", s.send(s.envelope()), 0)
	}
	other := s.Agent("acme", "other")
	s.session = s.Session(t, s.end, other)
	err := s.send(s.envelope())
	wantReason(t, "another agent of the tenant", err, v1.Reason_REASON_RATE)
	var d *interceptors.Denial
	if !errors.As(err, &d) || d.RetryAfter <= 0 || d.RetryAfter > 2*time.Second {
		t.Errorf("retry after %v", d.RetryAfter)
	}
	globex := s.Agent("globex", "x")
	s.session = s.Session(t, s.end, globex)
	if _, in, err := s.end.Open(t.Context(), s.call(), nil); err != nil {
		t.Errorf("another tenant: %v", err)
	} else {
		in.Close(&err)
	}
}

// A call that finds no slot of its tenant gives its agent's slot back.
func TestTenantSlots(t *testing.T) {
	s := newScene(t, func(c *interceptors.Config) { c.TenantBudget.InFlight, c.AgentBudget.InFlight = 1, 1 })
	c := s.call()
	c.Session = s.Session(t, s.end, s.Agent("acme", "other"))
	_, in, err := s.end.Open(t.Context(), c, nil)
	wantReason(t, "a call of another agent", err, 0)
	wantReason(t, "a second call of the tenant", s.send(s.envelope()), v1.Reason_REASON_CONCURRENCY)
	in.Close(&err)
	wantReason(t, "after the first", s.send(s.envelope()), 0)
}

func TestPresent(t *testing.T) {
	s := newScene(t)
	leaf, err := s.end.Present(t.Context(), s.call(), s.chain)
	if err != nil {
		t.Fatal(err)
	}
	if intent, outcome := s.pair(); intent.GetDecision() != allow || outcome.GetDecision() != allow || len(intent.GetChain()) != 2 {
		t.Errorf("records %v, %v", intent, outcome)
	}
	link := leaf.Link()
	e := s.envelope()
	e.Chain, e.ChainRef = nil, link[:]
	wantReason(t, "the reference", s.send(e), 0)

	forged := s.newChain()
	forged.Hops[0].Signature[3] ^= 1
	_, err = s.end.Present(t.Context(), s.call(), forged)
	wantReason(t, "a forged chain", err, v1.Reason_REASON_CHAIN_BAD_SIGNATURE)
	_, err = s.end.Present(t.Context(), s.call(), nil)
	wantReason(t, "no chain", err, malformed)
	_, err = s.end.Present(t.Context(), &interceptors.Call{Procedure: unary}, s.chain)
	wantReason(t, "no session", err, v1.Reason_REASON_PEER_NO_TLS)
	s.end.Log.Fail(func(*v1.AuditEvent) error { return errors.New("disk") })
	_, err = s.end.Present(t.Context(), s.call(), s.chain)
	wantReason(t, "a log that fails", err, v1.Reason_REASON_AUDIT_FULL)
}

// The replay set forgets by generation and never what its message's deadline would still let pass.
func TestReplaySetAcrossGenerations(t *testing.T) {
	s := newScene(t)
	var ids [][16]byte
	for range 40 { // over all shards
		var id [16]byte
		_, _ = rand.Read(id[:])
		ids = append(ids, id)
		s.end.Admitted(s.relay, id[:])
	}
	seen := func() (n int) {
		for _, id := range ids {
			e := s.envelope()
			e.Id, e.Chain = id[:], nil
			if reason(t, s.send(e)) == v1.Reason_REASON_REPLAYED {
				n++
			}
		}
		return n
	}
	for range 2 {
		if n := seen(); n != len(ids) {
			t.Fatalf("%d of %d are known", n, len(ids))
		}
		s.Advance(5*time.Minute + 59*time.Second)
	}
	s.Advance(6 * time.Minute)
	if n := seen(); n != 0 {
		t.Errorf("%d of %d are known after three generations", n, len(ids))
	}
}

func TestTransportNames(t *testing.T) {
	want := []string{"unknown", "grpc", "connect", "grpc-web", "deliver", "unknown"}
	for i, w := range want {
		if got := interceptors.Transport(i).String(); got != w {
			t.Errorf("Transport(%d) = %q, want %q", i, got, w)
		}
	}
}

// A certificate that runs out on an open connection ends its calls and its permits.
func TestCertificateThatExpiresOnAnOpenConnection(t *testing.T) {
	s := newScene(t)
	src := s.Source(s.relay, meshtest.TTL(time.Minute))
	session, err := s.end.Accept(src.Peer())
	if err != nil {
		t.Fatal(err)
	}
	s.session = session
	st := s.openStream()
	wantReason(t, "before the end", st.admit(request(s.envelope())), 0)
	if p, _ := interceptors.PermitFrom(st.ctx); p.NotAfter().After(session.Peer().NotAfter) {
		t.Errorf("the permit outlives the certificate: %v", p.NotAfter())
	}
	s.Advance(2 * time.Minute)
	wantReason(t, "a later message", st.admit(request(nil)), v1.Reason_REASON_PEER_EXPIRED)
	wantReason(t, "a later call", s.send(s.envelope()), v1.Reason_REASON_PEER_EXPIRED)
}
