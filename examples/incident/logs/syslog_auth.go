package logs

import (
	"fmt"
	"regexp"
	"strings"
)

// Kinds of findings in syslog and journal text.
const (
	KindBruteForce   Kind = "brute-force"
	KindBreakIn      Kind = "login-after-brute-force"
	KindBruteSpread  Kind = "brute-force-spread"
	KindLocalLogin   Kind = "local-login-failures"
	KindSudo         Kind = "sudo-failure"
	KindConnections  Kind = "connection-burst"
	KindOutOfMemory  Kind = "out-of-memory"
	KindCrash        Kind = "crash"
	KindService      Kind = "service-failure"
	KindRestartLoop  Kind = "restart-loop"
	KindDiskError    Kind = "disk-error"
	KindReadOnly     Kind = "read-only-remount"
	KindDiskFull     Kind = "disk-full"
	KindKernelFault  Kind = "kernel-fault"
	KindHardware     Kind = "hardware-error"
	KindUrgent       Kind = "urgent-messages"
	KindProgramError Kind = "program-errors"
)

var (
	failedPassword = regexp.MustCompile(`^Failed (?:password|keyboard-interactive/pam) for `)
	failedNone     = regexp.MustCompile(`^Failed none for `)
	invalidUser    = regexp.MustCompile(`^(?:Invalid|Illegal) user `)
	pamFailure     = regexp.MustCompile(`(?i)authentication failures?;`)
	otherFailure   = regexp.MustCompile(`(?i)\bauthentication fail(?:ed|ure)\b|\bauth failed\b|\blogin fail(?:ed|ure)\b|\bfailed login\b|maximum authentication attempts exceeded`)
	acceptedLogin  = regexp.MustCompile(`^Accepted (?:password|keyboard-interactive\S*) for (.*) from \S+ port \d+`)
	sudoAttempts   = regexp.MustCompile(`^\s*(\S+) : (\d{1,3}) incorrect password attempts? ;`)
	sudoDenied     = regexp.MustCompile(`^\s*(\S+) : (?:user NOT in sudoers|user NOT authorized|command not allowed) ;`)
	connectionFrom = regexp.MustCompile(`^connection from \S+ `)
)

// sourceStats is what one remote source did.
type sourceStats struct {
	source    string
	lines     []int
	passwords int // with repeats
	wrapped   int // repeats that have no line of their own
	unknown   int
	refused   int // PAM and other daemons, which report the same attempt again
	programs  map[string]int
	success   []int
	user      string
}

// attempts counts sign-ins once, though several lines may report one.
func (s *sourceStats) attempts() int { return max(s.passwords, s.unknown, s.refused) }

func (l *Log) findAuth() []Finding {
	bySource := map[string]*sourceStats{}
	var sources []*sourceStats
	var local group
	for i := range l.syslog {
		e := &l.syslog[i]
		if !isAuthFailure(e) && (e.source == "" || !acceptedLogin.MatchString(e.msg)) {
			continue
		}
		if e.source == "" {
			if !strings.HasPrefix(e.program, "sudo") && !strings.Contains(e.msg, "sudo:auth") {
				local.add(e.program, e.no)
			}
			continue
		}
		s := bySource[e.source]
		if s == nil {
			s = &sourceStats{source: e.source, programs: map[string]int{}}
			bySource[e.source] = s
			sources = append(sources, s)
		}
		s.add(e)
	}
	fs := authFindings(sources)
	for _, program := range local.names {
		if n := local.lines[program]; len(n) >= LocalFailMin {
			fs = append(fs, Finding{
				Kind: KindLocalLogin, Severity: Low, Subject: Escape(program, maxSubject), all: n,
				Summary: fmt.Sprintf("%s about a failed sign-in that name no remote source.", plural(len(n), "message")),
			})
		}
	}
	return fs
}

// failureHints are texts without which no pattern of a failure matches.
var failureHints = []string{"ail", "AIL", "nvalid user", "llegal user", "maximum authentication"}

func isAuthFailure(e *syslogEntry) bool {
	return containsAny(e.msg, failureHints) && (failedNone.MatchString(e.msg) || failedPassword.MatchString(e.msg) || invalidUser.MatchString(e.msg) || otherFailure.MatchString(e.msg) || pamFailure.MatchString(e.msg))
}

