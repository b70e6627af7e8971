//go:build mutants

package incident

import (
	"errors"
	"strings"
	"testing"

	"github.com/safeconduct/safeconduct/internal/mutant"
)

// TestDemoNoticesEachMissingCheck switches one check off and demands that the demo fails and names who got through.
func TestDemoNoticesEachMissingCheck(t *testing.T) {
	for _, check := range []string{
		mutant.CrossTenant, mutant.WidenedScope, mutant.StolenChain, mutant.Replay, mutant.ExpiredGrant, mutant.ForeignNamespace,
		mutant.ForgedID, mutant.SiblingSVID, mutant.SplicedChain, mutant.NoEnvelope, mutant.PromptInjection,
	} {
		t.Run(check, func(t *testing.T) {
			t.Setenv(mutant.Variable, check)
			r, out, err := runDemo(t, func(*Options) {})
			if !errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), check) {
				t.Errorf("Run() = %v, want a failure that names %s\n%s", err, check, out)
			}
			for _, a := range r.Attacks {
				if a.Attack != check && check != mutant.PromptInjection && !a.Refused {
					t.Logf("%s got through as well", a.Attack)
				}
			}
		})
	}
}
