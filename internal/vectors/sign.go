package vectors

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/big"
	"strconv"
)

// Payload types, as the specification spells them.
const (
	typeGrant      = "application/vnd.safeconduct.grant.v1+proto"
	typeHop        = "application/vnd.safeconduct.hop.v1+proto"
	typeInvocation = "application/vnd.safeconduct.invocation.v1+proto"
	typeReceipt    = "application/vnd.safeconduct.receipt.v1+proto"
)

const (
	sigBytes  = 64
	halfBytes = 32
)

// seed derives 32 bytes that stand for the label in every run.
func seed(label string) []byte {
	sum := sha256.Sum256([]byte("safeconduct conformance vectors\x00" + label))
	return sum[:]
}

func digest(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

// ed25519Key and curveKey make the key of a label.
func ed25519Key(label string) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(seed("ed25519 " + label))
}

func (w *world) curveKey(curve elliptic.Curve, label string) *ecdsa.PrivateKey {
	raw := make([]byte, (curve.Params().BitSize+7)/8)
	copy(raw[len(raw)-halfBytes:], seed(curve.Params().Name+" "+label))
	key, err := ecdsa.ParseRawPrivateKey(curve, raw)
	if err != nil {
		w.fail(fmt.Errorf("making key %s: %w", label, err))
		return nil
	}
	return key
}

// encoding is the DSSE pre-authentication encoding.
func encoding(payloadType string, body []byte) []byte {
	head := "DSSEv1 " + strconv.Itoa(len(payloadType)) + " " + payloadType + " " + strconv.Itoa(len(body)) + " "
	return append([]byte(head), body...)
}

func statementID(payloadType string, body []byte) []byte { return digest(encoding(payloadType, body)) }

// sign signs exactly these bytes.
func (w *world) sign(key crypto.Signer, message []byte) []byte {
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return ed25519.Sign(k, message)
	case *ecdsa.PrivateKey:
		r, s := w.ecdsa(k, message)
		half := (k.Params().BitSize + 7) / 8
		sig := make([]byte, 2*half)
		r.FillBytes(sig[:half])
		s.FillBytes(sig[half:])
		return sig[:sigBytes] // of a longer curve: a signature that no verifier gets to
	}
	return make([]byte, sigBytes)
}

// ecdsa signs by RFC 6979, which a nil source of randomness selects.
func (w *world) ecdsa(key *ecdsa.PrivateKey, message []byte) (r, s *big.Int) {
	der, err := key.Sign(nil, digest(message), crypto.SHA256)
	if err != nil {
		w.fail(fmt.Errorf("signing: %w", err))
	}
	return w.readDER(der)
}

func (w *world) readDER(der []byte) (r, s *big.Int) {
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		w.fail(fmt.Errorf("reading a signature: %w", err))
		return new(big.Int), new(big.Int)
	}
	return sig.R, sig.S
}

// fromDER turns a DER signature by a P-256 key into r||s.
func (w *world) fromDER(der []byte) []byte {
	r, s := w.readDER(der)
	return append(r.FillBytes(make([]byte, halfBytes)), s.FillBytes(make([]byte, halfBytes))...)
}

// spki is the SubjectPublicKeyInfo of a key.
func (w *world) spki(pub crypto.PublicKey) []byte {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		w.fail(fmt.Errorf("encoding a key: %w", err))
	}
	return der
}

// keyID names a grant key.
func (w *world) keyID(pub ed25519.PublicKey) string {
	return hex.EncodeToString(digest(w.spki(pub))[:16])
}

// signed is what a link covers of one statement.
func signed(payload, signature, signer []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(payload))) //nolint:gosec // G115: a payload of this generator.
	out = append(out, payload...)
	out = append(out, signature...)
	return append(out, signer...)
}
