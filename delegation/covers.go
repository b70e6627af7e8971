package delegation

// CoversBelow reports whether a capability of the leaf with this action and without constraints covers everything strictly below this
// resource.
func (x *Leaf) CoversBelow(action string, resource []string) bool {
	for _, c := range x.caps {
		if c.GetAction() == action && len(c.GetConstraints()) == 0 && c.GetSubtree() && hasPrefix(resource, c.GetResource()) {
			return true
		}
	}
	return false
}
