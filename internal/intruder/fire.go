package intruder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// Fire makes violations at an endpoint, one after the other, and reports each as it ends; all when only is empty, less those of
// skip. Each one first makes its control, a valid call of its own that must be answered OK: without it a refusal says nothing.
//
// It checks all inputs before it sends anything; what is missing is an error that wraps ErrInput. Whatever the endpoint does is
// an Outcome and no error. The time is bounded by MaxRun and the number of calls by MaxCalls; when ctx ends, what was not made is
// reported as not run, and the error is that of ctx.
func Fire(ctx context.Context, e Endpoint, only, skip []string, report func(Outcome)) (Tally, error) {
	var t Tally
	picked, err := choose(only, skip)
	if err != nil {
		return t, err
	}
	s, err := newSiege(e)
	if err != nil {
		return t, err
	}
	run, cancel := context.WithTimeout(ctx, MaxRun)
	defer cancel()
	deaf := 0
	for _, v := range picked {
		var o Outcome
		switch {
		case run.Err() != nil:
			o = notRun(v, "the run was over: "+run.Err().Error())
		case deaf == deafControls:
			o = notRun(v, fmt.Sprintf("given up: nobody answered %d controls in a row", deafControls))
		default:
			var heard bool
			if o, heard = s.make(run, v); !heard {
				deaf++
			} else if o.Verdict != VerdictNotRun {
				deaf = 0
			}
		}
		t.add(o.Verdict)
		t.Calls = s.calls
		report(o)
	}
	return t, ctx.Err()
}

// Check finds in the inputs of Fire what Fire would refuse before it sends anything. Errors wrap ErrInput.
func Check(e Endpoint, only, skip []string) error {
	if _, err := choose(only, skip); err != nil {
		return err
	}
	_, err := newSiege(e)
	return err
}

// choose picks violations by name, in the order in which they are made.
func choose(only, skip []string) ([]violation, error) {
	all := violations()
	for _, name := range slices.Concat(only, skip) {
		if !slices.ContainsFunc(all, func(v violation) bool { return v.Name == name }) {
			return nil, fmt.Errorf("%w: no violation %q", ErrInput, name)
		}
	}
	picked := slices.DeleteFunc(all, func(v violation) bool {
		return len(only) > 0 && !slices.Contains(only, v.Name) || slices.Contains(skip, v.Name)
	})
	if len(picked) == 0 {
		return nil, fmt.Errorf("%w: no violation is left to make", ErrInput)
	}
	return picked, nil
}

func notRun(v violation, why string) Outcome {
	return Outcome{Violation: v.Violation, Verdict: VerdictNotRun, Why: why}
}

// errControl is why a further control of a violation failed.
var errControl = errors.New("control failed")

// make makes one violation on a connection of its own. heard is false when nobody answered the control.
func (s *siege) make(ctx context.Context, v violation) (o Outcome, heard bool) {
	if v.lacks != nil {
		if why := v.lacks(s); why != "" {
			return notRun(v, why), true
		}
	}
	began := time.Now()
	o, heard = Outcome{Violation: v.Violation, Verdict: VerdictInconclusive}, true
	defer func() { o.Took = time.Since(began).Milliseconds() }()
	cc, err := s.dial()
	if err != nil {
		o.Why = err.Error()
		return o, false
	}
	defer func() { _ = cc.Close() }()
	if a := s.control(ctx, cc); !a.admitted() {
		o.Why = "control failed: " + a.String()
		return o, !silentAnswer(a)
	}
	note := ""
	if v.run != nil {
		o.Steps, note, err = v.run(ctx, s, cc)
	} else {
		o.Steps, err = s.shoot(ctx, cc, v)
	}
	o.Verdict = verdict(o.Steps)
	o.Why = because(o, err, note)
	if err != nil && o.Verdict != VerdictAdmitted {
		o.Verdict = VerdictInconclusive
	}
	return o, true
}

// silentAnswer reports whether an answer came from nobody.
func silentAnswer(a answer) bool {
	return a.decision == "" && (a.code == codes.Unavailable || a.code == codes.DeadlineExceeded)
}

// shoot delivers the shots of v until the endpoint stops answering.
func (s *siege) shoot(ctx context.Context, cc *grpc.ClientConn, v violation) ([]Step, error) {
	shots, err := v.shots(s)
	if err != nil {
		return nil, err
	}
	steps := make([]Step, 0, len(shots))
	for _, sh := range shots {
		want := v.Want
		if sh.want != nil {
			want = sh.want
		}
		a := s.deliver(ctx, cc, sh.raw, want)
		steps = append(steps, step(sh.name, a, want))
		if silentAnswer(a) {
			break
		}
	}
	return steps, nil
}

// maxNamed bounds the messages that a sentence names.
const maxNamed = 3

// because is the sentence about an outcome that needs one.
func because(o Outcome, err error, note string) string {
	var parts, open, odd []string
	if err != nil {
		parts = append(parts, err.Error())
	}
	for _, s := range o.Steps {
		switch s.Verdict {
		case VerdictAdmitted:
			open = append(open, s.Name)
		case VerdictInconclusive:
			text := s.Got
			if s.Text != "" {
				text += " (" + s.Text + ")"
			}
			odd = append(odd, fmt.Sprintf("%s: got %s, want %s", s.Name, text, strings.Join(s.Want, " or ")))
		}
	}
	if len(open) > 0 {
		parts = append(parts, "admitted: "+firstOf(open, ", "))
	}
	if len(odd) > 0 {
		parts = append(parts, firstOf(odd, "; "))
	}
	if len(parts) == 0 && len(o.Steps) == 0 {
		parts = append(parts, "nothing was sent")
	}
	if note != "" {
		parts = append(parts, note)
	}
	return strings.Join(parts, "; ")
}

// firstOf joins the first of list and counts the others.
func firstOf(list []string, by string) string {
	text := strings.Join(list[:min(len(list), maxNamed)], by)
	if more := len(list) - maxNamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
