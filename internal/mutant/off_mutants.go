//go:build mutants

package mutant

import "os"

// Variable names the check that is switched off.
const Variable = "SAFECONDUCT_MUTANT"

// Off reports whether a check is switched off by the environment.
func Off(check string) bool { return os.Getenv(Variable) == check }
