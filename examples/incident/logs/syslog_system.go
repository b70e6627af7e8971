package logs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// systemRule finds one kind of trouble in messages; the first group, if any,
// names the subject.
type systemRule struct {
	kind     Kind
	severity Severity
	pattern  *regexp.Regexp
	subject  string // when the pattern has no group, or it is empty
	text     string // after "N messages"
}

// systemRules are tried in order; a message counts for the first that matches.
var systemRules = []systemRule{
	{KindReadOnly, High, regexp.MustCompile(`(?i)remount(?:ing|ed)?\s+(?:filesystem\s+)?(?:as\s+)?read-only|^(?:EXT[234]-fs|JBD2?).*Aborting journal|Detected aborted journal`), "file system", "about a file system that turned read-only"},
	{KindDiskError, High, regexp.MustCompile(`(?i)\b(?:buffer )?i/o error.*?\bdev(?:ice)? ([a-z]+[0-9a-z-]*)`), "", "about a device that cannot be read or written"},
	{KindDiskError, High, regexp.MustCompile(`(?i)EXT[234]-fs error \(device ([\w-]+)\)|XFS \(([\w-]+)\).*(?:corruption|I/O error)|BTRFS (?:error|critical) \(device ([\w-]+)`), "", "about a damaged file system"},
	{KindDiskError, High, regexp.MustCompile(`(?i)\bcritical medium error\b|Unrecovered read error|^ata\d+\.\d+: (?:failed command|exception Emask)|Currently unreadable \(pending\) sectors|Offline uncorrectable sectors|FAILED SMART self-check|^(?:sd \S+: )?\[?\w*\]? ?Medium Error`), "disk", "about a disk that fails"},
	{KindDiskFull, High, regexp.MustCompile(`(?i)\bno space left on device\b`), "file system", "about a full file system"},
	{KindOutOfMemory, High, regexp.MustCompile(`(?i)(?:out of memory|oom).*?kill(?:ed)? process \d+[, ]+\(?([^),\s]+)`), "memory", "about processes killed for lack of memory"},
	{KindOutOfMemory, High, regexp.MustCompile(`^Killed process \d+[, ]+\(?([^),\s]+)`), "memory", "about processes killed for lack of memory"},
	{KindOutOfMemory, High, regexp.MustCompile(`(?i)^out of memory\b|^(\S+) invoked oom-killer|killed by the OOM killer|Failed with result 'oom-kill'`), "memory", "about processes killed for lack of memory"},
	{KindKernelFault, High, regexp.MustCompile(`^(?:Kernel panic|BUG: |Oops: |watchdog: BUG: soft lockup|INFO: task .* blocked for more than|rcu: INFO: .*stall|NMI watchdog: )|general protection fault.*\[#\d+\]`), "kernel", "about a fault of the kernel"},
	{KindCrash, Medium, regexp.MustCompile(`^(\S+?)\[\d+\]:? segfault at |^traps: (\S+?)\[\d+\]|^Process \d+ \(([^)]+)\) of user \d+ (?:dumped core|terminated abnormally)`), "process", "about a crashed process"},
	{KindCrash, Medium, regexp.MustCompile(`(?i)\bsegfault at\b|\bsegmentation fault\b|\bcore dumped\b`), "process", "about a crashed process"},
	{KindHardware, Medium, regexp.MustCompile(`(?i)\[?hardware error\]?:|machine check (?:events?|exception)|\bEDAC\b.*\b[CU]E\b|temperature above threshold`), "hardware", "about failing hardware"},
	{KindService, Low, regexp.MustCompile(`^(\S+\.\w+): (?:Failed with result|Unit entered failed state|Main process exited, code=(?:exited, status=[1-9]|killed, status=(?:6|7|8|9|11)/|dumped))`), "", "about a service that failed"},
	{KindService, Low, regexp.MustCompile(`^Failed to start ([^.]+(?:\.service)?)\b`), "", "about a service that did not start"},
	{KindService, Low, regexp.MustCompile(`\bALERT exited abnormally with \[\d+\]`), "job", "about a job that failed"},
}

var restartCounter = regexp.MustCompile(`^(\S+\.\w+): Scheduled restart job, restart counter is at \d+|^(\S+\.\w+): Start request repeated too quickly`)

// removable are drives that report errors when they are empty.
var removable = regexp.MustCompile(`^(?:fd|sr)\d$`)

func (l *Log) findSyslog() []Finding {
	fs := l.findAuth()
	fs = append(fs, l.findSudo()...)
	fs = append(fs, l.findConnections()...)
	fs = append(fs, l.findSystem()...)
	fs = append(fs, l.findRestarts()...)
	fs = append(fs, l.findInstructions()...)
	return append(fs, l.findLeftErrors(fs)...)
}

