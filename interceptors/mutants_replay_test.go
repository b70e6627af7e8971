//go:build mutants

package interceptors_test

import (
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// TestReplayAndDuplicateChecksAreNeeded switches each refusal off and shows what gets in without it.
func TestReplayAndDuplicateChecksAreNeeded(t *testing.T) {
	t.Run(mutant.ReplayDurable, func(t *testing.T) {
		t.Setenv(mutant.Variable, mutant.ReplayDurable)
		s := proofScene(t)
		e := s.prove(s.open(proved))
		wantReason(t, "the first", s.carry(e), 0)
		wantReason(t, "another message under its jti", s.carry(s.withJTI(s.open(proved), delegation.ClaimedJTI(e.GetProof()))), 0)
	})
	t.Run(mutant.DuplicateIdentity, func(t *testing.T) {
		t.Setenv(mutant.Variable, mutant.DuplicateIdentity)
		w := newTwins(t, true)
		first := w.process()
		w.Advance(time.Second)
		second := w.process()
		w.Advance(slack + time.Second)
		first.connect()
		w.wantCall("the second process", second, 0)
	})
}
