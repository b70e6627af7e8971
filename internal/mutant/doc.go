// Package mutant switches one check of the product off, in builds with the tag `mutants` only, so that a test can show that the
// demo notices. In every other build [Off] is a constant false, and the code behind it is not in the binary; a test holds that.
package mutant

// The checks that can be switched off, each the one that stops an intruder of the demo.
const (
	CrossTenant      = "cross-tenant"
	WidenedScope     = "widened-scope"
	StolenChain      = "stolen-chain"
	Replay           = "replay"
	ExpiredGrant     = "expired-grant"
	ForeignNamespace = "foreign-namespace"
	ForgedID         = "forged-id"
	SiblingSVID      = "sibling-svid"
	SplicedChain     = "spliced-chain"
	NoEnvelope       = "no-envelope"
	PromptInjection  = "prompt-injection"
	ProofBinding     = "proof-binding"
	ProofRequired    = "proof-required"
	ProofSignature   = "proof-signature"
	SignedReceipt    = "signed-receipt"
	// ReplayDurable is the refusal of an invocation proof that was spent, DuplicateIdentity that of a second process of one identity.
	ReplayDurable     = "replay-durable"
	DuplicateIdentity = "duplicate-identity"
	RenewalHolder     = "renewal-holder"
	RenewalDepth      = "renewal-depth"
	Lineage           = "lineage"
)
