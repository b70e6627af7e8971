//go:build mutants

package mutant

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// Variable names the check that is switched off, Record a file that gets a line for every check that failed in [Held].
const (
	Variable = "SAFECONDUCT_MUTANT"
	Record   = "SAFECONDUCT_MUTANT_RECORD"
)

// Off reports whether a check is switched off by the environment.
func Off(check string) bool { return os.Getenv(Variable) == check }

// Held returns refusal, the result of a check that has failed with this reason, or nothing when that check is switched off. Such a check
// has no name of its own: it is the place that called the caller, and the reason, as in "rules.go:27 REASON_CHAIN_LOOP".
func Held[T any](reason fmt.Stringer, refusal T) T {
	_, file, line, _ := runtime.Caller(2)
	check := fmt.Sprintf("%s:%d %s", filepath.Base(file), line, reason)
	if path := os.Getenv(Record); path != "" {
		record(path, check)
	}
	if Off(check) {
		var nothing T
		return nothing
	}
	return refusal
}

func record(path, check string) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintln(f, check)
}
