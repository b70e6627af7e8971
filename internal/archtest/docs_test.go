package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	namedTest  = regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z][A-Za-z0-9]+\b`)
	definition = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Z][A-Za-z0-9]+)\(`)
)

// A security claim names the test that holds it; a test that was renamed or removed leaves the claim standing alone.
func TestThreatsNameTestsThatExist(t *testing.T) {
	root := filepath.Join("..", "..")
	defined := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && strings.HasPrefix(e.Name(), ".") && path != root {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		raw, err := os.ReadFile(path)
		for _, m := range definition.FindAllSubmatch(raw, -1) {
			defined[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(root, "docs", "THREATS.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := namedTest.FindAllString(string(raw), -1)
	if len(named) < 50 {
		t.Errorf("docs/THREATS.md names %d tests; the search is broken or the claims are gone", len(named))
	}
	for _, name := range named {
		if !defined[name] {
			t.Errorf("docs/THREATS.md names %s, which does not exist", name)
		}
	}
}
