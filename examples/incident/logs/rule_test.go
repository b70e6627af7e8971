package logs_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
)

func TestParseRuleRefuses(t *testing.T) {
	tests := []struct {
		name, input string
		want        error
	}{
		{"empty", "", logs.ErrRuleSyntax},
		{"everybody", "deny client=0.0.0.0/0", logs.ErrRuleTooWide},
		{"everybody on IPv6", "deny client=::/0", logs.ErrRuleTooWide},
		{"unspecified address", "deny client=0.0.0.0", logs.ErrRuleTooWide},
		{"half the internet", "deny client=128.0.0.0/1", logs.ErrRuleTooWide},
		{"one bit over the bound", "deny source=10.0.0.0/15", logs.ErrRuleTooWide},
		{"one bit over the IPv6 bound", "deny client=2001:db8::/31", logs.ErrRuleTooWide},
		{"any user agent", `deny user-agent~""`, logs.ErrRuleTooWide},
		{"short user agent", `deny user-agent~"Moz"`, logs.ErrRuleTooWide},
		{"blank user agent", `deny user-agent~"     "`, logs.ErrRuleTooWide},
		{"every path", `deny path-prefix="/"`, logs.ErrRuleTooWide},
		{"relative path", `deny path-prefix="admin"`, logs.ErrRuleSyntax},
		{"allow", "allow client=203.0.113.7", logs.ErrRuleSyntax},
		{"capital", "Deny client=203.0.113.7", logs.ErrRuleSyntax},
		{"leading space", " deny client=203.0.113.7", logs.ErrRuleSyntax},
		{"two spaces", "deny  client=203.0.113.7", logs.ErrRuleSyntax},
		{"trailing space", "deny client=203.0.113.7 ", logs.ErrRuleSyntax},
		{"trailing newline", "deny client=203.0.113.7\n", logs.ErrRuleSyntax},
		{"second rule", "deny client=203.0.113.7\ndeny client=203.0.113.8", logs.ErrRuleSyntax},
		{"shell", "deny client=203.0.113.7;reboot", logs.ErrRuleSyntax},
		{"unknown field", "deny referer=203.0.113.7", logs.ErrRuleSyntax},
		{"bad address", "deny client=203.0.113.777", logs.ErrRuleSyntax},
		{"short address", "deny client=203.0.113", logs.ErrRuleSyntax},
		{"host bits", "deny client=203.0.113.7/24", logs.ErrRuleSyntax},
		{"bad network", "deny client=203.0.113.0/33", logs.ErrRuleSyntax},
		{"one address as a network", "deny client=203.0.113.7/32", logs.ErrRuleSyntax},
		{"long IPv6 form", "deny client=2001:db8:0:0:0:0:0:1", logs.ErrRuleSyntax},
		{"IPv4 inside IPv6", "deny client=::ffff:203.0.113.7", logs.ErrRuleSyntax},
		{"zone", "deny client=fe80::1%eth0", logs.ErrRuleSyntax},
		{"single label", "deny client=localhost", logs.ErrRuleSyntax},
		{"capital host", "deny client=Bad.Example", logs.ErrRuleSyntax},
		{"unquoted text", "deny user-agent~sqlmap", logs.ErrRuleSyntax},
		{"raw quotes", "deny user-agent~`sqlmap`", logs.ErrRuleSyntax},
		{"no end quote", `deny user-agent~"sqlmap`, logs.ErrRuleSyntax},
		{"text after the quote", `deny user-agent~"sqlmap" or "x"`, logs.ErrRuleSyntax},
		{"two forms of one text", `deny user-agent~"\x73qlmap"`, logs.ErrRuleSyntax},
		{"raw bidi mark", "deny user-agent~\"sqlmap\u202e\"", logs.ErrRuleSyntax},
		{"long text", `deny user-agent~"` + strings.Repeat("a", logs.MaxLiteral+1) + `"`, logs.ErrRuleSyntax},
		{"long rule", "deny client=" + strings.Repeat("a", logs.MaxRuleText), logs.ErrRuleSyntax},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := logs.ParseRule(tt.input)
			if !errors.Is(err, tt.want) || !r.IsZero() {
				t.Errorf("ParseRule(%q) = %v, %v, want %v", tt.input, r, err, tt.want)
			}
		})
	}
}

func TestParseRule(t *testing.T) {
	tests := []struct {
		input string
		field logs.Field
	}{
		{"deny client=203.0.113.7", logs.FieldClient},
		{"deny client=203.0.113.0/24", logs.FieldClient},
		{"deny client=2001:db8::1", logs.FieldClient},
		{"deny client=2001:db8::/32", logs.FieldClient},
		{"deny client=bad.example.net", logs.FieldClient},
		{"deny source=198.51.100.0/24", logs.FieldSource},
		{`deny user-agent~"sqlmap"`, logs.FieldUserAgent},
		{`deny user-agent~"say \"hi\" \\ \x1b[2J \u202e"`, logs.FieldUserAgent},
		{`deny path-prefix="/wp-"`, logs.FieldPathPrefix},
	}
	for _, tt := range tests {
		t.Run(tt.input, func(t *testing.T) {
			r, err := logs.ParseRule(tt.input)
			if err != nil || r.String() != tt.input || r.Field() != tt.field {
				t.Fatalf("ParseRule = %v (%s), %v", r, r.Field(), err)
			}
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			var back logs.Rule
			if err := json.Unmarshal(b, &back); err != nil || back != r {
				t.Errorf("Unmarshal(%s) = %v, %v, want %v", b, back, err, r)
			}
		})
	}
	var r logs.Rule
	if err := json.Unmarshal([]byte(`"deny client=0.0.0.0/0"`), &r); !errors.Is(err, logs.ErrRuleTooWide) {
		t.Errorf("Unmarshal = %v, want %v", err, logs.ErrRuleTooWide)
	}
}
