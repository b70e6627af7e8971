package logs_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
)

func FuzzRead(f *testing.F) {
	names, err := filepath.Glob("testdata/*.log")
	if err != nil || len(names) == 0 {
		f.Fatalf("no samples: %v", err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:min(len(b), 300)])
	}
	f.Add([]byte("\x1f\x8b\x08\x00"))
	f.Add([]byte("<34>1 - - - - - [a b=\"\\]"))
	limits := logs.Limits{Bytes: 1 << 16, Lines: 500, LineBytes: 512}
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := logs.Read(bytes.NewReader(b), limits)
		if err != nil {
			return
		}
		s := l.Stats
		if s.Lines > limits.Lines || s.Bytes > limits.Bytes || s.Lines != s.Parsed+s.Unparsed+s.Blank || s.Unparsed < 0 {
			t.Fatalf("stats %+v", s)
		}
		for n := 1; n <= s.Lines; n++ {
			if text, ok := l.Line(n); !ok || len(text) > limits.LineBytes {
				t.Fatalf("line %d has %d bytes", n, len(text))
			}
		}
		checkProposal(t, l)
		checkText(t, logs.NewReport("fuzz", l))
	})
}

// checkText states that a report is safe to show and narrow enough.
func checkText(t *testing.T, r logs.Report) {
	t.Helper()
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		line = strings.TrimSuffix(line, "\n")
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("line of %d columns: %s", n, line)
		}
		checkShown(t, line)
	}
}

// checkShown states that text holds nothing that a terminal acts upon.
func checkShown(t *testing.T, s string) {
	t.Helper()
	for i, r := range s {
		switch {
		case r == utf8.RuneError, r < ' ', r >= 0x7f && r < 0xa0, r >= 0x2000 && r != '…', r >= 0x300 && r < 0x370, r >= 0x590 && r < 0x900:
			t.Fatalf("rune %U at %d of %q", r, i, s)
		}
	}
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{
		"deny client=203.0.113.7", "deny client=203.0.113.0/24", "deny source=2001:db8::/32", "deny client=a.example",
		`deny user-agent~"x\x1b\u202e\"y"`, `deny path-prefix="/wp-"`, "deny client=0.0.0.0/0", "allow *",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := logs.ParseRule(s)
		if err != nil {
			if !r.IsZero() || len(err.Error()) > 2*logs.MaxRuleText {
				t.Fatalf("ParseRule(%q) = %v, %v", s, r, err)
			}
			return
		}
		if r.String() != s {
			t.Fatalf("ParseRule(%q).String() = %q", s, r)
		}
		checkShown(t, r.String())
	})
}

func FuzzEscape(f *testing.F) {
	f.Add("plain", 10)
	f.Add("\x1b[0m\u202e\xff\"\\…", 12)
	f.Fuzz(func(t *testing.T, s string, n int) {
		got := logs.Escape(s, n)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > max(n, 4) || !strings.HasPrefix(got, `"`) {
			t.Fatalf("Escape(%q, %d) = %q", s, n, got)
		}
		if !strings.HasSuffix(got, `"`) && !strings.HasSuffix(got, `"…`) {
			t.Fatalf("Escape(%q, %d) = %q", s, n, got)
		}
		checkShown(t, got)
	})
}
