package runtime

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// ErrReceipt is in the error of a call that was answered, and whose receipt is missing or wrong: the callee most likely did what
// was asked, and cannot be held to it. The reply is withheld. The error is a [*Refusal] too, with reason OUTCOME_UNKNOWN: the call
// must not be sent again as if it had not happened.
var ErrReceipt = errors.New("answered, but without the signed receipt that the method declares")

// SignedReceipt is a receipt that the runtime has verified. The audit logs of caller and callee hold it too.
type SignedReceipt struct {
	delegation.Receipt
	// Statement is what the callee signed, and Certs what it verifies under: see delegation.VerifyStoredReceipt.
	Statement *v1.SignedStatement
	Certs     *v1.CertChain
}

type receiptOption struct {
	grpc.EmptyCallOption
	into *SignedReceipt
}

// Receipt stores the callee's signed receipt of the call in r, when the call succeeds. The method must declare signed_receipt.
func Receipt(r *SignedReceipt) grpc.CallOption { return receiptOption{into: r} }

// watch makes a call note the connection that it goes over.
func (o *options) watch() *peer.Peer {
	over := new(peer.Peer)
	o.grpc = append(o.grpc, grpc.Peer(over))
	return over
}

// checkReceipt verifies the receipt in res, under the certificate of the connection that res came on, and holds it against what was
// sent. It is kept for the caller's outcome record.
func (c *Conn) checkReceipt(m *interceptors.Method, msg *message, res *v1.Envelope, over *peer.Peer, out *interceptors.Outgoing, o *options) error {
	if !m.Intent.GetSignedReceipt() || mutant.Off(mutant.SignedReceipt) {
		return nil
	}
	got, certs, err := c.readReceipt(res.GetReceipt(), over)
	if err == nil {
		err = c.answers(got, msg, res)
	}
	if err != nil {
		return c.receiptError(out, err)
	}
	statement := proto.CloneOf(res.GetReceipt())
	out.Receipted(statement, certs)
	if o.receipt != nil {
		*o.receipt = SignedReceipt{Receipt: got, Statement: statement, Certs: certs}
	}
	return nil
}

// readReceipt verifies the signature. The certificate is pinned: it is the one that the connection has verified, not one that the
// reply names.
func (c *Conn) readReceipt(s *v1.SignedStatement, over *peer.Peer) (none delegation.Receipt, _ *v1.CertChain, _ error) {
	if s == nil {
		return none, nil, errors.New("no receipt")
	}
	info, ok := over.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 || len(info.State.PeerCertificates) > 1+delegation.MaxIntermediates {
		return none, nil, errors.New("the connection shows no certificate of the callee")
	}
	r, err := delegation.VerifyReceipt(s, info.State.PeerCertificates[0])
	if err != nil {
		return none, nil, err
	}
	certs := &v1.CertChain{Leaf: info.State.PeerCertificates[0].Raw}
	for _, cert := range info.State.PeerCertificates[1:] {
		certs.Intermediates = append(certs.Intermediates, cert.Raw)
	}
	return r, certs, nil
}

// answers reports why r is no receipt for msg, nil when it is one. Its callee is c's peer: the certificate says so, which VerifyReceipt
// holds it to.
func (c *Conn) answers(r delegation.Receipt, msg *message, res *v1.Envelope) error {
	hops := msg.hop.chain.GetHops()
	now := c.agent.cfg.Now()
	for _, f := range []struct {
		what string
		ok   bool
	}{
		{"caller", r.Caller == c.agent.id},
		{"message", bytes.Equal(r.EnvelopeID[:], msg.env.GetId())},
		{"chain", r.ChainID == msg.parent.Leaf().ChainID()},
		{"leaf", r.LeafID == delegation.StatementID(delegation.TypeHop, hops[len(hops)-1].GetPayload())},
		{"proof", bytes.Equal(r.InvocationJTI, jtiOf(msg.env))},
		{"decision", r.Decision == v1.ReceiptPayload_DECISION_ALLOW},
		{"record", proto.Equal(r.Audit, soundReceipt(res.GetAudit()))},
		{"time", within(now.Sub(r.IssuedAt), receiptAge)},
	} {
		if !f.ok {
			return fmt.Errorf("it names another %s", f.what)
		}
	}
	return nil
}

// receiptAge bounds how far the time in a receipt may be from this process's. A receipt is made when the reply is sent, and clocks
// differ by the skew.
const receiptAge = delegation.Skew

func within(d, limit time.Duration) bool { return -limit <= d && d <= limit }

func jtiOf(env *v1.Envelope) []byte {
	if env.GetProof() == nil {
		return nil
	}
	return delegation.ClaimedJTI(env.GetProof())
}

// receiptError is ErrReceipt and a Refusal.
type receiptError struct {
	*Refusal
	cause error
}

func (e *receiptError) Error() string { return ErrReceipt.Error() + ": " + e.cause.Error() }

func (e *receiptError) Unwrap() []error { return []error{ErrReceipt, e.Refusal} }

// receiptError is about the record of the call in the own log, which has the cause.
func (c *Conn) receiptError(out *interceptors.Outgoing, cause error) error {
	id := out.ID()
	return &receiptError{cause: cause, Refusal: &Refusal{
		Reason: v1.Reason_REASON_OUTCOME_UNKNOWN, DecisionID: id[:], status: status.New(codes.Unavailable, ErrReceipt.Error()),
	}}
}
