package logs

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Severity orders findings.
type Severity uint8

// Severities, least first. The zero value is Info.
const (
	Info Severity = iota
	Low
	Medium
	High
)

var severityNames = [...]string{"info", "low", "medium", "high"}

// String returns the lower-case name.
func (s Severity) String() string {
	if int(s) >= len(severityNames) {
		return "unknown"
	}
	return severityNames[s]
}

// MarshalText returns the name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts the four names only.
func (s *Severity) UnmarshalText(b []byte) error {
	i := slices.Index(severityNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("unknown severity %s", Escape(string(b), maxSubject))
	}
	*s = Severity(i) //nolint:gosec // G115: an index of severityNames, which has four members.
	return nil
}

// Kind names what a finding is about.
type Kind string

// Finding is one thing that is wrong in a log. Its strings are safe to show:
// text from the log is in them only as Escape returned it.
type Finding struct {
	ID        string   `json:"id"` // F1, F2, ... within one log
	Kind      Kind     `json:"kind"`
	Severity  Severity `json:"severity"`
	Subject   string   `json:"subject"` // client, source, user, unit, package
	Summary   string   `json:"summary"` // one sentence
	Lines     []int    `json:"lines"`   // the first MaxEvidence line numbers, from 1
	Total     int      `json:"total_lines"`
	Excerpt   string   `json:"excerpt,omitempty"` // escaped text of one line
	Stoppable bool     `json:"stoppable"`         // a deny rule can stop these lines

	merged  bool   // stands for the findings beyond MaxPerKind
	all     []int  // every evidence line, ascending
	source  string // the one client or source, raw; empty when there are several
	literal string // text for a user-agent rule, raw
}

// Findings returns what is wrong in the log, most severe first, and an empty
// list when nothing is. The result is the caller's own.
func (l *Log) Findings() []Finding {
	l.analyze()
	out := slices.Clone(l.findings)
	for i := range out {
		out[i].Lines = slices.Clone(out[i].Lines)
	}
	return out
}

func (l *Log) analyze() {
	l.once.Do(func() {
		l.findings = l.find()
		l.ev = l.collectEvidence()
	})
}

func (l *Log) find() []Finding {
	var fs []Finding
	switch l.Format {
	case FormatAccess:
		fs = l.findAccess()
	case FormatSyslog:
		fs = l.findSyslog()
	case FormatDpkg:
		fs = l.findDpkg()
	case FormatGeneric:
		fs = l.findGeneric()
	case FormatEmpty: // no line, no finding
	}
	for i := range fs {
		fs[i].seal(l)
	}
	sortFindings(fs)
	fs = mergeExcess(fs)
	sortFindings(fs)
	for i := range fs {
		fs[i].ID = fmt.Sprintf("F%d", i+1)
	}
	return fs
}

// seal orders the evidence and fills what follows from it.
func (f *Finding) seal(l *Log) {
	slices.Sort(f.all)
	f.all = slices.Compact(f.all)
	f.Total = len(f.all)
	f.Lines = slices.Clone(f.all[:min(len(f.all), MaxEvidence)])
	if f.Excerpt == "" && len(f.all) > 0 {
		text, _ := l.Line(f.all[0])
		f.Excerpt = Escape(text, maxExcerpt)
	}
}

func sortFindings(fs []Finding) {
	sort.SliceStable(fs, func(i, j int) bool {
		a, b := &fs[i], &fs[j]
		switch {
		case a.Severity != b.Severity:
			return a.Severity > b.Severity
		case a.merged != b.merged:
			return b.merged
		case a.Total != b.Total:
			return a.Total > b.Total
		case a.Kind != b.Kind:
			return a.Kind < b.Kind
		}
		return a.Subject < b.Subject
	})
}

// mergeExcess merges the findings of a kind beyond MaxPerKind into one.
func mergeExcess(fs []Finding) []Finding {
	seen := map[Kind]int{}
	rest := map[Kind]*Finding{}
	merged := map[Kind]int{}
	var out []Finding
	var order []Kind
	for i := range fs {
		f := fs[i]
		seen[f.Kind]++
		if seen[f.Kind] <= MaxPerKind {
			out = append(out, f)
			continue
		}
		m := rest[f.Kind]
		if m == nil {
			// The list is sorted, so the first one has the highest severity.
			m = &Finding{Kind: f.Kind, Severity: f.Severity, Stoppable: f.Stoppable, Excerpt: f.Excerpt, merged: true}
			rest[f.Kind] = m
			order = append(order, f.Kind)
		}
		m.all = append(m.all, f.all...)
		merged[f.Kind]++
	}
	for _, k := range order {
		m := rest[k]
		m.Subject = plural(merged[k], "more subject")
		m.Summary = fmt.Sprintf("The same for %s, with fewer lines each.", plural(merged[k], "more subject"))
		m.seal(&Log{})
		out = append(out, *m)
	}
	return out
}

// group collects line numbers by name, in order of first appearance.
type group struct {
	names []string
	lines map[string][]int
}

func (g *group) add(name string, no int) {
	if g.lines == nil {
		g.lines = map[string][]int{}
	}
	if _, ok := g.lines[name]; !ok {
		g.names = append(g.names, name)
	}
	g.lines[name] = append(g.lines[name], no)
}

// plural writes a count with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	switch {
	case strings.HasSuffix(noun, "ss"):
		return fmt.Sprintf("%d %ses", n, noun)
	case strings.HasSuffix(noun, "y"):
		return fmt.Sprintf("%d %sies", n, noun[:len(noun)-1])
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// join writes a list for people, at most n names and a count of the rest.
func join(names []string, n int) string {
	if len(names) > n {
		return strings.Join(names[:n], ", ") + fmt.Sprintf(" and %d more", len(names)-n)
	}
	return strings.Join(names, ", ")
}
