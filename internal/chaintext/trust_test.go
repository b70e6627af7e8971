package chaintext_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/safeconduct/safeconduct/delegation"
	"github.com/safeconduct/safeconduct/internal/chaintext"
)

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func spki(t *testing.T, pub any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// A private key beside the certificate, as in the file of a root, is passed over.
func TestTrustFromPEM(t *testing.T) {
	w := newWorld(t)
	trust := &chaintext.Trust{}
	for _, raw := range [][]byte{
		append(block("PRIVATE KEY", []byte("not looked at")), block(chaintext.PEMCertificate, w.ca.Raw)...),
		block(chaintext.PEMPublicKey, spki(t, w.key.Public())),
	} {
		if err := trust.AddPEM(raw); err != nil {
			t.Fatal(err)
		}
	}
	if !trust.HasKeys() || !trust.HasRoots() {
		t.Fatal("keys or roots are missing")
	}
	q := w.question()
	q.Keys, q.Bundles = trust, trust
	if v, err := chaintext.Verify(w.good().found(), q); err != nil || !v.Allowed() {
		t.Errorf("%v, %v", v.Failures, err)
	}
	if _, err := trust.GetX509BundleForTrustDomain(spiffeid.RequireTrustDomainFromString("other.test")); err == nil {
		t.Error("the root vouches for another trust domain")
	}
}

func TestTrustRefuses(t *testing.T) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"nothing":             nil,
		"a private key":       block("PRIVATE KEY", []byte("x")),
		"damaged certificate": block(chaintext.PEMCertificate, []byte("x")),
		"an agent":            block(chaintext.PEMCertificate, newWorld(t).svid(planner, time.Hour).Raw),
		"damaged key":         block(chaintext.PEMPublicKey, []byte("x")),
		"another kind of key": block(chaintext.PEMPublicKey, spki(t, other.Public())),
	} {
		t.Run(name, func(t *testing.T) {
			trust := &chaintext.Trust{}
			if err := trust.AddPEM(raw); !errors.Is(err, chaintext.ErrTrust) || trust.HasKeys() || trust.HasRoots() {
				t.Errorf("%v", err)
			}
		})
	}
}

// A published key is good inside its time only, and for its own authority.
func TestTrustKeys(t *testing.T) {
	key, _ := keyOf("grants").Public().(ed25519.PublicKey)
	id, err := delegation.KeyID(key)
	if err != nil {
		t.Fatal(err)
	}
	trust := &chaintext.Trust{}
	trust.AddKey(domain, id, key, 1000, 2000)
	for ms, want := range map[int64]bool{999: false, 1000: true, 1999: true, 2000: false} {
		if _, found := trust.GrantKey(authority, id, time.UnixMilli(ms)); found != want {
			t.Errorf("at %d: %t", ms, found)
		}
	}
	if _, found := trust.GrantKey("spiffe://other.test/service/authority", id, time.UnixMilli(1500)); found {
		t.Error("the key is another authority's")
	}
	if _, found := trust.GrantKey(authority, "other", time.UnixMilli(1500)); found {
		t.Error("the key has another id")
	}
}
