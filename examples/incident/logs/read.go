package logs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode/utf8"
)

// Errors of Read.
var (
	// ErrBinary means that the input is not text.
	ErrBinary = errors.New("input is not a text log")
	// ErrGzip means that the input starts like gzip and does not decompress.
	ErrGzip = errors.New("input is damaged gzip")
)

// binarySample is how much of the input decides whether it is text.
const binarySample = 8 << 10

// maxControlPercent is the share of control bytes above which the input is
// not text. Compressed data has 10 percent; text has none but white space.
const maxControlPercent = 5

// Stats counts what was read. Lines = Parsed + Unparsed + Blank.
type Stats struct {
	Lines       int   `json:"lines"`
	Parsed      int   `json:"parsed"`
	Unparsed    int   `json:"unparsed"`
	Blank       int   `json:"blank"`
	Cut         int   `json:"cut"`          // longer than the limit and shortened
	InvalidUTF8 int   `json:"invalid_utf8"` // lines with bytes that are not UTF-8
	Bytes       int64 `json:"bytes"`        // after decompression
	Gzip        bool  `json:"gzip"`
	Truncated   bool  `json:"truncated"` // a limit ended the reading: the rest is unknown
}

// Log is a log that was read. It does not change after Read, and its methods
// may be called concurrently.
type Log struct {
	Format  Format
	Dialect string // variant of the format, for people
	Stats   Stats

	lines   []string
	access  []accessEntry
	syslog  []syslogEntry
	dpkg    []dpkgEntry
	generic []genericEntry

	once     sync.Once
	findings []Finding
	ev       evidence
}

// Line returns line n, counted from 1, as it stands in the log: untrusted.
func (l *Log) Line(n int) (string, bool) {
	if n < 1 || n > len(l.lines) {
		return "", false
	}
	return l.lines[n-1], true
}

// Read reads a log, plain or gzip, finds its format and parses it. Input over
// a limit is not an error: the rest is left out and Stats.Truncated is set.
// Errors: ErrBinary, ErrGzip and those of r.
func Read(r io.Reader, limits Limits) (*Log, error) {
	limits = limits.withDefaults()
	br := bufio.NewReaderSize(r, binarySample)
	l := &Log{}
	if magic, _ := br.Peek(2); len(magic) == 2 && magic[0] == 0x1f && magic[1] == 0x8b {
		zr, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrGzip, err)
		}
		br = bufio.NewReaderSize(zr, binarySample)
		l.Stats.Gzip = true
	}
	head, err := br.Peek(binarySample)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, l.readError(err)
	}
	if err := checkText(head); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(head, []byte("\xef\xbb\xbf")) {
		_, _ = br.Discard(3)
	}
	if err := l.readLines(br, limits); err != nil {
		return nil, l.readError(err)
	}
	l.parse()
	return l, nil
}

func (l *Log) readError(err error) error {
	if l.Stats.Gzip && !errors.Is(err, ErrBinary) {
		return fmt.Errorf("%w: %w", ErrGzip, err)
	}
	return fmt.Errorf("reading log: %w", err)
}

// checkText refuses input that is not text, and names the common cases.
func checkText(head []byte) error {
	for _, m := range []struct{ magic, name string }{
		{"\xfd7zXZ", "xz data, decompress it first"},
		{"\x28\xb5\x2f\xfd", "zstd data, decompress it first"},
		{"BZh", "bzip2 data, decompress it first"},
		{"PK\x03\x04", "a zip archive"},
		{"LPKSHHRH", "a binary journal, export it with journalctl"},
		{"\xff\xfe", "UTF-16, convert it to UTF-8"},
		{"\xfe\xff", "UTF-16, convert it to UTF-8"},
		{"\x1f\x8b", "gzip inside gzip"},
	} {
		if !bytes.HasPrefix(head, []byte(m.magic)) {
			continue
		}
		if m.magic == "BZh" && utf8.Valid(head) {
			continue
		}
		return fmt.Errorf("%w: it looks like %s", ErrBinary, m.name)
	}
	control := 0
	for _, c := range head {
		if c < ' ' && c != '\t' && c != '\n' && c != '\r' && c != '\f' && c != '\b' && c != 0x1b {
			control++
		}
	}
	if control*100 > len(head)*maxControlPercent {
		return fmt.Errorf("%w: %d of the first %d bytes are control characters", ErrBinary, control, len(head))
	}
	return nil
}

// readLines fills lines. A line that the byte limit cuts is dropped, since
// half a line is no evidence.
func (l *Log) readLines(br *bufio.Reader, limits Limits) error {
	var line []byte
	cut, pending := false, false
	for {
		chunk, err := br.ReadSlice('\n')
		l.Stats.Bytes += int64(len(chunk))
		if l.Stats.Bytes > limits.Bytes {
			l.Stats.Bytes -= int64(len(chunk))
			l.Stats.Truncated = true
			return nil
		}
		pending = pending || len(chunk) > 0
		// One byte more than the limit is kept for the "\r\n" of a line that fits.
		if room := limits.LineBytes + 2 - len(line); len(chunk) > room {
			line, cut = append(line, chunk[:room]...), true
		} else {
			line = append(line, chunk...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return err
		}
		if pending {
			if len(l.lines) == limits.Lines {
				l.Stats.Truncated = true
				return nil
			}
			l.addLine(line, cut, limits.LineBytes)
		}
		if err != nil {
			return nil
		}
		line, cut, pending = line[:0], false, false
	}
}

func (l *Log) addLine(line []byte, cut bool, limit int) {
	if !cut {
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
	}
	if len(line) > limit {
		line, cut = line[:limit], true
		for i := 0; i < utf8.UTFMax && len(line) > 0 && !utf8.RuneStart(line[len(line)-1]); i++ {
			line = line[:len(line)-1]
		}
		if n := len(line); n > 0 && line[n-1] >= utf8.RuneSelf {
			line = line[:n-1]
		}
	}
	if cut {
		l.Stats.Cut++
	}
	if !utf8.Valid(line) {
		l.Stats.InvalidUTF8++
	}
	text := string(line)
	if strings.TrimSpace(text) == "" {
		l.Stats.Blank++
	}
	l.lines = append(l.lines, text)
	l.Stats.Lines++
}
