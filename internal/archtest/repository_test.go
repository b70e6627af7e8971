package archtest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/safeconduct/safeconduct/internal/archtest"
)

// root is the top of the repository, seen from the folder that go test runs in.
const root = "../.."

// report fails the test with one line for each violation.
func report(t *testing.T, violations []string) {
	t.Helper()
	for _, v := range violations {
		t.Error(v)
	}
}

func TestRepositoryKeepsFloorsAndGuards(t *testing.T) {
	g, err := archtest.Load(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := g[archtest.Module+"/internal/archtest"]; !ok {
		t.Fatalf("go list ./... does not name this package; it named %d packages", len(g))
	}
	report(t, archtest.CheckGraph(g))
}

func TestRepositoryKeepsBarsOnSources(t *testing.T) {
	violations, err := archtest.CheckSources(os.DirFS(root))
	if err != nil {
		t.Fatal(err)
	}
	report(t, violations)
}

func TestTrackedFilesNameNoMachine(t *testing.T) {
	names, err := archtest.Tracked(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Fatal("git lists no file")
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // deleted and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		report(t, archtest.CheckText(name, text))
	}
}

func TestReadmeAndCIRunTheSameTests(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatalf("the test command is read from README.md: %v", err)
	}
	ciRun, err := os.ReadFile(filepath.Join(root, ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	report(t, archtest.CheckTestCommand(string(readme), string(ciRun)))
}
