package logs

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Kinds of findings in dpkg and apt logs.
const (
	KindBrokenPackage Kind = "package-not-configured"
	KindPackageError  Kind = "package-error"
	KindDowngrade     Kind = "downgrade"
	KindRemoval       Kind = "removal"
	KindDirectInstall Kind = "install-outside-apt"
	KindBulkChange    Kind = "bulk-change"
)

// protective are packages whose removal makes a machine easier to attack or
// the attack harder to see.
var protective = regexp.MustCompile(`^(?:auditd|apparmor|fail2ban|ufw|nftables|iptables|firewalld|rsyslog|unattended-upgrades|aide|clamav(?:-\w+)?|selinux-\S+|rkhunter|crowdsec|ossec\S*|wazuh\S*)(?::|$)`)

var termError = regexp.MustCompile(`^(?:dpkg: error |E: |Errors were encountered while processing:)`)

func (l *Log) findDpkg() []Finding {
	fs := l.findPackageStates()
	fs = append(fs, l.findPackageErrors()...)
	fs = append(fs, l.findDowngrades()...)
	fs = append(fs, l.findRemovals()...)
	fs = append(fs, l.findDirectInstalls()...)
	fs = append(fs, l.findBulk()...)
	return append(fs, l.findInstructions()...)
}

// badStates are the states that a finished run leaves no package in.
var badStates = map[string]Severity{
	"half-installed":   High,
	"half-configured":  High,
	"unpacked":         Medium,
	"triggers-awaited": Low,
	"triggers-pending": Low,
}

// findPackageStates reports packages whose last state is not a final one.
func (l *Log) findPackageStates() []Finding {
	last := map[string]*dpkgEntry{}
	var names []string
	for i := range l.dpkg {
		e := &l.dpkg[i]
		if e.action != "status" {
			continue
		}
		if last[e.pkg] == nil {
			names = append(names, e.pkg)
		}
		last[e.pkg] = e
	}
	var fs []Finding
	for _, p := range names {
		e := last[p]
		sev, bad := badStates[e.state]
		if !bad {
			continue
		}
		fs = append(fs, Finding{
			Kind: KindBrokenPackage, Severity: sev, Subject: showPackage(p), all: []int{e.no},
			Summary: fmt.Sprintf("The log ends with the package in state %s since line %d.", e.state, e.no),
		})
	}
	return fs
}

