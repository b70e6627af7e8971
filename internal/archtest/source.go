package archtest

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"io/fs"
	"path"
	"sort"
	"strings"
)

// The bars that are measured on source text.
const (
	maxFileLines     = 1000
	maxFunctionLines = 100
	// A main that is longer hides the wiring of the process.
	maxMainLines = 40
	// Lines of code, without comments and blank lines, of one transport adapter. What needs more belongs to the core.
	maxAdapterLines = 300 // credentials, interceptors, stats handler and status, together
)

// adapters are the packages that maxAdapterLines holds for.
var adapters = []string{"interceptors/enforcegrpc", "interceptors/enforceconnect"}

// source is one Go file.
type source struct {
	path      string // slash-separated, relative to the root
	text      []byte
	file      *ast.File
	fset      *token.FileSet
	test      bool
	generated bool
}

// CheckSources returns the violations, sorted, of the bars on globals, init functions, lengths and comments in the Go files of
// fsys. Generated code, testdata, nested modules and hidden folders are not looked at; tests are held to the file length only.
func CheckSources(fsys fs.FS) ([]string, error) {
	dirs, err := parseTree(fsys)
	if err != nil {
		return nil, err
	}
	var out []string
	for dir, files := range dirs {
		out = append(out, checkDir(dir, files)...)
	}
	sort.Strings(out)
	return out, nil
}

// parseTree parses the Go files of fsys by folder.
func parseTree(fsys fs.FS) (map[string][]*source, error) {
	dirs := map[string][]*source{}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if skipDir(fsys, p) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(p) != ".go" {
			return nil
		}
		text, err := fs.ReadFile(fsys, p)
		if err != nil {
			return err
		}
		s := &source{path: p, text: text, fset: token.NewFileSet(), test: strings.HasSuffix(p, "_test.go")}
		// Objects are resolved inside the file: checkMutations needs to know which names are local.
		if s.file, err = parser.ParseFile(s.fset, p, text, parser.ParseComments); err != nil {
			return err
		}
		s.generated = ast.IsGenerated(s.file)
		dirs[path.Dir(p)] = append(dirs[path.Dir(p)], s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading Go files: %w", err)
	}
	return dirs, nil
}

func skipDir(fsys fs.FS, p string) bool {
	if p == "." {
		return false
	}
	name := path.Base(p)
	if name == "testdata" || name == "node_modules" || p == "gen" || p == "bin" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return true
	}
	_, err := fs.Stat(fsys, path.Join(p, "go.mod"))
	return err == nil
}

func checkDir(dir string, files []*source) []string {
	var out []string
	var made []*source // written by people, not tests
	lines := 0
	for _, s := range files {
		if s.generated {
			continue
		}
		if n := bytes.Count(s.text, []byte("\n")); n > maxFileLines {
			out = append(out, fmt.Sprintf("%s: has %d lines, the limit is %d", s.path, n, maxFileLines))
		}
		if s.test {
			continue
		}
		made = append(made, s)
		lines += codeLines(s)
		out = append(out, checkFunctions(s)...)
		out = append(out, checkGlobals(s)...)
		out = append(out, checkComments(s)...)
	}
	out = append(out, checkMutations(made)...)
	if len(made) > 0 && !hasPackageComment(made) {
		out = append(out, fmt.Sprintf("%s: package %s has no package comment", dir, made[0].file.Name.Name))
	}
	if inAny(dir, adapters) && lines > maxAdapterLines {
		out = append(out, fmt.Sprintf("%s: has %d lines of code, the limit for an adapter is %d", dir, lines, maxAdapterLines))
	}
	return out
}

// at names a position as file:line.
func (s *source) at(p token.Pos) string {
	return fmt.Sprintf("%s:%d", s.path, s.fset.Position(p).Line)
}

func checkFunctions(s *source) []string {
	var out []string
	for _, d := range s.file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		n := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1
		if n > maxFunctionLines {
			out = append(out, fmt.Sprintf("%s: function %s has %d lines, the limit is %d", s.at(f.Pos()), f.Name.Name, n, maxFunctionLines))
		}
		if f.Name.Name == "init" && f.Recv == nil {
			out = append(out, fmt.Sprintf("%s: function init; pass what it sets up as a parameter", s.at(f.Pos())))
		}
	}
	if n := bytes.Count(s.text, []byte("\n")); strings.HasPrefix(s.path, "cmd/") && path.Base(s.path) == "main.go" && n > maxMainLines {
		out = append(out, fmt.Sprintf("%s: has %d lines, the limit for a main is %d", s.path, n, maxMainLines))
	}
	return out
}

// codeLines counts the lines of a file that hold a token other than a comment.
func codeLines(s *source) int {
	var sc scanner.Scanner
	fset := token.NewFileSet()
	file := fset.AddFile(s.path, -1, len(s.text))
	sc.Init(file, s.text, nil, 0)
	seen := map[int]bool{}
	for {
		pos, tok, lit := sc.Scan()
		if tok == token.EOF {
			return len(seen)
		}
		if tok == token.SEMICOLON && lit == "\n" {
			continue
		}
		first := fset.Position(pos).Line
		for i := range strings.Count(lit, "\n") + 1 {
			seen[first+i] = true
		}
	}
}
