package audit

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"iter"
	"strings"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// maxDecisionRecords bounds the records of one decision that are looked at; a call writes two on each side.
const maxDecisionRecords = 64

// Link is one link of the authority that a call was made under.
type Link struct {
	From, To string
	Depth    uint32
	Expires  time.Time
	// Capabilities are written as "action on resource", with "and below" for a subtree.
	Capabilities []string
}

// Explanation says why a decision came out as it did: every recorded input of it.
type Explanation struct {
	DecisionID [16]byte
	// Position is that of the record that decided.
	Position  Position
	At        time.Time
	Direction v1.EventDirection
	Decision  v1.EventDecision
	// Reason is what the log knows, WireReason what the peer was told.
	Reason, WireReason v1.Reason
	Cause              string

	Actor, ActorClass, ActorState string
	Callee                        string
	Origin                        string
	Tenant, PeerTenant            string
	Action, Method, Purpose       string
	Resource                      []string

	// Links is empty when no record given spells the chain out; ChainMissing then says so.
	Links           []Link
	ChainMissing    bool
	Capabilities    []string
	Depth, MaxDepth uint32

	// Claimed is what the message said about itself, Effective what was left of it; Floor what the rule demanded and Cap what this
	// caller can reach at most.
	Claimed, Effective *v1.Label
	Floor, Cap         v1.Integrity

	PolicySerial uint64
	PolicySHA256 []byte
	Policies     []string

	// Finished says that an outcome was recorded, with Code as its gRPC status.
	Finished bool
	Code     uint32
	// Otherwise says in one sentence what would have had to be different.
	Otherwise string
}

// Explain finds the decision with the given id and says why it came out so. The id that a refused caller got is that of the callee's
// decision; records that repeat it are passed over for the one that holds the decision's input. records is ranged over twice.
// Errors: ErrNotFound, those of the log.
func Explain(records iter.Seq2[Record, error], id [16]byte) (Explanation, error) {
	records = Expanded(records)
	found, err := decisionRecords(records, id)
	if err != nil {
		return Explanation{}, fmt.Errorf("explaining %s: %w", idText(id), err)
	}
	best := found[0]
	for _, rec := range found[1:] {
		if weight(rec.Event) > weight(best.Event) {
			best = rec
		}
	}
	x := &Explanation{DecisionID: id, Position: best.Position, At: time.Unix(0, best.Event.TimeUnixNs)}
	x.fill(best.Event)
	if err := x.complete(records, best); err != nil {
		return Explanation{}, fmt.Errorf("explaining %s: %w", idText(id), err)
	}
	x.ChainMissing = len(x.Links) == 0 && len(best.Event.ChainRef) > 0
	x.Otherwise = otherwise(x)
	return *x, nil
}

func decisionRecords(records iter.Seq2[Record, error], id [16]byte) ([]Record, error) {
	var found []Record
	for rec, err := range records {
		if err != nil {
			return nil, err
		}
		if got, ok := id16(rec.Event.DecisionId); ok && got == id && len(found) < maxDecisionRecords {
			found = append(found, rec)
		}
	}
	if len(found) == 0 {
		return nil, ErrNotFound
	}
	return found, nil
}

// weight ranks the record that decided above those that were told.
func weight(ev *Event) int {
	n := 0
	if ev.DecisionInput != nil {
		n += 4
	}
	if ev.Direction == v1.EventDirection_EVENT_DIRECTION_INBOUND {
		n += 2
	}
	if ev.Decision == v1.EventDecision_EVENT_DECISION_DENY {
		n++
	}
	return n
}

// complete adds what other records of the same log say: the outcome of the interaction, and a chain that is spelled out only later.
func (x *Explanation) complete(records iter.Seq2[Record, error], best Record) error {
	interaction, known := id16(best.Event.InteractionId)
	for rec, err := range records {
		if err != nil {
			return err
		}
		ev := rec.Event
		if rec.LogID != best.LogID {
			continue
		}
		if got, ok := id16(ev.InteractionId); known && ok && got == interaction && ev.Direction == best.Event.Direction {
			x.fill(ev)
		}
		if ref := best.Event.ChainRef; len(x.Links) == 0 && len(ref) > 0 && string(ev.ChainRef) == string(ref) {
			x.Links = links(ev.Chain)
		}
	}
	return nil
}

