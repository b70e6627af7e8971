package authority_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/safeconduct/safeconduct/authority"
	"github.com/safeconduct/safeconduct/identity"
)

func TestLeafProfile(t *testing.T) {
	a, _ := world(t)
	for _, s := range []string{alice, memory, self} {
		id := agentID(t, s)
		source, err := a.Source(id)
		if err != nil {
			t.Fatal(err)
		}
		svid, err := source.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		leaf := svid.Certificates[0]
		if _, _, err := x509svid.Verify(svid.Certificates, source); err != nil {
			t.Errorf("%s: go-spiffe refuses it: %v", s, err)
		}
		if p, err := identity.PeerFromLeaf(leaf); err != nil || p.Agent != id {
			t.Errorf("%s: PeerFromLeaf() = %v, %v", s, p.Agent, err)
		}
		bundle, err := source.GetX509BundleForTrustDomain(a.TrustDomain())
		if err != nil {
			t.Fatal(err)
		}
		root := bundle.X509Authorities()[0]
		key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
		switch {
		case !ok || key.Curve != elliptic.P256():
			t.Errorf("%s: key is not P-256", s)
		case len(leaf.URIs) != 1 || leaf.URIs[0].String() != s:
			t.Errorf("%s: URI SANs %v", s, leaf.URIs)
		case !slices.Equal(leaf.DNSNames, []string{id.DNSName()}):
			t.Errorf("%s: DNS SANs %v", s, leaf.DNSNames)
		case len(leaf.IPAddresses)+len(leaf.EmailAddresses) > 0:
			t.Errorf("%s: further SANs", s)
		case leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature:
			t.Errorf("%s: key usage %v", s, leaf.KeyUsage)
		case !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}):
			t.Errorf("%s: extended key usage %v", s, leaf.ExtKeyUsage)
		case bytes.Equal(leaf.RawSubject, root.RawSubject) || bytes.Equal(leaf.RawSubject, leaf.RawIssuer):
			t.Errorf("%s: subject equals the root's", s)
		case leaf.SerialNumber.BitLen() != 128 || root.SerialNumber.BitLen() != 128:
			t.Errorf("%s: serial of %d bits", s, leaf.SerialNumber.BitLen())
		case !leaf.NotBefore.Before(time.Now().Add(-9*time.Second)) || leaf.NotAfter.After(time.Now().Add(authority.DefaultSVIDLifetime)):
			t.Errorf("%s: valid from %s to %s", s, leaf.NotBefore, leaf.NotAfter)
		}
		if !root.IsCA || !root.MaxPathLenZero || root.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
			t.Errorf("root profile: CA %v, path length %d", root.IsCA, root.MaxPathLen)
		}
		if err := source.Close(); err != nil {
			t.Error(err)
		}
		if _, err := source.GetX509SVID(); !errors.Is(err, authority.ErrSourceClosed) {
			t.Errorf("%s: after Close = %v, want ErrSourceClosed", s, err)
		}
	}
}

func TestLeafEndsWithTheRoot(t *testing.T) {
	cfg, _ := config(t)
	a := start(t, cfg)
	bundle, err := must(a.Source(agentID(t, self))).GetX509BundleForTrustDomain(a.TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	end := bundle.X509Authorities()[0].NotAfter
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Now = func() time.Time { return end.Add(-time.Minute) }
	a = start(t, cfg)
	svid, err := must(a.Source(agentID(t, self))).GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if got := svid.Certificates[0].NotAfter; !got.Equal(end) {
		t.Errorf("leaf ends at %s, want the root's end %s", got, end)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.Now = func() time.Time { return end }
	if _, err := authority.Start(t.Context(), cfg); !errors.Is(err, authority.ErrRootExpired) {
		t.Errorf("Start() with an expired root = %v, want ErrRootExpired", err)
	}
}

func TestRestartKeepsTrust(t *testing.T) {
	cfg, _ := config(t)
	a := start(t, cfg)
	if _, err := a.RegisterAgent(t.Context(), newAgent(alice)); err != nil {
		t.Fatal(err)
	}
	before, err := must(a.Source(agentID(t, alice))).GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = start(t, cfg)
	after := must(a.Source(agentID(t, alice)))
	if _, _, err := x509svid.Verify(before.Certificates, after); err != nil {
		t.Errorf("SVID of before the restart: %v", err)
	}
}

func TestKeysOnDisk(t *testing.T) {
	cfg, _ := config(t)
	a := start(t, cfg)
	if _, err := a.RegisterAgent(t.Context(), newAgent(alice)); err != nil {
		t.Fatal(err)
	}
	source := must(a.Source(agentID(t, alice)))
	svid, err := source.GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := svid.MarshalRaw()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	var private []string
	for _, dir := range []string{cfg.Dir, cfg.SocketDir} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %#o, want 0600", e.Name(), info.Mode().Perm())
			}
			if bytes.Contains(raw, []byte("PRIVATE KEY")) {
				private = append(private, e.Name())
			}
			if bytes.Contains(raw, key[len(key)-32:]) {
				t.Errorf("%s holds a workload key", e.Name())
			}
		}
	}
	if want := []string{"feed.key", "grant.key", "policy.key", "root.pem"}; !slices.Equal(private, want) {
		t.Errorf("files with private keys: %v, want %v", private, want)
	}
}

