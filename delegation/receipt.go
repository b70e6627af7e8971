package delegation

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Receipt is what a callee acknowledges with its signature: which message it took, under which chain, how it decided, and where
// that stands in its audit log. The callee cannot deny it later, and a log without that record was changed.
type Receipt struct {
	ChainID    [16]byte
	LeafID     [32]byte // statement id of the last hop
	EnvelopeID [16]byte
	// InvocationJTI is 16 bytes, nil when the message had no proof.
	InvocationJTI  []byte
	Caller, Callee identity.AgentID
	Decision       v1.ReceiptPayload_Decision
	// DecisionID is the id that a denied caller would have seen.
	DecisionID [16]byte
	// Audit is the position of the callee's intent record.
	Audit    *v1.AuditReceipt
	IssuedAt time.Time // whole milliseconds travel
}

// NewReceipt signs r as k's agent, who is the callee. The statement names no certificate: it is k's leaf, which the caller sees as
// that of its TLS peer, and which certs holds for those who verify the receipt later. It refuses with an *Error what VerifyReceipt
// would refuse.
func NewReceipt(r Receipt, k Signer) (s *v1.SignedStatement, certs *v1.CertChain, err error) {
	if r.Callee != k.ID() {
		return nil, nil, refusef(whole, v1.Reason_REASON_CHAIN_BAD_SIGNER, "the receipt of %s signed by %s", r.Callee, k.ID())
	}
	payload, err := proto.Marshal(&v1.ReceiptPayload{
		Version: wireVersion, ChainId: r.ChainID[:], LeafId: r.LeafID[:], EnvelopeId: r.EnvelopeID[:], InvocationJti: r.InvocationJTI,
		Caller: r.Caller.String(), Callee: r.Callee.String(), Decision: r.Decision, DecisionId: r.DecisionID[:],
		AuditLogId: r.Audit.GetLogId(), AuditSeq: r.Audit.GetSeq(), AuditLeafHash: r.Audit.GetLeafHash(), AuditBootId: r.Audit.GetBootId(),
		IssuedAtMs: r.IssuedAt.UnixMilli(),
	})
	sig, der, signErr := k.Sign(TypeReceipt, payload)
	if err := errors.Join(err, signErr); err != nil {
		return nil, nil, fmt.Errorf("signing a receipt: %w", err)
	}
	if len(der) == 0 {
		return nil, nil, refusef(whole, malformed, "a signature without certificates")
	}
	s = &v1.SignedStatement{Payload: payload, Signature: slices.Clone(sig)}
	if _, err := readReceipt(s); err != nil {
		return nil, nil, err
	}
	return s, &v1.CertChain{Leaf: der[0], Intermediates: der[1:]}, nil
}

// VerifyReceipt verifies a receipt under a certificate that is verified already: the leaf of the TLS connection that the reply came
// on. What the receipt says is left to the caller, who knows what it asked for. Refusals are *Error: CHAIN_TOO_LARGE,
// CHAIN_MALFORMED, CHAIN_NON_CANONICAL, CHAIN_VERSION, CHAIN_BAD_SIGNER when the certificate is not the callee's, CHAIN_LIFETIME
// when it was not valid when the receipt says it was issued, CHAIN_BAD_SIGNATURE.
func VerifyReceipt(s *v1.SignedStatement, leaf *x509.Certificate) (Receipt, error) {
	r, err := readReceipt(s)
	if err != nil {
		return Receipt{}, err
	}
	peer, err := identity.PeerFromLeaf(leaf)
	if err != nil || peer.Agent != r.Callee || !statementKey(leaf.PublicKey) {
		return Receipt{}, refusef(whole, v1.Reason_REASON_CHAIN_BAD_SIGNER, "the certificate is not the callee's")
	}
	if r.IssuedAt.Before(leaf.NotBefore) || r.IssuedAt.After(leaf.NotAfter) {
		return Receipt{}, refusef(whole, v1.Reason_REASON_CHAIN_LIFETIME, "issued outside the life of the certificate")
	}
	if !validSignature(leaf.PublicKey, PAE(TypeReceipt, s.GetPayload()), s.GetSignature()) {
		return Receipt{}, refusef(whole, v1.Reason_REASON_CHAIN_BAD_SIGNATURE, "not signed by the certificate's key")
	}
	return r, nil
}

