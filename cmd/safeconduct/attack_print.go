package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/internal/intruder"
)

// list prints the violations.
func (a *attack) list(cmd *cobra.Command) error {
	all := intruder.Violations()
	if a.asJSON {
		return writeJSON(cmd, all)
	}
	rows := make([][]string, 0, len(all))
	for _, v := range all {
		row := ""
		if v.Row > 0 {
			row = fmt.Sprint(v.Row)
		}
		want := v.Want[0]
		if len(v.Want) > 1 {
			want += fmt.Sprintf(" or %d others", len(v.Want)-1)
		}
		rows = append(rows, []string{v.Name, row, want, v.What})
	}
	return columns(cmd.OutOrStdout(), []string{"VIOLATION", "ROW", "REFUSED WITH", "WHAT IT DOES"}, rows)
}

// attackPrinter prints a run as it goes.
type attackPrinter struct {
	cmd      *cobra.Command
	json     bool
	admitted []string
	failed   error // of writing
}

// line prints one JSON object, or what text says.
func (p *attackPrinter) line(v any, text string) {
	if p.failed != nil {
		return
	}
	if !p.json {
		p.failed = say(p.cmd, "%s", text)
		return
	}
	raw, err := json.Marshal(v)
	if err != nil {
		p.failed = fmt.Errorf("encoding the answer: %w", err)
		return
	}
	p.failed = say(p.cmd, "%s", asciiJSON(raw))
}

// begin says what is attacked before it is.
func (p *attackPrinter) begin(e intruder.Endpoint, self, method string) error {
	p.line(struct {
		Target  string `json:"target"`
		Peer    string `json:"peer"`
		As      string `json:"as"`
		Control string `json:"control"`
	}{e.Address, e.Target.String(), self, method},
		fmt.Sprintf("Target  %s at %s\nAs      %s\nControl %s, a valid call before each violation\n\n%-12s ROW  %-25s  ANSWER",
			e.Target, e.Address, self, audit.Visible(method), "VERDICT", "VIOLATION"))
	return p.failed
}

var verdictColors = map[string]string{
	intruder.VerdictRefused: green, intruder.VerdictAdmitted: red, intruder.VerdictInconclusive: yellow, intruder.VerdictNotRun: "",
}

// outcome prints one violation.
func (p *attackPrinter) outcome(o intruder.Outcome) {
	if o.Verdict == intruder.VerdictAdmitted {
		p.admitted = append(p.admitted, o.Name)
	}
	verdict := fmt.Sprintf("%-12s", o.Verdict)
	if color := verdictColors[o.Verdict]; color != "" {
		verdict = paint(p.cmd.OutOrStdout(), color, verdict)
	}
	row := ""
	if o.Row > 0 {
		row = fmt.Sprint(o.Row)
	}
	about := o.Why
	if o.Verdict == intruder.VerdictRefused {
		about = refusedAs(o)
	}
	p.line(o, fmt.Sprintf("%s  %2s  %-25s  %s", verdict, row, o.Name, audit.Visible(about)))
}

// refusedAs is how a refused violation was answered.
func refusedAs(o intruder.Outcome) string {
	var got []string
	for _, s := range o.Steps {
		if !slices.Contains(got, s.Got) {
			got = append(got, s.Got)
		}
	}
	text := strings.Join(got, ", ")
	if n := len(o.Steps); n > 1 {
		text += fmt.Sprintf(", %d messages", n)
	}
	return text
}

// end prints the summary and returns what the command ends with.
func (p *attackPrinter) end(t intruder.Tally) error {
	p.line(struct {
		Summary intruder.Tally `json:"summary"`
		Held    bool           `json:"held"`
	}{t, t.Held()}, fmt.Sprintf("\n%d refused, %d admitted, %d inconclusive, %d not run; %d calls", t.Refused, t.Admitted, t.Inconclusive, t.NotRun, t.Calls))
	switch {
	case len(p.admitted) > 0:
		return &exitError{exitFailed, fmt.Errorf("the target is open: it admitted %s", strings.Join(p.admitted, ", "))}
	case t.Inconclusive > 0:
		return &exitError{exitFailed, fmt.Errorf("nothing was admitted, but not everything was decided: %d inconclusive", t.Inconclusive)}
	case !t.Held():
		return &exitError{exitFailed, errors.New("nothing was put to the test")}
	}
	return nil
}