func TestStartRefusals(t *testing.T) {
	long := filepath.Join(shortDir(t), string(bytes.Repeat([]byte("d"), 100)))
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, c *authority.Config)
		want   error
	}{
		{"no trust domain", func(_ *testing.T, c *authority.Config) { c.TrustDomain = "" }, authority.ErrConfig},
		{"trust domain with a path", func(_ *testing.T, c *authority.Config) { c.TrustDomain = "spiffe://a/b" }, authority.ErrConfig},
		{"no folder", func(_ *testing.T, c *authority.Config) { c.Dir = "" }, authority.ErrConfig},
		{"no audit log", func(_ *testing.T, c *authority.Config) { c.Audit = nil }, authority.ErrConfig},
		{"too short a life", func(_ *testing.T, c *authority.Config) { c.SVIDLifetime = time.Second }, authority.ErrConfig},
		{"too long a life", func(_ *testing.T, c *authority.Config) { c.SVIDLifetime = 25 * time.Hour }, authority.ErrConfig},
		{"socket path too long", func(_ *testing.T, c *authority.Config) { c.SocketDir = long }, authority.ErrSocketPath},
		{"socket folder open to others", func(t *testing.T, c *authority.Config) { chmod(t, c.SocketDir, 0o755) }, authority.ErrSocketPath},
		{"socket folder is a link", func(t *testing.T, c *authority.Config) {
			link := filepath.Join(shortDir(t), "l")
			if err := os.Symlink(c.SocketDir, link); err != nil {
				t.Fatal(err)
			}
			c.SocketDir = link
		}, authority.ErrSocketPath},
		{"a file where the socket goes", func(t *testing.T, c *authority.Config) {
			write(t, filepath.Join(c.SocketDir, "workload.sock"), "x")
		}, authority.ErrSocketPath},
		{"key readable by others", func(t *testing.T, c *authority.Config) {
			keep(t, *c)
			chmod(t, filepath.Join(c.Dir, "grant.key"), 0o640)
		}, authority.ErrKeyFile},
		{"root damaged", func(t *testing.T, c *authority.Config) {
			keep(t, *c)
			write(t, filepath.Join(c.Dir, "root.pem"), "x")
		}, authority.ErrKeyFile},
		{"key is a link", func(t *testing.T, c *authority.Config) {
			keep(t, *c)
			key := filepath.Join(c.Dir, "feed.key")
			if err := errors.Join(os.Rename(key, key+"2"), os.Symlink(key+"2", key)); err != nil {
				t.Fatal(err)
			}
		}, authority.ErrKeyFile},
		{"folder of another trust domain", func(t *testing.T, c *authority.Config) {
			keep(t, *c)
			c.TrustDomain = "other.example"
		}, authority.ErrForeign},
		{"folder in use", func(t *testing.T, c *authority.Config) { start(t, *c) }, authority.ErrLocked},
		{"socket in use", func(t *testing.T, c *authority.Config) {
			start(t, *c)
			c.Dir = t.TempDir()
		}, authority.ErrSocketBusy},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg, _ := config(t)
			tt.change(t, &cfg)
			a, err := authority.Start(t.Context(), cfg)
			if !errors.Is(err, tt.want) {
				t.Errorf("Start() = %v, want %v", err, tt.want)
			}
			if err == nil {
				_ = a.Close()
			}
		})
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	cfg, _ := config(t)
	keep(t, cfg)
	path := filepath.Join(cfg.SocketDir, "operator.sock")
	l, err := listenAndLeave(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	a := start(t, cfg)
	if got := a.Status().GetTrustDomain(); got != domain {
		t.Errorf("Status() = %q", got)
	}
}

func TestContextEndsTheAuthority(t *testing.T) {
	cfg, _ := config(t)
	ctx, cancel := context.WithCancel(t.Context())
	a, err := authority.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	until(t, "the socket to go", func() bool {
		_, err := os.Lstat(a.OperatorSocket())
		return errors.Is(err, os.ErrNotExist)
	})
	if err := a.Close(); err != nil {
		t.Error(err)
	}
	if _, err := a.RegisterAgent(t.Context(), newAgent(alice)); !errors.Is(err, authority.ErrClosed) {
		t.Errorf("RegisterAgent() after Close = %v, want ErrClosed", err)
	}
	if _, err := a.Source(agentID(t, self)); !errors.Is(err, authority.ErrClosed) {
		t.Errorf("Source() after Close = %v, want ErrClosed", err)
	}
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	p := startHelper(t)
	before := runtime.NumGoroutine()
	cfg, _ := config(t)
	a, err := authority.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.RegisterAgent(t.Context(), newAgent(alice)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.AdmitWorkload(t.Context(), agentID(t, alice), p.pid()); err != nil {
		t.Fatal(err)
	}
	if got := p.do("fetch", a.WorkloadSocket()); got != alice {
		t.Fatalf("fetch() = %q, want %q", got, alice)
	}
	if _, err := a.Source(agentID(t, memory)); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}

// keep makes the files of an authority and leaves them.
func keep(t *testing.T, cfg authority.Config) {
	t.Helper()
	if err := start(t, cfg).Close(); err != nil {
		t.Fatal(err)
	}
}
