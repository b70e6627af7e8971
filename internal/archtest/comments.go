package archtest

import (
	"fmt"
	"go/ast"
	"go/token"
)

// checkComments refuses exported names without a comment. Methods count when their receiver's type is exported. The comment of a
// group of constants or variables covers its members.
func checkComments(s *source) []string {
	var out []string
	miss := func(name *ast.Ident) {
		out = append(out, fmt.Sprintf("%s: exported name %s has no comment", s.at(name.Pos()), name.Name))
	}
	for _, d := range s.file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Doc == nil && d.Name.IsExported() && exportedReceiver(d) {
				miss(d.Name)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				checkSpec(d, spec, miss)
			}
		}
	}
	return out
}

func checkSpec(d *ast.GenDecl, spec ast.Spec, miss func(*ast.Ident)) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		if spec.Name.IsExported() && spec.Doc == nil && (d.Doc == nil || d.Lparen != token.NoPos) {
			miss(spec.Name)
		}
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			if name.IsExported() && d.Doc == nil && spec.Doc == nil && spec.Comment == nil {
				miss(name)
			}
		}
	}
}

// exportedReceiver reports whether f is a function or a method of an exported type.
func exportedReceiver(f *ast.FuncDecl) bool {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return true
	}
	t := f.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return true
		}
	}
}

func hasPackageComment(files []*source) bool {
	for _, s := range files {
		if s.file.Doc != nil {
			return true
		}
	}
	return false
}
