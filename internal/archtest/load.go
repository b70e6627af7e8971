package archtest

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// listFormat prints one package a line; import paths hold neither | nor spaces.
const listFormat = `{{.ImportPath}}|{{join .Imports " "}}|{{join .TestImports " "}}|{{join .XTestImports " "}}`

// Load returns the import graph of all packages below root and of everything that they link. A package that does not compile is
// still in the graph.
func Load(ctx context.Context, root string) (Graph, error) {
	out, err := run(ctx, root, "go", "list", "-e", "-deps", "-f", listFormat, "./...")
	if err != nil {
		return nil, err
	}
	return ParseList(string(out))
}

// ParseList reads the lines that go list prints in the format of [Load].
func ParseList(out string) (Graph, error) {
	g := Graph{}
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "|")
		if len(f) != 4 {
			return nil, fmt.Errorf("line of go list has %d fields, want 4: %q", len(f), line)
		}
		g[f[0]] = Package{
			Path:         f[0],
			Imports:      strings.Fields(f[1]),
			TestImports:  strings.Fields(f[2]),
			XTestImports: strings.Fields(f[3]),
		}
	}
	return g, nil
}

// Tracked returns the paths of the files that git tracks or would track, relative to root.
func Tracked(ctx context.Context, root string) ([]string, error) {
	out, err := run(ctx, root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == 0 }), nil
}

func run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("running %s %s: %w: %s", name, args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}