var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,100}(?::[a-z0-9-]{1,20})?$`)

func showPackage(s string) string {
	if packageName.MatchString(s) {
		return s
	}
	return Escape(s, maxSubject)
}

func (l *Log) findPackageErrors() []Finding {
	var lines []int
	for i := range l.dpkg {
		e := &l.dpkg[i]
		if e.action == "error" || e.action == "term" && termError.MatchString(e.text) {
			lines = append(lines, e.no)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return []Finding{{
		Kind: KindPackageError, Severity: Medium, Subject: plural(len(lines), "line"), all: lines,
		Summary: fmt.Sprintf("%s an error of apt or dpkg.", strings.Replace(plural(len(lines), "line reports"), "line reportss", "lines report", 1)),
	}}
}

func (l *Log) findDowngrades() []Finding {
	var g group
	what := map[string]string{}
	add := func(no int, p historyPackage) {
		g.add(p.name, no)
		what[p.name] = fmt.Sprintf("Went back from %s to %s.", Escape(p.old, maxSubject), Escape(p.version, maxSubject))
	}
	for i := range l.dpkg {
		e := &l.dpkg[i]
		switch e.action {
		case "upgrade":
			if e.dialect == "history.log" {
				for _, p := range historyPackages(e.text) {
					if p.old != "" && compareVersions(p.version, p.old) < 0 {
						add(e.no, p)
					}
				}
			} else if strings.HasPrefix(e.old, "<") || e.version == "" || strings.HasPrefix(e.version, "<") {
				continue
			} else if compareVersions(e.version, e.old) < 0 {
				add(e.no, historyPackage{e.pkg, e.old, e.version})
			}
		case "downgrade":
			for _, p := range historyPackages(e.text) {
				add(e.no, p)
			}
		}
	}
	var fs []Finding
	for _, name := range g.names {
		fs = append(fs, Finding{
			Kind: KindDowngrade, Severity: Medium, Subject: showPackage(name), Summary: what[name], all: g.lines[name],
		})
	}
	return fs
}

// findRemovals reports packages that were removed and did not come back.
func (l *Log) findRemovals() []Finding {
	gone := map[string][]int{}
	var order []string
	note := func(name string, no int) {
		if gone[name] == nil {
			order = append(order, name)
		}
		gone[name] = append(gone[name], no)
	}
	for i := range l.dpkg {
		e := &l.dpkg[i]
		history := e.dialect == "history.log"
		switch e.action {
		case "remove", "purge":
			if !history {
				note(e.pkg, e.no)
			}
			for _, p := range historyPackages(e.text) {
				note(p.name, e.no)
			}
		case "install", "reinstall":
			if !history {
				delete(gone, e.pkg)
			}
			for _, p := range historyPackages(e.text) {
				delete(gone, p.name)
			}
		}
	}
	var names, guards []string
	var lines, guardLines []int
	for _, name := range order {
		n := gone[name]
		if n == nil || slices.Contains(names, name) || slices.Contains(guards, name) {
			continue
		}
		if protective.MatchString(name) {
			guards, guardLines = append(guards, showPackage(name)), append(guardLines, n...)
			continue
		}
		names, lines = append(names, name), append(lines, n...)
	}
	return removalFindings(names, guards, lines, guardLines)
}

func removalFindings(names, guards []string, lines, guardLines []int) []Finding {
	var fs []Finding
	if len(guards) > 0 {
		fs = append(fs, Finding{
			Kind: KindRemoval, Severity: Medium, Subject: join(guards, 3), all: guardLines,
			Summary: fmt.Sprintf("%s that protects or watches the machine removed.", plural(len(guards), "package")),
		})
	}
	if len(names) > 0 {
		sev := Info
		if len(names) >= BulkRemoveMin {
			sev = Low
		}
		shown := make([]string, len(names))
		for i, n := range names {
			shown[i] = showPackage(n)
		}
		fs = append(fs, Finding{
			Kind: KindRemoval, Severity: sev, Subject: plural(len(names), "package"), all: lines,
			Summary: fmt.Sprintf("Removed and not installed again: %s.", join(shown, 5)),
		})
	}
	return fs
}

// findDirectInstalls reports dpkg -i by hand: apt unpacks and configures in
// two steps, and dpkg -i logs "startup archives install".
func (l *Log) findDirectInstalls() []Finding {
	var lines []int
	var names []string
	direct := false
	for i := range l.dpkg {
		e := &l.dpkg[i]
		switch {
		case e.action == "startup":
			direct = e.state == "archives" && e.pkg == "install"
		case direct && (e.action == "install" || e.action == "upgrade"):
			lines = append(lines, e.no)
			if p := showPackage(e.pkg); !slices.Contains(names, p) {
				names = append(names, p)
			}
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return []Finding{{
		Kind: KindDirectInstall, Severity: Low, Subject: join(names, 3), all: lines,
		Summary: fmt.Sprintf("%s installed with dpkg directly, not through apt.", plural(len(names), "package")),
	}}
}

// findBulk reports a run that changes far more packages than the others do.
func (l *Log) findBulk() []Finding {
	var runs [][]int
	var last, block time.Time
	for i := range l.dpkg {
		e := &l.dpkg[i]
		if !e.at.IsZero() {
			block = e.at
		}
		n := 0
		switch e.action {
		case "install", "upgrade", "remove", "purge", "reinstall", "downgrade":
			if n = 1; e.dialect == "history.log" {
				n = len(historyPackages(e.text))
			}
		}
		if n == 0 {
			continue
		}
		if len(runs) == 0 || block.Sub(last) > runGap {
			runs = append(runs, nil)
		}
		last = block
		for range n {
			runs[len(runs)-1] = append(runs[len(runs)-1], e.no)
		}
	}
	if len(runs) < BulkRuns {
		return nil
	}
	sizes := make([]int, len(runs))
	for i, r := range runs {
		sizes[i] = len(r)
	}
	slices.Sort(sizes)
	median := sizes[len(sizes)/2]
	var fs []Finding
	for _, r := range runs {
		if len(r) < BulkChangeMin || len(r) < BulkFactor*median {
			continue
		}
		fs = append(fs, Finding{
			Kind: KindBulkChange, Severity: Info, Subject: plural(len(r), "change"), all: slices.Clone(r),
			Summary: fmt.Sprintf("%s of packages in one run; the median run has %d.", plural(len(r), "change"), median),
		})
	}
	return fs
}
