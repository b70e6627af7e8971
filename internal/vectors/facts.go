package vectors

import (
	"strconv"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// readIntent is what the grants of the vectors allow.
func readIntent() *Intent {
	return &Intent{Action: "memory.read", Resource: []string{"ns", "a"}, Purpose: purpose}
}

func numberFact(n int64) *Value { s := strconv.FormatInt(n, 10); return &Value{Number: &s} }

func textFact(s string) *Value { return &Value{Text: &s} }

func flagFact(b bool) *Value { return &Value{Flag: &b} }

// facts is row 64, and the part of row 40 that capabilities decide.
func (g *group) facts() {
	with := func(facts ...*Fact) *Intent {
		in := readIntent()
		in.Facts = facts
		return in
	}
	size := func(v *Value) *Fact { return &Fact{Key: "size", Value: v} }
	rules := func(constraints ...*v1.Constraint) []*v1.Capability {
		return []*v1.Capability{constrained(capability("memory.read", "ns"), constraints...)}
	}
	family := func(name string, caps []*v1.Capability, cases []factCase) {
		control := ""
		for i, tc := range cases {
			sh := g.grant1(func(p *v1.GrantPayload) { p.Capabilities = caps })
			sh.intent = tc.in
			id := name + "-" + strconv.Itoa(i)
			if tc.code != Allow {
				g.deny(64, id, tc.title, control, tc.code, sh)
			} else if got := g.allow(64, id, tc.title, sh); control == "" {
				control = got
			}
		}
	}
	family("fact-range", rules(within("size", n64(0), n64(10))), []factCase{
		{"inside, the highest", with(size(numberFact(10))), Allow},
		{"inside, the lowest", with(size(numberFact(0))), Allow},
		{"an undeclared fact beside it", with(size(numberFact(3)), &Fact{Key: "other", Value: textFact("x")}), Allow},
		{"missing", with(), unmet},
		{"a fact of another key", with(&Fact{Key: "count", Value: numberFact(1)}), unmet},
		{"above", with(size(numberFact(11))), unmet},
		{"below", with(size(numberFact(-1))), unmet},
		{"text", with(size(textFact("1"))), unmet},
		{"a flag", with(size(flagFact(true))), unmet},
		{"no value", with(size(nil)), unmet},
		{"a value of no kind", with(size(&Value{})), unmet},
		{"two facts of the key, one above", with(size(numberFact(1)), size(numberFact(11))), unmet},
	})
	family("fact-eq", rules(equal("size", number(0))), []factCase{
		{"equal", with(size(numberFact(0))), Allow},
		{"a value of no kind is not zero", with(size(&Value{})), unmet},
		{"false is not zero", with(size(flagFact(false))), unmet},
		{"empty text is not zero", with(size(textFact(""))), unmet},
	})
	family("fact-set", rules(oneOf("size", text("a"), text("b"))), []factCase{
		{"in the set", with(size(textFact("b"))), Allow},
		{"not in the set", with(size(textFact("c"))), unmet},
		{"another case", with(size(textFact("B"))), unmet},
	})
	family("fact-prefix", rules(prefix("size", "ns/a/")), []factCase{
		{"starts with it", with(size(textFact("ns/a/b"))), Allow},
		{"the prefix itself", with(size(textFact("ns/a/"))), Allow},
		{"a neighbour", with(size(textFact("ns/ab"))), unmet},
		{"without the slash", with(size(textFact("ns/a"))), unmet},
	})
	family("fact-flag", rules(equal("size", flag(false))), []factCase{
		{"false", with(size(flagFact(false))), Allow},
		{"true", with(size(flagFact(true))), unmet},
		{"missing is not false", with(), unmet},
	})
	family("fact-two", rules(equal("count", number(1)), equal("size", number(2))), []factCase{
		{"both", with(size(numberFact(2)), &Fact{Key: "count", Value: numberFact(1)}), Allow},
		{"one", with(size(numberFact(2))), unmet},
	})
	two := append(rules(within("size", n64(11), n64(12))), rules(within("size", n64(0), n64(10)))...)
	family("fact-second", two, []factCase{
		{"the second capability is met", with(size(numberFact(3))), Allow},
		{"the first capability is met", with(size(numberFact(11))), Allow},
		{"neither is met", with(size(numberFact(13))), unmet},
	})
}

// factCase is one intent under the capabilities of a family.
type factCase struct {
	title string
	in    *Intent
	code  string
}
