package authority_test

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/safeconduct/safeconduct/authority"
	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// keeper is an authority that is started again on its folder, with a clock.
type keeper struct {
	*authority.Authority
	t      *testing.T
	cfg    authority.Config
	log    *records
	offset atomic.Int64
}

func newKeeper(t *testing.T) *keeper {
	t.Helper()
	k := &keeper{t: t}
	k.cfg, k.log = config(t)
	k.cfg.Now, k.cfg.SVIDLifetime = func() time.Time { return time.Now().Add(time.Duration(k.offset.Load())) }, time.Hour
	k.start()
	if _, err := k.RegisterAgent(t.Context(), newAgent(alice)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.EditTable(t.Context(), []*v1.CapabilityRow{row("r", "acme", "memory.read", true, "notes")}, nil); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *keeper) start() {
	k.t.Helper()
	k.Authority = start(k.t, k.cfg)
}

func (k *keeper) restart() {
	k.t.Helper()
	if err := k.Close(); err != nil {
		k.t.Fatal(err)
	}
	k.start()
}

func (k *keeper) exists(name string) bool {
	k.t.Helper()
	_, err := os.Stat(filepath.Join(k.cfg.Dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		k.t.Fatal(err)
	}
	return err == nil
}

// issued is a new SVID of alice and the roots of this moment.
func (k *keeper) issued() (*x509svid.SVID, identity.Source) {
	k.t.Helper()
	src, err := k.Source(agentID(k.t, alice))
	if err != nil {
		k.t.Fatal(err)
	}
	svid, err := src.GetX509SVID()
	if err != nil {
		k.t.Fatal(err)
	}
	return svid, src
}

// A new root is published before it signs, and the old one stays until what it signed has ended. Both hold over a restart.
func TestRootRotatesWithOverlap(t *testing.T) {
	k := newKeeper(t)
	old, follower := k.issued()
	steps := []struct {
		name    string
		advance time.Duration
		roots   int
		byNew   bool // who signs
		oldGood bool // whether the first SVID verifies
	}{
		{"published", 0, 2, false, true},
		{"a moment before it signs", 29 * time.Minute, 2, false, true},
		{"it signs", time.Minute, 2, true, true},
		{"the old root's last SVID has not ended", 29 * time.Minute, 2, true, true},
		{"the old root is gone", 31 * time.Minute, 1, true, false},
	}
	updated := follower.Updated()
	if err := k.RotateRoot(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-updated:
	case <-time.After(wait):
		t.Fatal("a source does not say that the roots have changed")
	}
	if err := k.RotateRoot(t.Context()); !errors.Is(err, authority.ErrRotating) {
		t.Errorf("RotateRoot() again = %v, want ErrRotating", err)
	}
	bundle, err := follower.GetX509BundleForTrustDomain(k.TrustDomain())
	if err != nil || len(bundle.X509Authorities()) != 2 {
		t.Fatalf("bundle of an open source: %v, %v", bundle, err)
	}
	first, second := bundle.X509Authorities()[0], bundle.X509Authorities()[1]
	for _, step := range steps {
		k.offset.Add(int64(step.advance))
		k.restart()
		svid, src := k.issued()
		bundle, err := src.GetX509BundleForTrustDomain(k.TrustDomain())
		if err != nil {
			t.Fatal(err)
		}
		signer := first
		if step.byNew {
			signer = second
		}
		if n := len(bundle.X509Authorities()); n != step.roots || svid.Certificates[0].CheckSignatureFrom(signer) != nil {
			t.Errorf("%s: %d roots, want %d; signed by the new one: %v, want %v", step.name, n, step.roots,
				svid.Certificates[0].CheckSignatureFrom(second) == nil, step.byNew)
		}
		// The time of its own certificate is another matter here: whether the root is there.
		_, _, err = x509svid.Verify([]*x509.Certificate{old.Certificates[0]}, src, x509svid.WithTime(old.Certificates[0].NotBefore.Add(time.Minute)))
		if got := err == nil; got != step.oldGood {
			t.Errorf("%s: the first SVID verifies: %v, want %v", step.name, err, step.oldGood)
		}
	}
	if k.exists("root-next.pem") {
		t.Error("the key of the new root is on the disk twice")
	}
	if err := k.RotateRoot(t.Context()); err != nil {
		t.Errorf("the next rotation = %v", err)
	}
}

func TestRotationsAreRecordedFirst(t *testing.T) {
	k := newKeeper(t)
	k.log.stop(true)
	for name, rotate := range map[string]func() error{
		"root":       func() error { return k.RotateRoot(t.Context()) },
		"grant key":  func() error { return k.RotateGrantKey(t.Context()) },
		"withdrawal": func() error { return k.WithdrawGrantKey(t.Context()) },
	} {
		if err := rotate(); !errors.Is(err, authority.ErrAudit) {
			t.Errorf("%s: rotation without a log = %v, want ErrAudit", name, err)
		}
	}
	if k.exists("root-next.pem") || k.exists("grant-next.key") {
		t.Error("keys of rotations that never began are on the disk")
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	for name, rotate := range map[string]func() error{
		"root":       func() error { return k.RotateRoot(t.Context()) },
		"grant key":  func() error { return k.RotateGrantKey(t.Context()) },
		"withdrawal": func() error { return k.WithdrawGrantKey(t.Context()) },
	} {
		if err := rotate(); !errors.Is(err, authority.ErrClosed) {
			t.Errorf("%s: rotation of a closed authority = %v, want ErrClosed", name, err)
		}
	}
}

// A process that ended between making a key and announcing it leaves nothing behind that anybody trusts.
func TestUnannouncedKeysAreRemoved(t *testing.T) {
	k := newKeeper(t)
	other := newKeeper(t)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"root.pem": "root-next.pem", "grant.key": "grant-next.key"} {
		raw, err := os.ReadFile(filepath.Join(other.cfg.Dir, from))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(k.cfg.Dir, to), string(raw))
	}
	k.start()
	if k.exists("root-next.pem") || k.exists("grant-next.key") {
		t.Error("unannounced keys stay on the disk")
	}
	_, src := k.issued()
	bundle, err := src.GetX509BundleForTrustDomain(k.TrustDomain())
	if err != nil || len(bundle.X509Authorities()) != 1 {
		t.Errorf("bundle %v, %v", bundle, err)
	}
	if keys := k.grantKeys(); len(keys) != 1 {
		t.Errorf("grant keys %v, want one", keys)
	}
	for _, name := range []string{"root-next.pem", "grant-next.key"} {
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(k.cfg.Dir, name), "x")
		if a, err := authority.Start(t.Context(), k.cfg); !errors.Is(err, authority.ErrKeyFile) {
			t.Errorf("Start(damaged %s) = %v, %v, want ErrKeyFile", name, a, err)
		}
		if err := os.Remove(filepath.Join(k.cfg.Dir, name)); err != nil {
			t.Fatal(err)
		}
		k.start()
	}
}

