package logs

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Errors of ParseRule and of the constructors of Rule.
var (
	// ErrRuleSyntax means that the text is not a rule.
	ErrRuleSyntax = errors.New("not a deny rule")
	// ErrRuleTooWide means that the rule would stop more than one network.
	ErrRuleTooWide = errors.New("deny rule is too wide")
)

// Bounds of a rule. An instruction smuggled into a log cannot ask for a rule
// that stops everybody, because no such Rule exists.
const (
	// MaxRuleText bounds the text form.
	MaxRuleText = 512
	// MaxLiteral and MinLiteral bound the text that a rule compares: one
	// letter would stop nearly everybody.
	MaxLiteral = 96
	MinLiteral = 4
	// proposedLiteral is how much text a proposed rule compares: enough to be
	// unique, and a line of a terminal.
	proposedLiteral = 48
	// MinPrefix4 and MinPrefix6 are the widest networks: one site's worth.
	MinPrefix4 = 16
	MinPrefix6 = 32
)

// Field is what a rule compares.
type Field string

// The fields of a rule, as they stand in its text form.
const (
	FieldClient     Field = "client"      // = address, network or host name, of access logs
	FieldSource     Field = "source"      // the same, of syslog messages
	FieldUserAgent  Field = "user-agent"  // ~ literal text contained in it
	FieldPathPrefix Field = "path-prefix" // = literal beginning of the decoded path
)

// Rule denies what it matches. The zero Rule matches nothing. Rules compare
// with ==, and ParseRule(r.String()) == r.
type Rule struct {
	field Field
	net   netip.Prefix
	text  string // literal, or host name when net is not valid
}

// DenyClient denies one client of an access log: an address, a network in
// CIDR form or a host name.
func DenyClient(s string) (Rule, error) { return addressRule(FieldClient, s) }

// DenySource denies one remote source of syslog messages, like DenyClient.
func DenySource(s string) (Rule, error) { return addressRule(FieldSource, s) }

// DenyUserAgent denies clients whose user agent contains s, byte for byte.
func DenyUserAgent(s string) (Rule, error) {
	if err := checkLiteral(s); err != nil {
		return Rule{}, err
	}
	return Rule{field: FieldUserAgent, text: s}, nil
}

// DenyPathPrefix denies requests whose decoded path begins with s.
func DenyPathPrefix(s string) (Rule, error) {
	if !strings.HasPrefix(s, "/") {
		return Rule{}, fmt.Errorf("%w: a path prefix begins with /", ErrRuleSyntax)
	}
	if err := checkLiteral(s); err != nil {
		return Rule{}, err
	}
	return Rule{field: FieldPathPrefix, text: s}, nil
}

func checkLiteral(s string) error {
	switch {
	case len(s) < MinLiteral || strings.TrimSpace(s) == "":
		return fmt.Errorf("%w: the text has %d bytes, at least %d are needed", ErrRuleTooWide, len(s), MinLiteral)
	case len(s) > MaxLiteral:
		return fmt.Errorf("%w: the text has %d bytes, the limit is %d", ErrRuleSyntax, len(s), MaxLiteral)
	}
	return nil
}

func addressRule(f Field, s string) (Rule, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		switch {
		case a.Zone() != "" || a.Is4In6():
			return Rule{}, fmt.Errorf("%w: address with a zone, or IPv4 inside IPv6", ErrRuleSyntax)
		case a.IsUnspecified():
			return Rule{}, fmt.Errorf("%w: %s is every address", ErrRuleTooWide, a)
		}
		return Rule{field: f, net: netip.PrefixFrom(a, a.BitLen())}, nil
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Addr().Is4In6() {
			return Rule{}, fmt.Errorf("%w: %s is no network", ErrRuleSyntax, Escape(s, maxSubject))
		}
		least := MinPrefix4
		if p.Addr().Is6() {
			least = MinPrefix6
		}
		switch {
		case p.Bits() < least:
			return Rule{}, fmt.Errorf("%w: /%d is wider than /%d", ErrRuleTooWide, p.Bits(), least)
		case p != p.Masked():
			return Rule{}, fmt.Errorf("%w: %s has bits after its prefix, write %s", ErrRuleSyntax, p, p.Masked())
		}
		return Rule{field: f, net: p}, nil
	}
	if !validHost(s) {
		return Rule{}, fmt.Errorf("%w: %s is no address, network or host name", ErrRuleSyntax, Escape(s, maxSubject))
	}
	return Rule{field: f, text: s}, nil
}

