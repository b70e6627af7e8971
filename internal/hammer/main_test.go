package hammer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/internal/hammer"
)

// TestMain makes the test binary one of the children when a sweep starts it as such.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		os.Exit(hammer.Main(context.Background(), nil, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// TestSweep runs one short round of everything: the counters of caller, handler and both audit logs agree, and the rounds of a server
// that fails now and then do not count.
func TestSweep(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	failing := hammer.Failing(10)
	variants := append(hammer.Variants(), failing)
	var lines, table, progress bytes.Buffer
	rep, err := hammer.Run(t.Context(), hammer.Config{
		Exe: exe, Variants: variants, Rounds: 1, Duration: 150 * time.Millisecond, Warmup: 20 * time.Millisecond, InFlight: []int{2},
		Lines: &lines, Progress: &progress,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := rep.Table(&table); err != nil {
		t.Fatal(err)
	}
	for _, r := range rep.Rounds {
		bad := r.Variant == failing.Name
		if (r.Invalid != "") != bad || r.Calls == 0 || r.CPU <= 0 || r.Allocs <= 0 || bad != (r.Errors > 0) {
			t.Errorf("round of %s: %+v", r.Variant, r)
		}
	}
	for _, s := range rep.Summaries {
		want := 1
		if s.Variant == failing.Name {
			want = 0
		}
		if s.Valid != want || want == 1 && (s.RatioCPU <= 0 || s.P99 < s.P50) {
			t.Errorf("summary of %s: %+v", s.Variant, s)
		}
	}
	if len(rep.Rounds) != len(variants) || len(rep.Invalid()) != 1 {
		t.Errorf("%d rounds, %d invalid, want %d and 1", len(rep.Rounds), len(rep.Invalid()), len(variants))
	}
	n := 0
	for line := range strings.Lines(lines.String()) {
		n++
		if !json.Valid([]byte(line)) {
			t.Errorf("line %d is no JSON: %s", n, line)
		}
	}
	if want := 2 + 2*len(variants); n != want { // the setup, each round, each summary, the end
		t.Errorf("%d JSON lines, want %d", n, want)
	}
	for _, v := range variants {
		if !strings.Contains(table.String(), v.Name) || !strings.Contains(progress.String(), v.Name) {
			t.Errorf("table or progress does not name %s:\n%s\n%s", v.Name, &table, &progress)
		}
	}
	if !strings.Contains(table.String(), "invalid: round 1 of "+failing.Name) {
		t.Errorf("the table does not say which round is invalid:\n%s", &table)
	}
}

func TestMainRefusesWrongUsage(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"unknown variant", []string{"-variants", "faster"}, "faster"},
		{"no number", []string{"-in-flight", "many"}, "many"},
		{"nobody in flight", []string{"-in-flight", "0"}, "0 calls in flight"},
		{"no rounds", []string{"-rounds", "0"}, "0 rounds"},
		{"too many rounds", []string{"-rounds", "201"}, "201 rounds"},
		{"too long a round", []string{"-duration", "1m"}, "1m0s"},
		{"too long a sweep", []string{"-rounds", "200", "-duration", "10s"}, "sweep"},
		{"payload", []string{"-payload", "65537"}, "65537"},
		{"argument", []string{"now"}, "now"},
		{"flag", []string{"-quick"}, "quick"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := hammer.Main(t.Context(), []string{"hammer"}, tt.args, strings.NewReader(""), &stdout, &stderr)
			if code != hammer.ExitUsage || !strings.Contains(stderr.String(), tt.want) || stdout.Len() > 0 {
				t.Errorf("Main(%q) = %d, %q on standard error, want %d and %q", tt.args, code, stderr.String(), hammer.ExitUsage, tt.want)
			}
		})
	}
}

// A child that gets no order to start, or whose parent has gone, ends.
func TestChildEndsWithItsParent(t *testing.T) {
	for _, in := range []string{"", `{"do":"usage"}`, `{"do":`, "words"} {
		var stdout, stderr bytes.Buffer
		if code := hammer.Main(t.Context(), nil, []string{"child"}, strings.NewReader(in), &stdout, &stderr); code != hammer.ExitFailed {
			t.Errorf("child fed %q ends with %d, want %d", in, code, hammer.ExitFailed)
		}
	}
}
