package chaintext

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/safeconduct/safeconduct/audit"
)

// Width is the columns of every text of this package.
const Width = 100

const (
	// maxField bounds one claimed text on a page; the wire format allows strings of 256 bytes.
	maxField = 256
	// maxResource bounds a resource; the longest that means something to a person is far shorter.
	maxResource = 512
)

// page collects lines and keeps the first error of its writer.
type page struct {
	w   io.Writer
	err error
}

func (p *page) raw(s string) {
	if p.err == nil {
		_, p.err = io.WriteString(p.w, s)
	}
}

// gap is an empty line.
func (p *page) gap() { p.raw("\n") }

// line writes text that is visible already at indent columns and wraps what does not fit; continuations begin at hang. Runs of
// spaces are kept inside a line: they align columns.
func (p *page) line(indent, hang int, text string) {
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", indent))
	at := indent
	wrap := func() {
		b.WriteString("\n" + strings.Repeat(" ", hang))
		at = hang
	}
	for text != "" {
		word := strings.TrimLeft(text, " ")
		spaces := len(text) - len(word)
		word, text = cutWord(word)
		if at > indent && at+spaces+columns(word) > Width {
			wrap()
			spaces = 0
		}
		b.WriteString(strings.Repeat(" ", spaces))
		at += spaces
		for _, r := range word {
			if at+runeWidth(r) > Width {
				wrap()
			}
			b.WriteRune(r)
			at += runeWidth(r)
		}
	}
	for l := range strings.SplitSeq(b.String(), "\n") {
		p.raw(strings.TrimRight(l, " ") + "\n")
	}
}

// cutWord splits text at its first space, which stays with the rest.
func cutWord(text string) (word, rest string) {
	if i := strings.IndexByte(text, ' '); i >= 0 {
		return text[:i], text[i:]
	}
	return text, ""
}

func (p *page) linef(indent int, format string, args ...any) {
	p.line(indent, indent+2, fmt.Sprintf(format, args...))
}

// row writes a label and what belongs to it, in a column of its own.
func (p *page) row(indent, width int, label, text string) {
	p.line(indent, indent+width, pad(label, width)+text)
}

// pad fills s up to width, and leaves a space when it is longer.
func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(1, width-columns(s)))
}

// runeWidth is the columns that a visible rune takes, rounded up.
func runeWidth(r rune) int {
	if r >= 0x1100 {
		return 2
	}
	return 1
}

func columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// clip bounds a claimed text to most bytes, at a rune.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%s...(%d bytes more)", s[:cut], len(s)-cut)
}

func clipBytes(b []byte, most int) []byte { return b[:min(len(b), most)] }

// word is a claimed text for a page: bounded, visible, and in quotes unless it is one plain word, so that it cannot pass for a
// part of the sentence around it.
func word(s string) string {
	if isPlain(s) && len(s) <= maxField {
		return s
	}
	return quoted(s)
}

func quoted(s string) string {
	return `"` + strings.ReplaceAll(audit.Visible(clip(s, maxField)), `"`, `\"`) + `"`
}

func isPlain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("@._:/+-*~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// visible is a sentence of our own, a cause for example, that may quote claims: bounded and visible, without quotes.
func visible(s string) string { return audit.Visible(clip(s, maxField)) }