// VerifyStoredReceipt verifies a receipt out of a log, offline: under certs, which must verify against the bundle of their trust
// domain as of `at`, the time at which the log that is believed says that the receipt existed. Refusals are those of VerifyReceipt,
// CHAIN_TRUST_DOMAIN and CHAIN_SVID.
func VerifyStoredReceipt(s *v1.SignedStatement, certs *v1.CertChain, bundles x509bundle.Source, at time.Time) (Receipt, error) {
	if _, err := measureCerts(certs); err != nil {
		return Receipt{}, err
	}
	chain := make([]*x509.Certificate, 0, 1+MaxIntermediates)
	for _, der := range append([][]byte{certs.GetLeaf()}, certs.GetIntermediates()...) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return Receipt{}, refusef(whole, v1.Reason_REASON_CHAIN_BAD_SIGNER, "a certificate does not parse")
		}
		chain = append(chain, cert)
	}
	r, err := VerifyReceipt(s, chain[0])
	if err != nil {
		return Receipt{}, err
	}
	if _, err := bundles.GetX509BundleForTrustDomain(r.Callee.TrustDomain()); err != nil {
		return Receipt{}, refusef(whole, v1.Reason_REASON_CHAIN_TRUST_DOMAIN, "no bundle of the trust domain")
	}
	if _, _, err := x509svid.Verify(chain, bundles, x509svid.WithTime(at)); err != nil {
		return Receipt{}, refuse(whole, v1.Reason_REASON_CHAIN_SVID, svidCause(err))
	}
	return r, nil
}

// readReceipt scans, decodes and converts a receipt whose signature is not verified.
func readReceipt(s *v1.SignedStatement) (Receipt, error) {
	if _, err := measureStatement(s, whole); err != nil {
		return Receipt{}, err
	}
	if s.GetCertRef() != 0 {
		return Receipt{}, refusef(whole, malformed, "a receipt refers to no certificate but the connection's")
	}
	m := new(v1.ReceiptPayload)
	if err := decode(s, whole, receiptTable, m); err != nil {
		return Receipt{}, err
	}
	if err := checkVersion(whole, m.GetVersion(), nil); err != nil {
		return Receipt{}, err
	}
	for _, id := range [][]byte{m.GetChainId(), m.GetLeafId(), m.GetEnvelopeId(), m.GetDecisionId(), m.GetAuditLogId(), m.GetAuditLeafHash(), m.GetAuditBootId()} {
		if len(id) == 0 { // the profile fixes the size of what is there
			return Receipt{}, refusef(whole, malformed, "an id is missing")
		}
	}
	caller, callerErr := identity.ParseAgent(m.GetCaller())
	callee, calleeErr := identity.ParseAgent(m.GetCallee())
	issued := m.GetIssuedAtMs()
	if err := errors.Join(callerErr, calleeErr); err != nil || m.GetDecision() == v1.ReceiptPayload_DECISION_UNSPECIFIED || issued <= 0 || issued >= endOfTime {
		return Receipt{}, refusef(whole, malformed, "caller, callee, decision or time")
	}
	return Receipt{
		ChainID: [16]byte(m.GetChainId()), LeafID: [32]byte(m.GetLeafId()), EnvelopeID: [16]byte(m.GetEnvelopeId()),
		InvocationJTI: bytes.Clone(m.GetInvocationJti()), Caller: caller, Callee: callee, Decision: m.GetDecision(), DecisionID: [16]byte(m.GetDecisionId()),
		Audit: &v1.AuditReceipt{
			LogId: bytes.Clone(m.GetAuditLogId()), Seq: m.GetAuditSeq(), LeafHash: bytes.Clone(m.GetAuditLeafHash()), BootId: bytes.Clone(m.GetAuditBootId()),
		},
		IssuedAt: time.UnixMilli(issued).UTC(),
	}, nil
}
