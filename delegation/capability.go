package delegation

import (
	"errors"
	"slices"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	amplified    = v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED
	notDelegable = v1.Reason_REASON_CHAIN_NOT_DELEGABLE
	malformed    = v1.Reason_REASON_CHAIN_MALFORMED
)

// Covers reports whether child is no more than parent: the same action, a resource that parent covers, constraints at least
// as strict, and a reach that is no deeper. It is the subset rule between neighbouring statements, less their depths.
func Covers(parent, child *v1.Capability) bool {
	return subset(parent, child) == none && child.GetReach() <= parent.GetReach()
}

// CoversResource reports whether c covers one exact resource. Segments are compared as bytes: nothing is decoded, folded or
// normalised. A subtree covers what lies strictly below it.
func CoversResource(c *v1.Capability, resource []string) bool {
	if c.GetSubtree() {
		return len(resource) > len(c.GetResource()) && hasPrefix(resource, c.GetResource())
	}
	return c != nil && slices.Equal(c.GetResource(), resource)
}

func hasPrefix(path, prefix []string) bool {
	return len(path) >= len(prefix) && slices.Equal(path[:len(prefix)], prefix)
}

// subset compares action, resource and constraints.
func subset(parent, child *v1.Capability) v1.Reason {
	if parent == nil || child == nil || parent.GetAction() != child.GetAction() {
		return amplified
	}
	covered := CoversResource(parent, child.GetResource())
	if child.GetSubtree() {
		covered = parent.GetSubtree() && hasPrefix(child.GetResource(), parent.GetResource())
	}
	if !covered {
		return amplified
	}
	for _, want := range parent.GetConstraints() {
		at := slices.IndexFunc(child.GetConstraints(), func(c *v1.Constraint) bool { return c.GetKey() == want.GetKey() })
		if at < 0 {
			return loosened
		}
		if reason := tighten(want, child.GetConstraints()[at]); reason != none {
			return reason
		}
	}
	return none
}

// attenuates returns none when one single capability of the parent statement covers child in a statement of the given depth
// and maximum depth. Otherwise it returns the reason of the parent capability that came closest.
func attenuates(parents []*v1.Capability, child *v1.Capability, depth, maxDepth uint32) v1.Reason {
	closest, best := amplified, 0
	for _, p := range parents {
		reason, score := subset(p, child), 1
		switch {
		case reason == amplified:
			continue
		case reason != none:
		case child.GetReach() > p.GetReach() || child.GetReach() > maxDepth:
			reason, score = amplified, 2
		case depth > p.GetReach():
			reason, score = notDelegable, 3
		default:
			return none
		}
		if score > best {
			closest, best = reason, score
		}
	}
	return closest
}

// checkCapability refuses what the wire profile cannot see.
func checkCapability(c *v1.Capability) (v1.Reason, error) {
	if !validAction(c.GetAction()) {
		return malformed, errors.New("an action is a plain name without wildcards")
	}
	for _, s := range c.GetResource() {
		if s == "" || s == "." || s == ".." {
			return malformed, errors.New("a resource segment is empty or a dot segment")
		}
	}
	return checkConstraints(c.GetConstraints())
}

// validAction accepts ASCII letters, digits and ._- with something in it: names match byte for byte, a wildcard has no meaning.
func validAction(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return s != ""
}
