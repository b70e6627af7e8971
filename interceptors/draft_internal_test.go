package interceptors

import (
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// The registry may change between the gate and the policy: the input says what the policy saw, the record who was at the gate.
func TestLeanInputKeepsWhatDiffers(t *testing.T) {
	for _, tt := range []struct {
		name         string
		registered   *identity.Record
		purpose      string
		class, state string
	}{
		{"as at the gate", &identity.Record{Class: "worker", State: identity.StateActive}, "purpose", "worker", "active"},
		{"another class", &identity.Record{Class: "other", State: identity.StateActive}, "purpose", "other", "active"},
		{"suspended", &identity.Record{Class: "worker", State: identity.StateSuspended}, "purpose", "worker", "suspended"},
		{"gone", nil, "purpose", "worker", "unknown"},
		{"a purpose that the record does not repeat", &identity.Record{Class: "worker", State: identity.StateActive}, "a\x01b", "worker", "active"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := new(draft)
			d.ev.Kind, d.ev.Phase, d.ev.Purpose = v1.EventKind_EVENT_KIND_CALL, v1.EventPhase_EVENT_PHASE_INTENT, "purpose"
			if !printable(tt.purpose) {
				d.ev.Purpose = ""
			}
			d.ev.Actor = &v1.Party{SpiffeId: "spiffe://mesh.test/a", AgentClass: "worker"}
			q := ask(&policy.Request{Record: tt.registered, Purpose: tt.purpose}, time.UnixMilli(7))
			q.fill(d, policy.Label{}, policy.Label{Tags: []string{"x"}})
			var x audit.Expander
			ev := x.Expand(audit.Record{Event: &d.ev}).Event
			in := ev.GetDecisionInput()
			if in.GetPrincipalClass() != tt.class || in.GetPrincipalState() != tt.state || in.GetPurpose() != tt.purpose || in.GetNowUnixMs() != 7 ||
				in.GetMinIntegrity() != v1.Integrity_INTEGRITY_ATTESTED || len(ev.GetControlEffective().GetTags()) != 1 {
				t.Errorf("the input reads %v", in)
			}
		})
	}
}

// Nothing of one call may show up in the record of the next one.
func TestDraftsAreEmpty(t *testing.T) {
	e := new(Enforcer)
	d := e.draft()
	q := ask(&policy.Request{Purpose: "x"}, time.UnixMilli(1))
	q.fill(d, policy.Label{Tags: []string{"x"}}, policy.Label{Sources: []string{"x"}})
	d.ev.Cause, d.ev.Outcome, d.ev.Peer = "x", d.end(), d.other("x")
	d.outcome.Code = 1
	d.ev.DecisionInput = nil // as a record that did not fit
	e.discard(d)
	if d.ev.Cause != "" || d.ev.Outcome != nil || d.ev.Peer != nil || d.outcome.Code != 0 || d.party.SpiffeId != "" || d.input.Purpose != "" ||
		d.claimed.Tags != nil || d.effective.Sources != nil || d.named || d.asked || d.ended {
		t.Errorf("a draft keeps %v", &d.ev)
	}
}
