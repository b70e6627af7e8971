package logs

import (
	"fmt"
	"slices"
	"strings"
)

// Result is what rules would have stopped in a log.
// Matched = Stopped + Other + Collateral.
type Result struct {
	Rules             []Rule `json:"rules"`
	Offending         int    `json:"offending"`          // lines of stoppable findings in the log
	Matched           int    `json:"matched"`            // lines that the rules match
	Stopped           int    `json:"stopped"`            // offending lines among them
	Other             int    `json:"other"`              // other lines of clients with a stoppable finding
	Collateral        int    `json:"collateral"`         // lines of innocent clients
	CollateralClients int    `json:"collateral_clients"` // innocent clients hit
	Lines             []int  `json:"lines"`              // the first MaxEvidence stopped lines
}

// Replay replays the log through one rule. Which lines offend is decided by
// the log's own findings, so nobody can claim a better result than there is.
func Replay(l *Log, r Rule) Result { return ReplayAll(l, []Rule{r}) }

// ReplayAll replays the log through several rules together.
func ReplayAll(l *Log, rules []Rule) Result {
	l.analyze()
	ev := &l.ev
	res := Result{Rules: slices.Clone(rules), Offending: len(ev.offending), Lines: []int{}}
	clients := map[string]bool{}
	for no, source := range l.matching(rules) {
		res.Matched++
		switch {
		case ev.offending[no]:
			res.Stopped++
			if len(res.Lines) < MaxEvidence {
				res.Lines = append(res.Lines, no)
			}
		case ev.sources[source]:
			res.Other++
		default:
			res.Collateral++
			clients[source] = true
		}
	}
	res.CollateralClients = len(clients)
	return res
}

// evidence is what the findings of a log say about its lines.
type evidence struct {
	offending map[int]bool    // lines of stoppable findings
	sources   map[string]bool // clients and sources of those lines
}

// collectEvidence runs once for a log, after its findings are known.
func (l *Log) collectEvidence() evidence {
	ev := evidence{offending: map[int]bool{}, sources: map[string]bool{}}
	for i := range l.findings {
		if !l.findings[i].Stoppable {
			continue
		}
		for _, n := range l.findings[i].all {
			ev.offending[n] = true
		}
	}
	for i := range l.access {
		if ev.offending[l.access[i].no] {
			ev.sources[l.access[i].client] = true
		}
	}
	for i := range l.syslog {
		if ev.offending[l.syslog[i].no] {
			ev.sources[l.syslog[i].source] = true
		}
	}
	return ev
}

// matching yields line number and source of every line that a rule matches.
func (l *Log) matching(rules []Rule) func(func(int, string) bool) {
	return func(yield func(int, string) bool) {
		for i := range l.access {
			e := &l.access[i]
			if slices.ContainsFunc(rules, func(r Rule) bool { return r.matchesAccess(e) }) && !yield(e.no, e.client) {
				return
			}
		}
		for i := range l.syslog {
			e := &l.syslog[i]
			if e.source == "" {
				continue
			}
			hit := slices.ContainsFunc(rules, func(r Rule) bool { return r.field == FieldSource && r.matchesSource(e.source) })
			if hit && !yield(e.no, e.source) {
				return
			}
		}
	}
}

// Proposal is what could be denied.
type Proposal struct {
	Rules   []Rule   `json:"rules"`
	Results []Result `json:"results"` // of each rule alone
	All     Result   `json:"all"`     // of all rules together
	Note    string   `json:"note"`    // why there is no rule, or what no rule covers
}

// Propose returns rules for the findings, most severe first: the narrowest
// form that stops the lines, and none for lines that an earlier rule stops. A
// rule that would stop an innocent client is not proposed. A finding that the
// log does not confirm is ignored, whoever claims it.
func Propose(l *Log, findings []Finding) Proposal {
	l.analyze()
	p := Proposal{Rules: []Rule{}, Results: []Result{}}
	covered := map[int]bool{}
	left := 0
	for i := range l.findings {
		f := &l.findings[i]
		if !f.Stoppable || !slices.ContainsFunc(findings, func(g Finding) bool { return g.ID == f.ID && g.Kind == f.Kind && g.Subject == f.Subject }) {
			continue
		}
		for _, r := range l.candidates(f, covered) {
			if len(p.Rules) == MaxRules {
				break
			}
			p.Rules = append(p.Rules, r)
			p.Results = append(p.Results, Replay(l, r))
			for no := range l.matching([]Rule{r}) {
				covered[no] = true
			}
		}
		left += len(uncovered(f.all, covered))
	}
	p.All = ReplayAll(l, p.Rules)
	switch {
	case len(l.findings) == 0 || len(findings) == 0:
		p.Note = "No finding, so there is nothing to deny."
	case len(p.Rules) == 0:
		p.Note = "Nothing a deny rule could stop."
	case left > 0 && len(p.Rules) == MaxRules:
		p.Note = fmt.Sprintf("%s not covered: a proposal has at most %d rules.", plural(left, "offending line"), MaxRules)
	case left > 0:
		p.Note = plural(left, "offending line") + " not covered: no narrow rule stops them."
	}
	return p
}

func uncovered(lines []int, covered map[int]bool) []int {
	var out []int
	for _, n := range lines {
		if !covered[n] {
			out = append(out, n)
		}
	}
	return out
}

// candidates returns the rules to add for one finding: none, one, or several
// path prefixes for a finding about several clients.
func (l *Log) candidates(f *Finding, covered map[int]bool) []Rule {
	rest := uncovered(f.all, covered)
	if len(rest) == 0 {
		return nil
	}
	if l.Format == FormatSyslog {
		if r, err := DenySource(f.source); err == nil && Replay(l, r).Collateral == 0 {
			return []Rule{r}
		}
		return nil
	}
	var options []Rule
	client, err := DenyClient(f.source)
	if err == nil {
		res := Replay(l, client)
		if res.Stopped >= res.Other {
			options = append(options, client)
		}
	}
	if f.literal != "" {
		if r, err := DenyUserAgent(cutLiteral(f.literal)); err == nil {
			options = append(options, r)
		}
	}
	if err == nil {
		// What is left is a client that mostly behaves: the narrower rule
		// above comes first.
		options = append(options, client)
	}
	for _, r := range options {
		if l.stopsAll(r, rest) && Replay(l, r).Collateral == 0 {
			return []Rule{r}
		}
	}
	if f.source == "" {
		return l.prefixRules(rest)
	}
	return nil
}

func (l *Log) stopsAll(r Rule, lines []int) bool {
	hit := map[int]bool{}
	for no := range l.matching([]Rule{r}) {
		hit[no] = true
	}
	return len(uncovered(lines, hit)) == 0
}

// prefixRules returns a path prefix for every first path segment that enough
// of the lines share.
func (l *Log) prefixRules(lines []int) []Rule {
	var g group
	for i := range l.access {
		e := &l.access[i]
		if _, ok := slices.BinarySearch(lines, e.no); !ok || !strings.HasPrefix(e.path, "/") {
			continue
		}
		first, _, more := strings.Cut(e.path[1:], "/")
		prefix := "/" + first
		if more {
			prefix += "/"
		}
		g.add(prefix, e.no)
	}
	var rules []Rule
	for _, prefix := range g.names {
		if len(g.lines[prefix]) < ProbeMin {
			continue
		}
		r, err := DenyPathPrefix(prefix)
		if err == nil && Replay(l, r).Collateral == 0 {
			rules = append(rules, r)
		}
	}
	return rules
}
