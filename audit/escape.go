package audit

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// textWidth is the width of every text that this package writes.
const textWidth = 80

// plain says whether a terminal shows r as one visible sign and nothing else. Marks are not plain: they change the sign before
// them and can be piled up without end.
func plain(r rune) bool {
	return r == ' ' || (r != utf8.RuneError && unicode.IsGraphic(r) && !unicode.In(r, unicode.M, unicode.Z, unicode.C))
}

// Visible returns s with every control character, escape sequence, bidi or other invisible mark, backslash and broken byte
// replaced by a visible escape, so that a recorded text cannot act on a terminal or pass for another one.
func Visible(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r == '\\' || !plain(r) }) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\\':
			b.WriteString(`\\`)
		case plain(r):
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
		i += n
	}
	return b.String()
}

// dotString returns s as a quoted DOT string. Graphviz reads backslash escapes and HTML entities inside labels.
func dotString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `&`, `&amp;`, `<`, `&lt;`, `>`, `&gt;`).Replace(Visible(s)) + `"`
}

// runeWidth is the columns that a plain rune takes, rounded up.
func runeWidth(r rune) int {
	if r >= 0x1100 {
		return 2
	}
	return 1
}

func textColumns(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// textOut writes lines of at most textWidth columns and keeps the first error.
type textOut struct {
	w   io.Writer
	err error
}

// line writes text, made visible, at indent columns; what does not fit continues four columns further in.
func (o *textOut) line(indent int, text string) {
	indent = min(indent, textWidth/2)
	var b strings.Builder
	room := textWidth - indent
	b.WriteString(strings.Repeat(" ", indent))
	wrap := func() {
		b.WriteString("\n" + strings.Repeat(" ", indent+4))
		room = textWidth - indent - 4
	}
	fresh := true
	for word := range strings.SplitSeq(Visible(text), " ") {
		if !fresh {
			if need := textColumns(word) + 1; need <= room {
				b.WriteByte(' ')
				room--
			} else {
				wrap()
			}
		}
		fresh = false
		for _, r := range word {
			if room < runeWidth(r) {
				wrap()
			}
			b.WriteRune(r)
			room -= runeWidth(r)
		}
	}
	o.raw(strings.TrimRight(b.String(), " ") + "\n")
}

func (o *textOut) linef(indent int, format string, args ...any) {
	o.line(indent, fmt.Sprintf(format, args...))
}

func (o *textOut) raw(s string) {
	if o.err == nil {
		_, o.err = io.WriteString(o.w, s)
	}
}
