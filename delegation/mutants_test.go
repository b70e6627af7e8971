//go:build mutants

package delegation_test

import (
	"testing"

	"github.com/safeconduct/safeconduct/internal/mutant/mutanttest"
)

// TestEachCheckIsNeeded switches every single refusal of the verifier off, one at a time, and demands that some row of the matrix notices.
func TestEachCheckIsNeeded(t *testing.T) {
	mutanttest.Each(t, mutanttest.Options{
		Calls: []string{"refuse", "refusef"},
		Skip:  "^(TestEachCheckIsNeeded|TestManyChainsFitIntoTheirBound|TestRevocationRace|TestAppendIsVerify)$",
	})
}
