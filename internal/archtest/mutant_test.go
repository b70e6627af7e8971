package archtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The switch that turns checks off for mutation tests is in no release binary. The build with the tag shows that the search finds it.
func TestReleaseBinaryCannotSwitchChecksOff(t *testing.T) {
	for _, c := range []struct {
		tags string
		want bool
	}{{"", false}, {"mutants", true}} {
		bin := filepath.Join(t.TempDir(), "safeconduct")
		cmd := exec.CommandContext(t.Context(), "go", "build", "-tags", c.tags, "-o", bin, "./cmd/safeconduct")
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build -tags %q: %v\n%s", c.tags, err, out)
		}
		raw, err := os.ReadFile(bin)
		if err != nil {
			t.Fatal(err)
		}
		if got := bytes.Contains(raw, []byte("SAFECONDUCT_"+"MUTANT")); got != c.want {
			t.Errorf("binary built with tags %q holds the switch: %v, want %v", c.tags, got, c.want)
		}
	}
}
