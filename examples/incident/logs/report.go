package logs

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// reportWidth is the widest line that WriteText writes, in columns.
const reportWidth = 80

// Report is all that is known about a log, in a form to print or to send. Its
// strings are safe to show.
type Report struct {
	Source   string    `json:"source"`
	Format   Format    `json:"format"`
	Dialect  string    `json:"dialect,omitempty"`
	Stats    Stats     `json:"stats"`
	Findings []Finding `json:"findings"`
	Proposal Proposal  `json:"proposal"`
}

// NewReport analyzes a log. Source is where it came from, for people; it is
// escaped when it is not plain.
func NewReport(source string, l *Log) Report {
	if q := Escape(source, reportWidth-2); q != `"`+source+`"` {
		source = q
	}
	fs := l.Findings()
	if fs == nil {
		fs = []Finding{}
	}
	return Report{
		Source: source, Format: l.Format, Dialect: l.Dialect, Stats: l.Stats,
		Findings: fs, Proposal: Propose(l, fs),
	}
}

// WriteJSON writes the report as one indented JSON value.
func (r Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("writing report: %w", err)
	}
	return nil
}

// WriteText writes the report for a terminal, at most 80 columns wide.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	r.writeHead(&b)
	for i := range r.Findings {
		r.Findings[i].writeText(&b)
	}
	r.Proposal.writeText(&b)
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing report: %w", err)
	}
	return nil
}

func (r Report) writeHead(b *strings.Builder) {
	format := string(r.Format)
	if r.Dialect != "" {
		format += " (" + r.Dialect + ")"
	}
	wrap(b, "log:      ", r.Source)
	wrap(b, "format:   ", format)
	lines := fmt.Sprintf("%d, of which %d parsed, %d not parsed, %d blank", r.Stats.Lines, r.Stats.Parsed, r.Stats.Unparsed, r.Stats.Blank)
	wrap(b, "lines:    ", lines)
	if r.Stats.Cut > 0 {
		wrap(b, "          ", plural(r.Stats.Cut, "line")+" over the length limit, shortened")
	}
	if r.Stats.InvalidUTF8 > 0 {
		wrap(b, "          ", plural(r.Stats.InvalidUTF8, "line")+" with bytes that are not UTF-8")
	}
	if r.Stats.Truncated {
		wrap(b, "          ", fmt.Sprintf("a limit was reached after %d bytes: the rest was not read", r.Stats.Bytes))
	}
	switch {
	case r.Format == FormatEmpty:
		wrap(b, "findings: ", "none, the log is empty")
	case len(r.Findings) == 0:
		wrap(b, "findings: ", "none, nothing unusual in this log")
	default:
		wrap(b, "findings: ", fmt.Sprintf("%d", len(r.Findings)))
	}
}

func (f *Finding) writeText(b *strings.Builder) {
	b.WriteByte('\n')
	wrap(b, fmt.Sprintf("%-4s %-6s ", f.ID, f.Severity), fmt.Sprintf("%s: %s", f.Kind, f.Subject))
	wrap(b, "     ", f.Summary)
	lines := make([]string, len(f.Lines))
	for i, n := range f.Lines {
		lines[i] = fmt.Sprint(n)
	}
	text := strings.Join(lines, ", ")
	if f.Total > len(f.Lines) {
		text += fmt.Sprintf(" and %d more", f.Total-len(f.Lines))
	}
	wrap(b, "     lines: ", fmt.Sprintf("%s (%d)", text, f.Total))
	if f.Excerpt != "" {
		wrap(b, "     text:  ", f.Excerpt)
	}
}

func (p Proposal) writeText(b *strings.Builder) {
	b.WriteByte('\n')
	if len(p.Rules) > 0 {
		b.WriteString("proposed rules:\n")
	}
	for i, r := range p.Rules {
		res := p.Results[i]
		wrap(b, "  ", r.String())
		wrap(b, "      ", fmt.Sprintf("stops %d of %s, %d other of the same clients, %d of innocent clients",
			res.Stopped, plural(res.Offending, "offending line"), res.Other, res.Collateral))
	}
	if len(p.Rules) > 1 {
		wrap(b, "  ", fmt.Sprintf("together: %d of %s, %d of innocent clients", p.All.Stopped, plural(p.All.Offending, "offending line"), p.All.Collateral))
	}
	if p.Note != "" {
		wrap(b, "", p.Note)
	}
}

// wrap writes a label and a text within reportWidth, with the following lines
// under the text. A word that is too long is cut into pieces.
func wrap(b *strings.Builder, label, text string) {
	indent := strings.Repeat(" ", utf8.RuneCountInString(label))
	room := reportWidth - len(indent)
	line := label
	used := 0
	flush := func() {
		b.WriteString(strings.TrimRight(line, " ") + "\n")
		line, used = indent, 0
	}
	for _, word := range strings.Split(text, " ") {
		n := utf8.RuneCountInString(word)
		if used > 0 && used+1+n > room {
			flush()
		} else if used > 0 {
			line += " "
			used++
		}
		for n > room {
			runes := []rune(word)
			line += string(runes[:room])
			flush()
			word = string(runes[room:])
			n -= room
		}
		line += word
		used += n
	}
	flush()
}
