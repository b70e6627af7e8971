package vectors

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func number(n int64) *v1.Value { return &v1.Value{Kind: &v1.Value_Number{Number: n}} }

func text(s string) *v1.Value { return &v1.Value{Kind: &v1.Value_Text{Text: s}} }

func flag(b bool) *v1.Value { return &v1.Value{Kind: &v1.Value_Flag{Flag: b}} }

func equal(key string, v *v1.Value) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_Eq{Eq: v}}
}

func oneOf(key string, values ...*v1.Value) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_OneOf{OneOf: &v1.ValueSet{Values: values}}}
}

func within(key string, minimum, maximum *int64) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_Range{Range: &v1.Range{Min: minimum, Max: maximum}}}
}

func prefix(key, p string) *v1.Constraint {
	return &v1.Constraint{Key: key, Rule: &v1.Constraint_Prefix{Prefix: p}}
}

func n64(n int64) *int64 { return &n }

// narrowing is what a capability may become in the next statement.
func narrowing(w *world) *File {
	g := newGroup(w, "capability", algMixed)
	g.resources()
	g.constraints()
	g.malformedConstraints()
	g.reaches()
	g.delegates()
	g.facts()
	return g.f
}

// carrying is hop1 under a grant with one capability.
func (s *scene) carrying(parent, child *v1.Capability) show {
	b := s.chain(s.agent("a"), func(p *v1.GrantPayload) { p.Capabilities = []*v1.Capability{parent} })
	b.to(s.agent("b"), func(p *v1.HopPayload) { p.Capabilities = []*v1.Capability{child} })
	return show{chain: b.c, by: s.agent("a"), self: s.agent("b")}
}

// child is what becomes of a capability in a family: one parent, children that are covered, and children that are not.
type child struct {
	row   int
	title string
	cap   *v1.Capability
	code  string
}

// family adds the children of one parent. The first child must be covered: it is the control of the others.
func (g *group) family(name string, parent *v1.Capability, children ...child) {
	control := ""
	for i, c := range children {
		id := fmt.Sprintf("%s-%02d", name, i)
		sh := g.carrying(parent, c.cap)
		if c.code != Allow {
			g.deny(c.row, id, c.title, control, c.code, sh)
			continue
		}
		if got := g.allow(c.row, id, c.title, sh); control == "" {
			control = got
		}
	}
}

// resources is rows 2 to 5.
func (g *group) resources() {
	read := func(path ...string) *v1.Capability { return capability("memory.read", path...) }
	one := func(path ...string) *v1.Capability { return exactly(read(path...)) }
	acting := func(action string) *v1.Capability { return capability(action, "ns", "a") }
	g.family("subtree", read("ns", "a"), []child{
		{1, "a subtree stays", read("ns", "a"), Allow},
		{1, "a subtree below it", read("ns", "a", "b"), Allow},
		{1, "one resource below it", one("ns", "a", "b"), Allow},
		{2, "another action", acting("memory.delete"), amplified},
		{2, "the action in another case", acting("memory.Read"), amplified},
		{2, "a prefix of the action", acting("memory"), amplified},
		{2, "the action with a suffix", acting("memory.read.all"), amplified},
		{3, "the subtree above", read("ns"), amplified},
		{3, "everything", read(), amplified},
		{3, "the root of the subtree itself, which lies not strictly below", one("ns", "a"), amplified},
		{4, "a longer last segment", read("ns", "ab"), amplified},
		{4, "a shorter last segment", read("ns", ""), malformed},
		{4, "two segments joined with a slash", one("ns", "a/b"), amplified},
		{4, "all segments joined with a slash", one("ns/a/b"), amplified},
		{5, "dot dot", one("ns", "a", "..", "b"), malformed},
		{5, "dot", one("ns", "a", "."), malformed},
		{5, "an empty segment", one("ns", "a", "", "b"), malformed},
		{5, "a zero byte", one("ns", "a", "b\x00"), nonCanonical},
		{5, "a line feed", one("ns", "a", "b\n"), nonCanonical},
		{5, "U+007F", one("ns", "a", "b\x7f"), nonCanonical},
		{5, "a percent-encoded letter", one("ns", "%61", "b"), amplified},
		{5, "a percent-encoded dot dot stays what it is", one("ns", "a", "%2e%2e"), Allow},
		{5, "an upper-case segment", one("NS", "a", "b"), amplified},
		{5, "a full-width letter", one("ns", "\uff41", "b"), amplified},
		{5, "a zero-width space behind the letter", one("ns", "a\u200b", "b"), amplified},
	}...)
	g.family("exact", one("ns", "a"), []child{
		{1, "one resource stays", one("ns", "a"), Allow},
		{3, "its subtree", read("ns", "a"), amplified},
		{3, "a star for the last segment", one("ns", "*"), amplified},
		{3, "the subtree above", read("ns"), amplified},
		{3, "what lies below", one("ns", "a", "b"), amplified},
		{4, "a longer last segment", one("ns", "ab"), amplified},
	}...)
	g.family("everything", read(), []child{
		{1, "everything stays", read(), Allow},
		{1, "one resource", one("x"), Allow},
		{3, "the resource of no segments", one(), amplified},
	}...)
	g.family("letters", read("ns", "\u00e9"), []child{
		{5, "a composed letter stays", read("ns", "\u00e9"), Allow},
		{5, "the same letter decomposed", read("ns", "e\u0301"), amplified},
		{5, "the letter without its accent", read("ns", "e"), amplified},
	}...)
	g.unions(read, one)
}

