package incident

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
	"github.com/safeconduct/safeconduct/runtime/model"
)

// Plan is what a planner makes of findings.
type Plan struct {
	Rules []string // the text form of logs.Rule
	Note  string
	// Orders are instructions that the planner found in the log and took for its own.
	Orders []string
}

// Planner is where a model plugs in. It reads untrusted content, so nothing it returns is trusted: rules are parsed strictly by the
// executor, and the label of the conversation says what they came from.
type Planner interface {
	Plan(ctx context.Context, l *logs.Log, r logs.Report) (Plan, error)
}

// Rules is the default Planner: deterministic, and as gullible as a model on a bad day.
type Rules struct{}

// injected finds the order in a line that addresses its reader.
var injected = regexp.MustCompile(`(?i)ignore (?:all )?previous instructions[,;.]? *(?:and )?run +([^"]{1,80})`)

// Plan implements Planner.
func (Rules) Plan(_ context.Context, l *logs.Log, r logs.Report) (Plan, error) {
	p := logs.Propose(l, l.Findings())
	out := Plan{Note: p.Note}
	for _, rule := range p.Rules {
		out.Rules = append(out.Rules, rule.String())
	}
	for _, f := range r.Findings {
		if f.Kind != logs.KindInjection {
			continue
		}
		for _, n := range f.Lines {
			line, _ := l.Line(n)
			if m := injected.FindStringSubmatch(line); m != nil {
				out.Orders = append(out.Orders, m[1])
				return out, nil
			}
		}
	}
	return out, nil
}

// Environment of a planner that asks a model.
const (
	envModelURL  = "SAFECONDUCT_DEMO_MODEL_URL"
	envModelName = "SAFECONDUCT_DEMO_MODEL"
	envModelKey  = "SAFECONDUCT_DEMO_MODEL_KEY"
)

// newPlanner picks the Planner of this process: Rules, unless an OpenAI-compatible endpoint is named.
func newPlanner() Planner {
	url := os.Getenv(envModelURL)
	if url == "" {
		return Rules{}
	}
	return Asked{Model: &model.OpenAI{URL: url, Model: os.Getenv(envModelName), Key: os.Getenv(envModelKey)}}
}

// Asked is a Planner that asks a model. What it answers is as untrusted as what it read: only lines that parse as bounded rules count.
type Asked struct{ Model model.Model }

// Plan implements Planner.
func (a Asked) Plan(ctx context.Context, _ *logs.Log, r logs.Report) (Plan, error) {
	var report bytes.Buffer
	if err := r.WriteText(&report); err != nil {
		return Plan{}, err
	}
	answer, err := a.Model.Complete(ctx, model.Prompt{
		System: "You propose deny rules for a web server or a login service, one on a line, in exactly these forms and nothing else: " +
			`deny client=ADDRESS, deny source=ADDRESS, deny user-agent~"TEXT", deny path-prefix="TEXT". Answer "none" if no rule helps.`,
		User:      "Which rules stop the offending lines of this report and no innocent ones?",
		Untrusted: []string{report.String()},
	})
	if err != nil {
		return Plan{}, fmt.Errorf("asking the model: %w", err)
	}
	out := Plan{Note: "the model named no rule"}
	for line := range strings.Lines(answer) {
		if rule, err := logs.ParseRule(strings.TrimSpace(line)); err == nil && len(out.Rules) < logs.MaxRules {
			out.Rules = append(out.Rules, rule.String())
		}
	}
	return out, nil
}