// validHost accepts lower-case host names that cannot be mistaken for an
// address: at least two labels, and a letter in the last.
func validHost(s string) bool {
	if len(s) > 253 || !strings.Contains(s, ".") {
		return false
	}
	letter := false
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		letter = false
		for _, c := range []byte(label) {
			switch {
			case c >= 'a' && c <= 'z':
				letter = true
			case isDigit(c) || c == '-' || c == '_':
			default:
				return false
			}
		}
	}
	return letter
}

// ruleable reports whether a rule can name the source.
func ruleable(source string) bool {
	_, err := addressRule(FieldClient, source)
	return err == nil
}

// IsZero reports whether r is the zero Rule.
func (r Rule) IsZero() bool { return r == Rule{} }

// Field returns what r compares.
func (r Rule) Field() Field { return r.field }

// String returns the one text form of r, in ASCII.
func (r Rule) String() string {
	switch r.field {
	case FieldClient, FieldSource:
		value := r.text
		if r.net.IsValid() {
			if value = r.net.String(); r.net.IsSingleIP() {
				value = r.net.Addr().String()
			}
		}
		return fmt.Sprintf("deny %s=%s", r.field, value)
	case FieldUserAgent:
		return "deny user-agent~" + strconv.QuoteToASCII(r.text)
	case FieldPathPrefix:
		return "deny path-prefix=" + strconv.QuoteToASCII(r.text)
	}
	return ""
}

// MarshalText returns String.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRule.
func (r *Rule) UnmarshalText(b []byte) error {
	parsed, err := ParseRule(string(b))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}

// ParseRule reads exactly what Rule.String writes: one form for each rule, and
// nothing before or after it. Errors are ErrRuleSyntax and ErrRuleTooWide.
func ParseRule(s string) (Rule, error) {
	if len(s) > MaxRuleText {
		return Rule{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrRuleSyntax, len(s), MaxRuleText)
	}
	rest, ok := strings.CutPrefix(s, "deny ")
	if !ok {
		return Rule{}, fmt.Errorf("%w: it must begin with \"deny \"", ErrRuleSyntax)
	}
	r, err := parseField(rest)
	if err != nil {
		return Rule{}, err
	}
	if canonical := r.String(); canonical != s {
		return Rule{}, fmt.Errorf("%w: write it as %s", ErrRuleSyntax, canonical)
	}
	return r, nil
}

func parseField(s string) (Rule, error) {
	for _, f := range []struct {
		prefix string
		quoted bool
		build  func(string) (Rule, error)
	}{
		{"client=", false, DenyClient},
		{"source=", false, DenySource},
		{"user-agent~", true, DenyUserAgent},
		{"path-prefix=", true, DenyPathPrefix},
	} {
		value, ok := strings.CutPrefix(s, f.prefix)
		if !ok {
			continue
		}
		if !f.quoted {
			return f.build(value)
		}
		if !strings.HasPrefix(value, `"`) {
			return Rule{}, fmt.Errorf("%w: the text after %s stands in double quotes", ErrRuleSyntax, f.prefix)
		}
		text, err := strconv.Unquote(value)
		if err != nil {
			return Rule{}, fmt.Errorf("%w: bad quoting after %s", ErrRuleSyntax, f.prefix)
		}
		return f.build(text)
	}
	return Rule{}, fmt.Errorf("%w: the field is one of client=, source=, user-agent~, path-prefix=", ErrRuleSyntax)
}

// matchesSource reports whether an address rule names the source.
func (r Rule) matchesSource(source string) bool {
	if !r.net.IsValid() {
		return r.text != "" && source == r.text
	}
	a, err := netip.ParseAddr(source)
	return err == nil && r.net.Contains(a)
}

func (r Rule) matchesAccess(e *accessEntry) bool {
	switch r.field {
	case FieldClient:
		return r.matchesSource(e.client)
	case FieldUserAgent:
		return strings.Contains(e.agent, r.text)
	case FieldPathPrefix:
		return strings.HasPrefix(e.path, r.text)
	case FieldSource: // of syslog messages only
	}
	return false
}

// cutLiteral shortens text to what a proposed rule compares, at the end of a
// word where there is one.
func cutLiteral(s string) string {
	if len(s) <= proposedLiteral {
		return s
	}
	n := proposedLiteral
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	if i := strings.LastIndexByte(s[:n], ' '); i >= MinLiteral {
		n = i
	}
	return s[:n]
}