// unions is row 2 with several capabilities.
func (g *group) unions(read, one func(...string) *v1.Capability) {
	carry := func(parents, children []*v1.Capability) show {
		b := g.chain(g.agent("a"), func(p *v1.GrantPayload) { p.Capabilities = parents })
		return show{chain: b.to(g.agent("b"), func(p *v1.HopPayload) { p.Capabilities = children }).c, by: g.agent("a"), self: g.agent("b")}
	}
	both := []*v1.Capability{one("ns"), read("ns")}
	control := g.allow(2, "union-00", "two capabilities stay", carry(both, []*v1.Capability{one("ns"), read("ns")}))
	g.deny(2, "union-01", "what only the union of two capabilities would cover", control, amplified,
		carry(both, []*v1.Capability{one("ns"), read()}))
	g.deny(2, "union-02", "one more capability than the parent has", control, amplified,
		carry(both, []*v1.Capability{one("ns"), read("ns"), capability("memory.delete", "ns")}))
	halves := []*v1.Capability{
		constrained(read("ns"), within("n", n64(0), n64(5))), constrained(read("ns"), within("n", n64(6), n64(10))),
	}
	g.deny(2, "union-03", "a range that only two capabilities together cover", g.allow(2, "union-04", "the first of two ranges",
		carry(halves, []*v1.Capability{constrained(read("ns"), within("n", n64(0), n64(5)))})), loosened,
		carry(halves, []*v1.Capability{constrained(read("ns"), within("n", n64(0), n64(10)))}))
	second := g.hop2(func(p *v1.HopPayload) { p.Capabilities = append(p.Capabilities, capability("memory.delete", "ns")) })
	g.deny(2, "added-second-hop", "the second hop adds a capability", g.allow(2, "kept-second-hop", "the second hop keeps its capabilities", g.hop2()),
		amplified, second)
	dropped := show{
		chain: g.chain(g.agent("a")).to(g.agent("b"), func(p *v1.HopPayload) { p.Capabilities = p.GetCapabilities()[:1] }).
			to(g.agent("c"), func(p *v1.HopPayload) { p.Capabilities = g.grantPayload(g.agent("a")).GetCapabilities() }).c,
		by: g.agent("b"), self: g.agent("c"),
	}
	g.deny(2, "taken-back", "the second hop takes back what the first has left out", "capability/kept-second-hop", amplified, dropped)
}

