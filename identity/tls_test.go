package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/meshtest"
)

// shake runs one handshake over loopback. Client and server each exchange one byte, because with TLS 1.3 a client learns only then
// that its certificate was refused.
func shake(t *testing.T, server, client *tls.Config) (serverState, clientState tls.ConnectionState, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	type result struct {
		state tls.ConnectionState
		err   error
	}
	done := make(chan result, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			done <- result{err: err}
			return
		}
		defer func() { _ = raw.Close() }()
		c := tls.Server(raw, server)
		if err := c.HandshakeContext(t.Context()); err != nil {
			done <- result{err: err}
			return
		}
		_, err = c.Write([]byte{1})
		done <- result{c.ConnectionState(), err}
	}()
	raw, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	c := tls.Client(raw, client)
	cerr := c.HandshakeContext(t.Context())
	if cerr == nil {
		_, cerr = io.ReadFull(c, make([]byte, 1))
	}
	_ = raw.Close()
	s := <-done
	return s.state, c.ConnectionState(), errors.Join(s.err, cerr)
}

func TestMutualTLS(t *testing.T) {
	w := meshtest.New(t)
	server, client := w.Source(w.ID("acme", "writer")), w.Source(w.ID("globex", "relay"))
	ss, cs, err := shake(t, identity.ServerTLS(server), identity.ClientTLS(client, server.ID()))
	if err != nil {
		t.Fatalf("handshake: %v", err)
	}
	if ss.Version != tls.VersionTLS13 || ss.NegotiatedProtocol != "h2" {
		t.Errorf("negotiated %x, %q", ss.Version, ss.NegotiatedProtocol)
	}
	for state, want := range map[*tls.ConnectionState]identity.AgentID{&ss: client.ID(), &cs: server.ID()} {
		p, err := identity.PeerFromTLS(*state)
		if err != nil || p.Agent != want || p.Tenant != want.Tenant() || p.CertID == [32]byte{} || p.NotAfter.IsZero() || p.Serial == "" {
			t.Errorf("PeerFromTLS() = %+v, %v, want %s", p, err, want)
		}
	}
}

func TestTLSRefusals(t *testing.T) {
	w := meshtest.New(t)
	writer, relay := w.ID("acme", "writer"), w.ID("acme", "relay")
	server, client := w.Source(writer), w.Source(relay)
	other := spiffeid.RequireTrustDomainFromString("other.test")
	template := func(f func(*x509.Certificate)) *meshtest.Source { return w.Source(relay, meshtest.Template(f)) }
	tests := []struct {
		name           string
		server, client *meshtest.Source
		change         func(*tls.Config)
	}{
		{"rogue CA of the client", server, w.Source(relay, meshtest.IssuedBy(w.Rogue)), nil},
		{"rogue CA of the server", w.Source(writer, meshtest.IssuedBy(w.Rogue)), client, nil},
		{"other server than wanted", w.Source(w.ID("acme", "other")), client, nil},
		{"server of another tenant with the name", w.Source(w.ID("globex", "writer")), client, nil},
		{"no client certificate", server, client, func(c *tls.Config) { c.GetClientCertificate = nil }},
		{"TLS 1.2", server, client, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }},
		{"two URI SANs", server, template(func(c *x509.Certificate) { c.URIs = append(c.URIs, writer.ID().URL()) }), nil},
		{"no URI SAN", server, template(func(c *x509.Certificate) { c.URIs = nil }), nil},
		{"a CA as leaf", server, template(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign }), nil},
		{"a leaf that may sign certificates", server, template(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), nil},
		{"a leaf that may not sign", server, template(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment }), nil},
		{"no client usage", server, template(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), nil},
		{"an id without a path", server, template(func(c *x509.Certificate) { c.URIs = []*url.URL{w.TD.ID().URL()} }), nil},
		{"an id of another shape", server, template(func(c *x509.Certificate) { c.URIs[0].Path = "/ns/default/sa/web" }), nil},
		{"an id of another trust domain", server, template(func(c *x509.Certificate) { c.URIs[0].Host = other.Name() }), nil},
		{"expired", server, template(func(c *x509.Certificate) { c.NotAfter = w.Now().Add(-1) }), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := identity.ClientTLS(tt.client, writer)
			if tt.change != nil {
				tt.change(cfg)
			}
			if _, _, err := shake(t, identity.ServerTLS(tt.server), cfg); err == nil {
				t.Error("the handshake succeeds")
			}
		})
	}
	t.Run("a bundle that was emptied", func(t *testing.T) {
		w.Distrust()
		if _, _, err := shake(t, identity.ServerTLS(server), identity.ClientTLS(client, writer)); err == nil {
			t.Error("the handshake succeeds")
		}
	})
}

// A resumed handshake would skip certificate verification on the server: a client with a session cache must get a full one.
func TestTLSResumptionGivesAFullHandshake(t *testing.T) {
	w := meshtest.New(t)
	server, client := w.Source(w.ID("acme", "writer")), w.Source(w.ID("acme", "relay"))
	verified := 0
	scfg := identity.ServerTLS(server)
	verify := scfg.VerifyPeerCertificate
	scfg.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
		verified++
		return verify(raw, chains)
	}
	ccfg := identity.ClientTLS(client, server.ID())
	ccfg.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	for i := range 3 {
		ss, cs, err := shake(t, scfg, ccfg)
		if err != nil || ss.DidResume || cs.DidResume {
			t.Fatalf("handshake %d: resumed %v, %v", i, cs.DidResume, err)
		}
	}
	if verified != 3 {
		t.Errorf("%d verifications in 3 handshakes", verified)
	}
	w.Distrust()
	if _, _, err := shake(t, scfg, ccfg); err == nil {
		t.Error("a client whose CA was removed comes back through its session cache")
	}
}

