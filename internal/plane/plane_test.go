package plane_test

import (
	"errors"
	"os"
	"testing"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/internal/plane"
)

func config(t *testing.T) plane.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "sc") //nolint:usetesting // short: socket paths are bounded.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return plane.Config{Dir: dir, TrustDomain: "plane.test"}
}

func TestPlaneServesAndStartsAgainOnItsState(t *testing.T) {
	cfg := config(t)
	for range 2 {
		p, err := plane.Start(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if p.AuthorityAddr() == "" || p.MemoryAddr() == "" {
			t.Errorf("addresses %q and %q", p.AuthorityAddr(), p.MemoryAddr())
		}
		if err := p.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}
	for _, name := range []string{"authority", "memory"} {
		rep, err := audit.Verify(cfg.Dir + "/audit/" + name)
		if err != nil || rep.Verdict != audit.Good {
			t.Errorf("audit log of %s = %v, %v", name, rep.Verdict, err)
		}
	}
}

func TestSecondPlaneOnTheSameStateIsRefused(t *testing.T) {
	cfg := config(t)
	p, err := plane.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	if second, err := plane.Start(t.Context(), cfg); !errors.Is(err, audit.ErrLocked) {
		t.Errorf("Start() = %v, %v, want ErrLocked", second, err)
	}
}
