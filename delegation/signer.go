package delegation

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/safeconduct/safeconduct/identity"
)

// ErrSigner is returned by NewSigner for an SVID that cannot sign statements.
var ErrSigner = errors.New("not a statement signer")

// Signer signs statements as one agent. All signing with an SVID key goes through it, so that the key can be replaced or kept
// elsewhere. Implementations are safe for concurrent use.
type Signer interface {
	// Sign signs the pre-authentication encoding of payload. The signature is exactly 64 bytes; chain is the signer's
	// certificates in DER, leaf first.
	Sign(payloadType string, payload []byte) (sig []byte, chain [][]byte, err error)
	// ID is the identity in the leaf certificate.
	ID() identity.AgentID
	// NotBefore and NotAfter are the validity of the leaf certificate.
	NotBefore() time.Time
	NotAfter() time.Time
}

// NewSigner returns a Signer over one SVID; a rotated SVID needs a new one. Errors wrap ErrSigner: the certificate is not an
// agent's or service's, the chain is longer than the format allows, the key is neither P-256 nor Ed25519, or it is not the
// certificate's.
func NewSigner(svid *x509svid.SVID) (Signer, error) {
	if svid == nil || len(svid.Certificates) == 0 || len(svid.Certificates) > 1+MaxIntermediates {
		return nil, fmt.Errorf("%w: want 1 to %d certificates", ErrSigner, 1+MaxIntermediates)
	}
	peer, err := identity.PeerFromLeaf(svid.Certificates[0])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigner, err)
	}
	s := &svidSigner{id: peer.Agent, key: svid.PrivateKey, notBefore: peer.Leaf.NotBefore, notAfter: peer.Leaf.NotAfter}
	if !statementKey(peer.Leaf.PublicKey) {
		return nil, fmt.Errorf("%w: a key of type %T", ErrSigner, peer.Leaf.PublicKey)
	}
	switch key := svid.PrivateKey.(type) {
	case *ecdsa.PrivateKey:
		if !key.PublicKey.Equal(peer.Leaf.PublicKey) {
			return nil, fmt.Errorf("%w: the key is not the certificate's", ErrSigner)
		}
	case ed25519.PrivateKey:
		if public, isKey := key.Public().(ed25519.PublicKey); !isKey || !public.Equal(peer.Leaf.PublicKey) {
			return nil, fmt.Errorf("%w: the key is not the certificate's", ErrSigner)
		}
	default:
		return nil, fmt.Errorf("%w: a private key of type %T", ErrSigner, svid.PrivateKey)
	}
	for _, cert := range svid.Certificates {
		if len(cert.Raw) > MaxCertBytes {
			return nil, fmt.Errorf("%w: a certificate of %d bytes", ErrSigner, len(cert.Raw))
		}
		s.chain = append(s.chain, cert.Raw)
	}
	return s, nil
}

type svidSigner struct {
	id                  identity.AgentID
	key                 crypto.Signer
	chain               [][]byte
	notBefore, notAfter time.Time
}

func (s *svidSigner) ID() identity.AgentID { return s.id }
func (s *svidSigner) NotBefore() time.Time { return s.notBefore }
func (s *svidSigner) NotAfter() time.Time  { return s.notAfter }

func (s *svidSigner) Sign(payloadType string, payload []byte) ([]byte, [][]byte, error) {
	sig, err := sign(s.key, PAE(payloadType, payload))
	return sig, s.chain, err
}

func sign(key crypto.Signer, pae []byte) ([]byte, error) {
	k, isECDSA := key.(*ecdsa.PrivateKey)
	if !isECDSA {
		return key.Sign(nil, pae, crypto.Hash(0)) // Ed25519 signs the message, not a digest of it
	}
	sum := sha256.Sum256(pae)
	sig := make([]byte, sigSize)
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	if err == nil {
		r.FillBytes(sig[:sigSize/2])
		s.FillBytes(sig[sigSize/2:])
	}
	return sig, err
}

// statementKey reports whether key is of one of the two kinds that sign statements; the kind fixes the algorithm.
func statementKey(key crypto.PublicKey) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return k.Curve == elliptic.P256()
	case ed25519.PublicKey:
		return len(k) == ed25519.PublicKeySize
	default:
		return false
	}
}

// validSignature verifies a 64-byte signature over the pre-authentication encoding pae. The key is one that statementKey accepts.
func validSignature(key crypto.PublicKey, pae, sig []byte) bool {
	if k, isECDSA := key.(*ecdsa.PublicKey); isECDSA {
		sum := sha256.Sum256(pae)
		r, s := new(big.Int).SetBytes(sig[:sigSize/2]), new(big.Int).SetBytes(sig[sigSize/2:])
		return ecdsa.Verify(k, sum[:], r, s)
	}
	k, isEd25519 := key.(ed25519.PublicKey)
	return isEd25519 && ed25519.Verify(k, pae, sig)
}
