package interceptors_test

import (
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// renewedFrom returns a chain from relay to writer under a grant by which relay goes on with what head gave it.
func (s *scene) renewedFrom(head identity.AgentID) *v1.DelegationChain {
	s.t.Helper()
	given := s.Chain(s.t, []identity.AgentID{head, s.relay}, meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh")),
		meshtest.Delegates(s.relay.String(), s.writer.String()))
	grant, err := s.Renew(given, s.relay, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	root, err := s.Verifier(s.relay).VerifyGrant(grant)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.Hop(s.t, root, delegation.HopSpec{Delegate: s.writer})
}

// A renewal does not shake off the agent that the authority came from: contained, it ends what was renewed since.
func TestSuspendedMemberEndsARenewedChain(t *testing.T) {
	s := newScene(t)
	head := s.Agent("acme", "head")
	s.chain = s.renewedFrom(head)
	wantReason(t, "a call while all are active", s.send(s.envelope()), 0)
	s.Registry.SetState(head, identity.StateSuspended)
	wantReason(t, "a call afterwards", s.send(s.envelope()), v1.Reason_REASON_CHAIN_HANDLE_REVOKED)
	s.Registry.SetState(head, identity.StateActive)
	wantReason(t, "once it is active again", s.send(s.envelope()), 0)
}

// TestClockStepDuringAStream is the second half of row 52: a clock that steps back would revive what is over, so it ends a stream as
// one that steps past the chain's end does.
func TestClockStepDuringAStream(t *testing.T) {
	for _, tt := range []struct {
		name string
		step time.Duration
		want v1.Reason
	}{
		{"within the tolerance", -4 * time.Second, 0},
		{"back", -6 * time.Second, v1.Reason_REASON_CHAIN_TIME},
		{"ten minutes back", -10 * time.Minute, v1.Reason_REASON_CHAIN_TIME},
		{"past the end of the chain", 16 * time.Minute, v1.Reason_REASON_CHAIN_TIME},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// A budget counts by the same clock and, unless it has much to spare, is what a step back meets first.
			ample := conduct.Budget{Rate: 1000, Burst: 1e6}
			s := newScene(t, func(c *interceptors.Config) { c.AgentBudget, c.TenantBudget = ample, ample })
			st := s.openStream()
			wantReason(t, "the first message", st.admit(request(s.envelope())), 0)
			wantReason(t, "the second message", st.admit(request(nil)), 0)
			s.Advance(tt.step)
			wantReason(t, "the message after the step", st.admit(request(nil)), tt.want)
		})
	}
}
