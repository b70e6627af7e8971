package incident

import (
	"context"
	"regexp"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
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
