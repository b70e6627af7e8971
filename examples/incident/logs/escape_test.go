package logs_test

import (
	"strings"
	"testing"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
)

func TestEscape(t *testing.T) {
	tests := []struct {
		name, input string
		max         int
		want        string
	}{
		{"plain", "GET / HTTP/1.1", 40, `"GET / HTTP/1.1"`},
		{"terminal sequence", "\x1b[2J\x1b]0;owned\a", 40, `"\x1b[2J\x1b]0;owned\x07"`},
		{"C1 control", "\u009b31m", 40, `"\u009b31m"`},
		{"line breaks", "a\r\nb\tc", 40, `"a\r\nb\tc"`},
		{"quotes", `a"b\c`, 40, `"a\"b\\c"`},
		{"bidi", "user\u202egnp.exe\u2066", 40, `"user\u202egnp.exe\u2066"`},
		{"zero width", "a\u200bb\ufeff", 40, `"a\u200bb\ufeff"`},
		{"right to left letters", "\u05d0", 40, `"\u05d0"`},
		{"combining mark", "e\u0301", 40, `"e\u0301"`},
		{"wide letters", "\u4f60\U0001f600", 40, `"\u4f60\U0001f600"`},
		{"letters stay", "Größe Ωμέγα Жук", 40, `"Größe Ωμέγα Жук"`},
		{"invalid bytes", "a\xff\xc3", 40, `"a\xff\xc3"`},
		{"replacement character", "\ufffd", 40, `"\ufffd"`},
		{"delete", "\x7f", 40, `"\x7f"`},
		{"fits", "abcd", 6, `"abcd"`},
		{"cut", "abcde", 6, `"abc"…`},
		{"cut before an escape", "ab\x1b", 6, `"ab"…`},
		{"an ellipsis of its own", "ab…", 40, `"ab\u2026"`},
		{"tiny", "abcdef", 0, `"a"…`},
		{"empty", "", 0, `""`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := logs.Escape(tt.input, tt.max); got != tt.want {
				t.Errorf("Escape(%q, %d) = %s, want %s", tt.input, tt.max, got, tt.want)
			}
		})
	}
	if got := logs.Escape(strings.Repeat("\x00", 1<<20), 80); len(got) > 90 {
		t.Errorf("Escape of a megabyte has %d bytes", len(got))
	}
}
