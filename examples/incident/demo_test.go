package incident

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
)

// roleArg makes this test binary one agent process of the demo.
const roleArg = "-demo-role"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == roleArg {
		if err := Role(context.Background(), os.Args[2], os.Stdin, os.Stdout); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func options(t *testing.T, out *bytes.Buffer) Options {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Out: out, Exe: exe, Args: []string{roleArg}}
}

func TestDemoTellsTheWholeStory(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), options(t, &out)); err != nil {
		t.Fatalf("Run() = %v\n%s", err, out.String())
	}
	lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	if len(lines) > 100 {
		t.Errorf("%d lines, want at most 100", len(lines))
	}
	for _, l := range lines {
		if n := len([]rune(l)); n > width {
			t.Errorf("line of %d columns: %s", n, l)
		}
	}
	t.Log("\n" + out.String())
}
