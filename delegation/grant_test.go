package delegation_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func TestNewGrant(t *testing.T) {
	s := newScene(t)
	p := s.grantPayload(s.a)
	p.Version, p.KeyId, p.ChainId, p.StatementNonce, p.LineageStartMs = 0, "", nil, nil, 0
	g, err := delegation.NewGrant(p, s.key)
	if err != nil {
		t.Fatal(err)
	}
	x, err := s.verifier(s.a).VerifyGrant(g)
	if err != nil {
		t.Fatal(err)
	}
	if id := x.ChainID(); !bytes.Equal(id[:], p.GetChainId()) || p.GetLineageStartMs() != p.GetIssuedAtMs() || p.GetKeyId() != s.keyID {
		t.Errorf("filled in %v, want what was signed", p)
	}
	renewed := s.grantPayload(s.a)
	renewed.ChainId, renewed.LineageStartMs, renewed.DepthUsed = p.GetChainId(), p.GetLineageStartMs(), 2
	if g, err = delegation.NewGrant(renewed, s.key); err != nil {
		t.Fatal(err)
	}
	if x, err = s.verifier(s.a).VerifyGrant(g); err != nil || x.Depth() != 2 || !bytes.Equal(renewed.GetChainId(), p.GetChainId()) {
		t.Errorf("VerifyGrant(renewed) = %v, %v, want depth 2 of the same chain", x, err)
	}
}

func TestNewGrantRefuses(t *testing.T) {
	s := newScene(t)
	for _, tc := range []struct {
		name   string
		change func(*v1.GrantPayload)
		want   v1.Reason
	}{
		{"another key id", func(p *v1.GrantPayload) { p.KeyId = "00" }, badKey},
		{"not UTF-8", func(p *v1.GrantPayload) { p.TaskId = "\xff" }, nonCanonical},
		{"over 2 KiB", func(p *v1.GrantPayload) { p.Delegates = slices.Repeat([]string{strings.Repeat("a", 250)}, 10) }, tooLarge},
		{"version", func(p *v1.GrantPayload) { p.Version = 2 }, badVersion},
		{"no principal", func(p *v1.GrantPayload) { p.Principal = nil }, malformed},
		{"another tenant", func(p *v1.GrantPayload) { p.Tenant = "red" }, tenant},
		{"too long", func(p *v1.GrantPayload) { p.ExpiresAtMs++ }, lifetime},
		{"no times", func(p *v1.GrantPayload) { p.IssuedAtMs = 0 }, lifetime},
		{"lineage over a day", func(p *v1.GrantPayload) { p.LineageStartMs -= 24*3600_000 + 1 }, lifetime},
		{"too deep", func(p *v1.GrantPayload) { p.MaxDepth = 9 }, tooDeep},
		{"another issuer", func(p *v1.GrantPayload) { p.Issuer = "spiffe://" + domain + "/service/other" }, untrusted},
		{"a border", func(p *v1.GrantPayload) { p.Origin = &v1.Origin{Tenant: "red"} }, tenant},
	} {
		p := s.grantPayload(s.a)
		tc.change(p)
		if g, err := delegation.NewGrant(p, s.key); g != nil || reason(err) != tc.want {
			t.Errorf("%s: NewGrant() = %v, %v, want %v", tc.name, g, err, tc.want)
		}
	}
	if _, err := delegation.NewGrant(s.grantPayload(s.a), nil); err == nil {
		t.Error("NewGrant(no key) = nil, want an error")
	}
}

// badKeySigner fails to sign.
type badKeySigner struct{ ed25519.PrivateKey }

func (badKeySigner) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("no")
}

