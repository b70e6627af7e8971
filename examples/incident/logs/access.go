package logs

import (
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// accessEntry is one line of a web access log. Every string is untrusted.
type accessEntry struct {
	no      int
	client  string // address in canonical form, or a host name in lower case
	at      time.Time
	method  string // empty when the request is not HTTP
	target  string // as requested
	path    string // target without the query, percent-decoded once
	request string
	status  int
	user    string
	referer string
	agent   string
	dialect string
}

// accessTime finds the time field, the only fixed point of a line: user names
// may hold spaces and hosts may hold colons.
var accessTime = regexp.MustCompile(`\[(\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2}(?:\.\d+)? [+-]\d{4})\] "`)

// accessStatus is what follows the request.
var accessStatus = regexp.MustCompile(`^" (\d{3}|-) (\d+|-)(?: |$)`)

// accessMethod is a token that may be an HTTP method.
var accessMethod = regexp.MustCompile(`^[A-Z][A-Z_-]{1,24}$`)

func (l *Log) parseAccess() {
	dialects := map[string]int{}
	for i, s := range l.lines {
		e, ok := parseAccess(s)
		if !ok {
			continue
		}
		e.no = i + 1
		dialects[e.dialect]++
		l.access = append(l.access, e)
	}
	l.Stats.Parsed = len(l.access)
	l.Dialect = majority(dialects)
}

// parseAccess reads the Common and Combined Log Formats, with a virtual host
// in front and with more fields behind.
func parseAccess(s string) (accessEntry, bool) {
	loc := accessTime.FindStringSubmatchIndex(s)
	if loc == nil {
		return accessEntry{}, false
	}
	var e accessEntry
	if !e.parseHead(s[:loc[0]]) {
		return accessEntry{}, false
	}
	at, err := time.Parse("02/Jan/2006:15:04:05 -0700", s[loc[2]:loc[3]])
	if err != nil {
		return accessEntry{}, false
	}
	e.at = at
	request, rest, ok := accessRequest(s[loc[1]:])
	if !ok {
		return accessEntry{}, false
	}
	m := accessStatus.FindStringSubmatchIndex(rest)
	e.status = atoi(rest[m[2]:m[3]])
	e.setRequest(unescapeField(request))
	e.dialect = "common"
	tail := rest[m[1]:]
	if referer, tail, ok := quotedField(tail); ok {
		e.referer = referer
		if agent, _, ok := quotedField(strings.TrimPrefix(tail, " ")); ok {
			e.agent, e.dialect = agent, "combined"
		}
	}
	return e, true
}

// parseHead reads what precedes the time: [vhost] client[, proxy...] ident user.
func (e *accessEntry) parseHead(s string) bool {
	f := strings.Fields(s)
	if len(f) < 3 {
		return false
	}
	client := strings.TrimSuffix(f[0], ",")
	if _, err := netip.ParseAddr(strings.Trim(client, "[]")); err != nil && len(f) > 3 {
		if _, err := netip.ParseAddr(strings.Trim(strings.TrimSuffix(f[1], ","), "[]")); err == nil {
			client = strings.TrimSuffix(f[1], ",")
		}
	}
	e.client = canonicalSource(client)
	e.user = unescapeField(f[len(f)-1])
	return true
}

// canonicalSource writes an address in one form, so that lines group.
func canonicalSource(s string) string {
	s = strings.Trim(s, "[]")
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone("").String()
	}
	return strings.ToLower(s)
}

// accessRequest cuts the request field. Some servers do not escape quotes in
// it, so the end is the first quote that a status follows.
func accessRequest(s string) (request, rest string, ok bool) {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == '"' && accessStatus.MatchString(s[i:]):
			return s[:i], s[i:], true
		}
	}
	return "", "", false
}

func (e *accessEntry) setRequest(request string) {
	e.request = request
	f := strings.Fields(request)
	if len(f) < 2 || !accessMethod.MatchString(f[0]) {
		return
	}
	e.method = f[0]
	end := len(f)
	if strings.HasPrefix(f[end-1], "HTTP/") && end > 2 {
		end--
	}
	e.target = strings.Join(f[1:end], " ")
	path, _, _ := strings.Cut(e.target, "?")
	e.path = decodePercent(path)
}

// quotedField reads one field in quotes and undoes the server's escaping.
func quotedField(s string) (field, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return "", "", false
	}
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case s[i] == '"' && (i+1 == len(s) || s[i+1] == ' '):
			return unescapeField(s[1:i]), s[i+1:], true
		}
	}
	return "", "", false
}

// unescapeField undoes \" \\ \n \r \t and \xHH, as Apache and nginx write them.
func unescapeField(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch c := s[i]; {
		case c == 'x' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0:
			b.WriteByte(byte(unhex(s[i+1])<<4 | unhex(s[i+2]))) //nolint:gosec // G115: two hex digits, as the condition says.
			i += 2
		case c == 'n':
			b.WriteByte('\n')
		case c == 'r':
			b.WriteByte('\r')
		case c == 't':
			b.WriteByte('\t')
		case c == '"' || c == '\\':
			b.WriteByte(c)
		default:
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	return b.String()
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// decodePercent decodes %HH where it is valid and leaves the rest.
func decodePercent(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	if out, err := url.PathUnescape(s); err == nil {
		return out
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0 {
			b.WriteByte(byte(unhex(s[i+1])<<4 | unhex(s[i+2]))) //nolint:gosec // G115: two hex digits, as the condition says.
			i += 2
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// atoi reads a short decimal number; anything else is 0.
func atoi(s string) int {
	n := 0
	for i := 0; i < len(s) && i < 9; i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0
		}
		n = n*10 + int(s[i]-'0')
	}
	return n
}
