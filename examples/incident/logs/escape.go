package logs

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// minEscape is the shortest result of Escape: quotes, one rune, an ellipsis.
const minEscape = 4

// Escape returns untrusted text in double quotes, safe to show on a terminal,
// in at most max runes (at least 4). ASCII that prints and the letters of the
// Latin, Greek and Cyrillic scripts stay; a quote or a backslash gets a
// backslash; everything else, such as control characters, bidirectional marks,
// wide characters and bytes that are not UTF-8, becomes \xNN, \uNNNN or
// \UNNNNNNNN. Text that does not fit ends with an ellipsis after the closing
// quote, where the text itself cannot put one.
func Escape(s string, max int) string {
	if max < minEscape {
		max = minEscape
	}
	var b strings.Builder
	b.WriteByte('"')
	used := 2 // runes, both quotes included
	keep := 1 // bytes of the longest prefix that leaves room for the ellipsis
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		piece := escapeRune(r, size, s[i])
		n := utf8.RuneCountInString(piece)
		if used+n > max {
			return b.String()[:keep] + `"…`
		}
		b.WriteString(piece)
		used += n
		if used+1 <= max {
			keep = b.Len()
		}
		i += size
	}
	return b.String() + `"`
}

func escapeRune(r rune, size int, first byte) string {
	switch {
	case r == utf8.RuneError && size <= 1:
		return fmt.Sprintf(`\x%02x`, first)
	case r == '"' || r == '\\':
		return `\` + string(r)
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case r >= ' ' && r < 0x7f:
		return string(r)
	case r < 0x20 || r == 0x7f:
		return fmt.Sprintf(`\x%02x`, r)
	case r < 0x2000 && unicode.IsLetter(r) && unicode.In(r, unicode.Latin, unicode.Greek, unicode.Cyrillic):
		return string(r)
	case r > 0xffff:
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}