// constraints is rows 6 to 8.
func (g *group) constraints() {
	c := func(constraints ...*v1.Constraint) *v1.Capability {
		return constrained(capability("x", "ns"), constraints...)
	}
	lo, hi := int64(-1<<63), int64(1<<63-1)
	g.family("eq", c(equal("n", number(1))), []child{
		{6, "eq stays", c(equal("n", number(1))), Allow},
		{6, "and another key is added", c(equal("m", flag(true)), equal("n", number(1))), Allow},
		{6, "another value", c(equal("n", number(2))), loosened},
		{6, "another kind", c(equal("n", text("1"))), loosened},
		{6, "a set of that value", c(oneOf("n", number(1))), loosened},
		{6, "a range of that value", c(within("n", n64(1), n64(1))), loosened},
		{6, "a prefix", c(prefix("n", "1/")), loosened},
		{7, "dropped", c(), loosened},
		{7, "another key instead", c(equal("m", number(1))), loosened},
	}...)
	g.family("eq-text", c(equal("n", text("a"))), []child{
		{6, "text stays", c(equal("n", text("a"))), Allow},
		{6, "upper case", c(equal("n", text("A"))), loosened},
		{6, "empty text", c(equal("n", text(""))), loosened},
	}...)
	g.family("eq-flag", c(equal("n", flag(false))), []child{
		{6, "false stays", c(equal("n", flag(false))), Allow},
		{6, "true", c(equal("n", flag(true))), loosened},
		{6, "zero", c(equal("n", number(0))), loosened},
	}...)
	g.family("one-of", c(oneOf("n", number(1), number(2), number(5))), []child{
		{6, "a set stays", c(oneOf("n", number(1), number(2), number(5))), Allow},
		{6, "a smaller set", c(oneOf("n", number(1), number(5))), Allow},
		{6, "one of its values", c(equal("n", number(2))), Allow},
		{6, "a larger set", c(oneOf("n", number(1), number(2), number(5), number(6))), loosened},
		{6, "another set", c(oneOf("n", number(1), number(3))), loosened},
		{6, "another value", c(equal("n", number(3))), loosened},
		{6, "a range between two of its values", c(within("n", n64(1), n64(2))), loosened},
		{6, "the same digits as text", c(equal("n", text("1"))), loosened},
		{7, "dropped", c(), loosened},
	}...)
	g.family("range", c(within("n", n64(0), n64(10))), []child{
		{6, "a range stays", c(within("n", n64(0), n64(10))), Allow},
		{6, "a smaller range", c(within("n", n64(1), n64(9))), Allow},
		{6, "one number inside", c(equal("n", number(10))), Allow},
		{6, "numbers inside", c(oneOf("n", number(0), number(10))), Allow},
		{6, "wider above", c(within("n", n64(0), n64(11))), loosened},
		{6, "wider below", c(within("n", n64(-1), n64(10))), loosened},
		{6, "open above", c(within("n", n64(0), nil)), loosened},
		{6, "open below", c(within("n", nil, n64(10))), loosened},
		{6, "a number outside", c(equal("n", number(11))), loosened},
		{6, "one number outside", c(oneOf("n", number(0), number(11))), loosened},
		{6, "text", c(equal("n", text("5"))), loosened},
		{7, "dropped", c(), loosened},
		{7, "dropped and another added", c(within("m", n64(0), n64(10))), loosened},
	}...)
	g.family("open-range", c(within("n", n64(0), nil)), []child{
		{6, "open above stays", c(within("n", n64(0), nil)), Allow},
		{6, "closed above", c(within("n", n64(0), n64(hi))), Allow},
		{6, "open below as well", c(within("n", nil, n64(5))), loosened},
		{6, "the lowest number", c(within("n", n64(lo), n64(5))), loosened},
	}...)
	g.family("prefix", c(prefix("n", "ns/a/")), []child{
		{6, "a prefix stays", c(prefix("n", "ns/a/")), Allow},
		{6, "a longer prefix", c(prefix("n", "ns/a/b/")), Allow},
		{6, "a text that starts with it", c(equal("n", text("ns/a/b"))), Allow},
		{6, "the prefix itself as a text", c(equal("n", text("ns/a/"))), Allow},
		{6, "texts that start with it", c(oneOf("n", text("ns/a/b"), text("ns/a/c"))), Allow},
		{6, "a shorter prefix", c(prefix("n", "ns/")), loosened},
		{6, "a neighbour", c(prefix("n", "ns/ab/")), loosened},
		{6, "a text beside it", c(equal("n", text("ns/ab"))), loosened},
		{6, "the prefix without its slash", c(equal("n", text("ns/a"))), loosened},
		{6, "one text beside it", c(oneOf("n", text("ns/a/b"), text("ns/b"))), loosened},
		{6, "a number", c(equal("n", number(1))), loosened},
		{6, "a range", c(within("n", n64(0), n64(1))), loosened},
		{7, "dropped", c(), loosened},
	}...)
	g.family("two", c(equal("m", number(1)), equal("n", number(1))), []child{
		{7, "both stay", c(equal("m", number(1)), equal("n", number(1))), Allow},
		{7, "the first dropped", c(equal("n", number(1))), loosened},
		{7, "the second dropped", c(equal("m", number(1))), loosened},
	}...)
}

