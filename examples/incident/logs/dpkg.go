package logs

import (
	"regexp"
	"strings"
	"time"
)

// dpkgEntry is one line of dpkg.log, of apt's history.log or of its term.log.
type dpkgEntry struct {
	no      int
	at      time.Time // zero when the line has no time
	action  string    // install, upgrade, remove, purge, status, startup, or a field of history.log in lower case
	state   string    // of a status line; the mode of a startup line
	pkg     string    // name:architecture
	old     string
	version string
	text    string // value of a history field, or the message of a term line
	dialect string
}

var (
	dpkgLine    = regexp.MustCompile(`^(\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}) (startup|status|install|upgrade|configure|trigproc|disappear|remove|purge|conffile) (\S+)(?: (\S+))?(?: (\S+))?$`)
	historyLine = regexp.MustCompile(`^(Start-Date|End-Date|Commandline|Requested-By|Comment|Install|Reinstall|Upgrade|Downgrade|Remove|Purge|Error): ?(.*)$`)
	termLine    = regexp.MustCompile(`^(?:Log (started|ended): (\d{4}-\d{2}-\d{2}  \d{2}:\d{2}:\d{2})|Selecting previously unselected package |\(Reading database \.\.\. |Preparing to unpack |Unpacking \S+ \(|Setting up \S+ \(|Processing triggers for |Removing \S+ \(|Purging configuration files for |Created symlink |update-alternatives: |Replacing config file |Preconfiguring packages|dpkg: |E: |W: |Errors were encountered while processing:|No apport report written|Building dependency tree|Fetched |invoke-rc\.d: )`)
	historyItem = regexp.MustCompile(`(\S+) \(([^)]*)\)`)
)

func (l *Log) parseDpkg() {
	dialects := map[string]int{}
	for i, s := range l.lines {
		e, ok := parseDpkgLine(s)
		if !ok {
			continue
		}
		e.no = i + 1
		dialects[e.dialect]++
		l.dpkg = append(l.dpkg, e)
	}
	l.Stats.Parsed = len(l.dpkg)
	l.Dialect = majority(dialects)
}

func parseDpkgLine(s string) (dpkgEntry, bool) {
	// A progress line holds many carriage returns; its beginning tells.
	if m := dpkgLine.FindStringSubmatch(s); m != nil {
		at, err := time.Parse("2006-01-02 15:04:05", m[1])
		if err != nil {
			return dpkgEntry{}, false
		}
		e := dpkgEntry{at: at, action: m[2], pkg: m[3], old: m[4], version: m[5], dialect: "dpkg.log"}
		if e.action == "status" || e.action == "startup" {
			e.state, e.pkg, e.old = m[3], m[4], ""
		}
		return e, true
	}
	if m := historyLine.FindStringSubmatch(s); m != nil {
		e := dpkgEntry{action: strings.ToLower(m[1]), text: m[2], dialect: "history.log"}
		if e.action == "start-date" || e.action == "end-date" {
			at, err := time.Parse("2006-01-02  15:04:05", m[2])
			if err != nil {
				return dpkgEntry{}, false
			}
			e.at = at
		}
		return e, true
	}
	if m := termLine.FindStringSubmatch(s); m != nil {
		return dpkgEntry{action: "term", text: s, dialect: "term.log"}, true
	}
	return dpkgEntry{}, false
}

// historyPackage is one package of a history field.
type historyPackage struct{ name, old, version string }

// historyPackages reads "a:amd64 (1.0, 1.1), b:all (2, automatic)".
func historyPackages(s string) []historyPackage {
	var out []historyPackage
	for _, m := range historyItem.FindAllStringSubmatch(s, -1) {
		p := historyPackage{name: m[1]}
		first, second, ok := strings.Cut(m[2], ", ")
		if p.version = first; ok && second != "automatic" {
			p.old, p.version = first, second
		}
		out = append(out, p)
	}
	return out
}
