package chaintext

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// How a capability stands to the statement before it.
const (
	Granted  = "granted"  // by the grant itself
	Same     = "same"     // as before
	Narrowed = "narrowed" // less than before
	Wider    = "wider"    // more than before: a verifier refuses it
)

// Capability is one right of a statement. Its texts are visible: they are put together from claims.
type Capability struct {
	Text    string   `json:"text"`
	Change  string   `json:"change"`
	Changes []string `json:"changes,omitempty"` // what is less, or what is more than what was held before
}

// granted is what a grant carries.
func granted(caps []*v1.Capability) []Capability {
	out := []Capability{}
	for i, c := range caps {
		if i == delegation.MaxCapabilities {
			return append(out, more(len(caps)-i))
		}
		out = append(out, Capability{Text: capabilityText(c), Change: Granted})
	}
	return out
}

// more stands for what is over the bound of the format.
func more(n int) Capability { return Capability{Text: fmt.Sprintf("(%d more)", n), Change: Wider} }

// passed compares the capabilities of a hop with those of the statement before it, and returns what of that statement was not
// passed on.
func passed(parents, caps []*v1.Capability, depth uint32) (out []Capability, dropped []string) {
	out = []Capability{}
	used := make([]bool, len(parents))
	for i, c := range caps {
		if i == delegation.MaxCapabilities {
			return append(out, more(len(caps)-i)), nil
		}
		change, changes, from := compare(parents, c, depth)
		if from >= 0 {
			used[from] = true
		}
		out = append(out, Capability{capabilityText(c), change, changes})
	}
	for i, p := range parents {
		if i < delegation.MaxCapabilities && !used[i] {
			dropped = append(dropped, capabilityText(p))
		}
	}
	return out, dropped
}

// compare finds the capability before that c comes from, -1 when there is none.
func compare(parents []*v1.Capability, c *v1.Capability, depth uint32) (change string, changes []string, from int) {
	best := -1
	for i, p := range parents[:min(len(parents), delegation.MaxCapabilities)] {
		switch {
		case p.GetAction() != c.GetAction():
		case delegation.Covers(p, c) && depth <= p.GetReach():
			if proto.Equal(p, c) {
				return Same, nil, i
			}
			if best < 0 || !delegation.Covers(parents[best], c) || slices.Equal(p.GetResource(), c.GetResource()) {
				best = i
			}
		case best < 0 || !delegation.Covers(parents[best], c) && slices.Equal(p.GetResource(), c.GetResource()):
			best = i
		}
	}
	if best < 0 {
		return Wider, []string{"nothing before allows " + word(c.GetAction())}, -1
	}
	p := parents[best]
	switch {
	case !delegation.Covers(p, c):
		return Wider, []string{"held before: " + capabilityText(p)}, best
	case depth > p.GetReach():
		return Wider, []string{fmt.Sprintf("travels up to depth %d, this is depth %d", p.GetReach(), depth)}, best
	}
	return Narrowed, differences(p, c), best
}

// differences lists what is less in c than in p, which covers it.
func differences(p, c *v1.Capability) []string {
	var out []string
	if was, is := resourceText(p.GetResource(), p.GetSubtree()), resourceText(c.GetResource(), c.GetSubtree()); was != is {
		out = append(out, was+" -> "+is)
	}
	for i, now := range c.GetConstraints() {
		if i == delegation.MaxConstraints {
			break
		}
		switch was := constraintOf(p, now.GetKey()); {
		case was == nil:
			out = append(out, "only where "+constraintText(now))
		case !proto.Equal(was, now):
			out = append(out, constraintText(was)+" -> "+constraintText(now))
		}
	}
	if p.GetReach() != c.GetReach() {
		out = append(out, fmt.Sprintf("up to depth %d -> %d", p.GetReach(), c.GetReach()))
	}
	return out
}

func constraintOf(c *v1.Capability, key string) *v1.Constraint {
	for i, x := range c.GetConstraints() {
		if i < delegation.MaxConstraints && x.GetKey() == key {
			return x
		}
	}
	return nil
}

// capabilityText is "action on a/b/* where amount <= 500, up to depth 3".
func capabilityText(c *v1.Capability) string {
	var b strings.Builder
	b.WriteString(word(c.GetAction()) + " on " + resourceText(c.GetResource(), c.GetSubtree()))
	for i, x := range c.GetConstraints() {
		switch i {
		case 0:
			b.WriteString(" where ")
		case delegation.MaxConstraints:
			fmt.Fprintf(&b, " and %d more conditions", len(c.GetConstraints())-i)
		default:
			b.WriteString(" and ")
		}
		if i == delegation.MaxConstraints {
			break
		}
		b.WriteString(constraintText(x))
	}
	if c.GetReach() == 0 {
		b.WriteString(", not to be passed on")
	} else {
		fmt.Fprintf(&b, ", up to depth %d", c.GetReach())
	}
	return b.String()
}

// resourceText joins segments. What stands for something in the text is escaped inside them, a space too: two resources never look
// the same, and none looks like the words around it.
func resourceText(segments []string, subtree bool) string {
	escape := strings.NewReplacer("%", "%25", "/", "%2F", ",", "%2C", "*", "%2A", " ", "%20")
	parts := make([]string, 0, len(segments)+1)
	for i, s := range segments {
		if i == delegation.MaxSegments {
			break
		}
		parts = append(parts, escape.Replace(s))
	}
	if subtree {
		parts = append(parts, "*")
	}
	if len(parts) == 0 {
		return "(no resource)"
	}
	return audit.Visible(clip(strings.Join(parts, "/"), maxResource))
}

func constraintText(c *v1.Constraint) string {
	key := word(c.GetKey())
	switch rule := c.GetRule().(type) {
	case *v1.Constraint_Eq:
		return key + " = " + valueText(rule.Eq)
	case *v1.Constraint_OneOf:
		var values []string
		for i, v := range rule.OneOf.GetValues() {
			if i == delegation.MaxValues {
				values = append(values, "...")
				break
			}
			values = append(values, valueText(v))
		}
		return key + " in {" + strings.Join(values, ", ") + "}"
	case *v1.Constraint_Range:
		r := rule.Range
		switch {
		case r == nil || r.Min == nil && r.Max == nil:
			return key + " in a range without bounds"
		case r.Min == nil:
			return fmt.Sprintf("%s <= %d", key, r.GetMax())
		case r.Max == nil:
			return fmt.Sprintf("%s >= %d", key, r.GetMin())
		}
		return fmt.Sprintf("%d <= %s <= %d", r.GetMin(), key, r.GetMax())
	case *v1.Constraint_Prefix:
		return key + " begins with " + quoted(rule.Prefix)
	default:
		return key + " under a rule that is not known"
	}
}

// valueText keeps the kinds apart: text is in quotes.
func valueText(v *v1.Value) string {
	switch kind := v.GetKind().(type) {
	case *v1.Value_Text:
		return quoted(kind.Text)
	case *v1.Value_Number:
		return strconv.FormatInt(kind.Number, 10)
	case *v1.Value_Flag:
		return strconv.FormatBool(kind.Flag)
	default:
		return "a value that is not known"
	}
}
