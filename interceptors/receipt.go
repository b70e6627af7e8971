package interceptors

import (
	"errors"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// signedReceipt is a receipt with the certificates that it verifies under, as records keep it.
type signedReceipt struct {
	statement *v1.SignedStatement
	certs     *v1.CertChain
}

// record adds the receipt to an outcome record.
func (r *signedReceipt) record(ev *v1.AuditEvent) {
	if r != nil {
		ev.SignedReceipt, ev.ReceiptCert = r.statement, r.certs
	}
}

// SetSigner says with which key receipts are signed on this connection: that of the certificate which this endpoint has shown on
// it, because that is the one the peer knows. The transport calls it before the first call.
func (s *Session) SetSigner(k delegation.Signer) { s.signer = k }

var errNoSigner = errors.New("the transport does not know which certificate it showed")

// SignReceipt signs the receipt of an admitted call that is about to be answered, where its method declares one, and keeps it for
// the outcome record; it returns nil where it declares none. An error is a Denial, OUTCOME_UNKNOWN: the method ran, and the reply
// must not leave without what it owes.
func (in *Interaction) SignReceipt() (*v1.SignedStatement, error) {
	if !in.method.Intent.GetSignedReceipt() {
		return nil, nil
	}
	pos, k := in.intent.Load(), in.call.Session.signer
	if pos == nil || in.leaf == nil || k == nil {
		return nil, in.refuse(deny(v1.Reason_REASON_OUTCOME_UNKNOWN, errNoSigner))
	}
	r := delegation.Receipt{
		ChainID: in.chainID, LeafID: in.leaf.ID(), EnvelopeID: [16]byte(in.env.GetId()), Caller: in.call.Session.peer.Agent, Callee: in.e.cfg.Self,
		Decision: v1.ReceiptPayload_DECISION_ALLOW, DecisionID: in.id, Audit: pos.Proto(), IssuedAt: in.e.cfg.Now(),
	}
	if in.proof != nil {
		r.InvocationJTI = in.proof.JTI[:]
	}
	statement, certs, err := delegation.NewReceipt(r, k)
	if err != nil {
		return nil, in.refuse(deny(v1.Reason_REASON_OUTCOME_UNKNOWN, err))
	}
	in.mu.Lock()
	in.receipt = &signedReceipt{statement, certs}
	in.mu.Unlock()
	return statement, nil
}

// ID returns the decision id under which the call stands in the own log.
func (o *Outgoing) ID() [16]byte { return o.id }

// Receipted keeps a receipt that the caller has verified, with the certificates of the connection that it came on, for the outcome
// record.
func (o *Outgoing) Receipted(s *v1.SignedStatement, certs *v1.CertChain) {
	o.receipt = &signedReceipt{s, certs}
}
