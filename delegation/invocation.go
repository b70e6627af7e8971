package delegation

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// Bounds of an invocation proof.
const (
	// MaxProofLife bounds a proof of a live message: how long its jti must be remembered. A stored message may wait until its
	// chain ends.
	MaxProofLife = time.Minute
	// MaxWholeProofBytes bounds a proof with its certificates.
	MaxWholeProofBytes = 4 << 10
)

// NewInvocation proves that k's agent sends the envelope e under the chain c, whose last hop it has signed: the proof names the
// leaf, the callee, the method and the digest of e, and may be used once. e is complete but for its proof, chain and chain
// reference; changing a field that EnvelopeDigest covers makes the proof worthless. The proof ends after MaxProofLife, or with the
// chain where e is stored, and never after the certificate of k, which is always in it. NewInvocation refuses with an *Error what
// VerifyInvocation would refuse.
func NewInvocation(c *v1.DelegationChain, e *v1.Envelope, k Signer, now time.Time) (*v1.InvocationProof, error) {
	if len(c.GetHops()) == 0 {
		return nil, refusef(whole, v1.Reason_REASON_CHAIN_UNKNOWN, "a proof for a chain without hops")
	}
	last := c.GetHops()[len(c.GetHops())-1]
	hop := new(v1.HopPayload)
	if err := decode(last, whole, hopTable, hop); err != nil {
		return nil, err
	}
	digest, err := EnvelopeDigest(e)
	switch {
	case err != nil:
		return nil, refuse(whole, v1.Reason_REASON_PROOF_BINDING, err)
	case hop.GetIssuer() != k.ID().String():
		return nil, refusef(whole, v1.Reason_REASON_CHAIN_BAD_SIGNER, "%s did not sign the last hop", k.ID())
	}
	expires := min(hop.GetExpiresAtMs(), k.NotAfter().UnixMilli())
	if e.GetDelivery() != v1.Delivery_DELIVERY_STORED {
		expires = min(expires, now.Add(MaxProofLife).UnixMilli())
	}
	if expires <= now.UnixMilli() {
		return nil, refusef(whole, v1.Reason_REASON_CHAIN_TIME, "the chain or the certificate is over")
	}
	leafID := StatementID(TypeHop, last.GetPayload())
	payload, err := proto.Marshal(&v1.InvocationPayload{
		Version: wireVersion, LeafId: leafID[:], Caller: hop.GetIssuer(), Callee: hop.GetDelegate(), Method: e.GetMethod(),
		EnvelopeDigest: digest[:], Jti: newNonce(), IssuedAtMs: now.UnixMilli(), ExpiresAtMs: expires,
	})
	if err != nil {
		return nil, refuse(whole, v1.Reason_REASON_CHAIN_NON_CANONICAL, err)
	}
	return signInvocation(payload, k)
}

// signInvocation signs what it is given and holds the result against the frame rules of a receiver.
func signInvocation(payload []byte, k Signer) (*v1.InvocationProof, error) {
	sig, certs, err := k.Sign(TypeInvocation, payload)
	if err != nil {
		return nil, fmt.Errorf("proving an invocation: %w", err)
	}
	if len(certs) == 0 {
		return nil, refusef(whole, malformed, "a signature without certificates")
	}
	p := &v1.InvocationProof{
		Statement: &v1.SignedStatement{Payload: payload, Signature: slices.Clone(sig), CertRef: 1},
		Certs:     []*v1.CertChain{{Leaf: certs[0], Intermediates: certs[1:]}},
	}
	if err := measureProof(p); err != nil {
		return nil, err
	}
	if _, err := readInvocation(p); err != nil {
		return nil, err
	}
	return p, nil
}

// ClaimedJTI returns the jti that a proof claims, nil when it has none of 16 bytes. It is for those who made the proof or have
// verified it.
func ClaimedJTI(p *v1.InvocationProof) []byte {
	m, err := readInvocation(p)
	if err != nil {
		return nil
	}
	return m.GetJti()
}

// EnvelopeFacts is what a receiver knows of a message without asking its proof.
type EnvelopeFacts struct {
	// Peer is who the connection has verified. It pays for the signatures, and its certificate is the one that a proof without
	// certificates was signed under.
	Peer identity.Peer
	// Method is the procedure that is about to run.
	Method string
	// Envelope is the message. Its digest must be the signed one; when it is stored, the proof may live as long as the chain and
	// must carry its certificate.
	Envelope *v1.Envelope
	// Seen reads the replay store, before a signature is verified: an error refuses the proof and is returned as it is. It may be
	// nil. Whoever runs the method inserts the key all the same, after every other check and before the effect.
	Seen func(key [32]byte) error
}

