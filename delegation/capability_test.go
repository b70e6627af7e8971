package delegation_test

import (
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func num(n int64) *v1.Value   { return &v1.Value{Kind: &v1.Value_Number{Number: n}} }
func word(s string) *v1.Value { return &v1.Value{Kind: &v1.Value_Text{Text: s}} }
func flag(b bool) *v1.Value   { return &v1.Value{Kind: &v1.Value_Flag{Flag: b}} }

func equal(key string, v *v1.Value) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_Eq{Eq: v}}
}

func oneOf(key string, values ...*v1.Value) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_OneOf{OneOf: &v1.ValueSet{Values: values}}}
}

func within(key string, low, high int64) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_Range{Range: &v1.Range{Min: &low, Max: &high}}}
}

func atLeast(key string, low int64) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_Range{Range: &v1.Range{Min: &low}}}
}

func atMost(key string, high int64) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_Range{Range: &v1.Range{Max: &high}}}
}

func prefix(key, p string) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_Prefix{Prefix: p}}
}

// TestConstraintPairs is the table of allowed pairs, with the refusals of every pair it leaves out.
func TestConstraintPairs(t *testing.T) {
	for _, tc := range []struct {
		name          string
		parent, child *v1.Constraint
		want          v1.Reason
	}{
		{"eq eq same", equal("k", num(1)), equal("k", num(1)), 0},
		{"eq eq other value", equal("k", num(1)), equal("k", num(2)), loosened},
		{"eq eq other kind", equal("k", num(1)), equal("k", word("1")), loosened},
		{"eq eq flag", equal("k", flag(true)), equal("k", flag(true)), 0},
		{"eq eq other flag", equal("k", flag(true)), equal("k", flag(false)), loosened},
		{"eq eq flag and zero number", equal("k", num(0)), equal("k", flag(false)), loosened},
		{"eq one_of singleton", equal("k", num(1)), oneOf("k", num(1)), loosened},
		{"eq range of one", equal("k", num(1)), within("k", 1, 1), loosened},
		{"eq prefix", equal("k", word("a/")), prefix("k", "a/"), loosened},
		{"one_of eq member", oneOf("k", num(1), num(2)), equal("k", num(2)), 0},
		{"one_of eq stranger", oneOf("k", num(1), num(2)), equal("k", num(3)), loosened},
		{"one_of eq other kind", oneOf("k", num(1)), equal("k", word("1")), loosened},
		{"one_of one_of subset", oneOf("k", num(1), num(2)), oneOf("k", num(2)), 0},
		{"one_of one_of larger", oneOf("k", num(1), num(2)), oneOf("k", num(2), num(3)), loosened},
		{"one_of range", oneOf("k", num(1), num(2)), within("k", 1, 2), loosened},
		{"one_of prefix", oneOf("k", word("a/b")), prefix("k", "a/"), loosened},
		{"range eq inside", within("k", 1, 3), equal("k", num(3)), 0},
		{"range eq outside", within("k", 1, 3), equal("k", num(4)), loosened},
		{"range eq text", within("k", 1, 3), equal("k", word("2")), loosened},
		{"range one_of inside", within("k", 1, 3), oneOf("k", num(1), num(3)), 0},
		{"range one_of outside", within("k", 1, 3), oneOf("k", num(1), num(4)), loosened},
		{"range range inside", within("k", 1, 3), within("k", 2, 3), 0},
		{"range range below", within("k", 1, 3), within("k", 0, 3), loosened},
		{"range range no maximum", within("k", 1, 3), atLeast("k", 2), loosened},
		{"range range no minimum", within("k", 1, 3), atMost("k", 2), loosened},
		{"half range inside half", atLeast("k", 1), atLeast("k", 2), 0},
		{"half range extremes", atMost("k", math.MaxInt64), within("k", math.MinInt64, math.MaxInt64), 0},
		{"range prefix", within("k", 1, 3), prefix("k", "a/"), loosened},
		{"prefix eq below", prefix("k", "ns/a/"), equal("k", word("ns/a/b")), 0},
		{"prefix eq sibling", prefix("k", "ns/a/"), equal("k", word("ns/ab")), loosened},
		{"prefix eq number", prefix("k", "ns/a/"), equal("k", num(1)), loosened},
		{"prefix one_of below", prefix("k", "a/"), oneOf("k", word("a/b"), word("a/c")), 0},
		{"prefix one_of outside", prefix("k", "a/"), oneOf("k", word("a/b"), word("b")), loosened},
		{"prefix range", prefix("k", "a/"), within("k", 1, 2), loosened},
		{"prefix prefix longer", prefix("k", "a/"), prefix("k", "a/b/"), 0},
		{"prefix prefix shorter", prefix("k", "a/b/"), prefix("k", "a/"), loosened},
		{"child without a rule", equal("k", num(1)), &v1.Constraint{Key: "k"}, unknown},
		{"other key", equal("k", num(1)), equal("l", num(1)), loosened},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newScene(t)
			p := s.carrying(constrained(capability("x"), tc.parent), constrained(capability("x"), tc.child))
			if _, err := s.verifier(s.b).Verify(p.chain, s.a.peer); reason(err) != tc.want {
				t.Errorf("Verify() = %v, want %v", err, tc.want)
			}
			covers := delegation.Covers(constrained(capability("x"), tc.parent), constrained(capability("x"), tc.child))
			if covers != (tc.want == 0) {
				t.Errorf("Covers() = %v, want %v", covers, tc.want == 0)
			}
		})
	}
}