// malformedConstraints is row 8 and what is no constraint at all.
func (g *group) malformedConstraints() {
	c := func(constraints ...*v1.Constraint) *v1.Capability {
		return constrained(capability("x", "ns"), constraints...)
	}
	extra := func(m proto.Message, field protowire.Number) {
		m.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), []byte("x")))
	}
	rule := &v1.Constraint{Key: "n"}
	extra(rule, 6)
	kind := &v1.Value{}
	extra(kind, 4)
	g.family("rules", c(), []child{
		{8, "a constraint is added", c(equal("n", number(1))), Allow},
		{8, "a rule that nobody knows", c(rule), unknownRule},
		{8, "no rule", c(&v1.Constraint{Key: "n"}), unknownRule},
		{8, "a kind of value that nobody knows", c(equal("n", kind)), unknownRule},
		{8, "a value of no kind", c(equal("n", &v1.Value{})), unknownRule},
		{8, "a set with a value of no kind", c(oneOf("n", number(1), &v1.Value{})), unknownRule},
		{6, "an empty set", c(oneOf("n")), malformed},
		{6, "a set that descends", c(oneOf("n", number(2), number(1))), malformed},
		{6, "a set with a value twice", c(oneOf("n", number(1), number(1))), malformed},
		{6, "a set of two kinds", c(oneOf("n", number(1), text("2"))), malformed},
		{6, "a set of flags", c(oneOf("n", flag(false), flag(true))), Allow},
		{6, "a range without bounds", c(within("n", nil, nil)), malformed},
		{6, "a range upside down", c(within("n", n64(2), n64(1))), malformed},
		{6, "a range of one number", c(within("n", n64(-5), n64(-5))), Allow},
		{6, "a prefix that does not end in a slash", c(prefix("n", "ns/a")), malformed},
		{6, "an empty prefix", c(prefix("n", "")), malformed},
		{6, "a key twice", c(equal("n", number(1)), equal("n", number(1))), malformed},
		{6, "keys that descend", c(equal("n", number(1)), equal("m", number(1))), malformed},
		{6, "no key", c(equal("", number(1))), malformed},
		{6, "a key in upper case", c(equal("N", number(1))), malformed},
		{6, "a key that starts with a digit", c(equal("1n", number(1))), malformed},
		{6, "a key with a dash", c(equal("n-m", number(1))), malformed},
		{6, "a key with digits, dot and underscore", c(equal("n1_a.b", number(1))), Allow},
		{2, "an action with a star", &v1.Capability{Action: "x.*", Resource: []string{"ns"}}, malformed},
		{2, "no action", &v1.Capability{Resource: []string{"ns"}}, malformed},
		{2, "an action with a space", &v1.Capability{Action: "x y", Resource: []string{"ns"}}, malformed},
	}...)
}

// reaches is row 9.
func (g *group) reaches() {
	reach := func(n uint32) *v1.Capability { return &v1.Capability{Action: "x", Resource: []string{"ns"}, Reach: n} }
	g.family("reach", reach(2), []child{
		{9, "reach stays", reach(2), Allow},
		{9, "reach shrinks to this hop", reach(1), Allow},
		{9, "reach shrinks to the grant, and the hop carries it all the same", reach(0), Allow},
		{9, "reach raised", reach(3), amplified},
		{9, "reach of 2^32-1", reach(1<<32 - 1), amplified},
	}...)
	control := "capability/reach-00"
	g.deny(9, "reach-grant-only", "a capability that only the grant may carry", control, notDelegable, g.carrying(reach(0), reach(0)))
	two := func(n uint32) show {
		b := g.chain(g.agent("a"), func(p *v1.GrantPayload) { p.Capabilities = []*v1.Capability{reach(n)} })
		return show{chain: b.to(g.agent("b")).to(g.agent("c")).c, by: g.agent("b"), self: g.agent("c")}
	}
	far := g.allow(9, "reach-second-hop", "reach 2 in the second hop", two(2))
	g.deny(9, "reach-one-too-far", "reach 1 in the second hop", far, notDelegable, two(1))
	g.deny(9, "reach-below-maximum", "reach 4 in a hop with a maximum depth of 3", control, amplified, g.hop1(func(p *v1.HopPayload) {
		p.MaxDepth = 3
		p.Capabilities[0].Reach, p.Capabilities[1].Reach = 4, 3
	}))
	used := g.allow(9, "reach-absolute", "reach 3 at depth 3 under a renewed grant", g.renewedReach(3))
	g.deny(9, "reach-absolute-over", "reach 2 at depth 3 under a renewed grant", used, notDelegable, g.renewedReach(2))
}

