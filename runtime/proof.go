package runtime

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/safeconduct/safeconduct/delegation"
	"github.com/safeconduct/safeconduct/interceptors"
)

type proofOption struct{ grpc.EmptyCallOption }

// WithProof signs the call: the callee can show later that this agent, and nobody else, sent exactly this message under exactly
// this authority, and takes it once, on any connection and by any transport. Methods that declare require_proof are signed without
// it. A proof costs the caller one signature and the callee the verification of one, out of what it grants this agent for chains
// that it does not know.
func WithProof() grpc.CallOption { return proofOption{} }

// prove adds the invocation proof to a message that is complete otherwise. Its certificate is always in it, because the connection
// may be older than the SVID.
func (c *Conn) prove(m *interceptors.Method, msg *message, o *options) error {
	if !m.Intent.GetRequireProof() && !o.proof {
		return nil
	}
	if msg.hop == nil {
		return status.Errorf(codes.InvalidArgument, "%s is open: there is no authority to prove the use of", m.Procedure)
	}
	svid, err := c.agent.src.GetX509SVID()
	if err != nil {
		return refusalOf(err)
	}
	signer, err := delegation.NewSigner(svid)
	if err != nil {
		return refusalOf(err)
	}
	msg.env.Proof, err = delegation.NewInvocation(msg.hop.chain, msg.env, signer, c.agent.cfg.Now())
	return refusalOf(err)
}
