package logs

import (
	"fmt"
	"regexp"
	"time"
)

// Kinds of findings in generic logs.
const (
	KindFatal      Kind = "fatal-messages"
	KindErrors     Kind = "error-messages"
	KindWarnings   Kind = "warnings"
	KindBurst      Kind = "message-burst"
	KindStackTrace Kind = "stack-trace"
)

// stackStart is the line that begins a stack trace; stackFrame is one of its
// frames, which counts when no line began the trace.
var (
	stackStart = regexp.MustCompile(`^\s*Traceback \(most recent call last\):|^goroutine \d+ \[[^\]]+\]:|^Exception in thread |^panic: |^thread '.*' panicked at |^(?:Caused by: )?(?:[a-z][\w$]*\.)+[A-Z][\w$]*(?:Exception|Error)\b`)
	stackFrame = regexp.MustCompile(`^\s+at [\w$.<>/ ]+\([^)]*\)$|^\s+at \S+:\d+:\d+$`)
	traceback  = regexp.MustCompile(`Traceback \(most recent call last\):`)
)

// stackHints are texts without which no pattern of a stack trace matches.
var stackHints = []string{"Traceback", "goroutine ", "xception", "panic", "Error", "at "}

func (l *Log) findGeneric() []Finding {
	byLevel := map[level][]int{}
	var templates group
	index := map[int]int{}
	for i := range l.generic {
		e := &l.generic[i]
		byLevel[e.level] = append(byLevel[e.level], e.no)
		index[e.no] = i
		if e.level >= levelWarning {
			templates.add(template(l.lines[e.no-1]), e.no)
		}
	}
	var fs []Finding
	if n := byLevel[levelFatal]; len(n) > 0 {
		fs = append(fs, Finding{
			Kind: KindFatal, Severity: High, Subject: plural(len(n), "line"), all: n,
			Summary: fmt.Sprintf("%s of level fatal, panic, critical, alert or emergency.", plural(len(n), "line")),
		})
	}
	if n := byLevel[levelError]; len(n) > 0 {
		sev := Low
		if len(n) >= ErrorMediumMin {
			sev = Medium
		}
		fs = append(fs, Finding{
			Kind: KindErrors, Severity: sev, Subject: plural(len(n), "line"), all: n,
			Summary: fmt.Sprintf("%s of level error, first line %d, last line %d.", plural(len(n), "line"), n[0], n[len(n)-1]),
		})
	}
	if n := byLevel[levelWarning]; len(n) >= WarningMin {
		fs = append(fs, Finding{
			Kind: KindWarnings, Severity: Info, Subject: plural(len(n), "line"), all: n,
			Summary: fmt.Sprintf("%s of level warning, first line %d.", plural(len(n), "line"), n[0]),
		})
	}
	for _, t := range templates.names {
		if hot := l.templateBurst(templates.lines[t], index); len(hot) > 0 {
			fs = append(fs, Finding{
				Kind: KindBurst, Severity: Low, Subject: Escape(t, maxSubject), all: hot,
				Summary: fmt.Sprintf("%s of level warning or worse and of one form, in bursts of at least %d a minute.", plural(len(hot), "line"), TemplateBurstMin),
			})
		}
	}
	fs = append(fs, l.findStacks()...)
	return append(fs, l.findInstructions()...)
}

// templateBurst returns the lines in a burst. Lines without a time count as a
// burst when they follow each other.
func (l *Log) templateBurst(lines []int, index map[int]int) []int {
	if len(lines) < TemplateBurstMin {
		return nil
	}
	times := make([]time.Time, len(lines))
	for i, n := range lines {
		at := l.generic[index[n]].at
		if at.IsZero() {
			at = time.Unix(int64(n)*int64(BurstWindow/time.Second)/TemplateBurstMin, 0)
		}
		if i > 0 && at.Before(times[i-1]) {
			at = times[i-1]
		}
		times[i] = at
	}
	var out []int
	for i, m := range marked(times, BurstWindow, TemplateBurstMin) {
		if m {
			out = append(out, lines[i])
		}
	}
	return out
}

func (l *Log) findStacks() []Finding {
	var starts []int
	inTrace := false
	for i, s := range l.lines {
		switch {
		case !containsAny(s, stackHints):
			if inTrace && len(s) > 0 && s[0] != ' ' && s[0] != '\t' {
				_, dated := lineTime(s)
				inTrace = !dated
			}
		case stackStart.MatchString(s), traceback.MatchString(s):
			if !inTrace {
				starts = append(starts, i+1)
			}
			inTrace = true
		case stackFrame.MatchString(s):
			if !inTrace {
				starts = append(starts, max(i, 1))
			}
			inTrace = true
		}
	}
	if len(starts) == 0 {
		return nil
	}
	return []Finding{{
		Kind: KindStackTrace, Severity: Medium, Subject: plural(len(starts), "trace"), all: starts,
		Summary: fmt.Sprintf("%s begin at these lines.", plural(len(starts), "stack trace")),
	}}
}
