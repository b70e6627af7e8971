package runtime_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/plane"
	"github.com/safeconduct/safeconduct/runtime"
)

// kept is an identity that outlives the authority which issued it.
type kept struct {
	svid   *x509svid.SVID
	bundle *x509bundle.Bundle
}

func (k kept) GetX509SVID() (*x509svid.SVID, error) { return k.svid, nil }

func (k kept) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return k.bundle.GetX509BundleForTrustDomain(td)
}

func (kept) Updated() <-chan struct{} { return nil }

func (kept) Close() error { return nil }

// An authority that starts again knows no addresses; agents tell it where they serve without being started again.
func TestAgentAnnouncesItselfToANewAuthority(t *testing.T) {
	t.Parallel() // the first authority drains for ten seconds, because the agent watches it
	dir := t.TempDir()
	cfg := plane.Config{Dir: filepath.Join(dir, "p"), TrustDomain: "press.test", SocketDir: filepath.Join(dir, "s")}
	first, err := plane.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.ParseAgent("spiffe://press.test/tenant/acme/agent/steady")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Authority.RegisterAgent(t.Context(), &v1.Agent{
		SpiffeId: id.String(), AgentClass: "steady", Owner: alice, Purpose: "outlives an authority", IntegrityCap: attested,
	}); err != nil {
		t.Fatal(err)
	}
	agent, err := runtime.New(t.Context(), runtime.Config{
		Source: keep(t, first, id), Authority: first.AuthorityAddr(), AuditDir: filepath.Join(dir, "audit"),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- agent.Serve(ctx) }()
	eventually(t, "the first announcement", func() bool { return first.Authority.Locate(id) != "" })

	cfg.AuthorityListen = first.AuthorityAddr()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := plane.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the announcement to the new authority", func() bool { return second.Authority.Locate(id) == agent.Addr() })
	cancel()
	if err := receive(t, "Serve", served); err != nil {
		t.Errorf("Serve() = %v", err)
	}
	if err := agent.Close(); err != nil {
		t.Error(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

func keep(t *testing.T, p *plane.Plane, id identity.AgentID) kept {
	t.Helper()
	src, err := p.Authority.Source(id)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close() // what it holds is copied
	svid, err := src.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := src.GetX509BundleForTrustDomain(id.TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	return kept{svid, bundle}
}