// fill takes what x does not have yet.
func (x *Explanation) fill(ev *Event) {
	in := ev.GetDecisionInput()
	x.Direction = cmp.Or(x.Direction, ev.Direction)
	x.Decision = cmp.Or(x.Decision, ev.Decision)
	x.Reason = cmp.Or(x.Reason, ev.Reason)
	x.WireReason = cmp.Or(x.WireReason, ev.WireReason)
	x.Cause = cmp.Or(x.Cause, ev.Cause)
	x.Actor = cmp.Or(x.Actor, ev.GetActor().GetSpiffeId(), in.GetPrincipal())
	x.ActorClass = cmp.Or(x.ActorClass, ev.GetActor().GetAgentClass(), in.GetPrincipalClass())
	x.ActorState = cmp.Or(x.ActorState, in.GetPrincipalState())
	x.Callee = cmp.Or(x.Callee, ev.GetPeer().GetSpiffeId(), in.GetCallee())
	x.Origin = cmp.Or(x.Origin, principalText(ev.Origin), in.GetOrigin())
	x.Tenant = cmp.Or(x.Tenant, ev.Tenant, in.GetTenant())
	x.PeerTenant = cmp.Or(x.PeerTenant, ev.PeerTenant)
	x.Action = cmp.Or(x.Action, ev.Action, in.GetAction())
	x.Method = cmp.Or(x.Method, ev.Method)
	x.Purpose = cmp.Or(x.Purpose, ev.Purpose, in.GetPurpose())
	x.Depth = cmp.Or(x.Depth, ev.Depth, in.GetDepth())
	x.MaxDepth = cmp.Or(x.MaxDepth, ev.MaxDepth, in.GetMaxDepth())
	x.Floor = cmp.Or(x.Floor, in.GetMinIntegrity())
	x.Cap = cmp.Or(x.Cap, in.GetIntegrityCap())
	x.PolicySerial = cmp.Or(x.PolicySerial, ev.PolicySerial)
	x.Claimed = firstLabel(x.Claimed, ev.ControlClaimed)
	x.Effective = firstLabel(x.Effective, ev.ControlEffective, in.GetControl())
	x.Resource = firstList(x.Resource, ev.Resource, in.GetResource())
	x.Policies = firstList(x.Policies, ev.Policies)
	x.PolicySHA256 = firstList(x.PolicySHA256, ev.PolicySha256)
	x.Links = firstList(x.Links, links(ev.Chain))
	x.Capabilities = firstList(x.Capabilities, capabilities(in.GetCapabilities()))
	if ev.Phase == v1.EventPhase_EVENT_PHASE_OUTCOME {
		x.Finished, x.Code = true, ev.GetOutcome().GetCode()
	}
}

func firstLabel(labels ...*v1.Label) *v1.Label {
	for _, l := range labels {
		if l != nil {
			return l
		}
	}
	return nil
}

func firstList[T any](lists ...[]T) []T {
	for _, l := range lists {
		if len(l) > 0 {
			return l
		}
	}
	return nil
}

func links(chain []*v1.ChainLink) []Link {
	var out []Link
	for _, l := range chain {
		out = append(out, Link{
			From: l.Delegator, To: l.Delegate, Depth: l.Depth,
			Expires: time.UnixMilli(l.ExpiresAtMs), Capabilities: capabilities(l.Capabilities),
		})
	}
	return out
}

func capabilities(caps []*v1.Capability) []string {
	var out []string
	for _, c := range caps {
		s := c.GetAction() + " on " + resourceText(c.GetResource())
		if c.GetSubtree() {
			s += " and below"
		}
		if n := len(c.GetConstraints()); n > 0 {
			s += fmt.Sprintf(" under %d constraints", n)
		}
		out = append(out, s)
	}
	return out
}

// resourceText joins segments for people. A slash inside a segment is escaped, so that two resources never look the same.
func resourceText(segments []string) string {
	if len(segments) == 0 {
		return "(no resource)"
	}
	parts := make([]string, len(segments))
	for i, s := range segments {
		parts[i] = strings.NewReplacer(`%`, "%25", "/", "%2F").Replace(s)
	}
	return strings.Join(parts, "/")
}

func integrityText(i v1.Integrity) string {
	if i == v1.Integrity_INTEGRITY_UNSPECIFIED {
		i = v1.Integrity_INTEGRITY_UNTRUSTED
	}
	return strings.TrimPrefix(i.String(), "INTEGRITY_")
}

func labelText(l *v1.Label) string {
	if l == nil {
		return "none, read as UNTRUSTED"
	}
	conf := l.Confidentiality
	if conf == v1.Confidentiality_CONFIDENTIALITY_UNSPECIFIED {
		conf = v1.Confidentiality_CONFIDENTIALITY_RESTRICTED
	}
	s := integrityText(l.Integrity) + ", " + strings.TrimPrefix(conf.String(), "CONFIDENTIALITY_")
	if len(l.Tags) > 0 {
		s += ", tags " + strings.Join(l.Tags, " ")
	}
	if len(l.Sources) > 0 {
		s += ", from " + strings.Join(l.Sources, " ")
	}
	return s
}

func hexOr(b []byte, none string) string {
	if len(b) == 0 {
		return none
	}
	return hex.EncodeToString(b)
}
