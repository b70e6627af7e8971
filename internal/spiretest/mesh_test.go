package spiretest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

const (
	// svidLifetime is that of every entry. SPIRE replaces an SVID when half of its life is over, and looks every 5 s.
	svidLifetime = 20 * time.Second
	// loadTime is how long calls must not fail while certificates change.
	loadTime = 60 * time.Second
	// rotations is the least that each identity must be replaced in loadTime.
	rotations = 3
	// syncTime is longer than SPIRE's agent waits between two synchronizations.
	syncTime = 7 * time.Second
	// warmCalls prove that calls work.
	warmCalls = 10
)

// needSPIRE returns the folder of SPIRE's programs. Without SPIRE_BIN these tests are not wanted; with it, a program that is not
// there is a failure.
func needSPIRE(t *testing.T) string {
	t.Helper()
	bin := os.Getenv(envBin)
	if bin == "" {
		t.Skipf("%s is not set; make spire runs this", envBin)
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"spire-server", "spire-agent"} {
		if info, err := os.Stat(filepath.Join(bin, name)); err != nil || info.Mode()&0o111 == 0 {
			t.Fatalf("%s=%s holds no program %s", envBin, bin, name)
		}
	}
	return bin
}

// mesh is a world on SPIRE.
type mesh struct {
	*world
	spire           *spire
	greeter, caller *process
}

type step struct {
	name string
	run  func(*testing.T, *mesh)
}

func TestSPIRE(t *testing.T) {
	bin := needSPIRE(t)
	dir, err := os.MkdirTemp("", "sc") //nolint:usetesting // t.TempDir is too long for the path of a socket.
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	build(t, dir)
	if !t.Run("the same programs under the embedded Workload API", func(t *testing.T) { embedded(t, dir) }) {
		t.FailNow()
	}
	t.Run("SPIRE under another root", func(t *testing.T) {
		s := startSPIRE(t, bin, filepath.Join(dir, "1"), variant{true, "ec-p256", "ec-p256"}, func(s *spire) { s.standard(dir) })
		onSPIRE(t, dir, s, []step{
			{"certificates", func(t *testing.T, m *mesh) { certificates(t, m, 2) }},
			{"an identity that is not registered", unregistered},
			{"a program without an entry", func(t *testing.T, m *mesh) { noIdentity(t, m.attested(m.spire.socket(), "probe")) }},
			{"rotation", rotation},
			{"an entry is deleted", deletion},
		})
	})
	t.Run("SPIRE with a root of its own", func(t *testing.T) {
		s := startSPIRE(t, bin, filepath.Join(dir, "2"), variant{false, "ec-p256", "ec-p256"}, func(s *spire) { s.standard(dir) })
		onSPIRE(t, dir, s, []step{
			{"certificates", func(t *testing.T, m *mesh) { certificates(t, m, 1) }},
			{"the root is replaced", rootRotation},
		})
	})
	t.Run("RSA keys", func(t *testing.T) {
		s := startSPIRE(t, bin, filepath.Join(dir, "3"), variant{false, "ec-p256", "rsa-2048"}, func(s *spire) { s.standard(dir) })
		rsaLeaves(t, startMesh(t, dir, s))
	})
}

// startMesh starts a control plane, greeter and caller on s.
func startMesh(t *testing.T, dir string, s *spire) *mesh {
	t.Helper()
	m := &mesh{world: startWorld(t, dir, "s"+filepath.Base(s.dir), "--workload-api", "unix://"+s.socket()), spire: s}
	m.greeter = m.attested(s.socket(), "greeter")
	m.greeter.first(kindReady)
	m.caller = m.attested(s.socket(), "caller", m.grant)
	return m
}

// onSPIRE runs steps, in order, on a mesh whose calls work, and wants its logs to be good at the end.
func onSPIRE(t *testing.T, dir string, s *spire, steps []step) {
	t.Helper()
	m := startMesh(t, dir, s)
	warm(t, m.caller)
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, m) }) {
			t.FailNow()
		}
	}
	m.caller.stop()
	m.greeter.stop()
	m.plane.stop()
	if out := m.operate("audit", "verify"); strings.Count(out, "good") < 4 {
		t.Errorf("audit verify: %s", out)
	}
}

func embedded(t *testing.T, dir string) {
	w := startWorld(t, dir, "e")
	g := w.embedded("greeter")
	g.first(kindReady)
	c := w.embedded("caller", w.grant)
	warm(t, c)
	c.stop()
	g.stop()
}