// Invocation is a verified proof.
type Invocation struct {
	// JTI is the id under which the proof is used once.
	JTI [16]byte
	// Expires is when the proof ends.
	Expires time.Time
	// Key is the key of the proof in a ReplayStore.
	Key [32]byte
}

// VerifyInvocation is step 18, less the insertion of the jti: it holds the proof of one message against x, the leaf that Recheck
// has let pass for the same message, and against the message itself. The signer is the last issuer of the chain, under any of its
// certificates that verify now. Refusals are *Error: CHAIN_TOO_LARGE, CHAIN_MALFORMED, CHAIN_NON_CANONICAL, CHAIN_VERSION,
// PROOF_BINDING when leaf, caller, callee, method or envelope differ, CHAIN_LIFETIME, CHAIN_TIME, CHAIN_HANDLE_REVOKED,
// CHAIN_COLD_LIMIT, CHAIN_BAD_SIGNER, CHAIN_SVID, CHAIN_TRUST_DOMAIN, CHAIN_BAD_SIGNATURE, CHAIN_UNKNOWN when x is not a leaf of v;
// and the error of e.Seen.
func (v *Verifier) VerifyInvocation(x *Leaf, p *v1.InvocationProof, e EnvelopeFacts) (Invocation, error) {
	if x == nil || x.owner != v {
		return Invocation{}, refusef(whole, v1.Reason_REASON_CHAIN_UNKNOWN, "not a leaf of this verifier")
	}
	now, err := v.now()
	if err != nil {
		return Invocation{}, err
	}
	if err := measureProof(p); err != nil {
		return Invocation{}, err
	}
	stored := e.Envelope.GetDelivery() == v1.Delivery_DELIVERY_STORED
	s, err := proofSigner(p, e.Peer, stored)
	if err != nil {
		return Invocation{}, err
	}
	m, err := readInvocation(p)
	if err != nil {
		return Invocation{}, err
	}
	if err := v.checkBinding(x, m, e); err != nil {
		return Invocation{}, err
	}
	if err := checkProofTime(x, m, stored, now); err != nil {
		return Invocation{}, err
	}
	jti := [16]byte(m.GetJti())
	out := Invocation{JTI: jti, Expires: time.UnixMilli(m.GetExpiresAtMs()).UTC(), Key: ReplayKey(ReplayInvocation, x.issuer, jti[:])}
	if e.Seen != nil {
		if err := e.Seen(out.Key); err != nil {
			return Invocation{}, err
		}
	}
	if err := v.checkProofSignature(x, p, m, s, e.Peer.Agent, now); err != nil {
		return Invocation{}, err
	}
	return out, nil
}

// measureProof is step 1 for a proof: sizes and counts, and that nothing is there that was not understood.
func measureProof(p *v1.InvocationProof) error {
	s := p.GetStatement()
	if len(s.GetPayload()) > MaxProofBytes || len(p.GetCerts()) > 1 {
		return refusef(whole, v1.Reason_REASON_CHAIN_TOO_LARGE, "a proof of %d bytes with %d certificates", len(s.GetPayload()), len(p.GetCerts()))
	}
	size, err := measureStatement(s, whole)
	if err != nil {
		return err
	}
	for _, c := range p.GetCerts() {
		n, err := measureCerts(c)
		if err != nil {
			return err
		}
		size += n
	}
	switch {
	case size > MaxWholeProofBytes:
		return refusef(whole, v1.Reason_REASON_CHAIN_TOO_LARGE, "a proof of %d bytes", size)
	case hasUnknown(p):
		return refusef(whole, v1.Reason_REASON_CHAIN_NON_CANONICAL, "unknown fields")
	}
	return nil
}

