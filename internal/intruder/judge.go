package intruder

import (
	"encoding/hex"
	"fmt"
	"strings"

	rpccode "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/safeconduct/safeconduct/interceptors"
)

// admitted is what Got says of a call that passed.
const admitted = "ADMITTED"

// peerUnverified is the reason that the mesh has for a peer it does not know.
const peerUnverified = "PEER_UNVERIFIED"

// decisionBytes is the size of a decision id.
const decisionBytes = 16

// Bounds of what is kept of an answer. Reasons have names of at most 30 letters.
const (
	maxReason     = 64
	maxAnswerText = 512
	// maxAnswerHeaders bounds the metadata of an answer, where its status is.
	maxAnswerHeaders = 64 << 10
)

// answer is what came back for one call.
type answer struct {
	got      string // a wire reason, ADMITTED, or the name of a status code
	code     codes.Code
	decision string // hexadecimal
	text     string
}

// finding is what one attack saw. Mutations are empty when the twin was not admitted.
type finding struct {
	twin      answer
	mutations []answer
	note      string
}

// ok is the answer to a call that passed.
func ok() answer { return answer{got: admitted} }

// answerOf reads the outcome of a call. Only a status from the receiver that carries our own ErrorInfo is a reason; nothing that
// fails on this side can look like one.
func answerOf(err error) answer {
	if err == nil {
		return ok()
	}
	s := status.Convert(err)
	a := answer{got: codeName(s.Code()), code: s.Code(), text: brief(s.Message(), maxAnswerText)}
	for _, d := range s.Details() {
		info, isInfo := d.(*errdetails.ErrorInfo)
		if !isInfo || info.GetDomain() != interceptors.Domain || info.GetReason() == "" {
			continue
		}
		a.got = brief(info.GetReason(), maxReason)
		if id, err := hex.DecodeString(info.GetMetadata()["decision_id"]); err == nil && len(id) == decisionBytes {
			a.decision = hex.EncodeToString(id)
		}
		break
	}
	return a
}

// brief bounds what the receiver says: it is not to be trusted with the memory of this side, nor with the screen of whoever reads.
func brief(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "..."
}

// codeName is the canonical spelling, as UNAVAILABLE.
func codeName(c codes.Code) string {
	if name, known := rpccode.Code_name[int32(c)]; known { //nolint:gosec // G115: codes are below 17.
		return name
	}
	return codeName(codes.Unknown)
}

func (a answer) admitted() bool { return a.got == admitted && a.code == codes.OK }

// inconclusive reports whether the receiver did not decide at all.
func (a answer) inconclusive() bool {
	switch a.code {
	case codes.Unavailable, codes.Internal, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
		return true
	default:
		return false
	}
}

func (a answer) String() string {
	if a.text == "" {
		return a.got
	}
	return fmt.Sprintf("%s: %s", a.got, a.text)
}

// judge turns what an attack saw into the verdict. The first step that was not refused as wanted speaks for the attack.
func (r *Result) judge(f finding) {
	r.Note = f.note
	r.TwinAdmitted = f.twin.admitted()
	if !r.TwinAdmitted {
		r.TwinError, r.Inconclusive = f.twin.String(), true
		return
	}
	for i, m := range f.mutations {
		if i == 0 || m.got != r.Want || m.inconclusive() {
			r.Got, r.DecisionID = m.got, m.decision
		}
		if m.got != r.Want || m.inconclusive() {
			r.Inconclusive = m.inconclusive()
			r.note(m.text)
			return
		}
	}
	if len(f.mutations) == 0 {
		r.Inconclusive = true
		return
	}
	r.Refused = true
}

func (r *Result) note(text string) {
	switch {
	case text == "":
	case r.Note == "":
		r.Note = text
	default:
		r.Note = text + "; " + r.Note
	}
}
