package logs

import "strings"

// Format is a kind of log.
type Format string

// The formats that Read tells apart.
const (
	FormatAccess  Format = "access"  // web server, Common or Combined Log Format
	FormatSyslog  Format = "syslog"  // RFC 3164, RFC 5424, journalctl, kernel
	FormatDpkg    Format = "dpkg"    // dpkg.log, apt history.log and term.log
	FormatGeneric Format = "generic" // any other text
	FormatEmpty   Format = "empty"   // no line that is not blank
)

// detectSample is how many lines, spread over the log, decide its format.
const detectSample = 1000

// minShare is the share of sampled lines, in percent, that a format must
// parse. Known formats do not overlap, so half is enough.
const minShare = 50

// minTermShare is the same for apt's term.log, which holds whatever the
// packages' scripts print; its session header must be present too.
const minTermShare = 25

// parse detects the format and parses all lines with it.
func (l *Log) parse() {
	sample := l.sample()
	if len(sample) == 0 {
		l.Format = FormatEmpty
		return
	}
	l.Format = FormatGeneric
	best := 0
	for _, c := range []struct {
		format Format
		parses func(string) bool
	}{
		{FormatAccess, func(s string) bool { _, ok := parseAccess(s); return ok }},
		{FormatSyslog, func(s string) bool { _, ok := parseSyslog(s); return ok }},
		{FormatDpkg, func(s string) bool { _, ok := parseDpkgLine(s); return ok }},
	} {
		n := 0
		for _, s := range sample {
			if c.parses(s) {
				n++
			}
		}
		share := n * 100 / len(sample)
		if share > best && (share >= minShare || c.format == FormatDpkg && share >= minTermShare && l.hasTermHeader()) {
			best, l.Format = share, c.format
		}
	}
	switch l.Format {
	case FormatAccess:
		l.parseAccess()
	case FormatSyslog:
		l.parseSyslog()
	case FormatDpkg:
		l.parseDpkg()
	default:
		l.parseGeneric()
	}
	l.Stats.Unparsed = l.Stats.Lines - l.Stats.Blank - l.Stats.Parsed
}

// sample returns non-blank lines spread evenly over the log, so that a
// preamble does not decide.
func (l *Log) sample() []string {
	want := l.Stats.Lines - l.Stats.Blank
	stride := max(1, want/detectSample)
	var out []string
	n := 0
	for _, s := range l.lines {
		if strings.TrimSpace(s) == "" {
			continue
		}
		if n%stride == 0 {
			out = append(out, s)
		}
		n++
	}
	return out
}

func (l *Log) hasTermHeader() bool {
	for _, s := range l.lines {
		if strings.HasPrefix(s, "Log started: ") {
			return true
		}
	}
	return false
}

// majority returns the most frequent name; ties go to the smaller one.
func majority(counts map[string]int) string {
	best, n := "", 0
	for name, c := range counts {
		if c > n || c == n && name < best {
			best, n = name, c
		}
	}
	return best
}
