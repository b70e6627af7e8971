package chaintext

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/safeconduct/safeconduct/delegation"
)

// ErrTrust is wrapped when PEM holds nothing to verify against, or something that cannot be used for it.
var ErrTrust = errors.New("nothing to verify against")

// Types of PEM blocks.
const (
	PEMCertificate = "CERTIFICATE"
	PEMPublicKey   = "PUBLIC KEY"
)

// Trust is what chains are verified against. It implements Keys and x509bundle.Source; the zero value trusts nobody. It may be read
// concurrently, but not while something is added.
type Trust struct {
	keys  []grantKey
	roots []*x509.Certificate
}

// grantKey is one published grant key. Without an issuer it is every authority's.
type grantKey struct {
	issuer, id string
	key        ed25519.PublicKey
	since, end int64 // milliseconds; 0 is no bound
}

// AddKey adds a grant key of a trust domain's authority, valid from since until end, in milliseconds; 0 is no end.
func (t *Trust) AddKey(trustDomain, id string, key ed25519.PublicKey, since, end int64) {
	t.keys = append(t.keys, grantKey{"spiffe://" + trustDomain + "/service/authority", id, key, since, end})
}

// AddPEM adds certificates as roots and Ed25519 public keys as grant keys of every authority; private keys and other blocks are
// passed over. Errors wrap ErrTrust.
func (t *Trust) AddPEM(raw []byte) error {
	found := false
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case PEMCertificate:
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrTrust, err)
			}
			if !cert.IsCA {
				return fmt.Errorf("%w: a certificate that is no CA", ErrTrust)
			}
			t.roots = append(t.roots, cert)
		case PEMPublicKey:
			pub, err := x509.ParsePKIXPublicKey(block.Bytes)
			key, isEd25519 := pub.(ed25519.PublicKey)
			if err != nil || !isEd25519 {
				return fmt.Errorf("%w: a public key that is not Ed25519, as grant keys are", ErrTrust)
			}
			id, err := delegation.KeyID(key)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrTrust, err)
			}
			t.keys = append(t.keys, grantKey{id: id, key: key})
		default:
			continue
		}
		found = true
	}
	if !found {
		return fmt.Errorf("%w: PEM without a certificate or a public key", ErrTrust)
	}
	return nil
}

// HasKeys reports whether there is a grant key, without which no chain verifies.
func (t *Trust) HasKeys() bool { return len(t.keys) > 0 }

// HasRoots reports whether there is an X.509 root, without which no hop verifies.
func (t *Trust) HasRoots() bool { return len(t.roots) > 0 }

// GrantKey implements Keys.
func (t *Trust) GrantKey(issuer, keyID string, at time.Time) (ed25519.PublicKey, bool) {
	ms := at.UnixMilli()
	for _, k := range t.keys {
		if k.id == keyID && (k.issuer == "" || k.issuer == issuer) && ms >= k.since && (k.end == 0 || ms < k.end) {
			return k.key, true
		}
	}
	return nil, false
}

// GetX509BundleForTrustDomain implements x509bundle.Source: the roots that name the trust domain, and those that name none.
func (t *Trust) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	b := x509bundle.New(td)
	for _, root := range t.roots {
		if len(root.URIs) == 0 || root.URIs[0].String() == td.IDString() {
			b.AddX509Authority(root)
		}
	}
	if b.Empty() {
		return nil, fmt.Errorf("no X.509 root of trust domain %s", td)
	}
	return b, nil
}
