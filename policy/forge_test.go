package policy_test

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// TestPermitCannotBeForged compiles a package that builds, copies with a change and converts into a Permit: every such line must be
// an error, and the control package, which only uses Permits, must compile.
func TestPermitCannotBeForged(t *testing.T) {
	build := func(pkg string) (string, error) {
		out, err := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-e", "-o", os.DevNull, pkg).CombinedOutput()
		return string(out), err
	}
	if out, err := build("./testdata/honest"); err != nil {
		t.Fatalf("the control package does not compile: %v\n%s", err, out)
	}
	out, err := build("./testdata/forge")
	if err == nil {
		t.Fatal("a package that forges Permits compiles")
	}
	source, err := os.ReadFile("testdata/forge/forge.go")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(source), "\n") {
		want := strings.HasSuffix(line, "// refused")
		got := strings.Contains(out, "forge.go:"+strconv.Itoa(i+1)+":")
		if got != want {
			t.Errorf("line %d %q: refused %v, want %v", i+1, strings.TrimSpace(line), got, want)
		}
	}
}