// warm waits for calls and wants all of them to have succeeded.
func warm(t *testing.T, c *process) {
	t.Helper()
	until(t, "calls", func() bool { c.alive(); return c.tally().Calls >= warmCalls })
	if sum := c.tally(); sum.Failures != 0 {
		t.Fatalf("%d of %d calls failed: %+v", sum.Failures, sum.Calls, c.all(kindFailed)[0])
	}
}

// certificates checks what SPIRE issued: an identity of ours, with the DNS name of its entry, in a chain of that length.
func certificates(t *testing.T, m *mesh, length int) {
	for _, p := range []*process{m.greeter, m.caller} {
		chain := p.first(kindReady).Chain
		if len(chain) != length {
			t.Fatalf("%s has a chain of %d certificates, want %d", p.name, len(chain), length)
		}
		leaf, err := x509.ParseCertificate(chain[0])
		if err != nil {
			t.Fatal(err)
		}
		peer, err := identity.PeerFromLeaf(leaf)
		if err != nil || peer.ID.String() != agentID(trustDomain, p.name) {
			t.Errorf("PeerFromLeaf() = %v, %v", peer.ID, err)
		}
		if key, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
			t.Errorf("%s has a key of type %T, want P-256", p.name, leaf.PublicKey)
		}
		if want := p.name + "." + tenant + "." + trustDomain; len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != want {
			t.Errorf("%s has the DNS names %q, want %q", p.name, leaf.DNSNames, want)
		}
		t.Logf("%s: subject %s, key usage %b, valid %s", p.name, leaf.Subject, leaf.KeyUsage, leaf.NotAfter.Sub(leaf.NotBefore))
	}
}

// unregistered wants a certificate of the trust domain to be worth nothing without a record in the registry.
func unregistered(t *testing.T, m *mesh) {
	knock := func() []event {
		p := m.attested(m.spire.socket(), "stranger", m.up.Authority, m.greeter.first(kindReady).Addr)
		until(t, "two answers to the stranger", func() bool { return len(p.all(kindRefused)) == 2 || len(p.all(kindEnd)) > 0 })
		if end := p.all(kindEnd); len(end) > 0 {
			t.Fatal(end[0].Text)
		}
		return p.all(kindRefused)
	}
	for i, e := range knock() {
		if e.Reason != "PEER_UNVERIFIED" || e.Decision == "" {
			t.Fatalf("answer %d = %+v, want PEER_UNVERIFIED with a decision", i, e)
		}
		if out := m.operate("audit", "explain", e.Decision); !strings.Contains(out, "DENIED") || !strings.Contains(out, "PEER_UNVERIFIED") {
			t.Errorf("audit explain %s = %s", e.Decision, out)
		} else {
			t.Logf("answer %d: %s", i, strings.Split(out, "\n")[0])
		}
	}
	// The counterpart: what was missing is the record.
	m.register("stranger")
	within(t, testWait, "stranger that is known", func() bool {
		answers := knock()
		return answers[0].Reason != "PEER_UNVERIFIED" && answers[1].Reason != "PEER_UNVERIFIED"
	})
}

// noIdentity wants p to get no identity.
func noIdentity(t *testing.T, p *process) {
	t.Helper()
	if end := p.first(kindEnd); !strings.Contains(end.Text, "no identity issued") || len(p.all(kindReady)) > 0 {
		t.Errorf("%s = %+v, ready %v; want no identity", p.name, end, p.all(kindReady))
	}
}

// rotation wants no call to fail while every certificate changes several times.
func rotation(t *testing.T, m *mesh) {
	before, svids := m.caller.tally(), map[string]int{"caller": len(m.caller.all(kindSVID)), "greeter": len(m.greeter.all(kindSVID))}
	services := map[string]map[string]bool{m.up.Authority: {}, m.up.Memory: {}}
	for end := time.Now().Add(loadTime); time.Now().Before(end); pass(time.Second) {
		for addr, seen := range services {
			seen[serial(t, addr)] = true
		}
	}
	after := m.caller.tally()
	changed := map[string]int{
		"caller": len(m.caller.all(kindSVID)) - svids["caller"], "greeter": len(m.greeter.all(kindSVID)) - svids["greeter"],
		"authority": len(services[m.up.Authority]) - 1, "memory": len(services[m.up.Memory]) - 1,
	}
	t.Logf("%d calls in %s, %d failed, worst %s; certificates replaced: %v",
		after.Calls-before.Calls, loadTime, after.Failures, m.caller.worst(before.At), changed)
	if after.Failures != 0 {
		t.Errorf("calls failed: %+v", m.caller.all(kindFailed))
	}
	for who, n := range changed {
		if n < rotations {
			t.Errorf("%s got %d new certificates, want at least %d", who, n, rotations)
		}
	}
}