// TestBadConstraints are parse refusals, in a parent and in a child.
func TestBadConstraints(t *testing.T) {
	for _, tc := range []struct {
		name string
		bad  []*v1.Constraint
		want v1.Reason
	}{
		{"no key", []*v1.Constraint{equal("", num(1))}, malformed},
		{"upper case key", []*v1.Constraint{equal("K", num(1))}, malformed},
		{"key with a dash", []*v1.Constraint{equal("k-", num(1))}, malformed},
		{"key with digits, dots and underscores", []*v1.Constraint{equal("k_0.z", num(1))}, 0},
		{"keys descend", []*v1.Constraint{equal("l", num(1)), equal("k", num(1))}, malformed},
		{"key twice", []*v1.Constraint{equal("k", num(1)), equal("k", num(1))}, malformed},
		{"no rule", []*v1.Constraint{{Key: "k"}}, unknown},
		{"eq of nothing", []*v1.Constraint{equal("k", &v1.Value{})}, unknown},
		{"one_of nothing", []*v1.Constraint{oneOf("k")}, malformed},
		{"one_of an unknown kind", []*v1.Constraint{oneOf("k", &v1.Value{})}, unknown},
		{"one_of two kinds", []*v1.Constraint{oneOf("k", num(1), word("a"))}, malformed},
		{"one_of flags", []*v1.Constraint{oneOf("k", flag(false), flag(true))}, 0},
		{"one_of flags descending", []*v1.Constraint{oneOf("k", flag(true), flag(false))}, malformed},
		{"one_of twice", []*v1.Constraint{oneOf("k", num(1), num(1))}, malformed},
		{"one_of descending", []*v1.Constraint{oneOf("k", word("b"), word("a"))}, malformed},
		{"range without bounds", []*v1.Constraint{{Key: "k", Rule: &v1.Constraint_Range{Range: &v1.Range{}}}}, malformed},
		{"range upside down", []*v1.Constraint{within("k", 2, 1)}, malformed},
		{"prefix without a slash", []*v1.Constraint{prefix("k", "ns/a")}, malformed},
		{"empty prefix", []*v1.Constraint{prefix("k", "")}, malformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newScene(t)
			child := constrained(capability("x"), tc.bad...)
			p := s.carrying(capability("x"), child)
			if _, err := s.verifier(s.b).Verify(p.chain, s.a.peer); reason(err) != tc.want {
				t.Errorf("in a hop: Verify() = %v, want %v", err, tc.want)
			}
			p = s.carrying(child, child)
			if _, err := s.verifier(s.b).Verify(p.chain, s.a.peer); reason(err) != tc.want {
				t.Errorf("in a grant: Verify() = %v, want %v", err, tc.want)
			}
		})
	}
}

func TestCoversResource(t *testing.T) {
	for _, tc := range []struct {
		name string
		c    *v1.Capability
		path []string
		want bool
	}{
		{"nil", nil, nil, false},
		{"exact", exactly(capability("a", "x", "y")), []string{"x", "y"}, true},
		{"exact, below", exactly(capability("a", "x")), []string{"x", "y"}, false},
		{"exact, above", exactly(capability("a", "x", "y")), []string{"x"}, false},
		{"exact nothing", exactly(capability("a")), nil, true},
		{"subtree, itself", capability("a", "x"), []string{"x"}, false},
		{"subtree, below", capability("a", "x"), []string{"x", "y"}, true},
		{"subtree, far below", capability("a", "x"), []string{"x", "y", "z"}, true},
		{"subtree, beside", capability("a", "x"), []string{"xy", "z"}, false},
		{"subtree of everything", capability("a"), []string{"x"}, true},
		{"subtree of everything, nothing", capability("a"), nil, false},
	} {
		if got := delegation.CoversResource(tc.c, tc.path); got != tc.want {
			t.Errorf("%s: CoversResource() = %v, want %v", tc.name, got, tc.want)
		}
	}
}

func TestCovers(t *testing.T) {
	parent := capability("a", "x")
	deeper := proto.CloneOf(parent)
	deeper.Reach++
	for _, tc := range []struct {
		name          string
		parent, child *v1.Capability
		want          bool
	}{
		{"itself", parent, parent, true},
		{"an exact one below", parent, exactly(capability("a", "x", "y")), true},
		{"a subtree below", parent, capability("a", "x", "y"), true},
		{"deeper", parent, deeper, false},
		{"no parent", nil, parent, false},
		{"no child", parent, nil, false},
		{"no kind of value", constrained(capability("a"), equal("k", &v1.Value{})), constrained(capability("a"), equal("k", &v1.Value{})), false},
		{"unknown rule above", constrained(capability("a"), &v1.Constraint{Key: "k"}), constrained(capability("a"), equal("k", num(1))), false},
	} {
		if got := delegation.Covers(tc.parent, tc.child); got != tc.want {
			t.Errorf("%s: Covers() = %v, want %v", tc.name, got, tc.want)
		}
	}
}