func TestRotatedSVIDIsServed(t *testing.T) {
	w := meshtest.New(t)
	server, client := w.Source(w.ID("acme", "writer")), w.Source(w.ID("acme", "relay"))
	scfg, ccfg := identity.ServerTLS(server), identity.ClientTLS(client, server.ID())
	before := server.Peer().CertID
	updated := server.Updated()
	server.Rotate()
	<-updated
	_, cs, err := shake(t, scfg, ccfg)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := identity.PeerFromTLS(cs); err != nil || p.CertID == before {
		t.Errorf("the old certificate is served: %v", err)
	}
}

// federated is a source that holds bundles of every trust domain, as one that federates does.
type federated struct {
	*meshtest.Source
	ca *meshtest.CA
}

func (f federated) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return x509bundle.FromX509Authorities(td, []*x509.Certificate{f.ca.Certificate()}), nil
}

// A bundle of another trust domain lets its agents be verified, not served.
func TestServerRefusesOtherTrustDomains(t *testing.T) {
	w := meshtest.New(t)
	server := federated{w.Source(w.ID("acme", "writer")), w.CA}
	home := w.Source(w.ID("acme", "relay"))
	if _, _, err := shake(t, identity.ServerTLS(server), identity.ClientTLS(home, server.ID())); err != nil {
		t.Fatalf("a client of the own trust domain: %v", err)
	}
	abroad := w.Source(w.ID("acme", "relay"), meshtest.Template(func(c *x509.Certificate) { c.URIs[0].Host = "other.test" }))
	if _, _, err := shake(t, identity.ServerTLS(server), identity.ClientTLS(abroad, server.ID())); err == nil {
		t.Error("a client of another trust domain is served")
	}
}

// failing is a source that has lost its SVID.
type failing struct{ *meshtest.Source }

var errNoSVID = errors.New("no SVID")

func (failing) GetX509SVID() (*x509svid.SVID, error) { return nil, errNoSVID }

func TestSourceWithoutAnSVIDServesNothing(t *testing.T) {
	w := meshtest.New(t)
	src := w.Source(w.ID("acme", "writer"))
	if _, err := identity.ServerTLS(failing{src}).GetCertificate(nil); !errors.Is(err, errNoSVID) {
		t.Errorf("GetCertificate() = %v", err)
	}
	client := w.Source(w.ID("acme", "relay"))
	raw := [][]byte{client.Peer().Leaf.Raw}
	if err := identity.ServerTLS(failing{src}).VerifyPeerCertificate(raw, nil); !errors.Is(err, errNoSVID) {
		t.Errorf("VerifyPeerCertificate() = %v", err)
	}
}

func TestPeerFromTLSRefusals(t *testing.T) {
	w := meshtest.New(t)
	leaf := w.Source(w.ID("acme", "relay")).Peer().Leaf
	for name, state := range map[string]tls.ConnectionState{
		"nothing":              {},
		"no certificate":       {HandshakeComplete: true},
		"handshake unfinished": {PeerCertificates: []*x509.Certificate{leaf}},
		"nil certificate":      {HandshakeComplete: true, PeerCertificates: []*x509.Certificate{nil}},
	} {
		if p, err := identity.PeerFromTLS(state); !errors.Is(err, identity.ErrNoPeer) || !p.IsZero() {
			t.Errorf("%s: PeerFromTLS() = %v, %v, want ErrNoPeer", name, p, err)
		}
	}
	ca := *leaf
	ca.IsCA = true
	if _, err := identity.PeerFromLeaf(&ca); !errors.Is(err, identity.ErrNotAnIdentity) {
		t.Errorf("PeerFromLeaf(CA) = %v", err)
	}
	short := *leaf
	short.ExtKeyUsage = slices.Clone(leaf.ExtKeyUsage[:1])
	if _, err := identity.PeerFromLeaf(&short); !errors.Is(err, identity.ErrNotAnIdentity) {
		t.Errorf("PeerFromLeaf(no server usage) = %v", err)
	}
}

// TestShownConnKeepsWhatItHasShown: the SVID of a process is replaced, that of a connection is not.
func TestShownConnKeepsWhatItHasShown(t *testing.T) {
	w := meshtest.New(t)
	server, client := w.Source(w.ID("acme", "writer")), w.Source(w.ID("acme", "relay"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	wrapped := identity.ShownListener{Listener: l}
	defer func() { _ = wrapped.Close() }()
	done := make(chan *identity.ShownConn, 1)
	go func() {
		raw, err := wrapped.Accept()
		if err != nil {
			done <- nil
			return
		}
		shown, ok := raw.(*identity.ShownConn)
		if !ok || shown.SVID() != nil || tls.Server(raw, identity.ServerTLS(server)).HandshakeContext(t.Context()) != nil {
			shown = nil
		}
		done <- shown
	}()
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	c := tls.Client(raw, identity.ClientTLS(client, server.ID()))
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	shown := <-done
	if shown == nil {
		t.Fatal("the connection knows an SVID before its handshake, or none")
	}
	defer func() { _ = shown.Close() }()
	server.Rotate()
	if got := shown.SVID(); got == nil || !got.Certificates[0].Equal(c.ConnectionState().PeerCertificates[0]) {
		t.Error("the connection does not know the certificate that its peer has seen")
	}
	_ = wrapped.Close()
	if c, err := wrapped.Accept(); err == nil || c != nil {
		t.Errorf("Accept() on a closed listener = %v, %v", c, err)
	}
}
