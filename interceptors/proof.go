package interceptors

import (
	"bytes"
	"context"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// checkProofRule refuses, before anything is verified, a message that needs a proof and has none, and one on a route that cannot
// carry what its method promises: beside a typed request an envelope binds no payload, and a reply has no place for a receipt.
func (in *Interaction) checkProofRule(env *v1.Envelope, carried bool) *Denial {
	m, stored := in.method.Intent, env.GetDelivery() == v1.Delivery_DELIVERY_STORED
	switch required := (m.GetRequireProof() || stored) && !mutant.Off(mutant.ProofRequired); {
	case required && !carried:
		return denyf(v1.Reason_REASON_PROOF_REQUIRED, "a proof beside a typed request does not bind it")
	case required && env.GetProof() == nil:
		return denyf(v1.Reason_REASON_PROOF_REQUIRED, "envelope: no invocation proof")
	case m.GetSignedReceipt() && !carried:
		return denyf(v1.Reason_REASON_EXTENSION_UNKNOWN, "the reply to a typed request has no place for a receipt")
	case stored && env.GetChain() == nil:
		return denyf(v1.Reason_REASON_MALFORMED, "envelope: a stored message carries its whole chain")
	case env.GetProof() != nil && m.GetOpen():
		return denyf(v1.Reason_REASON_MALFORMED, "a proof on an open method")
	}
	return nil
}

// checkProof verifies the proof of a message whose chain was rechecked for it. Every proof is verified, asked for or not; the later
// messages of a stream ride on the first one's, and may not carry another.
func (in *Interaction) checkProof(env *v1.Envelope) *Denial {
	switch {
	case env != in.env:
		return in.checkSameProof(env)
	case env.GetProof() == nil, in.proof != nil:
		return nil
	}
	inv, err := in.e.cfg.Verifier.VerifyInvocation(in.leaf, env.GetProof(), delegation.EnvelopeFacts{
		Peer: in.call.Session.peer, Method: in.call.Procedure, Envelope: env,
		Seen: func(key [32]byte) error {
			if d := in.e.proofSeen(key); d != nil {
				return d
			}
			return nil
		},
	})
	if err != nil {
		return denialOf(err, v1.Reason_REASON_PROOF_BINDING)
	}
	if env.GetDelivery() == v1.Delivery_DELIVERY_STORED {
		return denyf(v1.Reason_REASON_EXTENSION_UNKNOWN, "envelope: stored delivery is not offered")
	}
	in.proof = &inv
	return nil
}

// checkSameProof holds the envelope of a later message of a stream against the first one: where that had a proof, nothing that it
// binds may differ.
func (in *Interaction) checkSameProof(env *v1.Envelope) *Denial {
	if in.env.GetProof() == nil && env.GetProof() == nil {
		return nil
	}
	first, later := in.env.GetProof().GetStatement(), env.GetProof().GetStatement()
	if first == nil || !bytes.Equal(first.GetPayload(), later.GetPayload()) || !bytes.Equal(first.GetSignature(), later.GetSignature()) {
		return denyf(v1.Reason_REASON_PROOF_BINDING, "a later message carries another proof")
	}
	was, err := delegation.EnvelopeDigest(in.env)
	is, err2 := delegation.EnvelopeDigest(env)
	if err != nil || err2 != nil || was != is {
		return denyf(v1.Reason_REASON_PROOF_BINDING, "a later message carries another envelope than the proof is for")
	}
	return nil
}

// spend spends the proof of the call: after every other check, before the intent record and the effect.
func (in *Interaction) spend(ctx context.Context) *Denial {
	if in.proof == nil {
		return nil
	}
	return in.e.spendProof(ctx, in.call.Session.tenantName, in.proof.Key, in.proof.Expires)
}

// recordProof names the verified proof in the intent record. One that did not verify is nobody's.
func (in *Interaction) recordProof(ev *v1.AuditEvent) {
	if in.proof != nil {
		ev.InvocationJti = in.proof.JTI[:]
	}
}
