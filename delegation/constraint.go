package delegation

import (
	"cmp"
	"errors"
	"strings"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	none     = v1.Reason_REASON_UNSPECIFIED
	loosened = v1.Reason_REASON_CHAIN_CONSTRAINT_LOOSENED
	unknown  = v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT
)

// tighten returns none when every fact that child lets pass is let pass by parent too, by the table of allowed pairs: pairs
// that would need a closer look, such as a singleton one_of under an eq, are refused.
func tighten(parent, child *v1.Constraint) v1.Reason {
	if child.GetRule() == nil {
		return unknown
	}
	var holds bool
	switch rule := parent.GetRule().(type) {
	case *v1.Constraint_Eq:
		eq, same := child.GetRule().(*v1.Constraint_Eq)
		holds = same && sameValue(rule.Eq, eq.Eq)
	case *v1.Constraint_OneOf, *v1.Constraint_Range, *v1.Constraint_Prefix:
		switch narrow := child.GetRule().(type) {
		case *v1.Constraint_Eq:
			holds = passes(parent, narrow.Eq)
		case *v1.Constraint_OneOf:
			holds = allPass(parent, narrow.OneOf.GetValues())
		case *v1.Constraint_Range:
			outer, same := rule.(*v1.Constraint_Range)
			holds = same && insideRange(outer.Range, narrow.Range)
		case *v1.Constraint_Prefix:
			outer, same := rule.(*v1.Constraint_Prefix)
			holds = same && strings.HasPrefix(narrow.Prefix, outer.Prefix)
		}
	default:
		return unknown
	}
	if !holds {
		return loosened
	}
	return none
}

// passes reports whether one typed value satisfies the constraint. An unknown rule lets nothing pass.
func passes(c *v1.Constraint, v *v1.Value) bool {
	switch rule := c.GetRule().(type) {
	case *v1.Constraint_Eq:
		return sameValue(rule.Eq, v)
	case *v1.Constraint_OneOf:
		for _, allowed := range rule.OneOf.GetValues() {
			if sameValue(allowed, v) {
				return true
			}
		}
	case *v1.Constraint_Range:
		n, isNumber := v.GetKind().(*v1.Value_Number)
		return isNumber && insideRange(rule.Range, &v1.Range{Min: &n.Number, Max: &n.Number})
	case *v1.Constraint_Prefix:
		t, isText := v.GetKind().(*v1.Value_Text)
		return isText && strings.HasPrefix(t.Text, rule.Prefix)
	}
	return false
}

func allPass(c *v1.Constraint, values []*v1.Value) bool {
	for _, v := range values {
		if !passes(c, v) {
			return false
		}
	}
	return true
}

// insideRange treats an absent bound as infinite.
func insideRange(outer, inner *v1.Range) bool {
	if outer.Min != nil && (inner.Min == nil || inner.GetMin() < outer.GetMin()) {
		return false
	}
	return outer.Max == nil || (inner.Max != nil && inner.GetMax() <= outer.GetMax())
}

func sameValue(a, b *v1.Value) bool {
	order, alike := compareValues(a, b)
	return alike && order == 0
}

// compareValues orders two values of one kind; the second result is false for two kinds or one that is not known.
func compareValues(a, b *v1.Value) (int, bool) {
	switch x := a.GetKind().(type) {
	case *v1.Value_Text:
		_, same := b.GetKind().(*v1.Value_Text)
		return strings.Compare(x.Text, b.GetText()), same
	case *v1.Value_Number:
		_, same := b.GetKind().(*v1.Value_Number)
		return cmp.Compare(x.Number, b.GetNumber()), same
	case *v1.Value_Flag:
		_, same := b.GetKind().(*v1.Value_Flag)
		if x.Flag == b.GetFlag() {
			return 0, same
		}
		if x.Flag {
			return 1, same
		}
		return -1, same
	}
	return 0, false
}

// checkConstraints refuses what the wire profile cannot see: keys that are not strictly ascending or no keys at all, rules
// that no fact could satisfy, and prefixes that would match a sibling.
func checkConstraints(constraints []*v1.Constraint) (v1.Reason, error) {
	last := ""
	for _, c := range constraints {
		if !validKey(c.GetKey()) || c.GetKey() <= last {
			return malformed, errors.New("constraint keys are not valid and strictly ascending")
		}
		last = c.GetKey()
		if reason := checkRule(c); reason != none {
			return reason, errors.New("a rule that is not known or has no meaning")
		}
	}
	return none, nil
}

func checkRule(c *v1.Constraint) v1.Reason {
	valid := false
	switch rule := c.GetRule().(type) {
	case *v1.Constraint_Eq:
		if rule.Eq.GetKind() == nil {
			return unknown
		}
		valid = true
	case *v1.Constraint_OneOf:
		return checkSet(rule.OneOf.GetValues())
	case *v1.Constraint_Range:
		r := rule.Range
		valid = r != nil && (r.Min != nil || r.Max != nil) && (r.Min == nil || r.Max == nil || r.GetMin() <= r.GetMax())
	case *v1.Constraint_Prefix:
		valid = strings.HasSuffix(rule.Prefix, "/")
	default:
		return unknown
	}
	if !valid {
		return malformed
	}
	return none
}

func checkSet(values []*v1.Value) v1.Reason {
	if len(values) == 0 {
		return malformed
	}
	for i, v := range values {
		if v.GetKind() == nil {
			return unknown
		}
		if i == 0 {
			continue
		}
		if order, alike := compareValues(values[i-1], v); !alike || order >= 0 {
			return malformed
		}
	}
	return none
}

// validKey accepts [a-z][a-z0-9_.]{0,63}.
func validKey(key string) bool {
	if key == "" || len(key) > 64 || key[0] < 'a' || key[0] > 'z' {
		return false
	}
	for i := range len(key) {
		c := key[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' && c != '.' {
			return false
		}
	}
	return true
}