func (s *sourceStats) add(e *syslogEntry) {
	if m := acceptedLogin.FindStringSubmatch(e.msg); m != nil {
		if len(s.success) == 0 && s.attempts() >= BruteForceMin {
			s.success = append(s.success, e.no)
			s.user = m[1]
		}
		return
	}
	s.lines = append(s.lines, e.no)
	s.programs[e.program]++
	switch {
	case failedPassword.MatchString(e.msg):
		s.passwords += e.repeat
		s.wrapped += e.repeat - 1
	case failedNone.MatchString(e.msg):
		// The client asked which methods there are; another line tells of the attempt.
	case invalidUser.MatchString(e.msg):
		s.unknown += e.repeat
	default:
		s.refused += e.repeat
	}
}

func authFindings(sources []*sourceStats) []Finding {
	var fs []Finding
	var spread []int
	few, fewAttempts := 0, 0
	for _, s := range sources {
		if s.attempts() < BruteForceMin {
			if len(s.lines) > 0 {
				few++
				fewAttempts += s.attempts()
				spread = append(spread, s.lines...)
			}
			continue
		}
		f := Finding{
			Kind: KindBruteForce, Severity: Medium, Subject: showSource(s.source), Stoppable: ruleable(s.source), source: s.source,
			Summary: fmt.Sprintf("%s failed from this source (%s): %s, %s, %s.", plural(s.attempts(), "sign-in"),
				Escape(majority(s.programs), maxSubject), plural(s.passwords, "wrong password"), plural(s.unknown, "unknown user"),
				plural(s.refused, "other report")),
			all: s.lines,
		}
		if s.wrapped > 0 {
			f.Summary += fmt.Sprintf(" The log folds %s into others.", plural(s.wrapped, "message"))
		}
		if len(s.success) > 0 {
			f.Kind, f.Severity = KindBreakIn, High
			f.Summary += fmt.Sprintf(" Then line %d signed in as %s.", s.success[0], Escape(s.user, maxSubject))
			f.all = append(f.all, s.success...)
		}
		fs = append(fs, f)
	}
	if few >= SpreadSources && fewAttempts >= SpreadMin {
		fs = append(fs, Finding{
			Kind: KindBruteSpread, Severity: Low, Subject: plural(few, "source"), all: spread,
			Summary: fmt.Sprintf("%s failed, fewer than %d from each source.", plural(fewAttempts, "sign-in"), BruteForceMin),
		})
	}
	return fs
}

func (l *Log) findSudo() []Finding {
	var wrong, denied group
	attempts := map[string]int{}
	for i := range l.syslog {
		e := &l.syslog[i]
		if e.program != "sudo" {
			continue
		}
		if m := sudoDenied.FindStringSubmatch(e.msg); m != nil {
			denied.add(m[1], e.no)
		} else if m := sudoAttempts.FindStringSubmatch(e.msg); m != nil {
			wrong.add(m[1], e.no)
			attempts[m[1]] += atoi(m[2]) * e.repeat
		}
	}
	var fs []Finding
	for _, user := range denied.names {
		n := denied.lines[user]
		fs = append(fs, Finding{
			Kind: KindSudo, Severity: Medium, Subject: Escape(user, maxSubject), all: n,
			Summary: fmt.Sprintf("%s to use sudo without being allowed to.", plural(len(n), "attempt")),
		})
	}
	for _, user := range wrong.names {
		if attempts[user] < SudoFailMin {
			continue
		}
		fs = append(fs, Finding{
			Kind: KindSudo, Severity: Low, Subject: Escape(user, maxSubject), all: wrong.lines[user],
			Summary: plural(attempts[user], "wrong sudo password") + ".",
		})
	}
	return fs
}

// findConnections reports one source that opens connections in bursts.
func (l *Log) findConnections() []Finding {
	type key struct{ source, program string }
	byKey := map[key][]int{}
	var keys []key
	for i := range l.syslog {
		e := &l.syslog[i]
		if e.source == "" || e.at.IsZero() || !connectionFrom.MatchString(e.msg) {
			continue
		}
		k := key{e.source, e.program}
		if byKey[k] == nil {
			keys = append(keys, k)
		}
		byKey[k] = append(byKey[k], i)
	}
	var fs []Finding
	for _, k := range keys {
		hot := l.syslogBurst(byKey[k], ConnectionMin)
		if len(hot) == 0 {
			continue
		}
		fs = append(fs, Finding{
			Kind: KindConnections, Severity: Low, Subject: showSource(k.source), Stoppable: ruleable(k.source), source: k.source, all: hot,
			Summary: fmt.Sprintf("%s to %s in bursts of at least %d a minute.", plural(len(hot), "connection"), Escape(k.program, maxSubject), ConnectionMin),
		})
	}
	return fs
}
