package chaintext

import (
	"strings"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// The steps of the verifier, as package delegation numbers them.
const (
	stepSizes = iota + 1
	stepClock
	stepReference
	stepKnown
	stepWire
	stepVersion
	stepStructure
	stepPresenter
	stepLife
	stepNarrower
	stepRevoked
	stepAllowance
	stepGrant
	stepSigner
	stepSignature
	stepKeep
	stepMessage

	lastStep = stepMessage
)

// stepNames say what each step is sure of.
var stepNames = [lastStep + 1]string{
	stepSizes:     "sizes and counts are in bounds",
	stepClock:     "the clock did not step back",
	stepReference: "the reference is known here",
	stepKnown:     "what was verified before",
	stepWire:      "strict wire format",
	stepVersion:   "version and extensions known",
	stepStructure: "each statement continues the last",
	stepPresenter: "presenter and recipient are named",
	stepLife:      "lifetimes nest, and hold now",
	stepNarrower:  "authority only shrinks",
	stepRevoked:   "nothing is revoked",
	stepAllowance: "presenter may cost signatures",
	stepGrant:     "grant is signed by the authority",
	stepSigner:    "signers' certificates verify",
	stepSignature: "hops are signed by their issuers",
	stepKeep:      "the chain is kept as verified",
	stepMessage:   "the chain covers this message",
}

// phase is which call of the verifier refused.
type phase int

const (
	phaseFrame   phase = iota // ParseChain
	phaseChain                // Verify or VerifyGrant
	phaseMessage              // Recheck
)

// stepOf derives the step from the reason. Some reasons belong to two: what tells them apart is which call refused, whether the
// verifier had come to the signatures, what the chain claims at that depth, and once the cause.
func stepOf(f Found, x Failure, in phase, signing bool) int {
	if in == phaseMessage && x.Reason != v1.Reason_REASON_CHAIN_UNKNOWN {
		return stepMessage
	}
	switch x.Reason {
	case v1.Reason_REASON_CHAIN_TOO_LARGE:
		return stepSizes
	case v1.Reason_REASON_CHAIN_UNKNOWN:
		return stepReference
	case v1.Reason_REASON_CHAIN_MALFORMED:
		// A statement refers to a certificate by number: that is about the chain, not about the bytes of the statement.
		if in == phaseChain && strings.Contains(x.Cause, "certificate") && x.Cause != "an empty certificate" {
			return stepStructure
		}
		return stepWire
	case v1.Reason_REASON_CHAIN_NON_CANONICAL, v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT, v1.Reason_REASON_CHAIN_WRONG_TYPE:
		return stepWire
	case v1.Reason_REASON_CHAIN_VERSION:
		return stepVersion
	case v1.Reason_REASON_CHAIN_PARENT_MISMATCH, v1.Reason_REASON_CHAIN_LOOP, v1.Reason_REASON_CHAIN_TENANT, v1.Reason_REASON_CHAIN_PURPOSE:
		return stepStructure
	case v1.Reason_REASON_CHAIN_DEPTH:
		if skipsDepth(f, x.Depth) {
			return stepStructure
		}
		return stepNarrower
	case v1.Reason_REASON_CHAIN_PRESENTER, v1.Reason_REASON_CHAIN_AUDIENCE:
		return stepPresenter
	case v1.Reason_REASON_CHAIN_LIFETIME:
		if signing {
			return stepSigner // a hop that outlives its signer's certificate
		}
		return stepLife
	case v1.Reason_REASON_CHAIN_TIME:
		if x.Depth < 0 {
			return stepClock
		}
		return stepLife
	case v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED, v1.Reason_REASON_CHAIN_CONSTRAINT_LOOSENED, v1.Reason_REASON_CHAIN_NOT_DELEGABLE:
		return stepNarrower
	case v1.Reason_REASON_CHAIN_HANDLE_REVOKED:
		return stepRevoked
	case v1.Reason_REASON_CHAIN_COLD_LIMIT:
		return stepAllowance
	case v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT:
		if f.Chain.GetGrant() == nil {
			return stepSizes
		}
		return stepGrant
	case v1.Reason_REASON_CHAIN_KEY:
		return stepGrant
	case v1.Reason_REASON_CHAIN_BAD_SIGNER, v1.Reason_REASON_CHAIN_SVID, v1.Reason_REASON_CHAIN_TRUST_DOMAIN:
		return stepSigner
	case v1.Reason_REASON_CHAIN_BAD_SIGNATURE:
		if x.Depth == 0 {
			return stepGrant
		}
		return stepSignature
	default: // the rest is said of messages only
		return stepMessage
	}
}

// skipsDepth reports whether the hop at that position claims a depth that is not one more than the one before.
func skipsDepth(f Found, position int) bool {
	all := Describe(f, Options{}).Statements
	if position < 1 || position >= len(all) {
		return false
	}
	return uint64(all[position].Depth) != uint64(all[position-1].Depth)+1
}

// ReasonName is a reason as the audit log and a caller see it, without the prefix of its enum.
func ReasonName(r v1.Reason) string { return strings.TrimPrefix(r.String(), "REASON_") }

// Otherwise says in one sentence what would have had to be different for a chain not to be refused for r, empty for a reason that
// is not about chains.
func Otherwise(r v1.Reason) string { return otherwise[r] }

var otherwise = map[v1.Reason]string{
	v1.Reason_REASON_CHAIN_UNKNOWN:             "The chain would have had to be presented in full on this connection before, and its keys and bundles be unchanged since.",
	v1.Reason_REASON_CHAIN_TOO_LARGE:           "The chain would have had to stay within 16 KiB, 8 hops, 2 KiB and 32 capabilities a statement; pass fewer capabilities on, or fewer times.",
	v1.Reason_REASON_CHAIN_MALFORMED:           "Every field would have had to mean something: ids of full length, names that are SPIFFE IDs of agents or services, each signer's certificate referred to once.",
	v1.Reason_REASON_CHAIN_NON_CANONICAL:       "The bytes would have had to be the one encoding that the wire profile allows: known fields, ascending, once each, without default values. Whoever made it must not encode it again.",
	v1.Reason_REASON_CHAIN_VERSION:             "The statement would have had to be of version 1, without extensions that this build does not know; a newer build may accept it.",
	v1.Reason_REASON_CHAIN_PARENT_MISMATCH:     "The statement would have had to name the one before it, byte for byte, as its parent, and be issued by its delegate; here one was removed, swapped, changed or taken from another chain.",
	v1.Reason_REASON_CHAIN_LOOP:                "Each agent would have had to appear once; a call that goes back to an agent that is in the chain already needs a grant of its own.",
	v1.Reason_REASON_CHAIN_DEPTH:               "The chain would have had to have fewer hops, or the statements before a higher maximum depth; depths count up by one and their maximum never rises.",
	v1.Reason_REASON_CHAIN_BAD_SIGNATURE:       "The statement would have had to be exactly the bytes that its issuer's key signed, as a statement of this kind; one changed bit is enough.",
	v1.Reason_REASON_CHAIN_BAD_SIGNER:          "The hop would have had to be signed under a certificate that names its issuer, and nobody else, with a P-256 or Ed25519 key.",
	v1.Reason_REASON_CHAIN_SVID:                "The signer's certificate would have had to verify against the trust domain's roots at that time: not expired, and from this trust domain's CA.",
	v1.Reason_REASON_CHAIN_TRUST_DOMAIN:        "The signer would have had to be of a trust domain whose roots the verifier holds.",
	v1.Reason_REASON_CHAIN_KEY:                 "The grant would have had to be signed with a key that the authority has published and that was valid at that time.",
	v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT:      "The chain would have had to begin with a grant of the authority of the recipient's own trust domain.",
	v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED:     "Every capability and every delegate of the hop would have had to be covered by one of the statement before it: same action, same resource or one below a /*, no deeper reach.",
	v1.Reason_REASON_CHAIN_CONSTRAINT_LOOSENED: "Every condition of the statement before would have had to be kept, and be at least as strict.",
	v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT:  "Every condition would have had to be of a kind that this build knows: equal, one of, range or prefix; a newer build may accept it.",
	v1.Reason_REASON_CHAIN_NOT_DELEGABLE:       "The statement before would have had to let this delegate appear below it, and each capability travel to this depth (its reach).",
	v1.Reason_REASON_CHAIN_LIFETIME:            "The statement would have had to live inside the life of the one before it and of its signer's certificate; a grant lives at most 15 minutes, and its renewals as long as the lineage allows.",
	v1.Reason_REASON_CHAIN_TIME:                "The chain would have had to be used after it began and before it ended; ask for a new grant, or renew this one before it ends.",
	v1.Reason_REASON_CHAIN_PRESENTER:           "The chain would have had to be presented by the agent that signed its last statement; whoever holds a copy can do nothing with it.",
	v1.Reason_REASON_CHAIN_AUDIENCE:            "The chain would have had to be presented to the delegate of its last statement; for another recipient its holder makes another hop.",
	v1.Reason_REASON_CHAIN_TENANT:              "Presenter, statements and delegates would have had to be of one tenant, or services of its trust domain.",
	v1.Reason_REASON_CHAIN_PURPOSE:             "The purpose would have had to be, letter for letter, the one that the principal authorised in the grant.",
	v1.Reason_REASON_CHAIN_CONSTRAINT_UNMET:    "The request would have had to meet every condition of the capability, with a fact for each of its keys; a missing fact meets none.",
	v1.Reason_REASON_CHAIN_INTERSECTION:        "The last statement would have had to hold a capability for this action on this resource.",
	v1.Reason_REASON_CHAIN_PRINCIPAL:           "The principal would have had to be of the kind that the capability was given to: what an agent does for itself never uses what was granted to users.",
	v1.Reason_REASON_CHAIN_HANDLE_REVOKED:      "Chain, principal, tenant, grant key and every agent and certificate of it would have had to be not revoked.",
	v1.Reason_REASON_CHAIN_COLD_LIMIT:          "The presenter would have had to ask for fewer new signatures in so short a time; the same chain passes later.",
	v1.Reason_REASON_PROOF_BINDING:             "The message's proof would have had to be signed by its caller, for this recipient, method and exact message.",
	v1.Reason_REASON_CHAIN_WRONG_TYPE:          "The statement would have had to be signed as what it is used as: a grant as a grant, a hop as a hop.",
}