func (g *group) renewedReach(n uint32) show {
	return g.grant1(func(p *v1.GrantPayload) {
		p.DepthUsed = 2
		p.Capabilities = []*v1.Capability{{Action: "x", Resource: []string{"ns"}, Reach: n}}
	})
}

// delegates is row 10 and row 2 for the list of delegates.
func (g *group) delegates() {
	to := func(hop []string, grant ...string) show {
		b := g.chain(g.agent("a"), func(p *v1.GrantPayload) { p.Delegates = grant })
		return show{chain: b.to(g.agent("b"), func(p *v1.HopPayload) { p.Delegates = hop }).c, by: g.agent("a"), self: g.agent("b")}
	}
	blue, red := "spiffe://acme.test/tenant/blue/agent/*", "spiffe://acme.test/tenant/red/agent/*"
	b, c := agentID("b"), agentID("c")
	control := g.allow(10, "delegate-exact", "the delegate is named", to([]string{b}, b))
	g.deny(10, "delegate-other", "another delegate is named", control, notDelegable, to([]string{c}, c))
	g.deny(10, "delegate-prefix", "a name that the delegate's begins with is no pattern", control, malformed, to([]string{b}, "spiffe://acme.test/tenant/blue/agent/b*"))
	g.deny(10, "delegate-longer", "a longer name is named", control, notDelegable, to([]string{b + "b"}, b+"b"))
	g.deny(10, "delegate-other-tenant", "the agents of another tenant are named", control, notDelegable, to([]string{red}, red))
	all := g.allow(10, "delegate-pattern", "all agents of the tenant are named", to([]string{blue}, blue))
	g.deny(10, "delegates-none", "a grant without delegates", all, malformed, to(nil))
	g.deny(10, "delegates-none-kept", "a grant without delegates under a hop that names one", all, notDelegable, to([]string{b}))
	g.allow(2, "delegates-narrowed", "all agents become one", to([]string{c}, blue))
	g.deny(2, "delegates-widened", "one agent becomes all", control, amplified, to([]string{blue}, b))
	g.deny(2, "delegates-added", "one agent more", control, amplified, to([]string{b, c}, b))
	g.deny(2, "delegates-other-tenant", "the agents of another tenant", all, amplified, to([]string{red}, blue))
	g.deny(2, "delegates-service", "a service behind all agents", all, amplified, to([]string{authorityID}, blue))
	for i, bad := range []string{
		"*", "spiffe://acme.test/*", "spiffe://acme.test/tenant/*", "spiffe://acme.test/tenant/blue/*", "spiffe://acme.test/service/*",
		"spiffe://*/tenant/blue/agent/*", "spiffe://acme.test/tenant/*/agent/b", "", "spiffe://acme.test", "spiffe://acme.test/tenant/blue/agent/*/",
		"SPIFFE://acme.test/tenant/blue/agent/b", "spiffe://ACME.test/tenant/blue/agent/b", "spiffe://acme.test/tenant/blue/agent/B",
		"spiffe://acme.test/tenant/blue/agent/b/", "spiffe://acme.test/tenant/blue/agent/-b", "spiffe://acme.test/tenant/blue/agent/b_c",
	} {
		g.deny(10, "delegates-malformed-"+strconv.Itoa(i), fmt.Sprintf("%q is no pattern", bad), all, malformed, to([]string{bad}, blue))
	}
	auth := g.authority()
	service := func(grant, hop []string) show {
		b := g.chain(g.agent("a"), func(p *v1.GrantPayload) { p.Delegates = grant })
		return show{chain: b.to(auth, func(p *v1.HopPayload) { p.Delegates = hop }).c, by: g.agent("a"), self: auth}
	}
	named := g.allow(10, "service-named", "a service that is named", service([]string{blue, authorityID}, []string{blue}))
	g.deny(10, "service-not-named", "a service behind all agents of a tenant", named, notDelegable, service([]string{blue}, []string{blue}))
}
