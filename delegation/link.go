package delegation

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

const (
	linkDomain    = "safeconduct/link/v1\x00"
	certsDomain   = "safeconduct/certs/v1\x00"
	handleDomain  = "safeconduct/handle/v1\x00"
	linkBufBytes  = MaxPayloadBytes + 256 // a payload, its signature and what surrounds them
	ed25519Prefix = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"
)

// keyHash is SHA-256 over the SubjectPublicKeyInfo of a grant key (RFC 8410 has one encoding of it).
func keyHash(key ed25519.PublicKey) [32]byte {
	var spki [len(ed25519Prefix) + ed25519.PublicKeySize]byte
	copy(spki[copy(spki[:], ed25519Prefix):], key)
	return sha256.Sum256(spki[:])
}

// grantLink is link_0. The caller has checked the sizes of the statement.
func grantLink(s *v1.SignedStatement, key [32]byte) [32]byte {
	var buf [linkBufBytes]byte
	return sha256.Sum256(appendSigned(append(buf[:0], linkDomain...), s, key))
}

// hopLink is link_d: it commits to all statements before it, and to the payload, signature and signer certificate of this one.
func hopLink(parent [32]byte, s *v1.SignedStatement, certID [32]byte) [32]byte {
	var buf [linkBufBytes]byte
	return sha256.Sum256(appendSigned(append(buf[:0], parent[:]...), s, certID))
}

func appendSigned(dst []byte, s *v1.SignedStatement, signer [32]byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s.GetPayload()))) //nolint:gosec // G115: at most MaxPayloadBytes, which the caller has checked.
	dst = append(dst, s.GetPayload()...)
	dst = append(dst, s.GetSignature()...)
	return append(dst, signer[:]...)
}

// certsKey covers a signer's leaf and intermediates. A certificate id is never such a key, also without intermediates: otherwise bytes
// that are no certificate could be made to have the key of one with intermediates, and be taken for it under another id.
func certsKey(id [32]byte, intermediates [][]byte) [32]byte {
	buf := append(make([]byte, 0, len(certsDomain)+(1+MaxIntermediates)*len(id)), certsDomain...)
	buf = append(buf, id[:]...)
	for _, der := range intermediates {
		sum := sha256.Sum256(der)
		buf = append(buf, sum[:]...)
	}
	return sha256.Sum256(buf)
}

// A handle names something that can be revoked, and with it every chain that depends on it. Statement ids, certificate ids and
// SHA-256 over a grant key's SPKI are handles as they are; the functions below make the others.

// AgentHandle is the handle of an agent or service.
func AgentHandle(id identity.AgentID) [32]byte { return handle("agent", id.String()) }

// TenantHandle is the handle of everything in a tenant.
func TenantHandle(trustDomain, tenant string) [32]byte { return handle("tenant", trustDomain, tenant) }

// PrincipalHandle is the handle of everything done on behalf of p.
func PrincipalHandle(p *v1.Principal) [32]byte {
	return handle("principal", p.GetType().String(), p.GetIssuer(), p.GetSubject())
}

// ChainHandle is the handle of a chain id: it kills the renewals of a chain with the chain.
func ChainHandle(id [16]byte) [32]byte { return handle("chain", string(id[:])) }

func handle(parts ...string) [32]byte {
	buf := append(make([]byte, 0, 128), handleDomain...)
	for _, p := range parts {
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(p))) //nolint:gosec // G115: out of a message, a file or a command line, all far below 4 GiB.
		buf = append(buf, p...)
	}
	return sha256.Sum256(buf)
}
