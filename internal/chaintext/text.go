package chaintext

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

// Unverified is how every text about a chain begins that nobody has verified.
const Unverified = "UNVERIFIED: this is what the chain says of itself; no signature was checked."

const (
	headLabel = 11 // columns of the labels at the top
	partLabel = 11 // columns of the labels of a statement
	inset     = 3  // of a statement's rows, below its number
)

// Text writes the view for people. The first line says that nothing in it is verified.
func (v View) Text(w io.Writer) error {
	p := &page{w: w}
	p.line(0, 0, Unverified)
	p.line(0, 0, "To check it: safeconduct chain verify, or safeconduct chain explain")
	p.gap()
	p.line(2, 5, v.path())
	p.gap()
	v.head(p)
	for i := range v.Statements {
		p.gap()
		v.statement(p, i)
	}
	if n := v.HopCount - (len(v.Statements) - v.grants()); n > 0 {
		p.gap()
		p.linef(0, "!  %d more hops are not shown; the format allows %d", n, maxHopsShown)
	}
	return p.err
}

// grants is 1 when there is a grant.
func (v View) grants() int {
	if len(v.Statements) > 0 && v.Statements[0].Position == 0 {
		return 1
	}
	return 0
}

// path is who acts for whom, in one line.
func (v View) path() string {
	parts := []string{fmt.Sprintf("%s %s", v.Principal.Type, word(v.Principal.Subject))}
	if v.grants() == 0 {
		parts = []string{"(no grant)"}
	}
	for _, s := range v.Statements {
		parts = append(parts, v.short(s.Delegate))
	}
	if n := v.HopCount - (len(v.Statements) - v.grants()); n > 0 {
		parts = append(parts, fmt.Sprintf("(%d more)", n))
	}
	return strings.Join(parts, " -> ")
}

// short names an agent of the chain's own tenant, and a service of its trust domain, by its name; anybody else in full.
func (v View) short(id string) string {
	a, err := identity.ParseAgent(id)
	switch {
	case err != nil || a.TrustDomain().Name() != v.TrustDomain:
		return word(id)
	case a.IsService():
		return "service/" + a.Name()
	case a.Tenant().Name() == v.Tenant:
		return a.Name()
	}
	return a.Tenant().Name() + "/" + a.Name()
}

func (v View) head(p *page) {
	row := func(label, text string) { p.row(0, headLabel, label, text) }
	if v.grants() == 0 {
		row("!", "there is no grant: nothing says for whom it is, and nobody gave it")
	} else {
		v.root(row)
	}
	row("as of", v.At.Format(time.RFC3339))
	if n := len(v.Statements); n > 0 {
		row("lives", v.life(v.Statements[n-1]))
	}
	if v.DepthUsed > 0 {
		row("renewed", v.past())
	}
	if v.Reference != "" {
		row("reference", v.Reference)
	} else {
		row("reference", "not known: it depends on the grant key, and on the certificate of every signer")
	}
	row("size", fmt.Sprintf("%d bytes, of them %d of certificates; %s, %s; found as %s",
		v.Bytes, v.CertBytes, count(v.HopCount, "hop"), count(v.CertCount, "certificate"), v.Form))
}

// root is what only the grant says.
func (v View) root(row func(label, text string)) {
	row("chain", orNone(v.ChainID))
	row("for", fmt.Sprintf("%s %s, as %s says", v.Principal.Type, word(v.Principal.Subject), word(v.Principal.Issuer)))
	row("in", fmt.Sprintf("trust domain %s, tenant %s", word(v.TrustDomain), word(v.Tenant)))
	purpose := "sha256 " + orNone(v.Purpose)
	switch v.PurposeIs {
	case "matches":
		purpose += " (as given)"
	case "differs":
		purpose += " (NOT as given)"
	}
	row("purpose", purpose)
	if v.TaskID != "" {
		row("task", word(v.TaskID))
	}
	if v.Origin != "" {
		row("origin", "minted at a border, for a chain of "+word(v.Origin))
	}
}

func (v View) past() string {
	parts := make([]string, 0, len(v.Renewals))
	for _, r := range v.Renewals {
		parts = append(parts, fmt.Sprintf("%s at depth %d", v.short(r.Actor), r.Depth))
	}
	text := fmt.Sprintf("%s used before this grant", count(int(v.DepthUsed), "hop"))
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	return text
}