// serial is that of the certificate that addr shows. Who it is does not matter here.
func serial(t *testing.T, addr string) string {
	t.Helper()
	d := tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, InsecureSkipVerify: true}}
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tc, ok := conn.(*tls.Conn)
	if !ok {
		t.Fatalf("%T", conn)
	}
	return tc.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// deletion wants an agent whose entry is gone to act no longer than its last certificate, a new process of it to get none, and an
// entry that is made again to set both right without a restart.
func deletion(t *testing.T, m *mesh) {
	m.spire.remove("caller")
	deleted := time.Now()
	within(t, 2*svidLifetime+testWait, "failing calls", func() bool { m.caller.alive(); return m.caller.tally().Failures > 0 })
	svids := append(m.caller.all(kindReady), m.caller.all(kindSVID)...)
	leaf, err := x509.ParseCertificate(svids[len(svids)-1].Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	pass(5 * time.Second)
	sum := m.caller.tally()
	if sum.LastOK.After(leaf.NotAfter) {
		t.Errorf("a call was answered at %s, the certificate ended at %s", sum.LastOK, leaf.NotAfter)
	}
	t.Logf("last answer %s after the deletion, %s before the last certificate ended; then %d failures, the first: %s",
		sum.LastOK.Sub(deleted), leaf.NotAfter.Sub(sum.LastOK), sum.Failures, m.caller.all(kindFailed)[0].Text)
	noIdentity(t, m.attested(m.spire.socket(), "caller", m.grant))
	m.spire.entry(agentID(trustDomain, "caller"), m.program("caller"))
	made := time.Now()
	until(t, "calls under the new entry", func() bool { return m.caller.tally().LastOK.After(made) })
	t.Logf("calls again %s after the entry was made again", m.caller.tally().LastOK.Sub(made))
}

// rootRotation wants no call to fail while SPIRE replaces its root, and nobody to be left under the old one.
func rootRotation(t *testing.T, m *mesh) {
	// certified waits until both agents have a certificate that was issued after a moment.
	certified := func(since time.Time) {
		t.Helper()
		until(t, "new certificates", func() bool {
			for _, p := range []*process{m.greeter, m.caller} {
				p.alive()
				svids := p.all(kindSVID)
				if len(svids) == 0 || !svids[len(svids)-1].At.After(since) {
					return false
				}
			}
			return true
		})
	}
	roots := func() int { return strings.Count(string(m.spire.server("bundle", "show")), "BEGIN CERTIFICATE") }
	before := m.caller.tally()
	old := m.spire.authority("show")
	fresh := m.spire.authority("prepare")
	if old == "" || fresh == "" || old == fresh || roots() != 2 {
		t.Fatalf("authorities %q and %q, %d roots", old, fresh, roots())
	}
	pass(syncTime) // the new root arrives everywhere before anything is signed by it
	m.spire.authority("activate", "-authorityID", fresh)
	m.spire.authority("taint", "-authorityID", old)
	certified(time.Now().Add(syncTime)) // later than the synchronization in which the agent of SPIRE learned of it
	m.spire.authority("revoke", "-authorityID", old)
	certified(time.Now().Add(syncTime)) // without the old root
	after := m.caller.tally()
	t.Logf("%d calls in %s, %d failed, worst %s; %d root left", after.Calls-before.Calls, after.At.Sub(before.At).Round(time.Second),
		after.Failures, m.caller.worst(before.At), roots())
	if after.Failures != 0 || roots() != 1 {
		t.Errorf("%d roots, calls failed: %+v", roots(), m.caller.all(kindFailed))
	}
}

// rsaLeaves wants a leaf with an RSA key to be refused by name: it makes TLS, and signs no hop.
func rsaLeaves(t *testing.T, m *mesh) {
	t.Logf("first failure: %+v", m.caller.first(kindFailed))
	pass(time.Second)
	if sum := m.caller.tally(); sum.Failures != sum.Calls {
		t.Errorf("%d of %d calls succeeded", sum.Calls-sum.Failures, sum.Calls)
	}
}
