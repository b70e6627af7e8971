package logs_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
)

const accessLine = `192.0.2.1 - - [21/Nov/2026:06:00:00 +0000] "GET / HTTP/1.1" 200 5 "-" "x"`

func pack(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestReadRefuses(t *testing.T) {
	packed := pack(t, accessLine)
	tests := []struct {
		name, input string
		want        error
		text        string
	}{
		{"binary", "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00", logs.ErrBinary, "control characters"},
		{"journal file", "LPKSHHRH\x00\x00", logs.ErrBinary, "journalctl"},
		{"xz", "\xfd7zXZ\x00", logs.ErrBinary, "xz"},
		{"zstd", "\x28\xb5\x2f\xfdabc", logs.ErrBinary, "zstd"},
		{"zip", "PK\x03\x04abc", logs.ErrBinary, "zip"},
		{"bzip2", "BZh91AY&SY\xff\xfe", logs.ErrBinary, "bzip2"},
		{"utf-16", "\xff\xfea\x00b\x00", logs.ErrBinary, "UTF-16"},
		{"cut gzip", packed[:len(packed)-6], logs.ErrGzip, "gzip"},
		{"gzip header only", "\x1f\x8b", logs.ErrGzip, "gzip"},
		{"gzip in gzip", pack(t, packed), logs.ErrBinary, "gzip"},
		{"gzip of binary", pack(t, "\x00\x01\x02\x03"), logs.ErrBinary, "control"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := logs.Read(strings.NewReader(tt.input), logs.Limits{})
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("Read = %v, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
	broken := errors.New("disk gone")
	if _, err := logs.Read(iotest.ErrReader(broken), logs.Limits{}); !errors.Is(err, broken) {
		t.Errorf("Read = %v, want %v", err, broken)
	}
	if _, err := logs.Read(io.MultiReader(strings.NewReader(strings.Repeat("a\n", 9000)), iotest.ErrReader(broken)), logs.Limits{}); !errors.Is(err, broken) {
		t.Errorf("late Read = %v, want %v", err, broken)
	}
}

func TestReadStats(t *testing.T) {
	bomb := pack(t, strings.Repeat(accessLine+"\n", 2000))
	tests := []struct {
		name, input string
		limits      logs.Limits
		format      logs.Format
		want        logs.Stats
	}{
		{"empty", "", logs.Limits{}, logs.FormatEmpty, logs.Stats{}},
		{"blank", "\n  \n", logs.Limits{}, logs.FormatEmpty, logs.Stats{Lines: 2, Blank: 2, Bytes: 4}},
		{"no final newline", accessLine, logs.Limits{}, logs.FormatAccess, logs.Stats{Lines: 1, Parsed: 1, Bytes: int64(len(accessLine))}},
		{"crlf", accessLine + "\r\n" + accessLine + "\r\n", logs.Limits{}, logs.FormatAccess, logs.Stats{Lines: 2, Parsed: 2, Bytes: int64(2*len(accessLine) + 4)}},
		{"byte order mark", "\xef\xbb\xbf" + accessLine, logs.Limits{}, logs.FormatAccess, logs.Stats{Lines: 1, Parsed: 1, Bytes: int64(len(accessLine))}},
		{"one bad line", accessLine + "\nx\n" + accessLine + "\n\n", logs.Limits{}, logs.FormatAccess, logs.Stats{Lines: 4, Parsed: 2, Unparsed: 1, Blank: 1, Bytes: int64(2*len(accessLine) + 5)}},
		{"bad utf-8", "hello \xff\xfe\nplain", logs.Limits{}, logs.FormatGeneric, logs.Stats{Lines: 2, Unparsed: 2, InvalidUTF8: 1, Bytes: 14}},
		{"line at the limit", "aaaa\r\nbbbbb\n", logs.Limits{LineBytes: 4}, logs.FormatGeneric, logs.Stats{Lines: 2, Unparsed: 2, Cut: 1, Bytes: 12}},
		{"cut at a rune", "aaa\u00e9\u00e9\n", logs.Limits{LineBytes: 4}, logs.FormatGeneric, logs.Stats{Lines: 1, Unparsed: 1, Cut: 1, Bytes: 8}},
		{"long line", strings.Repeat("x", 100_000) + "\n", logs.Limits{}, logs.FormatGeneric, logs.Stats{Lines: 1, Unparsed: 1, Cut: 1, Bytes: 100_001}},
		{"many lines", "a\nb\nc\n", logs.Limits{Lines: 2}, logs.FormatGeneric, logs.Stats{Lines: 2, Unparsed: 2, Bytes: 6, Truncated: true}},
		{"many bytes", "aa\nbb\ncc\n", logs.Limits{Bytes: 7}, logs.FormatGeneric, logs.Stats{Lines: 2, Unparsed: 2, Bytes: 6, Truncated: true}},
		{"gzip", pack(t, accessLine+"\n"), logs.Limits{}, logs.FormatAccess, logs.Stats{Lines: 1, Parsed: 1, Bytes: int64(len(accessLine) + 1), Gzip: true}},
		{"gzip over the limit", bomb, logs.Limits{Bytes: int64(len(accessLine) + 1)}, logs.FormatAccess, logs.Stats{Lines: 1, Parsed: 1, Bytes: int64(len(accessLine) + 1), Gzip: true, Truncated: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := logs.Read(iotest.OneByteReader(strings.NewReader(tt.input)), tt.limits)
			if err != nil {
				t.Fatalf("Read = %v", err)
			}
			if l.Format != tt.format || l.Stats != tt.want {
				t.Errorf("Read = %s %+v, want %s %+v", l.Format, l.Stats, tt.format, tt.want)
			}
		})
	}
}

func TestLine(t *testing.T) {
	l, err := logs.Read(strings.NewReader("one\n\nthree\r\n"), logs.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[int]string{1: "one", 2: "", 3: "three"} {
		if got, ok := l.Line(n); got != want || !ok {
			t.Errorf("Line(%d) = %q, %v, want %q", n, got, ok, want)
		}
	}
	for _, n := range []int{-1, 0, 4} {
		if got, ok := l.Line(n); ok {
			t.Errorf("Line(%d) = %q, want none", n, got)
		}
	}
}