// proofSigner finds the certificate of a proof. Reference 0 is the leaf of the TLS peer, on its own connection only: a proof that
// outlives the connection carries its certificate.
func proofSigner(p *v1.InvocationProof, peer identity.Peer, stored bool) (*signer, error) {
	ref, certs := p.GetStatement().GetCertRef(), p.GetCerts()
	switch {
	case ref == 1 && len(certs) == 1:
		return &signer{leaf: certs[0].GetLeaf(), intermediates: certs[0].GetIntermediates()}, nil
	case ref == 0 && len(certs) == 0 && peer.Leaf != nil && !stored:
		return &signer{leaf: peer.Leaf.Raw, parsed: peer.Leaf}, nil
	}
	return nil, refusef(whole, malformed, "a certificate reference that is none, or a certificate that nothing refers to")
}

// readInvocation is steps 5 and 6 for a proof.
func readInvocation(p *v1.InvocationProof) (*v1.InvocationPayload, error) {
	m := new(v1.InvocationPayload)
	if err := decode(p.GetStatement(), whole, invocationTable, m); err != nil {
		return nil, err
	}
	if err := checkVersion(whole, m.GetVersion(), nil); err != nil {
		return nil, err
	}
	if len(m.GetJti()) != nonceSize || m.GetMethod() == "" {
		return nil, refusef(whole, malformed, "a proof without jti or method")
	}
	return m, nil
}

// checkBinding holds every claim of a proof against what the receiver knows itself.
func (v *Verifier) checkBinding(x *Leaf, m *v1.InvocationPayload, e EnvelopeFacts) error {
	digest, err := EnvelopeDigest(e.Envelope)
	if err != nil {
		return refuse(whole, v1.Reason_REASON_PROOF_BINDING, err)
	}
	for _, b := range []struct {
		what string
		ok   bool
	}{
		{"leaf", string(m.GetLeafId()) == string(x.id[:])},
		{"caller", m.GetCaller() == x.issuer.String()},
		{"callee", m.GetCallee() == v.cfg.Self.String()},
		{"method", m.GetMethod() == e.Method},
		{"envelope", string(m.GetEnvelopeDigest()) == string(digest[:])},
	} {
		if !b.ok && !mutant.Off(mutant.ProofBinding) {
			return refusef(whole, v1.Reason_REASON_PROOF_BINDING, "the proof is for another %s", b.what)
		}
	}
	return nil
}

// checkProofTime: a proof begins with skew and ends without, inside its chain's life where it is stored.
func checkProofTime(x *Leaf, m *v1.InvocationPayload, stored bool, now int64) error {
	issued, expires := m.GetIssuedAtMs(), m.GetExpiresAtMs()
	if issued <= 0 || issued >= endOfTime || expires <= issued || expires >= endOfTime {
		return refuse(whole, v1.Reason_REASON_CHAIN_LIFETIME, errors.New("a time is out of range"))
	}
	if life := expires - issued; (!stored && life > MaxProofLife.Milliseconds()) || expires > x.expires {
		return refusef(whole, v1.Reason_REASON_CHAIN_LIFETIME, "a proof that lives %d ms", life)
	}
	if issued > now+Skew.Milliseconds() || now >= expires {
		return refusef(whole, v1.Reason_REASON_CHAIN_TIME, "not begun or over")
	}
	return nil
}

// checkProofSignature is steps 11 to 15 for a proof. Every proof is a signature to verify: what is cached is its certificate.
func (v *Verifier) checkProofSignature(x *Leaf, p *v1.InvocationProof, m *v1.InvocationPayload, s *signer, payer identity.AgentID, now int64) error {
	gen := v.generation()
	s.hash()
	if v.cfg.Revoked != nil && v.cfg.Revoked.Revoked([][32]byte{s.id}) {
		return refusef(whole, v1.Reason_REASON_CHAIN_HANDLE_REVOKED, "the certificate of the proof is revoked")
	}
	c, n := v.knownCertificate(s, now, gen), 1
	if c == nil {
		n += 1 + len(s.intermediates)
	}
	if v.cfg.Limits.Allow != nil && !v.cfg.Limits.Allow(payer, n) {
		return refusef(whole, v1.Reason_REASON_CHAIN_COLD_LIMIT, "%d signatures for %s", n, payer)
	}
	d := &draft{pae: PAE(TypeInvocation, p.GetStatement().GetPayload()), Leaf: &Leaf{
		position: whole, statement: p.GetStatement(), claims: claims{issuer: x.issuer, expires: m.GetExpiresAtMs()},
	}}
	c, err := v.signerOf(s, d, c, now, gen)
	if err != nil {
		return err
	}
	if err := c.checkHop(d); err != nil && !mutant.Off(mutant.ProofSignature) {
		return err
	}
	return nil
}
