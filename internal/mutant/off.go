//go:build !mutants

package mutant

import "fmt"

// Off reports whether a check is switched off. It never is in a release build.
func Off(string) bool { return false }

// Held returns refusal, the result of a check that has failed with this reason, unless that check is switched off. It never is in a
// release build.
func Held[T any](_ fmt.Stringer, refusal T) T { return refusal }