func TestNewSignerRefuses(t *testing.T) {
	s := newScene(t)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	big := s.loose(s.a.id, withCert(func(c *x509.Certificate) {
		c.DNSNames = slices.Repeat([]string{"a.long.name.of.a.host.in.acme.test"}, 60)
	}))
	svid := func(a *agent, key crypto.Signer) *x509svid.SVID {
		return &x509svid.SVID{ID: a.id.ID(), Certificates: a.certs, PrivateKey: key}
	}
	other := s.loose(s.a.id, withKey(p384))
	for name, in := range map[string]*x509svid.SVID{
		"nil":                   nil,
		"no certificate":        {},
		"four certificates":     {Certificates: slices.Repeat(s.a.certs, 4), PrivateKey: s.a.key},
		"a CA":                  {Certificates: []*x509.Certificate{s.ca.cert}, PrivateKey: s.ca.key},
		"P-384":                 svid(other, p384),
		"another Ed25519 key":   svid(s.a, ed25519Key()),
		"another P-256 key":     svid(s.b, p256Key()),
		"a key of no kind":      svid(s.a, badKeySigner{}),
		"no key":                svid(s.a, nil),
		"a certificate too big": svid(big, big.key),
	} {
		if k, err := delegation.NewSigner(in); k != nil || !errors.Is(err, delegation.ErrSigner) {
			t.Errorf("%s: NewSigner() = %v, %v, want ErrSigner", name, k, err)
		}
	}
}

func TestSigner(t *testing.T) {
	s := newScene(t)
	for _, a := range []*agent{s.a, s.b} {
		sig, chain, err := a.signer.Sign(delegation.TypeHop, []byte("x"))
		if err != nil || len(sig) != 64 || len(chain) != 1 || a.signer.ID() != a.id ||
			!a.signer.NotAfter().Equal(a.peer.NotAfter) || !a.signer.NotBefore().Equal(a.peer.Leaf.NotBefore) {
			t.Errorf("Sign() = %d bytes, %d certificates, %v", len(sig), len(chain), err)
		}
	}
}

func TestPAE(t *testing.T) {
	if got, want := string(delegation.PAE("http://example.com/HelloWorld", []byte("hello world"))),
		"DSSEv1 29 http://example.com/HelloWorld 11 hello world"; got != want {
		t.Errorf("PAE() = %q, want %q", got, want)
	}
	if delegation.StatementID(delegation.TypeGrant, nil) == delegation.StatementID(delegation.TypeHop, nil) {
		t.Error("two types have one statement id")
	}
}

func TestDsse(t *testing.T) {
	s := newScene(t)
	pub, _ := s.key.Public().(ed25519.PublicKey)
	keys := func(id string) (ed25519.PublicKey, bool) { return pub, id == s.keyID }
	sealed := func() *v1.Dsse {
		d, err := delegation.SealDsse(delegation.TypeTable, []byte("rows"), s.key)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if b, err := delegation.OpenDsse(sealed(), delegation.TypeTable, keys); err != nil || string(b) != "rows" {
		t.Errorf("OpenDsse() = %q, %v", b, err)
	}
	if d, err := delegation.SealDsse(delegation.TypeTable, nil, nil); d != nil || err == nil {
		t.Errorf("SealDsse(no key) = %v, %v, want an error", d, err)
	}
	for name, change := range map[string]func(*v1.Dsse){
		"another type":      func(d *v1.Dsse) { d.PayloadType = delegation.TypeBundle },
		"no signature":      func(d *v1.Dsse) { d.Signatures = nil },
		"five signatures":   func(d *v1.Dsse) { d.Signatures = slices.Repeat(d.GetSignatures(), 5) },
		"another key":       func(d *v1.Dsse) { d.Signatures[0].KeyId = "00" },
		"short signature":   func(d *v1.Dsse) { d.Signatures[0].Sig = d.GetSignatures()[0].GetSig()[1:] },
		"another payload":   func(d *v1.Dsse) { d.Payload = []byte("row") },
		"another signature": func(d *v1.Dsse) { d.Signatures[0].Sig[0] ^= 1 },
	} {
		d := sealed()
		change(d)
		if b, err := delegation.OpenDsse(d, delegation.TypeTable, keys); b != nil || !errors.Is(err, delegation.ErrUnsigned) {
			t.Errorf("%s: OpenDsse() = %q, %v, want ErrUnsigned", name, b, err)
		}
	}
}
