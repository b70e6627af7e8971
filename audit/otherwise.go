package audit

import (
	"fmt"
	"strings"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// otherwise says in one sentence what would have had to be different for a denied call to pass.
func otherwise(x *Explanation) string {
	switch {
	case x.Decision == v1.EventDecision_EVENT_DECISION_ALLOW:
		return "The call was allowed: every check passed."
	case x.Decision != v1.EventDecision_EVENT_DECISION_DENY:
		return "No decision is recorded, which counts as a denial."
	}
	if s := fromInputs(x); s != "" {
		return s
	}
	r := x.Reason
	if r == v1.Reason_REASON_UNSPECIFIED {
		r = x.WireReason
	}
	if s := byReason(r); s != "" {
		return s
	}
	return "The log names the reason " + reasonText(r) + "; the cause above is all it knows."
}

// fromInputs answers from the recorded input, where that says more than the reason.
func fromInputs(x *Explanation) string {
	switch x.Reason {
	case v1.Reason_REASON_INTEGRITY_TOO_LOW, v1.Reason_REASON_INTEGRITY_FLOOR:
		if x.Floor == v1.Integrity_INTEGRITY_UNSPECIFIED {
			return ""
		}
		got := v1.Integrity_INTEGRITY_UNTRUSTED
		if x.Effective != nil {
			got = max(got, x.Effective.Integrity)
		}
		s := fmt.Sprintf("What influenced the request would have had to be at least %s; it was %s", integrityText(x.Floor), integrityText(got))
		if x.Cap != 0 && x.Cap < x.Floor {
			return s + fmt.Sprintf(", and this caller reaches %s at most.", integrityText(x.Cap))
		}
		return s + "."
	case v1.Reason_REASON_SCOPE, v1.Reason_REASON_SCOPE_MISSING, v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED, v1.Reason_REASON_CHAIN_INTERSECTION:
		if x.Action == "" {
			return ""
		}
		need := x.Action + " on " + resourceText(x.Resource)
		held := x.Capabilities
		if len(held) == 0 && len(x.Links) > 0 {
			held = x.Links[len(x.Links)-1].Capabilities
		}
		for _, c := range held {
			if strings.HasPrefix(c, x.Action+" on ") {
				return fmt.Sprintf("The chain would have had to cover %s; for that action it covers only %s.", need, strings.TrimPrefix(c, x.Action+" on "))
			}
		}
		return fmt.Sprintf("The chain would have had to hold a capability for %s; it holds none for that action.", need)
	case v1.Reason_REASON_CHAIN_DEPTH, v1.Reason_REASON_METHOD_DEPTH:
		if x.MaxDepth > 0 && x.Depth > x.MaxDepth {
			return fmt.Sprintf("The chain would have had to have at most %d hops; it has %d.", x.MaxDepth, x.Depth)
		}
	case v1.Reason_REASON_AGENT_STATE, v1.Reason_REASON_AGENT_PENDING, v1.Reason_REASON_AGENT_SUSPENDED,
		v1.Reason_REASON_AGENT_QUARANTINED, v1.Reason_REASON_AGENT_RETIRED:
		if x.ActorState != "" {
			return fmt.Sprintf("The operator would have had to keep the caller active; its state was %s.", x.ActorState)
		}
	default:
	}
	return ""
}

// byReason has one sentence for each family of reasons.
func byReason(r v1.Reason) string {
	for _, f := range reasonFamilies {
		for _, m := range f.reasons {
			if m == r {
				return f.sentence
			}
		}
	}
	for _, f := range reasonRanges {
		if r >= f.from && r <= f.to {
			return f.sentence
		}
	}
	return ""
}

var reasonFamilies = []struct {
	sentence string
	reasons  []v1.Reason
}{
	{"The operator would have had to keep the caller in state active.", []v1.Reason{
		v1.Reason_REASON_AGENT_STATE, v1.Reason_REASON_AGENT_PENDING, v1.Reason_REASON_AGENT_SUSPENDED,
		v1.Reason_REASON_AGENT_QUARANTINED, v1.Reason_REASON_AGENT_RETIRED,
	}},
	{"The workload would have had to be registered with the selectors that the authority attested.", []v1.Reason{
		v1.Reason_REASON_WORKLOAD_UNATTESTED, v1.Reason_REASON_PEER_UNREGISTERED,
	}},
	{"The other process of the same identity would have had to end first.", []v1.Reason{v1.Reason_REASON_PEER_DUPLICATE}},
	{"The caller would have had to be an operator.", []v1.Reason{v1.Reason_REASON_OPERATOR_REQUIRED}},
	{"The message would have had to carry an envelope id that was not used before.", []v1.Reason{v1.Reason_REASON_REPLAYED}},
	{"The chain would have had to be inside its time limits when it was used.", []v1.Reason{
		v1.Reason_REASON_CHAIN_EXPIRED, v1.Reason_REASON_CHAIN_TIME, v1.Reason_REASON_CHAIN_LIFETIME,
	}},
	{"The chain, its grant and its signers would have had to be not revoked.", []v1.Reason{
		v1.Reason_REASON_CHAIN_REVOKED, v1.Reason_REASON_CHAIN_HANDLE_REVOKED,
	}},
	{"The chain would have had to be shown in full on this connection before it was named by reference.", []v1.Reason{
		v1.Reason_REASON_CHAIN_UNKNOWN,
	}},
	{"The chain would have had to have fewer hops.", []v1.Reason{
		v1.Reason_REASON_CHAIN_DEPTH, v1.Reason_REASON_METHOD_DEPTH,
	}},
	{"Each link of the chain would have had to give no more than the link before it.", []v1.Reason{
		v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED, v1.Reason_REASON_CHAIN_CONSTRAINT_LOOSENED, v1.Reason_REASON_CHAIN_NOT_DELEGABLE,
		v1.Reason_REASON_CHAIN_INTERSECTION,
	}},
	{"The request would have had to meet every constraint of the chain.", []v1.Reason{
		v1.Reason_REASON_CHAIN_CONSTRAINT_UNMET, v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT, v1.Reason_REASON_CHAIN_PURPOSE,
	}},
	{"The chain would have had to be given to the agent that called.", []v1.Reason{
		v1.Reason_REASON_PRESENTER_MISMATCH, v1.Reason_REASON_CHAIN_PRESENTER,
	}},
	{"The chain would have had to name this callee.", []v1.Reason{
		v1.Reason_REASON_AUDIENCE_MISMATCH, v1.Reason_REASON_CHAIN_AUDIENCE,
	}},
	{"Caller, chain and callee would have had to belong to one tenant.", []v1.Reason{
		v1.Reason_REASON_TENANT_MISMATCH, v1.Reason_REASON_CHAIN_TENANT, v1.Reason_REASON_MEMORY_TENANT_CROSSED,
	}},
	{"The request would have had to carry a fresh proof of the caller's key.", []v1.Reason{
		v1.Reason_REASON_PROOF_REQUIRED, v1.Reason_REASON_PROOF_BINDING,
	}},
	{"What influenced the request would have had to be more trusted.", []v1.Reason{
		v1.Reason_REASON_INTEGRITY_TOO_LOW, v1.Reason_REASON_INTEGRITY_FLOOR, v1.Reason_REASON_MEMORY_WRITE_FLOOR,
		v1.Reason_REASON_LABEL_UNKNOWN,
	}},
	{"The content would have had to be less confidential, or the receiver be among its readers.", []v1.Reason{
		v1.Reason_REASON_CONFIDENTIALITY_TOO_HIGH,
	}},
	{"The chain would have had to hold a capability for this action on this resource.", []v1.Reason{
		v1.Reason_REASON_SCOPE, v1.Reason_REASON_SCOPE_MISSING, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE,
		v1.Reason_REASON_MEMORY_WRONG_ACTION, v1.Reason_REASON_MEMORY_NO_PERMIT,
	}},
	{"The capability table would have had to hold a row that lets this class of agent do this.", []v1.Reason{
		v1.Reason_REASON_POLICY, v1.Reason_REASON_POLICY_NO_ROW, v1.Reason_REASON_POLICY_UNKNOWN_ACTION,
	}},
	{"A signed capability table would have had to be active.", []v1.Reason{
		v1.Reason_REASON_POLICY_NO_TABLE, v1.Reason_REASON_TABLE_REJECTED,
	}},
	{"The intent in the envelope would have had to equal what the method and the request say.", []v1.Reason{
		v1.Reason_REASON_INTENT_MISMATCH,
	}},
	{"The caller would have had to send less: a rate, concurrency, size or quota bound was reached.", []v1.Reason{
		v1.Reason_REASON_RATE, v1.Reason_REASON_CONCURRENCY, v1.Reason_REASON_LIMIT, v1.Reason_REASON_QUOTA,
		v1.Reason_REASON_CHAIN_COLD_LIMIT, v1.Reason_REASON_FLOW_CONTROL,
	}},
	{"The audit log would have had to take the record; without it nothing runs.", []v1.Reason{
		v1.Reason_REASON_AUDIT_UNAVAILABLE, v1.Reason_REASON_AUDIT_FULL, v1.Reason_REASON_AUDIT_POISONED,
	}},
	{"The callee would have had to be up to date with the authority.", []v1.Reason{v1.Reason_REASON_FEED_STALE}},
	{"The call would have had to end before its deadline and without being cancelled.", []v1.Reason{
		v1.Reason_REASON_DEADLINE, v1.Reason_REASON_CANCELLED, v1.Reason_REASON_OUTCOME_UNKNOWN,
	}},
	{"The handler would have had to finish; the call itself had passed every check.", []v1.Reason{
		v1.Reason_REASON_INTERNAL, v1.Reason_REASON_HANDLER_PANIC, v1.Reason_REASON_HANDLER_UNFINISHED, v1.Reason_REASON_HANDLER_ERROR,
	}},
	{"The caller's adaptive level would have had to be lower.", []v1.Reason{v1.Reason_REASON_LEVEL}},
	{"The method would have had to exist here and be open to this caller.", []v1.Reason{v1.Reason_REASON_UNKNOWN_METHOD}},
	{"The grant would have had to stay inside the ceiling of its issuer.", []v1.Reason{v1.Reason_REASON_GRANT_OUTSIDE_CEILING}},
}

// reasonRanges are the families by number, for what no sentence above names.
var reasonRanges = []struct {
	from, to v1.Reason
	sentence string
}{
	{v1.Reason_REASON_PEER_UNVERIFIED, v1.Reason_REASON_REAUTHENTICATE, "The caller would have had to present a valid identity of a registered agent."},
	{v1.Reason_REASON_NO_ENVELOPE, v1.Reason_REASON_EXTENSION_UNKNOWN, "The message would have had to carry a well-formed envelope that fits its content."},
	{v1.Reason_REASON_CHAIN_UNKNOWN, v1.Reason_REASON_PROOF_REQUIRED, "The message would have had to carry a chain that verifies link by link."},
	{v1.Reason_REASON_PROTOCOL_ERROR, v1.Reason_REASON_IDEMPOTENCY_MISMATCH, "The session would have had to follow the protocol."},
	{v1.Reason_REASON_NOT_FOUND, v1.Reason_REASON_QUOTA, "The entry would have had to be there, unchanged, and inside the caller's authority."},
	{50, 99, "The caller would have had to present a valid identity of a registered agent."},
	{100, 149, "The message would have had to carry a chain that verifies link by link."},
	{150, 199, "The active policy would have had to allow this."},
	{200, 249, "The entry would have had to be there, unchanged, and inside the caller's authority."},
}
