package authority

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/safeconduct/safeconduct/identity"
)

func testCA(t *testing.T, life time.Duration) (*ca, identity.AgentID) {
	t.Helper()
	td := spiffeid.RequireTrustDomainFromString("dev.example")
	c, err := openCA(t.TempDir(), td, life, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.NewServiceID(td, "memory")
	if err != nil {
		t.Fatal(err)
	}
	return c, id
}

func TestRotationAtHalfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, id := testCA(t, time.Hour)
		s, err := newSource(t.Context(), c, func(context.Context) (*x509svid.SVID, error) { return c.issue(id) }, time.Now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		serials := map[string]bool{}
		for range 20 {
			svid, err := s.GetX509SVID()
			if err != nil {
				t.Fatal(err)
			}
			serials[svid.Certificates[0].SerialNumber.String()] = true
			began := time.Now()
			<-s.Updated()
			if waited := time.Since(began); waited < 27*time.Minute-time.Second || waited > 33*time.Minute {
				t.Errorf("rotated after %s, want half an hour give or take 10 %%", waited)
			}
		}
		if len(serials) != 20 {
			t.Errorf("%d different serials, want 20", len(serials))
		}
	})
}

func TestSourceNeverServesAnExpiredSVID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, id := testCA(t, time.Hour)
		var fail atomic.Bool
		s, err := newSource(t.Context(), c, func(context.Context) (*x509svid.SVID, error) {
			if fail.Load() {
				return nil, errors.New("down")
			}
			return c.issue(id)
		}, time.Now, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		fail.Store(true)
		synctestAdvance(55 * time.Minute)
		if _, err := s.GetX509SVID(); err != nil {
			t.Errorf("GetX509SVID() while valid = %v", err)
		}
		synctestAdvance(6 * time.Minute)
		if _, err := s.GetX509SVID(); !errors.Is(err, ErrSVIDExpired) {
			t.Errorf("GetX509SVID() after its end = %v, want ErrSVIDExpired", err)
		}
		synctest.Wait()
		fail.Store(false)
		<-s.Updated()
		if _, err := s.GetX509SVID(); err != nil {
			t.Errorf("GetX509SVID() after recovery = %v", err)
		}
	})
}

// synctestAdvance moves the bubble's clock and lets every goroutine act on it.
func synctestAdvance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestIssueRefusesForeignIdentities(t *testing.T) {
	c, _ := testCA(t, time.Hour)
	other, err := identity.NewServiceID(spiffeid.RequireTrustDomainFromString("other.example"), "memory")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []identity.AgentID{other, {}} {
		if _, err := c.issue(id); !errors.Is(err, identity.ErrNotAnIdentity) {
			t.Errorf("issue(%q) = %v, want ErrNotAnIdentity", id, err)
		}
	}
	if _, err := openCA(filepath.Join(t.TempDir(), "absent"), c.td, time.Hour, time.Now); err == nil {
		t.Error("openCA() in a missing folder = nil, want an error")
	}
}