func (l *Log) findSystem() []Finding {
	type key struct {
		kind    Kind
		subject string
	}
	found := map[key]*Finding{}
	var keys []key
	for i := range l.syslog {
		e := &l.syslog[i]
		r, subject := matchSystem(e)
		if r == nil {
			continue
		}
		k := key{r.kind, subject}
		f := found[k]
		if f == nil {
			f = &Finding{Kind: r.kind, Severity: r.severity, Subject: Escape(subject, maxSubject), Summary: r.text}
			if r.kind == KindDiskError && removable.MatchString(subject) {
				f.Severity = Low
			}
			found[k] = f
			keys = append(keys, k)
		}
		f.all = append(f.all, e.no)
	}
	fs := make([]Finding, 0, len(keys))
	for _, k := range keys {
		f := found[k]
		if f.Severity == Low && k.kind == KindService && len(f.all) >= RestartMin {
			f.Severity = Medium
		}
		f.Summary = plural(len(f.all), "message") + " " + f.Summary + "."
		fs = append(fs, *f)
	}
	return fs
}

// systemHints are texts, in lower case, without which no system rule matches.
var systemHints = []string{
	"read-only", "aborting journal", "aborted journal", "i/o error", "fs error", "xfs", "btrfs", "medium error", "read error",
	"failed command", "exception emask", "sectors", "smart", "no space left", "out of memory", "oom", "killed process",
	"panic", "bug:", "oops:", "blocked for more than", "stall", "nmi watchdog", "general protection", "segfault", "traps:",
	"dumped core", "terminated abnormally", "segmentation", "core dumped", "hardware error", "machine check", "edac",
	"temperature above", "failed", "main process", "exited abnormally",
}

func matchSystem(e *syslogEntry) (*systemRule, string) {
	if !containsAny(strings.ToLower(e.msg), systemHints) {
		return nil, ""
	}
	for i := range systemRules {
		r := &systemRules[i]
		m := r.pattern.FindStringSubmatch(e.msg)
		if m == nil {
			continue
		}
		subject := r.subject
		for _, g := range m[1:] {
			if g != "" {
				subject = g
			}
		}
		return r, subject
	}
	return nil, ""
}

func (l *Log) findRestarts() []Finding {
	var g group
	gaveUp := map[string]int{}
	for i := range l.syslog {
		e := &l.syslog[i]
		m := restartCounter.FindStringSubmatch(e.msg)
		if m == nil {
			continue
		}
		g.add(m[1]+m[2], e.no)
		if m[2] != "" {
			gaveUp[m[2]]++
		}
	}
	var fs []Finding
	for _, unit := range g.names {
		n, ended := g.lines[unit], gaveUp[unit]
		if len(n)-ended < RestartMin && ended == 0 {
			continue
		}
		summary := fmt.Sprintf("systemd scheduled %s of the unit", plural(len(n)-ended, "restart"))
		if ended > 0 {
			summary += " and gave up"
		}
		fs = append(fs, Finding{
			Kind: KindRestartLoop, Severity: Medium, Subject: Escape(unit, maxSubject), Summary: summary + ".", all: n,
		})
	}
	return fs
}

// findLeftErrors reports messages that say they are errors and that nothing
// else explains.
func (l *Log) findLeftErrors(found []Finding) []Finding {
	known := map[int]bool{}
	for i := range found {
		for _, n := range found[i].all {
			known[n] = true
		}
	}
	var urgent []int
	var programs group
	for i := range l.syslog {
		e := &l.syslog[i]
		switch {
		case known[e.no] || isAuthFailure(e):
		case e.severity >= 0 && e.severity <= 2:
			urgent = append(urgent, e.no)
		case e.severity == 3, e.severity < 0 && lineLevel(e.msg) >= levelError:
			programs.add(e.program, e.no)
		}
	}
	var fs []Finding
	if len(urgent) > 0 {
		fs = append(fs, Finding{
			Kind: KindUrgent, Severity: Medium, Subject: plural(len(urgent), "message"), all: urgent,
			Summary: fmt.Sprintf("%s of priority emergency, alert or critical.", plural(len(urgent), "message")),
		})
	}
	for _, p := range programs.names {
		if n := programs.lines[p]; len(n) >= ProgramErrorMin {
			fs = append(fs, Finding{
				Kind: KindProgramError, Severity: Low, Subject: Escape(p, maxSubject), all: n,
				Summary: fmt.Sprintf("%s of this program say that they are errors.", plural(len(n), "message")),
			})
		}
	}
	return fs
}

// syslogBurst returns the lines of entries that lie in a burst.
func (l *Log) syslogBurst(idx []int, n int) []int {
	idx = slices.Clone(idx)
	slices.SortStableFunc(idx, func(a, b int) int { return l.syslog[a].at.Compare(l.syslog[b].at) })
	times := make([]time.Time, len(idx))
	for i, x := range idx {
		times[i] = l.syslog[x].at
	}
	var out []int
	for i, m := range marked(times, BurstWindow, n) {
		if m {
			out = append(out, l.syslog[idx[i]].no)
		}
	}
	return out
}
