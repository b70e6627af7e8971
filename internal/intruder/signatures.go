package intruder

import (
	"crypto/elliptic"
	"crypto/sha256"
	"math/big"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func signatureViolations() []violation {
	invalid, bad := []string{"CHAIN_INVALID"}, []string{"CHAIN_BAD_SIGNATURE"}
	return []violation{
		{
			Violation: Violation{
				Name: "bit-flips", Row: 29,
				Want: []string{
					"CHAIN_INVALID", "CHAIN_EXPIRED", "TENANT_MISMATCH", "SCOPE", "AUDIENCE_MISMATCH", "PRESENTER_MISMATCH",
				},
				Causes: []string{
					"CHAIN_BAD_SIGNATURE", "CHAIN_NON_CANONICAL", "CHAIN_MALFORMED", "CHAIN_VERSION", "CHAIN_PARENT_MISMATCH",
					"CHAIN_DEPTH", "CHAIN_TENANT", "CHAIN_PURPOSE", "CHAIN_LIFETIME", "CHAIN_TIME", "CHAIN_SCOPE_AMPLIFIED", "CHAIN_AUDIENCE",
					"CHAIN_PRESENTER", "CHAIN_NOT_DELEGABLE", "CHAIN_UNTRUSTED_ROOT", "CHAIN_KEY", "CHAIN_BAD_SIGNER", "CHAIN_SVID",
					"CHAIN_TRUST_DOMAIN", "CHAIN_TOO_LARGE", "CHAIN_LOOP", "CHAIN_UNKNOWN_CONSTRAINT", "CHAIN_CONSTRAINT_LOOSENED",
				},
				What: "flips one bit each all over grant, hop, signatures and certificate",
			},
			shots: bitFlips,
		},
		{
			Violation: Violation{
				Name: "no-signature", Row: 30, Want: invalid, Causes: []string{"CHAIN_BAD_SIGNATURE", "CHAIN_MALFORMED"},
				What: "strips signatures, or sends zeros or another length",
			},
			shots: noSignature,
		},
		{
			Violation: Violation{
				Name: "signature-of-another-type", Row: 31, Want: invalid, Causes: bad,
				What: "reuses a signature that was made for a grant, a receipt or a proof",
			},
			shots: func(s *siege) ([]shot, error) {
				return s.resigned(map[string]func([]byte) []byte{
					"grant":      func(p []byte) []byte { return delegation.PAE(delegation.TypeGrant, p) },
					"receipt":    func(p []byte) []byte { return delegation.PAE(delegation.TypeReceipt, p) },
					"invocation": func(p []byte) []byte { return delegation.PAE(delegation.TypeInvocation, p) },
					"no type":    func(p []byte) []byte { return p },
				})
			},
		},
		{
			Violation: Violation{
				Name: "tls-signature", Row: 32, Want: invalid, Causes: bad,
				What: "reuses the signature of a TLS handshake, which the same key makes",
			},
			shots: func(s *siege) ([]shot, error) {
				return s.resigned(map[string]func([]byte) []byte{"CertificateVerify": tlsTranscript})
			},
		},
	}
}

// tlsTranscript is what a client signs in a handshake (RFC 8446, section 4.4.3), over payload as the transcript.
func tlsTranscript(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	var out []byte
	for range 64 {
		out = append(out, ' ')
	}
	return append(append(out, "TLS 1.3, client CertificateVerify\x00"...), sum[:]...)
}

// resigned are chains whose hop is signed over other bytes with the own key.
func (s *siege) resigned(over map[string]func([]byte) []byte) ([]shot, error) {
	svid, err := s.cfg.Source.GetX509SVID()
	if err != nil {
		return nil, err
	}
	spoils := map[string]func(*v1.DelegationChain){}
	for name, f := range over {
		spoils[name] = func(c *v1.DelegationChain) {
			h := c.GetHops()[0]
			h.Signature = signRaw(svid.PrivateKey, f(h.GetPayload()))
		}
	}
	return s.each(chains(spoils)...)
}

func noSignature(s *siege) ([]shot, error) {
	hop := func(sig func([]byte) []byte) func(*v1.DelegationChain) {
		return func(c *v1.DelegationChain) { c.Hops[0].Signature = sig(c.GetHops()[0].GetSignature()) }
	}
	grant := func(sig func([]byte) []byte) func(*v1.DelegationChain) {
		return func(c *v1.DelegationChain) {
			c.Grant = proto.CloneOf(c.GetGrant())
			c.Grant.Signature = sig(c.GetGrant().GetSignature())
		}
	}
	none := func([]byte) []byte { return nil }
	zero := func([]byte) []byte { return make([]byte, signatureBytes) }
	return s.each(chains(map[string]func(*v1.DelegationChain){
		"hop: stripped":        hop(none),
		"hop: zero":            hop(zero),
		"hop: a byte short":    hop(func(sig []byte) []byte { return sig[:signatureBytes-1] }),
		"hop: a byte long":     hop(func(sig []byte) []byte { return append(sig, 0) }),
		"hop: the order of it": hop(func([]byte) []byte { return order() }),
		"grant: stripped":      grant(none),
		"grant: zero":          grant(zero),
		"grant: the hop's":     func(c *v1.DelegationChain) { grant(func([]byte) []byte { return c.GetHops()[0].GetSignature() })(c) },
	})...)
}

// order is the order of P-256 twice: r and s out of range.
func order() []byte {
	sig := make([]byte, signatureBytes)
	n := elliptic.P256().Params().N
	n.FillBytes(sig[:signatureBytes/2])
	n.FillBytes(sig[signatureBytes/2:])
	return sig
}

// twin is the other valid ECDSA signature over the same bytes.
func twin(sig []byte) []byte {
	out := make([]byte, signatureBytes)
	copy(out, sig)
	new(big.Int).Sub(elliptic.P256().Params().N, new(big.Int).SetBytes(sig[signatureBytes/2:])).FillBytes(out[signatureBytes/2:])
	return out
}
