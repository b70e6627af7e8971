package chaintext

import (
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// State is what became of a step.
type State string

// States of a step.
const (
	OK         State = "ok"
	Failed     State = "FAILED"
	NotReached State = "not reached"
	Skipped    State = "skipped"
)

// Step is one line of the checklist.
type Step struct {
	Number int    `json:"step"`
	Name   string `json:"name"`
	State  State  `json:"state"`
	// Detail says what was held against what, or why the step was skipped.
	Detail string `json:"detail,omitempty"`
	// Failure is set when the step failed.
	Failure *Failure `json:"-"`
	// Otherwise says what would have had to be different when the step failed, Evidence what in the chain is in the way.
	Otherwise string   `json:"otherwise,omitempty"`
	Evidence  []string `json:"evidence,omitempty"`
}

// Checklist returns the verifier's steps 1 to 17 in order. Steps after the first failure are not reached; the verdict's further
// failures, which come to light when what was asked is put right, are not in it.
func Checklist(f Found, v Verdict) []Step {
	view := Describe(f, Options{At: v.Question.At})
	steps := make([]Step, 0, lastStep)
	stopped := false
	for n := 1; n <= lastStep; n++ {
		s := Step{Number: n, Name: stepNames[n], State: OK}
		switch {
		case stopped:
			s.State = NotReached
		case len(v.Failures) > 0 && v.Failures[0].Step == n:
			stopped = true
			s.fail(view, v, v.Failures[0])
		default:
			s.pass(f, view, v)
		}
		steps = append(steps, s)
	}
	return steps
}

// fail fills in a step that refused.
func (s *Step) fail(view View, v Verdict, x Failure) {
	s.State, s.Failure, s.Otherwise = Failed, &x, Otherwise(x.Reason)
	s.Detail = view.where(x.Depth)
	s.Evidence = view.evidence(v.Question, x)
}

// pass fills in a step that refused nothing.
func (s *Step) pass(f Found, view View, v Verdict) {
	skip := func(why string) { s.State, s.Detail = Skipped, why }
	switch s.Number {
	case stepSizes:
		s.Detail = fmt.Sprintf("%d bytes, %s, %s", view.Bytes, count(view.HopCount, "hop"), count(view.CertCount, "certificate"))
	case stepClock:
		s.Detail = v.Question.At.UTC().Format(time.RFC3339)
	case stepReference:
		skip("the chain is here in full")
	case stepKnown:
		skip("nothing was: every statement is verified")
	case stepPresenter:
		s.Detail = fmt.Sprintf("%s, to %s", view.short(v.Question.Presenter.String()), view.short(v.Question.Self.String()))
		if v.own {
			s.Detail = fmt.Sprintf("%s acts under its own grant", view.short(v.Question.Self.String()))
		}
	case stepLife:
		if n := len(view.Statements); n > 0 {
			s.Detail = "ends " + view.Statements[n-1].Expires.Text
		}
	case stepNarrower:
		if n := len(view.Statements); n > 0 {
			s.Detail = fmt.Sprintf("depth %d of at most %d, %s", view.Statements[n-1].Depth, view.Statements[n-1].MaxDepth,
				countOf(len(view.Statements[n-1].Capabilities), "capability", "capabilities"))
		}
	case stepRevoked:
		skip("there is no revocation list here")
	case stepAllowance:
		skip("nobody is rated here")
		if v.Signatures > 0 {
			s.Detail = fmt.Sprintf("nobody is rated here; %d signatures", v.Signatures)
		}
	case stepGrant:
		g := new(v1.GrantPayload)
		if proto.Unmarshal(f.Chain.GetGrant().GetPayload(), g) == nil {
			s.Detail = "key " + word(g.GetKeyId())
		}
	case stepSigner, stepSignature:
		if f.IsGrant() {
			skip("there are no hops")
			return
		}
		s.Detail = count(view.HopCount, "hop")
	case stepMessage:
		if v.Question.Intent == nil {
			skip("no message given; add --intent, --resource and --purpose")
			return
		}
		s.Detail = fmt.Sprintf("%s on %s", word(v.Question.Intent.Action), resourceText(v.Question.Intent.Resource, false))
	}
}

// where names the statement at a position.
func (v View) where(depth int) string {
	switch {
	case depth < 0:
		return "the chain as a whole"
	case depth >= len(v.Statements) || v.Statements[depth].Position != depth:
		return fmt.Sprintf("statement %d", depth)
	case depth == 0:
		return fmt.Sprintf("the grant, %s -> %s", v.short(v.Statements[0].Issuer), v.short(v.Statements[0].Delegate))
	}
	s := v.Statements[depth]
	return fmt.Sprintf("hop %d, %s -> %s", depth, v.short(s.Issuer), v.short(s.Delegate))
}

// evidence is what the chain claims that is in the way, and what it was held against.
func (v View) evidence(q Question, x Failure) []string {
	var s Statement
	if x.Depth >= 0 && x.Depth < len(v.Statements) {
		s = v.Statements[x.Depth]
	}
	var out []string
	switch x.Reason {
	case v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED, v1.Reason_REASON_CHAIN_CONSTRAINT_LOOSENED, v1.Reason_REASON_CHAIN_NOT_DELEGABLE:
		for _, c := range s.Capabilities {
			if c.Change != Wider {
				continue
			}
			out = append(out, c.Text)
			for _, change := range c.Changes {
				out = append(out, "  "+change)
			}
		}
		if len(out) == 0 && x.Depth > 0 && x.Depth < len(v.Statements) {
			for _, d := range v.Statements[x.Depth-1].Delegates {
				out = append(out, "allowed below the statement before: "+word(d))
			}
		}
	case v1.Reason_REASON_CHAIN_TIME, v1.Reason_REASON_CHAIN_LIFETIME:
		out = append(out, "lives "+v.life(s))
		if s.Signer != nil && !s.Signer.NotAfter.IsZero() {
			out = append(out, "its signer's certificate ends "+s.Signer.NotAfter.Format(time.RFC3339))
		}
	case v1.Reason_REASON_CHAIN_PRESENTER:
		out = append(out, "signed by "+word(s.Issuer), "presented by "+orNone(q.Presenter.String()))
	case v1.Reason_REASON_CHAIN_AUDIENCE:
		out = append(out, "for "+word(s.Delegate), "presented to "+q.Self.String())
	case v1.Reason_REASON_CHAIN_INTERSECTION, v1.Reason_REASON_CHAIN_CONSTRAINT_UNMET:
		if q.Intent != nil {
			out = append(out, fmt.Sprintf("asked: %s on %s", word(q.Intent.Action), resourceText(q.Intent.Resource, false)))
		}
		for _, c := range s.Capabilities {
			out = append(out, "held: "+c.Text)
		}
	case v1.Reason_REASON_CHAIN_KEY, v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT:
		if s.KeyID != "" {
			out = append(out, fmt.Sprintf("key %s of %s", word(s.KeyID), word(s.Issuer)))
		}
	default:
	}
	for _, n := range s.Notes {
		out = append(out, "it "+n)
	}
	return out
}

const stepLabel = 40 // columns of a step's number and name

// WriteChecklist writes the verdict as a checklist for people. wire is what a caller would be told for a reason.
func WriteChecklist(w io.Writer, f Found, v Verdict, wire func(v1.Reason) string) error {
	p := &page{w: w}
	steps := Checklist(f, v)
	view := Describe(f, Options{At: v.Question.At})
	verdict(p, view, v, wire)
	p.gap()
	for _, s := range steps {
		writeStep(p, s)
	}
	also := "The verifier stops there. Also wrong, were that put right:"
	for _, x := range v.Failures[min(1, len(v.Failures)):] {
		p.gap()
		if also != "" {
			p.line(0, 0, also)
			also = ""
		}
		s := Step{Number: x.Step, Name: stepNames[x.Step]}
		s.fail(view, v, x)
		writeStep(p, s)
	}
	p.gap()
	p.linef(0, "Not asked here: %s. The recipient asks.", strings.Join(NotAsked(), ", "))
	return p.err
}

// NotAsked is what no verdict of this package is about: a recipient that knows more may refuse what is allowed here.
func NotAsked() []string {
	return []string{"revocation", "replay", "proofs", "agent states", "labels", "the capability table"}
}

func writeStep(p *page, s Step) {
	p.line(0, stepLabel+12, fmt.Sprintf("%3d  %s%s%s", s.Number, pad(s.Name, stepLabel-5), pad(string(s.State), 12), s.Detail))
	if s.Failure == nil {
		return
	}
	cause := ReasonName(s.Failure.Reason)
	if s.Failure.Cause != "" {
		cause += ": " + visible(s.Failure.Cause)
	}
	p.row(5, 9, "because", cause)
	for i, e := range s.Evidence {
		label := ""
		if i == 0 {
			label = "claimed"
		}
		p.row(5, 9, label, e)
	}
	p.row(5, 9, "to pass", s.Otherwise)
}

// WriteVerdict writes the verdict for people in a few lines.
func WriteVerdict(w io.Writer, f Found, v Verdict, wire func(v1.Reason) string) error {
	p := &page{w: w}
	verdict(p, Describe(f, Options{At: v.Question.At}), v, wire)
	if v.Allowed() {
		p.row(2, 10, "not asked", strings.Join(NotAsked(), ", ")+"; the recipient asks")
	} else {
		p.row(2, 10, "see", "safeconduct chain explain, with the same arguments")
	}
	return p.err
}

// presumed marks what nobody asked about and the chain itself says.
func presumed(yes bool) string {
	if yes {
		return ", as the chain says"
	}
	return ""
}

func verdict(p *page, view View, v Verdict, wire func(v1.Reason) string) {
	row := func(label, text string) { p.row(2, 10, label, text) }
	if v.Allowed() {
		p.line(0, 2, "ALLOWED  "+view.path())
	} else {
		x := v.Failures[0]
		p.line(0, 2, fmt.Sprintf("REFUSED  %s at step %d, %s", ReasonName(x.Reason), x.Step, view.where(x.Depth)))
		if x.Cause != "" {
			row("cause", visible(x.Cause))
		}
		row("told", wire(x.Reason)+"; reason and cause stay in the recipient's audit log")
	}
	if v.own {
		row("as", v.Question.Self.String()+", under its own grant")
	} else {
		row("from", orNone(v.Question.Presenter.String())+presumed(v.fromChain))
		row("to", v.Question.Self.String()+presumed(v.toChain))
	}
	at := v.Question.At.UTC().Format(time.RFC3339)
	if v.Question.AtWhy != "" {
		at += ", " + v.Question.AtWhy
	}
	row("at", at)
	if in := v.Question.Intent; in != nil {
		row("asked", fmt.Sprintf("%s on %s, for %s", word(in.Action), resourceText(in.Resource, false), quoted(in.Purpose)))
	}
	if v.Allowed() {
		row("chain", fmt.Sprintf("%x, until %s", v.ChainID, v.Expires.Format(time.RFC3339)))
		row("reference", fmt.Sprintf("%x", v.Reference))
		if v.Question.Intent == nil {
			row("note", "held against no message; add --intent, --resource and --purpose")
		}
	}
}