func TestForeignRootsAreNotRotatedHere(t *testing.T) {
	a, _ := world(t, func(c *authority.Config) { c.Issuer = func() identity.Source { return nil } })
	if err := a.RotateRoot(t.Context()); !errors.Is(err, authority.ErrInvalid) {
		t.Errorf("RotateRoot() = %v, want ErrInvalid", err)
	}
}

// grantKeys are those of the trust bundle.
func (k *keeper) grantKeys() map[string]*v1.PublicKey {
	k.t.Helper()
	out := map[string]*v1.PublicKey{}
	for _, key := range openBundle(k.t, k.Authority, k.Bundle()).GetKeys() {
		if key.GetUse() == v1.KeyUse_KEY_USE_GRANT {
			out[key.GetKeyId()] = key
		}
	}
	return out
}

// grant is a new grant of alice, and who signed it.
func (k *keeper) grant() (*v1.SignedStatement, string) {
	k.t.Helper()
	out, err := k.IssueGrant(k.t.Context(), &rpcv1.IssueGrantRequest{
		Delegate: alice, Principal: "alice@dev.example", Purpose: "quarterly report",
		Capabilities: []*v1.Capability{{Action: "memory.read", Resource: []string{"notes"}, Subtree: true, Reach: 1}},
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return out.GetGrant(), payloadOf(k.t, out.GetGrant()).GetKeyId()
}

// good reports whether alice may act under g.
func (k *keeper) good(v *delegation.Verifier, g *v1.SignedStatement) bool {
	_, err := v.VerifyGrant(g)
	return err == nil
}

func (k *keeper) verifier() *delegation.Verifier {
	k.t.Helper()
	_, src := k.issued()
	v, err := delegation.NewVerifier(delegation.Config{
		Self: agentID(k.t, alice), Keys: k.Keys(), Bundles: src, BundleGeneration: func() uint64 { return 0 }, Now: k.cfg.Now,
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return v
}

// A new grant key is published an hour before it signs, and the old one verifies for as long as its last grant lives.
func TestGrantKeyRotatesWithOverlap(t *testing.T) {
	k := newKeeper(t)
	v := k.verifier()
	_, oldID := k.grant()
	if err := k.RotateGrantKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.RotateGrantKey(t.Context()); !errors.Is(err, authority.ErrRotating) {
		t.Errorf("RotateGrantKey() again = %v, want ErrRotating", err)
	}
	keys := k.grantKeys()
	if len(keys) != 2 || keys[oldID].GetNotAfterMs() == 0 {
		t.Fatalf("published %v, want the old key with an end and the new one", keys)
	}
	k.offset.Add(int64(59*time.Minute + 59*time.Second))
	last, by := k.grant()
	if by != oldID || !k.good(v, last) {
		t.Errorf("a second before the hour is over: signed by %s, verifies %v", by, k.good(v, last))
	}
	k.offset.Add(int64(2 * time.Second))
	first, newID := k.grant()
	if newID == oldID || keys[newID] == nil || !k.good(v, first) {
		t.Errorf("after an hour: signed by %s, verifies %v", newID, k.good(v, first))
	}
	// A verifier whose clock is half a minute behind takes the new key, and one that is ahead still the old.
	if begin := time.UnixMilli(keys[newID].GetNotBeforeMs()); payloadOf(t, first).GetIssuedAtMs()-begin.UnixMilli() < delegation.Skew.Milliseconds() {
		t.Errorf("the new key is published from %v on, too near to its first grant", begin)
	}
	k.restart()
	v = k.verifier()
	k.offset.Add(int64(14*time.Minute + 50*time.Second))
	if !k.good(v, last) {
		t.Error("the old key's last grant does not live to its end")
	}
	if _, by := k.grant(); by != newID {
		t.Errorf("after a restart signed by %s, want the new key", by)
	}
	k.offset.Add(int64(time.Minute))
	if _, found := k.Keys().GrantKey(self, oldID, k.cfg.Now()); found {
		t.Error("the old key still verifies")
	}
	k.restart()
	if k.exists("grant-next.key") {
		t.Error("the rotation has not ended on the disk")
	}
	if keys := k.grantKeys(); len(keys) != 1 || keys[newID] == nil || keys[newID].GetNotAfterMs() != 0 {
		t.Errorf("published %v, want the new key alone", keys)
	}
	if err := k.RotateGrantKey(t.Context()); err != nil {
		t.Errorf("the next rotation = %v", err)
	}
}

// A withdrawn key takes every grant with it at once, those that verifiers remember too, and the rotation that was under way.
func TestWithdrawnGrantKeyEndsEverything(t *testing.T) {
	k := newKeeper(t)
	v := k.verifier()
	g, oldID := k.grant()
	if !k.good(v, g) {
		t.Fatal("the grant does not verify")
	}
	if err := k.RotateGrantKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !k.good(v, g) {
		t.Error("a rotation ended a grant")
	}
	before := k.Status().GetBundleSerial()
	if err := k.WithdrawGrantKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	if k.good(v, g) {
		t.Error("a grant of the withdrawn key verifies")
	}
	keys := k.grantKeys()
	if len(keys) != 1 || keys[oldID] != nil || k.exists("grant-next.key") || k.Status().GetBundleSerial() <= before {
		t.Errorf("published %v under serial %d", keys, k.Status().GetBundleSerial())
	}
	fresh, id := k.grant()
	if keys[id] == nil || !k.good(v, fresh) {
		t.Errorf("a new grant is signed by %s, verifies %v", id, k.good(v, fresh))
	}
	k.restart()
	if !k.good(k.verifier(), fresh) || k.good(k.verifier(), g) {
		t.Error("a restart forgets the withdrawal")
	}
}

// A process that ended between the word that a key is withdrawn and the change of the files finishes it when it starts again; neither
// does a copy of the old files bring a withdrawn key back.
func TestWithdrawnGrantKeysDoNotComeBack(t *testing.T) {
	k := newKeeper(t)
	if err := k.RotateGrantKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	withdrawn, files := k.grantKeys(), map[string]string{}
	for _, name := range []string{"grant.key", "grant-next.key"} {
		raw, err := os.ReadFile(filepath.Join(k.cfg.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(raw)
	}
	if err := k.WithdrawGrantKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, good := k.grant()
	current, err := os.ReadFile(filepath.Join(k.cfg.Dir, "grant.key"))
	if err != nil {
		t.Fatal(err)
	}
	files["good"] = string(current)
	for _, tt := range []struct {
		name, current, next string
		stays               bool // the key that replaced them
	}{
		{"before any file was changed", files["grant.key"], files["grant-next.key"], false},
		{"between the files", files["grant.key"], "", false},
		{"the key that was to take over comes back", files["good"], files["grant-next.key"], true},
		{"and as the key in force", files["grant-next.key"], "", false},
	} {
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(k.cfg.Dir, "grant.key"), tt.current)
		if tt.next != "" {
			write(t, filepath.Join(k.cfg.Dir, "grant-next.key"), tt.next)
		}
		k.start()
		keys := k.grantKeys()
		for id := range withdrawn {
			if _, found := k.Keys().GrantKey(self, id, k.cfg.Now()); found || keys[id] != nil {
				t.Errorf("%s: the withdrawn key %s verifies", tt.name, id)
			}
		}
		g, by := k.grant()
		if len(keys) != 1 || keys[by] == nil || (by == good) != tt.stays || !k.good(k.verifier(), g) || k.exists("grant-next.key") {
			t.Errorf("%s: signed by %s of %v", tt.name, by, keys)
		}
	}
}
