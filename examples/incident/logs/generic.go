package logs

import (
	"regexp"
	"strings"
	"time"
)

// genericEntry is one line of a log in no known format.
type genericEntry struct {
	no    int
	at    time.Time // zero when no time was found
	level level
}

// level is how severe a line says it is.
type level uint8

const (
	levelNone level = iota
	levelInfo
	levelWarning
	levelError
	levelFatal
)

var levelNames = map[string]level{
	"trace": levelInfo, "debug": levelInfo, "info": levelInfo, "notice": levelInfo,
	"warn": levelWarning, "warning": levelWarning,
	"error": levelError, "err": levelError, "severe": levelError,
	"fatal": levelFatal, "panic": levelFatal, "critical": levelFatal, "crit": levelFatal,
	"emerg": levelFatal, "emergency": levelFatal, "alert": levelFatal,
}

const levelWords = `trace|debug|info|notice|warning|warn|error|err|severe|fatal|panic|critical|crit|emergency|emerg|alert`

// levelPatterns find a level where programs write one. A word in running text
// ("0 errors", "no error") is not a level.
var (
	levelKey     = regexp.MustCompile(`(?i)(?:^|[\s,{"])(?:level|lvl|severity|loglevel|log\.level)"?\s*[=:]\s*"?(` + levelWords + `)\b`)
	levelBracket = regexp.MustCompile(`(?i)[\[(](?:[a-z0-9_]{1,20}:)?(` + levelWords + `)[\])]`)
	levelUpper   = regexp.MustCompile(`(?:^|[\s|>\[(:"])(TRACE|DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|ERR!?|SEVERE|FATAL|PANIC|CRITICAL|CRIT|EMERG|ALERT)(?:[\s|:,\])"!]|$)`)
	levelPrefix  = regexp.MustCompile(`(?i)^(?:\S{0,64}[\s:]+)?(` + levelWords + `)(?:\[[^\]]*\])?: `)
	levelKlog    = regexp.MustCompile(`^([IWEF])\d{4} \d{2}:\d{2}:\d{2}\.`)
)

// levelHints are texts, in lower case, without which a line has no level.
var levelHints = []string{"trace", "debug", "info", "notice", "warn", "err", "severe", "fatal", "panic", "crit", "emerg", "alert"}

// levelWithin is how far into a line a bare upper-case level may stand.
const levelWithin = 160

// lineLevel returns the level that a line states, the leftmost when it states
// several.
func lineLevel(s string) level {
	if len(s) > 4*levelWithin {
		s = s[:4*levelWithin]
	}
	if !containsAny(strings.ToLower(s), levelHints) && !levelKlog.MatchString(s) {
		return levelNone
	}
	if m := levelKlog.FindStringSubmatch(s); m != nil {
		return map[string]level{"I": levelInfo, "W": levelWarning, "E": levelError, "F": levelFatal}[m[1]]
	}
	best, at := levelNone, len(s)+1
	for _, p := range []*regexp.Regexp{levelKey, levelBracket, levelUpper, levelPrefix} {
		m := p.FindStringSubmatchIndex(s)
		if m == nil || m[2] >= at || p == levelUpper && m[2] > levelWithin {
			continue
		}
		at = m[2]
		best = levelNames[strings.ToLower(strings.TrimSuffix(s[m[2]:m[3]], "!"))]
	}
	return best
}

// genericTimes are the forms of a time near the beginning of a line.
var genericTimes = []struct {
	pattern *regexp.Regexp
	layout  string
}{
	{regexp.MustCompile(`\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}`), "2006-01-02T15:04:05"},
	{regexp.MustCompile(`\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}`), "2006-01-02 15:04:05"},
	{regexp.MustCompile(`\d{4}/\d{2}/\d{2} \d{2}:\d{2}:\d{2}`), "2006/01/02 15:04:05"},
	{regexp.MustCompile(`[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d{2}:\d{2}:\d{2}(?:\.\d+)? \d{4}`), "Mon Jan _2 15:04:05 2006"},
	{regexp.MustCompile(`\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2}`), "02/Jan/2006:15:04:05"},
	{regexp.MustCompile(`^\d{2}/\d{2}/\d{2} \d{2}:\d{2}:\d{2}`), "06/01/02 15:04:05"},
	{regexp.MustCompile(`^\d{6} \d{6}\b`), "060102 150405"},
	{regexp.MustCompile(`\b` + months + ` [ \d]?\d \d{2}:\d{2}:\d{2}`), "Jan _2 15:04:05"},
	{regexp.MustCompile(`^[IWEF]\d{4} \d{2}:\d{2}:\d{2}`), ""},
	{regexp.MustCompile(`^\[?\d{2}[-.]\d{2} \d{2}:\d{2}:\d{2}`), ""},
	{regexp.MustCompile(`^\[?\d{2}:\d{2}:\d{2}\b`), ""},
	{regexp.MustCompile(`^\d{8}-\d{1,2}:\d{1,2}:\d{1,2}`), ""},
}

// timeWithin is how far into a line its time may stand.
const timeWithin = 96

func lineTime(s string) (at time.Time, found bool) {
	if len(s) > timeWithin {
		s = s[:timeWithin]
	}
	// Every form has a colon between digits, but for the six digits that
	// begin a line of HDFS.
	if !hasClock(s) && (len(s) < 13 || digits(s) != 6) {
		return time.Time{}, false
	}
	for _, t := range genericTimes {
		m := t.pattern.FindString(s)
		if m == "" {
			continue
		}
		if t.layout == "" {
			return time.Time{}, true
		}
		if at, err := time.Parse(t.layout, m); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// hasClock reports whether a colon stands between two digits.
func hasClock(s string) bool {
	for i := 1; i+1 < len(s); i++ {
		if s[i] == ':' && isDigit(s[i-1]) && isDigit(s[i+1]) {
			return true
		}
	}
	return false
}

// parseGeneric counts a line as parsed when it has a time or a level.
func (l *Log) parseGeneric() {
	for i, s := range l.lines {
		at, ok := lineTime(s)
		e := genericEntry{no: i + 1, at: at, level: lineLevel(s)}
		if ok || e.level != levelNone {
			l.Stats.Parsed++
			l.generic = append(l.generic, e)
		}
	}
	l.Dialect = "text"
}

var (
	templateQuoted = regexp.MustCompile(`"[^"]*"|'[^']*'`)
	templatePath   = regexp.MustCompile(`(?:/[^\s/:,;\])]+){2,}/?`)
	templateWord   = regexp.MustCompile(`\b[0-9a-fA-F]{8,}\b|[\w.:$-]*\d[\w.:$-]*`)
)

// template replaces what varies between messages of one kind.
func template(s string) string {
	if len(s) > 4*levelWithin {
		s = s[:4*levelWithin]
	}
	s = templateQuoted.ReplaceAllString(s, "*")
	s = templatePath.ReplaceAllString(s, "*")
	return templateWord.ReplaceAllString(s, "*")
}
