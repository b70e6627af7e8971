package intruder

import (
	"slices"
	"strings"
	"unicode"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// firstUnknownRule is a number that no constraint rule has.
const firstUnknownRule = 6

func scopeViolations() []violation {
	invalid := []string{"CHAIN_INVALID"}
	return []violation{
		{
			Violation: Violation{
				Name: "added-capability", Row: 2, Want: invalid, Causes: []string{"CHAIN_SCOPE_AMPLIFIED"},
				What: "adds an action, or whom it may be handed to, to its own properly signed hop",
			},
			shots: addedCapability,
		},
		{
			Violation: Violation{
				Name: "wider-namespace", Row: 3, Want: invalid, Causes: []string{"CHAIN_SCOPE_AMPLIFIED"},
				What: "widens the resource of the grant to what lies above or below it",
			},
			shots: widerNamespace, lacks: func(s *siege) string { return lackShots(s, widerNamespace) },
		},
		{
			Violation: Violation{
				Name: "prefix-trick", Row: 4, Want: invalid, Causes: []string{"CHAIN_SCOPE_AMPLIFIED"},
				What: "claims a sibling whose name begins as the granted resource does, or the same path joined to one segment",
			},
			shots: prefixTrick, lacks: func(s *siege) string { return lackShots(s, prefixTrick) },
		},
		{
			Violation: Violation{
				Name: "namespace-variants", Row: 5, Want: invalid,
				Causes: []string{"CHAIN_SCOPE_AMPLIFIED", "CHAIN_MALFORMED", "CHAIN_NON_CANONICAL"},
				What:   "writes the granted resource with dots, percent signs, other cases and look-alike letters",
			},
			shots: namespaceVariants,
		},
		{
			Violation: Violation{
				Name: "constraint-loosened", Row: 6, Want: invalid, Causes: []string{"CHAIN_CONSTRAINT_LOOSENED"},
				What: "loosens a constraint of the grant",
			},
			shots: constraintLoosened, lacks: lackConstraint,
		},
		{
			Violation: Violation{
				Name: "constraint-dropped", Row: 7, Want: invalid, Causes: []string{"CHAIN_CONSTRAINT_LOOSENED"},
				What: "leaves a constraint of the grant out",
			},
			shots: constraintDropped, lacks: lackConstraint,
		},
		{
			Violation: Violation{
				Name: "unknown-constraint", Row: 8, Want: invalid, Causes: []string{"CHAIN_UNKNOWN_CONSTRAINT"},
				What: "adds a constraint whose rule nobody knows, in the hope that it is ignored",
			},
			shots: unknownConstraint,
		},
		{
			Violation: Violation{
				Name: "reach-raised", Row: 9, Want: invalid, Causes: []string{"CHAIN_SCOPE_AMPLIFIED", "CHAIN_NOT_DELEGABLE"},
				What: "lets a capability travel deeper than the grant does",
			},
			shots: reachRaised,
		},
		{
			Violation: Violation{
				Name: "closed-delegates", Row: 10, Want: invalid, Causes: []string{"CHAIN_NOT_DELEGABLE"},
				What: "hands a grant to the target that does not let the target have it",
			},
			shots: func(s *siege) ([]shot, error) {
				return s.each(named{name: "delegate", spoil: spoil{grant: s.at.ClosedGrant}})
			},
			lacks: func(s *siege) string {
				if s.at.ClosedGrant == nil {
					return "needs a second grant whose delegates leave the target out"
				}
				return ""
			},
		},
	}
}

// lackShots is for violations that a broad grant leaves no room for.
func lackShots(s *siege, make func(*siege) ([]shot, error)) string {
	if shots, err := make(s); err == nil && len(shots) == 0 {
		return "the grant is so broad that this would be allowed"
	}
	return ""
}

// adding lets the hop carry c as well, as deep as it goes itself.
func adding(c *v1.Capability) func(*v1.HopPayload) {
	return func(h *v1.HopPayload) {
		c := proto.CloneOf(c)
		c.Reach = h.GetDepth()
		h.Capabilities = append(h.Capabilities, c)
	}
}

// like is the granted capability, changed.
func (s *siege) like(change func(*v1.Capability)) *v1.Capability {
	c := proto.CloneOf(s.held)
	change(c)
	return c
}

// beyond makes a shot of every capability that the grant does not cover.
func (s *siege) beyond(caps map[string]*v1.Capability) ([]shot, error) {
	names := make([]string, 0, len(caps))
	for name, c := range caps {
		if !s.covered(c) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var spoils []named
	for _, name := range names {
		spoils = append(spoils, named{name: name, spoil: spoil{hop: adding(caps[name])}})
	}
	return s.each(spoils...)
}

func addedCapability(s *siege) ([]shot, error) {
	shots, err := s.beyond(map[string]*v1.Capability{
		"another action":        s.like(func(c *v1.Capability) { c.Action += ".admin" }),
		"action in other case":  s.like(func(c *v1.Capability) { c.Action = strings.ToUpper(c.GetAction()) }),
		"the namespace of all":  s.like(func(c *v1.Capability) { c.Action, c.Resource, c.Subtree = "admin", nil, true }),
		"shorter action prefix": s.like(func(c *v1.Capability) { c.Action = c.GetAction()[:1] }),
	})
	if err != nil {
		return nil, err
	}
	depth := s.grant.GetDepthUsed() + 1
	if s.grant.GetMaxDepth() <= depth {
		return shots, nil
	}
	more, err := s.each(named{name: "delegates of another tenant", spoil: spoil{hop: func(h *v1.HopPayload) {
		h.MaxDepth = depth + 1
		h.Delegates = []string{"spiffe://" + s.cfg.Self.TrustDomain().Name() + "/tenant/" + otherName(s.cfg.Self.Tenant().Name()) + "/agent/*"}
	}}})
	return append(shots, more...), err
}

// otherName is a DNS label that name is not.
func otherName(name string) string {
	if name == "intruder" {
		return "intruder-2"
	}
	return "intruder"
}

func widerNamespace(s *siege) ([]shot, error) {
	path := s.held.GetResource()
	caps := map[string]*v1.Capability{
		"everything":       s.like(func(c *v1.Capability) { c.Resource, c.Subtree = nil, true }),
		"everything below": s.like(func(c *v1.Capability) { c.Subtree = true }),
		"a star segment":   s.like(func(c *v1.Capability) { c.Resource, c.Subtree = append(slices.Clone(path), "*"), false }),
	}
	if len(path) > 0 {
		above := path[:len(path)-1]
		caps["everything above"] = s.like(func(c *v1.Capability) { c.Resource, c.Subtree = above, true })
		caps["the one above"] = s.like(func(c *v1.Capability) { c.Resource, c.Subtree = above, false })
	}
	if s.held.GetSubtree() {
		caps["the root of the subtree"] = s.like(func(c *v1.Capability) { c.Subtree = false })
	}
	return s.beyond(caps)
}

func prefixTrick(s *siege) ([]shot, error) {
	caps := map[string]*v1.Capability{}
	if path := s.held.GetResource(); len(path) > 0 {
		longer := slices.Clone(path)
		longer[len(longer)-1] += "b"
		shorter := slices.Clone(path)
		shorter[len(shorter)-1] = shorter[len(shorter)-1][:1]
		caps["longer last segment"] = s.like(func(c *v1.Capability) { c.Resource = longer })
		caps["shorter last segment"] = s.like(func(c *v1.Capability) { c.Resource = shorter })
		caps["joined to one segment"] = s.like(func(c *v1.Capability) { c.Resource = []string{strings.Join(path, "/") + "/x"} })
	}
	return s.beyond(caps)
}

func namespaceVariants(s *siege) ([]shot, error) {
	with := func(segments ...string) func(*v1.HopPayload) {
		return adding(s.like(func(c *v1.Capability) { c.Resource = append(slices.Clone(s.resource), segments...) }))
	}
	refused := []named{ // whatever the grant covers: these are no names
		{name: "dot dot", spoil: spoil{hop: with("..", "x")}},
		{name: "dot", spoil: spoil{hop: with(".")}},
		{name: "empty segment", spoil: spoil{hop: with("", "x")}},
		{name: "control character", spoil: spoil{hop: with("x\x00")}},
	}
	shots, err := s.each(refused...)
	if err != nil || len(s.resource) == 0 {
		return shots, err
	}
	caps := map[string]*v1.Capability{}
	for name, change := range map[string]func(string) string{
		"percent encoding": func(seg string) string { return "%" + hexOf(seg[0]) + seg[1:] },
		"other case":       swapCase,
		"full width":       fullWidth,
		"combining mark":   func(seg string) string { return seg + "\u0301" },
		"zero width":       func(seg string) string { return seg + "\u200b" },
	} {
		for i, seg := range s.resource {
			if other := change(seg); other != seg {
				path := slices.Clone(s.resource)
				path[i] = other
				caps[name] = s.like(func(c *v1.Capability) { c.Resource, c.Subtree = path, false })
				break
			}
		}
	}
	more, err := s.beyond(caps)
	return append(shots, more...), err
}

func hexOf(b byte) string { return string([]byte{"0123456789abcdef"[b>>4], "0123456789abcdef"[b&15]}) }

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsUpper(r) {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, s)
}

// fullWidth replaces the first ASCII character by the look-alike of another width.
func fullWidth(s string) string {
	r := []rune(s)
	if r[0] > ' ' && r[0] <= '~' {
		r[0] += 0xfee0
	}
	return string(r)
}

func lackConstraint(s *siege) string {
	if len(s.held.GetConstraints()) == 0 {
		return "the grant has no constraint on what the call needs"
	}
	return ""
}

// constraining changes the constraints of every capability that the hop passes on.
func constraining(change func([]*v1.Constraint) []*v1.Constraint) func(*v1.HopPayload) {
	return func(h *v1.HopPayload) {
		for _, c := range h.GetCapabilities() {
			c.Constraints = change(c.GetConstraints())
		}
	}
}

func constraintDropped(s *siege) ([]shot, error) {
	spoils := []named{{name: "all", spoil: spoil{hop: constraining(func([]*v1.Constraint) []*v1.Constraint { return nil })}}}
	if len(s.held.GetConstraints()) > 1 {
		spoils = append(spoils, named{name: "the first", spoil: spoil{hop: constraining(func(list []*v1.Constraint) []*v1.Constraint { return list[min(1, len(list)):] })}})
	}
	return s.each(spoils...)
}

func constraintLoosened(s *siege) ([]shot, error) {
	return s.each(named{name: "the first", spoil: spoil{hop: constraining(func(list []*v1.Constraint) []*v1.Constraint {
		if len(list) > 0 {
			loosen(list[0])
		}
		return list
	})}})
}

// loosen lets one more fact pass.
func loosen(c *v1.Constraint) {
	switch rule := c.GetRule().(type) {
	case *v1.Constraint_Range:
		rule.Range.Min, rule.Range.Max = nil, proto.Int64(1<<62)
	case *v1.Constraint_Prefix:
		rule.Prefix = "/"
	case *v1.Constraint_Eq:
		c.Rule = &v1.Constraint_OneOf{OneOf: &v1.ValueSet{Values: []*v1.Value{rule.Eq}}}
	case *v1.Constraint_OneOf:
		c.Rule = &v1.Constraint_Prefix{Prefix: "/"}
	}
}

func unknownConstraint(s *siege) ([]shot, error) {
	bad := &v1.Constraint{Key: "zz"}
	bad.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, firstUnknownRule, protowire.BytesType), []byte("x")))
	add := func(c *v1.Constraint) spoil {
		return spoil{hop: constraining(func(list []*v1.Constraint) []*v1.Constraint { return append(slices.Clone(list), c) })}
	}
	return s.each(
		named{name: "a rule of a later version", spoil: add(bad)},
		named{name: "no rule", spoil: add(&v1.Constraint{Key: "zz"})},
		named{name: "no kind of value", spoil: add(&v1.Constraint{Key: "zz", Rule: &v1.Constraint_Eq{Eq: &v1.Value{}}})},
	)
}

func reachRaised(s *siege) ([]shot, error) {
	spoils := []named{{name: "above the maximum of the hop", spoil: spoil{hop: func(h *v1.HopPayload) {
		for _, c := range h.GetCapabilities() {
			c.Reach = s.grant.GetMaxDepth() + 1
		}
	}}}}
	depth := s.grant.GetDepthUsed() + 1
	for _, c := range s.grant.GetCapabilities() {
		if c.GetReach() < depth {
			spoils = append(spoils, named{name: "what must not travel at all", spoil: spoil{hop: adding(c)}})
			break
		}
	}
	return s.each(spoils...)
}
