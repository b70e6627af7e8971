package incident

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/examples/incident/logs"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/intruder"
)

// width is what every line of the story fits into.
const width = 80

// screen tells the story to a person. With JSON wanted it is silent.
type screen struct {
	w     io.Writer
	color bool
	start time.Time
}

func newScreen(o Options) *screen {
	s := &screen{w: o.Out, color: o.Color, start: time.Now()}
	if o.JSON {
		s.w = io.Discard
	}
	return s
}

// SGR codes; used on terminals only.
const (
	bold  = "1"
	red   = "31"
	green = "32"
	dim   = "2"
)

func (s *screen) paint(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// line prints one line, cut to the width before it is painted. A failed write is the terminal's end, and the demo's output with it.
func (s *screen) line(code, format string, args ...any) {
	text := audit.Visible(fmt.Sprintf(format, args...))
	if r := []rune(text); len(r) > width {
		text = string(r[:width-1]) + "…"
	}
	if code != "" {
		text = s.paint(code, text)
	}
	_, _ = fmt.Fprintln(s.w, text)
}

func (s *screen) title(text string) {
	s.line("", "")
	s.line(bold, "%s", text)
}

func (s *screen) header(d *demo) {
	s.line(bold, "safeconduct demo: an incident, worked by %d agents in 2 tenants, all enforced", len(cast))
	s.line(dim, "trust domain spiffe://%s; authority pid %d; keys in memory only", trustDomain, selfPid())
	s.line("", "%-7s %-7s %-29s %-18s %s", "PID", "TENANT", "SPIFFE ID (path)", "SVID SERIAL", "EXPIRES (UTC)")
	for _, c := range cast {
		for _, p := range d.result.Processes {
			if p.Role == c.role {
				serial := p.Serial
				if len(serial) > 16 {
					serial = serial[:16] + "…"
				}
				at, _ := time.Parse(time.RFC3339, p.Expires)
				s.line("", "%-7d %-7s %-29s %-18s %s", p.Pid, p.Tenant, strings.TrimPrefix(p.SpiffeID, "spiffe://"+trustDomain), serial, at.Format("15:04:05"))
			}
		}
	}
}

func (s *screen) grant(*demo) {
	s.title("The incident")
	s.line("", "$ safeconduct grant --principal %s --to …/agent/oncall", engineer)
	s.line("", "    --purpose %q --ttl 15m --can …", purpose)
	s.line(dim, "  (a development issuer: until people log in, the local operator signs)")
}

func (s *screen) say(role, text string) {
	const indent = 18
	if len([]rune(text)) > width-indent && role != "" {
		parts := wrap(text, width-indent)
		s.say(role, parts[0])
		for _, part := range parts[1:] {
			s.line("", "%*s%s", indent, "", part)
		}
		return
	}
	if role == "" {
		s.line(bold, "%5.1fs  ** %s", time.Since(s.start).Seconds(), text)
		return
	}
	s.line("", "%5.1fs  %-9s %s", time.Since(s.start).Seconds(), role, text)
}

func (s *screen) report(r logs.Report) {
	format := string(r.Format)
	if r.Dialect != "" {
		format += " (" + r.Dialect + ")"
	}
	s.line("", "        format %s: %d lines, %d parsed, %d not parsed", format, r.Stats.Lines, r.Stats.Parsed, r.Stats.Unparsed)
	if len(r.Findings) == 0 {
		s.line("", "        nothing unusual was found")
	}
	const most = 8
	for i, f := range r.Findings {
		if i == most {
			s.line("", "        … and %d more findings", len(r.Findings)-most)
			break
		}
		s.line("", "        %-6s %-21s %-18s %s", f.Severity, f.Kind, clip(f.Subject, 18), lineNumbers(f))
		if f.Kind == logs.KindInjection {
			s.line(dim, "          %s", f.Excerpt)
		}
	}
}

func lineNumbers(f logs.Finding) string {
	var out []string
	for i, n := range f.Lines {
		if i == 3 {
			break
		}
		out = append(out, fmt.Sprint(n))
	}
	text := "lines " + strings.Join(out, ",")
	if f.Total > len(out) {
		text += fmt.Sprintf(" +%d", f.Total-len(out))
	}
	return text
}

func (s *screen) blocked(ev Event, b blockedData) {
	s.say(ev.Role, ev.Text+" and asks for")
	for _, part := range wrap(b.Asked, width-8) {
		s.line("", "        %s", part)
	}
	s.line(green, "        refused by the executor: %s (decision %s)", b.Reason, short(b.Decision))
}

func (s *screen) applied(a appliedData) {
	s.say("executor", fmt.Sprintf("puts %d rule(s) in force and replays the log through them:", len(a.Rules)))
	for i, r := range a.Rules {
		if i == 4 {
			s.line("", "        … and %d more", len(a.Rules)-i)
			break
		}
		s.line("", "        %s", r)
	}
	s.line(green, "        stops %d of %d offending lines, %d innocent ones", a.Stopped, a.Offending, a.Collateral)
}

func (s *screen) failure(what string) { s.line(red, "FAILED  %s", what) }

func (s *screen) attacks(results []intruder.Result) {
	s.title("Ten intruders, by a raw client; each sends its valid twin first")
	s.line("", "%-18s %-8s %-22s %-18s %s", "ATTACK", "TWIN", "THE RECEIVER SAYS", "DECISION", "TIME")
	for _, r := range results {
		twin, code := "admitted", green
		if !r.TwinAdmitted {
			twin = "REFUSED"
		}
		if !r.TwinAdmitted || !r.Refused || r.Got != r.Want {
			code = red
		}
		s.line(code, "%-18s %-8s %-22s %-18s %s", r.Attack, twin, r.Got, short(r.DecisionID), r.Took.Round(100*time.Microsecond))
	}
}

func (s *screen) graph(g audit.Graph) {
	s.title("Who asked whom, rebuilt from the audit logs of all processes")
	for _, e := range g.Edges {
		if e.Action == "" && e.Allowed > 0 && e.Denied == 0 {
			continue // chains presented, without an effect
		}
		var how []string
		for _, c := range []struct {
			n    uint64
			word string
		}{{e.Allowed, "ok"}, {e.Denied, "denied"}, {e.Unknown, "UNKNOWN"}} {
			if c.n > 0 {
				how = append(how, fmt.Sprintf("%d %s", c.n, c.word))
			}
		}
		action := e.Action
		if action == "" {
			action = "(no intent)"
		}
		mark := "->"
		if e.CrossTenant() {
			mark = "=>"
		}
		s.line("", "  %-9s %s %-9s %-16s %-16s %s", name(e.From), mark, name(e.To), action, strings.Join(how, ", "), onBehalf(e))
	}
}

func onBehalf(e audit.Edge) string {
	if len(e.OnBehalf) == 0 {
		return ""
	}
	return "for " + clip(strings.TrimPrefix(e.OnBehalf[0], "user "), 19)
}

func (s *screen) explain(x audit.Explanation) {
	s.title("Why was that refused?  (safeconduct audit explain " + short(fmt.Sprintf("%x", x.DecisionID)) + ")")
	s.line("", "  who        %s, class %s", x.Actor, x.ActorClass)
	s.line("", "  asked      %s for %s on %q", name(x.Callee), x.Action, x.Resource)
	whom, _, _ := strings.Cut(strings.TrimPrefix(x.Origin, "user "), " ")
	s.line("", "  for whom   %s, to %s", whom, x.Purpose)
	for _, l := range x.Links {
		s.line("", "  authority  %d: %s -> %s, until %s", l.Depth, name(l.From), name(l.To), l.Expires.UTC().Format("15:04:05"))
	}
	s.line("", "  refused    %s (told the caller: %s)", interceptors.ReasonName(x.Reason), interceptors.ReasonName(x.WireReason))
	for i, part := range wrap(x.Otherwise, width-13) {
		label := ""
		if i == 0 {
			label = "otherwise"
		}
		s.line("", "  %-10s %s", label, part)
	}
}

func (s *screen) closing(d *demo) {
	s.title("The proof")
	s.line("", "  %d audit logs verify. In a copy with one flipped byte verify names", len(d.result.Verified))
	for _, part := range wrap(d.result.Tampered, width-4) {
		s.line("", "    %s", part)
	}
	s.line("", "  %d rule(s) in force: the killed call stays UNKNOWN and had no second effect", d.result.Effects)
	s.title(fmt.Sprintf("Done in %.1f s. Try next:", d.result.Seconds))
	s.line("", "  safeconduct demo --log /var/log/dpkg.log   # a log of your own, or - for stdin")
	s.line("", "  safeconduct demo --keep                    # leave it running and call it")
	s.line("", "  go run ./examples/hello                    # an agent of your own in 30 lines")
}

// name shortens a SPIFFE ID to its last segment.
func name(id string) string {
	if strings.HasPrefix(id, "(") {
		return "stranger"
	}
	if i := strings.LastIndexByte(id, '/'); i >= 0 {
		id = id[i+1:]
	}
	if id == "" {
		return "?"
	}
	return clip(id, 9)
}

func short(id string) string {
	if len(id) > 16 {
		return id[:16] + "…"
	}
	return id
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func wrap(text string, n int) []string {
	var out []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > n {
			out, line = append(out, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(out, line)
}
