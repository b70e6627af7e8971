package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// constantCalls are the functions whose result may be a package variable: errors, compiled patterns, parsed constants.
var constantCalls = []string{
	"errors.New", "fmt.Errorf",
	"regexp.MustCompile", "template.Must", "strings.NewReplacer",
	"netip.MustParseAddr", "netip.MustParsePrefix",
	"sha256.Sum256",
	"crc32.MakeTable",
}

// checkGlobals refuses package variables other than errors, tables, compiled patterns, embedded files and assertions
// (var _ Interface = ...).
func checkGlobals(s *source) []string {
	var out []string
	for _, v := range packageVars(s) {
		if v.name.Name == "_" || isEmbedded(v.decl, v.spec) || isConstant(v.name.Name, v.value) {
			continue
		}
		out = append(out, fmt.Sprintf("%s: package variable %s; only errors, tables and compiled patterns are global", s.at(v.name.Pos()), v.name.Name))
	}
	return out
}

// packageVar is one name of a var declaration at the top of a file; value is nil when it has none of its own.
type packageVar struct {
	decl  *ast.GenDecl
	spec  *ast.ValueSpec
	name  *ast.Ident
	value ast.Expr
}

func packageVars(s *source) []packageVar {
	var out []packageVar
	for _, d := range s.file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.VAR {
			continue
		}
		for _, sp := range decl.Specs {
			spec, ok := sp.(*ast.ValueSpec)
			if !ok {
				continue
			}
			for i, name := range spec.Names {
				v := packageVar{decl: decl, spec: spec, name: name}
				if i < len(spec.Values) {
					v.value = spec.Values[i]
				}
				out = append(out, v)
			}
		}
	}
	return out
}

func isEmbedded(g *ast.GenDecl, spec *ast.ValueSpec) bool {
	for _, doc := range []*ast.CommentGroup{g.Doc, spec.Doc} {
		if doc == nil {
			continue
		}
		for _, c := range doc.List {
			if strings.HasPrefix(c.Text, "//go:embed ") {
				return true
			}
		}
	}
	return false
}

// isConstant reports whether a package variable with this value is an error, a table or a compiled pattern.
func isConstant(name string, value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.CompositeLit:
		return true
	case *ast.UnaryExpr:
		_, lit := v.X.(*ast.CompositeLit)
		return lit && v.Op == token.AND && (strings.HasPrefix(strings.ToLower(name), "err") || strings.HasSuffix(name, "Table"))
	case *ast.CallExpr:
		switch fun := v.Fun.(type) {
		case *ast.ArrayType: // a conversion, such as []byte("prefix")
			return true
		case *ast.SelectorExpr:
			pkg, ok := fun.X.(*ast.Ident)
			return ok && slices.Contains(constantCalls, pkg.Name+"."+fun.Sel.Name)
		}
	}
	return false
}

// checkMutations refuses assignments to the package variables of one package, to their elements and to their fields.
func checkMutations(files []*source) []string {
	global := map[string]bool{}
	for _, s := range files {
		for _, v := range packageVars(s) {
			global[v.name.Name] = v.name.Name != "_"
		}
	}
	var out []string
	for _, s := range files {
		ast.Inspect(s.file, func(n ast.Node) bool {
			for _, target := range targets(n) {
				if id := root(target); id != nil && global[id.Name] && !isLocal(s, id) {
					out = append(out, fmt.Sprintf("%s: changes the package variable %s", s.at(n.Pos()), id.Name))
				}
			}
			return true
		})
	}
	return out
}

// targets returns the expressions that a statement writes to.
func targets(n ast.Node) []ast.Expr {
	switch st := n.(type) {
	case *ast.AssignStmt:
		if st.Tok != token.DEFINE {
			return st.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{st.X}
	case *ast.CallExpr:
		if f, ok := st.Fun.(*ast.Ident); ok && (f.Name == "delete" || f.Name == "clear") && len(st.Args) > 0 {
			return st.Args[:1]
		}
	}
	return nil
}

// root returns x of x.a[i].b, or nil.
func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.SelectorExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		default:
			return nil
		}
	}
}

// isLocal reports whether id is declared inside a function. The parser resolves names inside one file only, so an unresolved
// name stands for the package.
func isLocal(s *source, id *ast.Ident) bool {
	return id.Obj != nil && s.file.Scope.Lookup(id.Name) != id.Obj
}
