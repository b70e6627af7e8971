//go:build mutants

package mutanttest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/safeconduct/safeconduct/internal/mutant"
)

// atOnce is how many test processes run at a time.
const atOnce = 2

// failed finds the test that noticed, and ended a process that a panic outside of any test has ended.
var (
	failed = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)
	ended  = regexp.MustCompile(`(?m)^(panic|fatal error): `)
)

// Options say what Each does.
type Options struct {
	// Calls are the functions of the package under test whose calls are refusals; each of them ends in mutant.Held.
	Calls []string
	// Skip matches tests that take long and hold something else than refusals, and the test that calls Each.
	Skip string
	// Redundant are checks behind which another one stands, so that no test can tell that they are off, each with the reason why it
	// is there: "file.go function REASON_X".
	Redundant map[string]string
}

// Each runs the tests of the package it is called from once with every check on, which shows which there are, and then once for each
// check with that one off. A refusal that no test reaches fails, and so does one that is off unnoticed.
func Each(t *testing.T, o Options) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(env ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), self, "-test.failfast", "-test.timeout=2m", "-test.skip", o.Skip)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	list := filepath.Join(t.TempDir(), "checks")
	if out, err := run(mutant.Record + "=" + list); err != nil {
		t.Fatalf("with all checks on: %v\n%s", err, out)
	}
	raw, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	checks := strings.Split(strings.TrimSpace(string(raw)), "\n")
	slices.Sort(checks)
	checks = slices.Compact(checks)
	sites := refusals(t, o.Calls)
	for site, function := range sites {
		if !slices.ContainsFunc(checks, func(c string) bool { return strings.HasPrefix(c, site+" ") }) {
			t.Errorf("%s, in %s, refuses, and no test has seen it", site, function)
		}
	}
	var wg sync.WaitGroup
	turn := make(chan struct{}, atOnce)
	n := 0
	for _, check := range checks {
		site, _, _ := strings.Cut(check, " ")
		if sites[site] == "" {
			continue // of another package
		}
		n++
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			out, err := run(mutant.Variable + "=" + check)
			_, allowed := o.Redundant[named(check, sites)]
			switch by := failed.FindStringSubmatch(out); {
			case err == nil && !allowed:
				t.Errorf("%s (%s) is off, and nothing notices", check, named(check, sites))
			case err != nil && allowed:
				t.Errorf("%s is listed as redundant, and a test notices:\n%s", check, out)
			case by != nil:
				t.Logf("%s: %s", check, by[1])
			case err != nil && ended.MatchString(out):
				t.Logf("%s: the test process ended", check)
			case err != nil: // it did not run, and so it has shown nothing
				t.Errorf("%s: %v\n%s", check, err, out)
			}
		})
	}
	wg.Wait()
	t.Logf("%d checks switched off", n)
}

// named is a check by the function it stands in and not by its line, "file.go function REASON_X", so that it keeps its name.
func named(check string, sites map[string]string) string {
	site, reason, _ := strings.Cut(check, " ")
	file, _, _ := strings.Cut(site, ":")
	return strings.Join([]string{file, sites[site], reason}, " ")
}

// refusals returns the function around every call of a refusal, by file.go:line.
func refusals(t *testing.T, calls []string) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	sites, fset := map[string]string{}, token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			fn, ok := decl.(*ast.FuncDecl)
			if !ok || slices.Contains(calls, fn.Name.Name) {
				continue
			}
			ast.Inspect(fn, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok {
					if id, ok := call.Fun.(*ast.Ident); ok && slices.Contains(calls, id.Name) {
						sites[fmt.Sprintf("%s:%d", name, fset.Position(call.Pos()).Line)] = fn.Name.Name
					}
				}
				return true
			})
		}
	}
	return sites
}
