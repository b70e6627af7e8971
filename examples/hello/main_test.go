package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/safeconduct/safeconduct/runtime"
)

// TestMain makes this test binary an agent process of the demo when the demo starts it as one.
func TestMain(m *testing.M) {
	if os.Getenv(envStarted) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestDemoShowsOneAllowedAndOneRefusedCall(t *testing.T) {
	t.Setenv(runtime.EnvWorkloadAPI, "")
	var out bytes.Buffer
	if err := run(t.Context(), nil, nil, &out); err != nil {
		t.Fatalf("run() = %v\n%s", err, out.String())
	}
	for _, want := range []string{"Hello, Ada! caller asked me, for alice@acme.example.", "refused: POLICY (decision "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo printed no %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "stranger asked me") {
		t.Errorf("the stranger was greeted:\n%s", out.String())
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{"call"}, {"greet"}, {"call", "a", "b"}} {
		if err := run(t.Context(), args, nil, nil); !errors.Is(err, errUsage) {
			t.Errorf("run(%q) = %v, want %v", args, err, errUsage)
		}
	}
}
