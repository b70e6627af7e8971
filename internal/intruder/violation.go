package intruder

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// Violation is one way to break the rules at an endpoint that the attacker may call.
type Violation struct {
	Name string `json:"name"`
	// Row is the row of the delegation conformance table (TestConformance and its neighbours in package delegation), 0 for the
	// rules of the envelope and of the connection.
	Row int `json:"row,omitempty"`
	// Want are the wire reasons of which one must come back. Most violations have one; what is spoilt at random can break one
	// rule or another.
	Want []string `json:"want"`
	// Causes is how the receiver's audit log may name the refusal.
	Causes []string `json:"causes"`
	What   string   `json:"what"` // one sentence for a reader
}

// violation is a Violation and how to make it: by shots, or by run where messages on one connection do not do.
type violation struct {
	Violation
	// lacks says what the credentials do not hold; empty lets the violation be made.
	lacks func(*siege) string
	shots func(*siege) ([]shot, error)
	run   func(context.Context, *siege, *grpc.ClientConn) ([]Step, string, error)
}

// shot is one marshalled Envelope to deliver.
type shot struct {
	name string
	raw  []byte
	want []string // instead of the violation's
}

// Verdicts of an Outcome.
const (
	VerdictRefused      = "REFUSED"
	VerdictAdmitted     = "ADMITTED"
	VerdictInconclusive = "INCONCLUSIVE"
	VerdictNotRun       = "NOT RUN"
)

// Step is one message of a violation and what came back.
type Step struct {
	Name string   `json:"name"`
	Want []string `json:"want"`
	// Got is a wire reason, ADMITTED, or the code of an answer that is no refusal by the mesh.
	Got string `json:"got"`
	// DecisionID names the record in the receiver's audit log, in hexadecimal; empty when the receiver could not tell.
	DecisionID string `json:"decision_id,omitempty"`
	Verdict    string `json:"verdict"`
	Text       string `json:"text,omitempty"`
}

// Outcome is how one violation went.
type Outcome struct {
	Violation
	Verdict string `json:"verdict"`
	// Why says what made it INCONCLUSIVE or NOT RUN, or which steps were admitted.
	Why   string `json:"why,omitempty"`
	Steps []Step `json:"steps,omitempty"`
	// Milliseconds that it took.
	Took int64 `json:"took_ms"`
}

// Tally counts verdicts.
type Tally struct {
	Refused      int `json:"refused"`
	Admitted     int `json:"admitted"`
	Inconclusive int `json:"inconclusive"`
	NotRun       int `json:"not_run"`
	Calls        int `json:"calls"`
}

// Held reports whether something was put to the test and everything that was put to the test was refused.
func (t Tally) Held() bool { return t.Refused > 0 && t.Admitted == 0 && t.Inconclusive == 0 }

func (t *Tally) add(verdict string) {
	switch verdict {
	case VerdictRefused:
		t.Refused++
	case VerdictAdmitted:
		t.Admitted++
	case VerdictNotRun:
		t.NotRun++
	default:
		t.Inconclusive++
	}
}

// violations lists everything that Fire makes, in the order in which it makes it. What empties budgets comes last, and
// what needs a grant of some age late: clocks differ.
func violations() []violation {
	return slices.Concat(scopeViolations(), purposeViolations(), depthViolations(), linkViolations(), rootViolations(),
		presenterViolations(), frameViolations(), signerViolations(), signatureViolations(), encodingViolations(), proofViolations(),
		envelopeViolations(), limitViolations(), guardViolations(), referenceViolations(), replayViolations(), lifeViolations(),
		floodViolations())
}

// Violations returns what Fire makes, in its order.
func Violations() []Violation {
	all := violations()
	out := make([]Violation, len(all))
	for i, v := range all {
		out[i] = v.Violation
	}
	return out
}

// codeOf is the status code that a refusal must carry with its reason. The table is the attacker's own: it is not taken from the
// core that it judges.
var codeOf = map[string]codes.Code{
	"MALFORMED":          codes.InvalidArgument,
	"DIGEST_MISMATCH":    codes.InvalidArgument,
	"NO_ENVELOPE":        codes.PermissionDenied,
	"CHAIN_INVALID":      codes.PermissionDenied,
	"CHAIN_EXPIRED":      codes.PermissionDenied,
	"PRESENTER_MISMATCH": codes.PermissionDenied,
	"AUDIENCE_MISMATCH":  codes.PermissionDenied,
	"TENANT_MISMATCH":    codes.PermissionDenied,
	"SCOPE":              codes.PermissionDenied,
	"CHAIN_UNKNOWN":      codes.FailedPrecondition,
	"EXTENSION_UNKNOWN":  codes.FailedPrecondition,
	"INTEGRITY_TOO_LOW":  codes.FailedPrecondition,
	"PROOF_REQUIRED":     codes.FailedPrecondition,
	"REPLAYED":           codes.AlreadyExists,
	"DEADLINE":           codes.DeadlineExceeded,
	"UNKNOWN_METHOD":     codes.Unimplemented,
	"RATE":               codes.ResourceExhausted,
	"LIMIT":              codes.ResourceExhausted,
	peerUnverified:       codes.Unauthenticated,
}

// step judges one answer. Only a wanted reason under its own code is a refusal, and only OK is an admission.
func step(name string, a answer, want []string) Step {
	s := Step{Name: name, Want: want, Got: a.got, DecisionID: a.decision, Text: a.text, Verdict: VerdictInconclusive}
	switch {
	case a.admitted():
		s.Verdict = VerdictAdmitted
	case slices.Contains(want, a.got) && a.code == codeOf[a.got]:
		s.Verdict = VerdictRefused
	}
	return s
}

// verdict is that of the worst step: an admission outweighs everything, and what was not decided outweighs a refusal.
func verdict(steps []Step) string {
	v := VerdictInconclusive
	for i, s := range steps {
		switch {
		case s.Verdict == VerdictAdmitted:
			return VerdictAdmitted
		case i == 0:
			v = s.Verdict
		case s.Verdict == VerdictInconclusive:
			v = VerdictInconclusive
		}
	}
	return v
}
