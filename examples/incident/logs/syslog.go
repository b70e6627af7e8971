package logs

import (
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// syslogEntry is one line of a syslog file or of journal text.
type syslogEntry struct {
	no       int
	at       time.Time // zero when unknown; the year is 0 where the format has none
	program  string
	msg      string // without the wrapper of repeated messages
	repeat   int    // how often the message occurred, at least 1
	severity int    // RFC 5424, -1 when the line does not say
	source   string // remote address or host that the message names
	cut      bool   // the message was over maxMessage
	dialect  string
}

// maxMessage is how much of a message is searched: daemons write far less, and
// an attacker pays for more. A longer one names no source, because its end is
// where the source stands.
const maxMessage = 2048

const months = `(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)`

var (
	syslogPRI  = regexp.MustCompile(`^<(\d{1,3})>`)
	syslogBSD  = regexp.MustCompile(`^(` + months + ` [ \d]?\d \d{2}:\d{2}:\d{2})(?:\.\d+)? `)
	syslogISO  = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:[.,]\d+)?(Z|[+-]\d{2}:?\d{2}) `)
	syslogFull = regexp.MustCompile(`^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2})(?:\.\d+)? [A-Z][A-Za-z0-9+:-]{0,7} `)
	syslogNew  = regexp.MustCompile(`^<(\d{1,3})>1 (\S+) \S+ (\S+) \S+ \S+ `)
	syslogTag  = regexp.MustCompile(`^([^\s:\[\]]{1,128})(?:\[([^\]\s]{0,32})\])?(?: \([^)]*\)(?:\[\d+\])?)?:(?: |$)`)
	kernelTime = regexp.MustCompile(`^\[ *\d+\.\d{6}\]`)
	journalSep = regexp.MustCompile(`^-- (?:Boot [0-9a-f]+|Reboot|Logs begin at .*|Journal begins at .*|No entries) ?--?`)
	repeated   = regexp.MustCompile(`^message repeated (\d{1,6}) times: \[ ?(.*)\]$`)
)

func (l *Log) parseSyslog() {
	dialects := map[string]int{}
	for i, s := range l.lines {
		e, ok := parseSyslog(s)
		if !ok {
			continue
		}
		l.Stats.Parsed++
		dialects[e.dialect]++
		e.no = i + 1
		if !e.cut {
			e.source = messageSource(e.msg)
		}
		l.syslog = append(l.syslog, e)
	}
	l.Dialect = majority(dialects)
}

func parseSyslog(s string) (syslogEntry, bool) {
	e := syslogEntry{severity: -1, repeat: 1}
	if journalSep.MatchString(s) {
		e.dialect, e.msg = "journal", ""
		return e, true
	}
	if m := syslogNew.FindStringSubmatchIndex(s); m != nil {
		return parseSyslogNew(s, m)
	}
	if m := syslogPRI.FindStringSubmatch(s); m != nil && atoi(m[1]) < 192 {
		e.severity = atoi(m[1]) & 7
		s = s[len(m[0]):]
	}
	if m := kernelTime.FindString(s); m != "" {
		e.dialect, e.program, e.msg = "kernel", "kernel", strings.TrimSpace(s[len(m):])
		return e, true
	}
	var rest string
	var err error
	if m := syslogBSD.FindStringSubmatch(s); m != nil {
		e.dialect, rest = "rfc3164", s[len(m[0]):]
		e.at, err = time.Parse("Jan _2 15:04:05", m[1])
	} else if m := syslogISO.FindStringSubmatch(s); m != nil {
		e.dialect, rest = "iso", s[len(m[0]):]
		e.at, err = time.Parse("2006-01-02T15:04:05Z0700", m[1]+strings.ReplaceAll(m[2], ":", ""))
	} else if m := syslogFull.FindStringSubmatch(s); m != nil {
		e.dialect, rest = "journal", s[len(m[0]):]
		e.at, err = time.Parse("2006-01-02 15:04:05", m[1])
	} else {
		return e, false
	}
	if err != nil {
		// "Feb 29" is valid only in a leap year, and year 0 is one; what fails
		// here is no date.
		return e, false
	}
	_, rest, ok := strings.Cut(strings.TrimLeft(rest, " "), " ")
	if !ok {
		return e, false
	}
	if e.dialect == "iso" && !syslogTag.MatchString(rest) {
		// An ISO time and a word start many logs; without a tag it is not syslog.
		return e, false
	}
	e.setMessage(strings.TrimLeft(rest, " "))
	return e, true
}

// parseSyslogNew reads RFC 5424: header, structured data, message.
func parseSyslogNew(s string, m []int) (syslogEntry, bool) {
	e := syslogEntry{severity: atoi(s[m[2]:m[3]]) & 7, repeat: 1, dialect: "rfc5424"}
	if stamp := s[m[4]:m[5]]; stamp != "-" {
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil {
			return e, false
		}
		e.at = at
	}
	e.program = s[m[6]:m[7]]
	rest, ok := skipStructured(s[m[1]:])
	if !ok {
		return e, false
	}
	e.unwrap(strings.TrimPrefix(rest, "\ufeff"))
	return e, true
}

// skipStructured skips the structured data of RFC 5424 section 6.3.
func skipStructured(s string) (rest string, ok bool) {
	if strings.HasPrefix(s, "-") {
		return strings.TrimPrefix(s[1:], " "), true
	}
	quoted := false
	depth := 0
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[':
			depth++
		case c == ']':
			depth--
			if depth == 0 && (i+1 == len(s) || s[i+1] != '[') {
				return strings.TrimPrefix(s[i+1:], " "), true
			}
		case depth == 0:
			return "", false
		}
	}
	return "", false
}

func (e *syslogEntry) setMessage(s string) {
	if m := syslogTag.FindStringSubmatch(s); m != nil {
		e.program = m[1]
		s = s[len(m[0]):]
	}
	if e.program == "kernel" {
		s = strings.TrimSpace(kernelTime.ReplaceAllString(s, ""))
	}
	e.unwrap(s)
}

// unwrap undoes rsyslog's "message repeated N times: [ ... ]".
func (e *syslogEntry) unwrap(s string) {
	if len(s) > maxMessage {
		e.msg, e.cut = s[:maxMessage], true
		return
	}
	if m := repeated.FindStringSubmatch(s); m != nil {
		e.repeat, s = max(1, atoi(m[1])), m[2]
	}
	e.msg = s
}

// Patterns that find who a message is about. User names are chosen by the
// client and may hold " from 192.0.2.1", so the patterns are greedy and tied
// to the end of the message, where the server writes.
var sourcePatterns = []*regexp.Regexp{
	regexp.MustCompile(`^(?:Failed|Accepted) .* from (\S+) port \d+(?: ssh\d?)?(?:: .*)?$`),
	regexp.MustCompile(`^(?:Invalid|Illegal) user .* from (\S+)(?: port \d+)?$`),
	regexp.MustCompile(`\bruser=\S* rhost=(\S+)`),
	regexp.MustCompile(`^maximum authentication attempts exceeded for .* from (\S+) port \d+`),
	regexp.MustCompile(`^(?:Connection (?:closed|reset) by|Disconnected from) .*?(\S+) port \d+(?: \[preauth\])?$`),
	regexp.MustCompile(`^(?:Connection closed by|Disconnected from) (\S+)(?: \[preauth\])?$`),
	regexp.MustCompile(`^(?:error: )?(?:Received disconnect from|Did not receive identification string from|Connection from) ([^\s:]\S*?)(?::? |$)`),
	regexp.MustCompile(`^reverse mapping checking getaddrinfo for \S+ \[(\S+)\] failed`),
	regexp.MustCompile(`\[([0-9A-Fa-f:.]+)\]: SASL \S+ authentication failed`),
	regexp.MustCompile(`\brip=([0-9A-Fa-f:.]+)`),
	regexp.MustCompile(`(?i)^(?:authentication failed|connection) from (\S+) \(`),
	regexp.MustCompile(`\[([0-9A-Fa-f:.]+)\]\)?:? .*(?i:login failed|authentication failed)`),
	regexp.MustCompile(`^User .* from (\S+) not allowed because`),
}

// sourceHints are texts without which no source pattern matches.
var sourceHints = []string{" from ", "rhost=", "rip=", "onnection ", "isconnected", "everse mapping", "]: SASL", "ail"}

// messageSource returns the remote address or host that a message names, or "".
func messageSource(msg string) string {
	if !containsAny(msg, sourceHints) {
		return ""
	}
	for _, p := range sourcePatterns {
		m := p.FindStringSubmatch(msg)
		if m == nil {
			continue
		}
		s := strings.TrimSuffix(m[1], ":")
		if a, err := netip.ParseAddr(s); err == nil {
			return a.Unmap().WithZone("").String()
		}
		if s = strings.ToLower(s); validHost(s) {
			return s
		}
	}
	return ""
}
