//go:build mutants

package interceptors_test

import (
	"testing"

	"github.com/safeconduct/safeconduct/internal/mutant/mutanttest"
)

// TestEachCheckIsNeeded switches every single refusal of the core off, one at a time, and demands that a test notices.
func TestEachCheckIsNeeded(t *testing.T) {
	mutanttest.Each(t, mutanttest.Options{
		Calls: []string{"deny", "denyf"},
		Skip:  "^(TestEachCheckIsNeeded|TestDecisionInputIsRebuilt|TestRotationReconnectAndDrainAreNoSecondProcess|TestFullConversationTable)$",
	})
}