func (v View) statement(p *page, i int) {
	s := v.Statements[i]
	what := "HOP  "
	if s.Position == 0 {
		what = "GRANT"
	}
	p.line(0, inset, fmt.Sprintf("%d  %s  %s -> %s", s.Position, what, v.short(s.Issuer), v.short(s.Delegate)))
	row := func(label, text string) { p.row(inset, partLabel, label, text) }
	for _, n := range s.Notes {
		row("!", n)
	}
	row("issuer", word(s.Issuer))
	row("delegate", word(s.Delegate))
	depth := fmt.Sprintf("%d of at most %d", s.Depth, s.MaxDepth)
	if i > 0 && s.MaxDepth < v.Statements[i-1].MaxDepth {
		depth += fmt.Sprintf(", which was %d before", v.Statements[i-1].MaxDepth)
	}
	row("depth", depth)
	life := v.life(s)
	if i > 0 && s.Expires.Ms < v.Statements[i-1].Expires.Ms && s.Expires.valid() && v.Statements[i-1].Expires.valid() {
		life += fmt.Sprintf(", %s before the statement above", span(time.Duration(v.Statements[i-1].Expires.Ms-s.Expires.Ms)*time.Millisecond))
	}
	row("lives", life)
	s.rights(p)
	below := make([]string, 0, len(s.Delegates))
	for _, d := range s.Delegates {
		below = append(below, word(d))
	}
	list(row, "below", below, "nobody")
	if s.Position == 0 {
		row("key", word(s.KeyID))
	} else {
		s.writeSigner(row)
	}
	row("statement", s.ID)
	row("size", fmt.Sprintf("%d bytes of payload", s.Bytes))
}

// rights writes the capabilities with a sign before each: = as before, < less, ! more, - not passed on.
func (s Statement) rights(p *page) {
	label := "may"
	row := func(sign, text string) {
		p.line(inset, inset+partLabel+4, pad(label, partLabel)+sign+text)
		label = ""
	}
	if len(s.Capabilities) == 0 {
		row("", "do nothing")
	}
	sign := map[string]string{Granted: "", Same: "= ", Narrowed: "< ", Wider: "! "}
	for _, c := range s.Capabilities {
		row(sign[c.Change], c.Text)
		if len(c.Changes) > 0 {
			row("    ", strings.Join(c.Changes, "; "))
		}
	}
	for _, d := range s.Dropped {
		row("- ", d)
	}
}

// writeSigner writes whose certificate a hop was signed under.
func (s Statement) writeSigner(row func(label, text string)) {
	switch x := s.Signer; {
	case x == nil:
		row("signer", "the certificate of whoever presents the chain; it is not in it")
	case x.Key == "":
		row("signer", "a certificate that does not parse")
		row("", fmt.Sprintf("sha256 %s, %d bytes", x.CertID, x.Bytes))
	default:
		row("signer", fmt.Sprintf("%s, %s", word(x.ID), x.Key))
		row("", fmt.Sprintf("not after %s, serial %s, %d bytes", x.NotAfter.Format(time.RFC3339), x.Serial, x.Bytes))
		row("", "sha256 "+x.CertID)
	}
}

// life is a lifetime, absolute and as of the time of the view.
func (v View) life(s Statement) string {
	text := fmt.Sprintf("%s to %s", s.NotBefore.Text, s.Expires.Text)
	if !s.NotBefore.valid() || !s.Expires.valid() {
		return text
	}
	begin, end := time.UnixMilli(s.NotBefore.Ms), time.UnixMilli(s.Expires.Ms)
	switch {
	case end.Before(begin):
		return text + ": ends before it begins"
	case v.At.Before(begin):
		return fmt.Sprintf("%s (%s): begins in %s", text, span(end.Sub(begin)), span(begin.Sub(v.At)))
	case v.At.Before(end):
		return fmt.Sprintf("%s (%s): ends in %s", text, span(end.Sub(begin)), span(end.Sub(v.At)))
	}
	return fmt.Sprintf("%s (%s): ended %s ago", text, span(end.Sub(begin)), span(v.At.Sub(end)))
}

const day = 24 * time.Hour

// span is a duration as people say it.
func span(d time.Duration) string {
	switch {
	case d >= 3*day:
		return fmt.Sprintf("%d days", d/day)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	text := d.Truncate(time.Second).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func list(row func(label, text string), label string, items []string, none string) {
	if len(items) == 0 {
		row(label, none)
	}
	for _, item := range items {
		row(label, item)
		label = ""
	}
}

func count(n int, what string) string { return countOf(n, what, what+"s") }

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func countOf(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
