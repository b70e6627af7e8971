package delegation

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Payload types of everything that is signed. A statement's type is implied by the field that holds it.
const (
	TypeGrant      = "application/vnd.safeconduct.grant.v1+proto"
	TypeHop        = "application/vnd.safeconduct.hop.v1+proto"
	TypeInvocation = "application/vnd.safeconduct.invocation.v1+proto"
	TypeReceipt    = "application/vnd.safeconduct.receipt.v1+proto"
	TypeTable      = "application/vnd.safeconduct.capability-table.v1+proto"
	TypeBundle     = "application/vnd.safeconduct.trust-bundle.v1+proto"
)

// ErrUnsigned is returned by OpenDsse when no allowed key signed the payload as the wanted type.
var ErrUnsigned = errors.New("no valid signature by an allowed key")

// AppendPAE appends the DSSE v1 pre-authentication encoding of body to dst: what is signed and hashed.
func AppendPAE(dst []byte, payloadType string, body []byte) []byte {
	dst = append(dst, "DSSEv1 "...)
	dst = strconv.AppendInt(dst, int64(len(payloadType)), 10)
	dst = append(dst, ' ')
	dst = append(dst, payloadType...)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, ' ')
	return append(dst, body...)
}

// PAE is AppendPAE into a new slice.
func PAE(payloadType string, body []byte) []byte {
	return AppendPAE(make([]byte, 0, len(body)+len(payloadType)+32), payloadType, body)
}

// StatementID identifies a signed statement: SHA-256 of its PAE. The signature is left out, because an ECDSA signature has a
// valid twin.
func StatementID(payloadType string, payload []byte) [32]byte {
	return sha256.Sum256(PAE(payloadType, payload))
}

// KeyID names a public key: lower-case hex of the first 16 bytes of SHA-256 over its SubjectPublicKeyInfo. It returns an error
// for a key of the wrong size.
func KeyID(pub ed25519.PublicKey) (string, error) {
	if len(pub) != ed25519.PublicKeySize {
		return "", fmt.Errorf("key id: a public key of %d bytes", len(pub))
	}
	sum := keyHash(pub)
	return hex.EncodeToString(sum[:16]), nil
}

// publicKey returns the public half of an Ed25519 key, nil for a key of the wrong size.
func publicKey(key ed25519.PrivateKey) ed25519.PublicKey {
	if len(key) != ed25519.PrivateKeySize {
		return nil
	}
	return ed25519.PublicKey(key[ed25519.SeedSize:])
}

// SealDsse signs payload as payloadType with one Ed25519 key.
func SealDsse(payloadType string, payload []byte, key ed25519.PrivateKey) (*v1.Dsse, error) {
	id, err := KeyID(publicKey(key))
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return &v1.Dsse{
		Payload: payload, PayloadType: payloadType,
		Signatures: []*v1.DsseSignature{{Sig: ed25519.Sign(key, PAE(payloadType, payload)), KeyId: id}},
	}, nil
}

// OpenDsse returns the payload of d when it is of payloadType and at least one of at most 4 signatures is by a key that keyByID
// returns. Otherwise the error wraps ErrUnsigned.
func OpenDsse(d *v1.Dsse, payloadType string, keyByID func(string) (ed25519.PublicKey, bool)) ([]byte, error) {
	switch {
	case d.GetPayloadType() != payloadType:
		return nil, fmt.Errorf("payload type %q, want %q: %w", d.GetPayloadType(), payloadType, ErrUnsigned)
	case len(d.GetSignatures()) == 0 || len(d.GetSignatures()) > 4:
		return nil, fmt.Errorf("%d signatures: %w", len(d.GetSignatures()), ErrUnsigned)
	}
	pae := PAE(payloadType, d.GetPayload())
	for _, s := range d.GetSignatures() {
		if key, ok := keyByID(s.GetKeyId()); ok && len(s.GetSig()) == ed25519.SignatureSize && ed25519.Verify(key, pae, s.GetSig()) {
			return d.GetPayload(), nil
		}
	}
	return nil, ErrUnsigned
}
