//go:build mutants

package intruder_test

import (
	"testing"

	"github.com/safeconduct/safeconduct/internal/intruder"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// TestFireNoticesEachMissingCheck switches one check of a real agent off and demands that the violation that it stops is not
// called refused; what gets in is called admitted.
func TestFireNoticesEachMissingCheck(t *testing.T) {
	for _, tc := range []struct{ check, violation, want string }{
		{mutant.CrossTenant, "other-tenant", intruder.VerdictAdmitted},
		{mutant.WidenedScope, "added-capability", intruder.VerdictAdmitted},
		{mutant.WidenedScope, "namespace-variants", intruder.VerdictAdmitted},
		{mutant.StolenChain, "dropped-hop", intruder.VerdictInconclusive}, // the next check refuses it
		{mutant.Replay, "replay", intruder.VerdictAdmitted},
		{mutant.Replay, "replay-race", intruder.VerdictAdmitted},
		{mutant.ExpiredGrant, "out-of-time", intruder.VerdictAdmitted},
		{mutant.ForeignNamespace, "weak-chain", intruder.VerdictAdmitted},
		{mutant.SplicedChain, "spliced-tail", intruder.VerdictAdmitted},
		{mutant.ProofBinding, "altered-message", intruder.VerdictAdmitted},
		{mutant.ProofSignature, "forged-proof", intruder.VerdictAdmitted},
		{mutant.NoEnvelope, "bare-call", intruder.VerdictInconclusive}, // the next check refuses it
	} {
		t.Run(tc.check+" "+tc.violation, func(t *testing.T) {
			t.Setenv(mutant.Variable, tc.check)
			m := newMark(t)
			tally, outcomes := fire(t, m.endpoint, tc.violation)
			if outcomes[0].Verdict != tc.want || tally.Held() {
				t.Errorf("without the check %s, %s = %s: %s; want %s", tc.check, tc.violation, outcomes[0].Verdict, outcomes[0].Why, tc.want)
			}
		})
	}
}
