package logs_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
)

func parse(t *testing.T, text string) *logs.Log {
	t.Helper()
	l, err := logs.Read(strings.NewReader(text), logs.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func mustRule(t *testing.T, s string) logs.Rule {
	t.Helper()
	r, err := logs.ParseRule(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReplay(t *testing.T) {
	tests := []struct {
		name, file, rule                                   string
		offending, stopped, other, collateral, hit, covers int
	}{
		{"one client", "access-attack.log", "deny client=198.51.100.99", 218, 150, 0, 0, 0, 150},
		{"IPv6 in another spelling", "access-attack.log", "deny client=2001:db8:bad::9", 218, 31, 1, 0, 0, 32},
		{"a network hits the innocent", "access-attack.log", "deny client=192.0.2.0/24", 218, 1, 10, 55, 4, 66},
		{"a path hits everybody", "access-attack.log", `deny path-prefix="/page/"`, 218, 0, 10, 50, 5, 60},
		{"decoded agent", "access-attack.log", `deny user-agent~"said \"hi\" \\"`, 218, 0, 0, 1, 1, 1},
		{"source rule on an access log", "access-attack.log", "deny source=198.51.100.99", 218, 0, 0, 0, 0, 0},
		{"ssh source", "syslog-auth.log", "deny source=203.0.113.50", 34, 20, 1, 0, 0, 21},
		{"framed innocent", "syslog-auth.log", "deny source=192.0.2.10", 34, 0, 0, 1, 1, 1},
		{"client rule on syslog", "syslog-auth.log", "deny client=203.0.113.50", 34, 0, 0, 0, 0, 0},
		{"nothing in dpkg", "dpkg-broken.log", "deny client=203.0.113.50", 0, 0, 0, 0, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := logs.Replay(readFile(t, tt.file), mustRule(t, tt.rule))
			if got.Offending != tt.offending || got.Stopped != tt.stopped || got.Other != tt.other ||
				got.Collateral != tt.collateral || got.CollateralClients != tt.hit || got.Matched != tt.covers {
				t.Errorf("Replay(%s) = %+v, want %+v", tt.rule, got, tt)
			}
		})
	}
	if got := logs.Replay(readFile(t, "access-attack.log"), logs.Rule{}); got.Matched != 0 {
		t.Errorf("the zero rule matches %d lines", got.Matched)
	}
}

func TestProposeNothing(t *testing.T) {
	tests := []struct{ file, note string }{
		{"dpkg-broken.log", "Nothing a deny rule could stop."},
		{"app.log", "Nothing a deny rule could stop."},
		{"syslog-system.log", "Nothing a deny rule could stop."},
		{"access-burst.log", "Nothing a deny rule could stop."},
		{"access-quiet.log", "No finding, so there is nothing to deny."},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			l := readFile(t, tt.file)
			if p := logs.Propose(l, l.Findings()); len(p.Rules) != 0 || p.Note != tt.note {
				t.Errorf("Propose = %v, %q, want none, %q", p.Rules, p.Note, tt.note)
			}
		})
	}
}

// A finding travels between agents as JSON. One that the log does not confirm
// leads to no rule, whatever it says.
func TestProposeIgnoresClaimedFindings(t *testing.T) {
	l := readFile(t, "syslog-auth.log")
	b, err := json.Marshal(l.Findings())
	if err != nil {
		t.Fatal(err)
	}
	var sent []logs.Finding
	if err := json.Unmarshal(b, &sent); err != nil {
		t.Fatal(err)
	}
	want := logs.Propose(l, l.Findings()).Rules
	if got := logs.Propose(l, sent).Rules; len(want) != 3 || !slices.Equal(got, want) {
		t.Errorf("Propose = %v, want %v", got, want)
	}
	forged := sent[1]
	forged.Subject = "192.0.2.10"
	if got := logs.Propose(l, []logs.Finding{forged}); len(got.Rules) != 0 {
		t.Errorf("Propose of a forged finding = %v, want no rule", got.Rules)
	}
}

// A client behind a shared address that mostly behaves is not shut out when a
// narrower rule stops its one bad request.
func TestProposeIsNarrow(t *testing.T) {
	var b strings.Builder
	for i := range 9 {
		fmt.Fprintf(&b, "192.0.2.1 - - [21/Nov/2026:06:00:0%d +0000] \"GET /p%d HTTP/1.1\" 200 5 \"-\" \"Firefox\"\n", i, i)
	}
	b.WriteString("192.0.2.1 - - [21/Nov/2026:06:01:00 +0000] \"GET / HTTP/1.1\" 200 5 \"-\" \"nuclei scan\"\n")
	l := parse(t, b.String())
	got := logs.Propose(l, l.Findings()).Rules
	if want := []logs.Rule{mustRule(t, `deny user-agent~"nuclei"`)}; !slices.Equal(got, want) {
		t.Errorf("Propose = %v, want %v", got, want)
	}
}

// checkProposal states what holds for every log: each rule stops what it
// claims, hits nobody innocent and adds something to the rules before it.
func checkProposal(t *testing.T, l *logs.Log) {
	t.Helper()
	fs := l.Findings()
	p := logs.Propose(l, fs)
	if len(p.Rules) > logs.MaxRules || len(p.Results) != len(p.Rules) {
		t.Fatalf("%d rules, %d results", len(p.Rules), len(p.Results))
	}
	before := 0
	for i, r := range p.Rules {
		if back, err := logs.ParseRule(r.String()); err != nil || back != r {
			t.Errorf("ParseRule(%s) = %v, %v", r, back, err)
		}
		alone := logs.Replay(l, r)
		if alone.Stopped == 0 || alone.Collateral != 0 || alone.Stopped != p.Results[i].Stopped {
			t.Errorf("%s: Replay = %+v, claimed %+v", r, alone, p.Results[i])
		}
		if alone.Matched != alone.Stopped+alone.Other+alone.Collateral {
			t.Errorf("%s: %+v does not add up", r, alone)
		}
		together := logs.ReplayAll(l, p.Rules[:i+1])
		if together.Stopped <= before {
			t.Errorf("%s adds nothing to %v", r, p.Rules[:i])
		}
		before = together.Stopped
	}
	if p.All.Stopped != before || p.All.Stopped > p.All.Offending {
		t.Errorf("all rules = %+v, counted %d", p.All, before)
	}
	for _, f := range fs {
		if f.Total < 1 || len(f.Lines) != min(f.Total, logs.MaxEvidence) || !slices.IsSorted(f.Lines) {
			t.Errorf("finding %s has lines %v of %d", f.ID, f.Lines, f.Total)
		}
		for _, n := range f.Lines {
			if _, ok := l.Line(n); !ok {
				t.Errorf("finding %s names line %d of %d", f.ID, n, l.Stats.Lines)
			}
		}
	}
}

func TestProposalHolds(t *testing.T) {
	for _, name := range []string{"access-attack.log", "access-burst.log", "syslog-auth.log", "syslog-5424.log", "app.log", "history.log"} {
		t.Run(name, func(t *testing.T) { checkProposal(t, readFile(t, name)) })
	}
	agents := []string{"Firefox", "Chrome", "sqlmap/1.8", "ignore previous instructions", "curl/8", `a \"b\" zgrab`, "-"}
	paths := []string{"/", "/a", "/b?x=1", "/.env", "/wp-login.php", "/x/../../etc/passwd", "/login", "/?q=%3Cscript%3E", "/phpmyadmin/"}
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var b strings.Builder
		for i := range 40 + rng.IntN(300) {
			method := []string{"GET", "POST"}[rng.IntN(2)]
			fmt.Fprintf(&b, "203.0.113.%d - - [21/Nov/2026:06:%02d:%02d +0000] \"%s %s HTTP/1.1\" %d 5 \"-\" \"%s\"\n",
				rng.IntN(1+int(seed%20)), i/60, i%60, method, paths[rng.IntN(len(paths))],
				[]int{200, 200, 302, 401, 404, 500}[rng.IntN(6)], agents[rng.IntN(len(agents))])
		}
		checkProposal(t, parse(t, b.String()))
	}
}
