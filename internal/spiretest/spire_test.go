package spiretest_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

// envBin names the folder with spire-server and spire-agent.
const envBin = "SPIRE_BIN"

// host is the SPIFFE ID that all entries have as their parent.
const host = "spiffe://" + trustDomain + "/host"

// variant is how a SPIRE is set up.
type variant struct {
	// upstream makes the server's CA an intermediate of another root, as where SPIRE joins a PKI. Otherwise it signs itself.
	upstream bool
	// caKey and leafKey are SPIRE's key types.
	caKey, leafKey string
}

// serverConfig takes the folder, the trust domain, the port, the type of the CA's key, and upstreamConfig or nothing. agentConfig
// takes the type of the leaf keys in place of the last two.
const (
	serverConfig = `server {
  bind_address = "127.0.0.1"
  bind_port = "%[3]d"
  socket_path = "%[1]s/server.sock"
  trust_domain = "%[2]s"
  data_dir = "%[1]s/server"
  log_level = "INFO"
  ca_key_type = "%[4]s"
}
plugins {
  DataStore "sql" {
    plugin_data {
      database_type = "sqlite3"
      connection_string = "%[1]s/server/datastore.sqlite3"
    }
  }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
  %[5]s
}
`
	upstreamConfig = `UpstreamAuthority "disk" {
    plugin_data {
      cert_file_path = "%[1]s/root.crt"
      key_file_path = "%[1]s/root.key"
    }
  }`
	agentConfig = `agent {
  data_dir = "%[1]s/agent"
  log_level = "INFO"
  server_address = "127.0.0.1"
  server_port = "%[3]d"
  socket_path = "%[1]s/agent.sock"
  trust_bundle_path = "%[1]s/bundle.pem"
  trust_domain = "%[2]s"
  workload_x509_svid_key_type = "%[4]s"
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
  WorkloadAttestor "unix" {
    plugin_data { discover_workload_path = true }
  }
}
`
)

// spire is a running SPIRE server and agent.
type spire struct {
	t   *testing.T
	bin string
	dir string
}

// startSPIRE starts a SPIRE server with the entries that register makes, and then an agent of it, which so knows them at once.
func startSPIRE(t *testing.T, bin, dir string, v variant, register func(*spire)) *spire {
	t.Helper()
	s := &spire{t: t, bin: bin, dir: dir}
	for _, name := range []string{"", "server", "agent"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	upstream := ""
	if v.upstream {
		s.makeRoot()
		upstream = fmt.Sprintf(upstreamConfig, dir)
	}
	port := freePort(t)
	write(t, filepath.Join(dir, "server.conf"), fmt.Appendf(nil, serverConfig, dir, trustDomain, port, v.caKey, upstream))
	write(t, filepath.Join(dir, "agent.conf"), fmt.Appendf(nil, agentConfig, dir, trustDomain, port, v.leafKey))
	s.daemon("spire-server", "run", "-config", filepath.Join(dir, "server.conf"))
	until(t, "healthy SPIRE server", func() bool { return s.try("spire-server", "healthcheck", "-socketPath", s.serverSocket()) == nil })
	register(s)
	write(t, filepath.Join(dir, "bundle.pem"), s.server("bundle", "show"))
	token := strings.TrimPrefix(strings.Split(string(s.server("token", "generate", "-spiffeID", host)), "\n")[0], "Token: ")
	s.daemon("spire-agent", "run", "-config", filepath.Join(dir, "agent.conf"), "-joinToken", token)
	until(t, "healthy SPIRE agent", func() bool { return s.try("spire-agent", "healthcheck", "-socketPath", s.socket()) == nil })
	return s
}

func (s *spire) serverSocket() string { return filepath.Join(s.dir, "server.sock") }

// socket is the path of the SPIFFE Workload API.
func (s *spire) socket() string { return filepath.Join(s.dir, "agent.sock") }

// makeRoot makes the root that the server's own CA is signed by.
func (s *spire) makeRoot() {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "upstream root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, URIs: []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	write(s.t, filepath.Join(s.dir, "root.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(s.t, filepath.Join(s.dir, "root.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}

// entry makes an entry, named as the last element of id, for the processes of this user that run the file at path.
func (s *spire) entry(id, path string) {
	s.t.Helper()
	agent, err := identity.ParseAgent(id)
	if err != nil {
		s.t.Fatal(err)
	}
	s.server("entry", "create", "-entryID", agent.Name(), "-parentID", host, "-spiffeID", id, "-dns", agent.DNSName(),
		"-selector", "unix:uid:"+strconv.Itoa(os.Getuid()), "-selector", "unix:path:"+path,
		"-x509SVIDTTL", strconv.Itoa(int(svidLifetime/time.Second)))
}

// standard makes the entries of the control plane and of the agents that have one, for the programs in dir.
func (s *spire) standard(dir string) {
	s.t.Helper()
	plane := filepath.Join(dir, "plane", "safeconduct")
	s.entry("spiffe://"+trustDomain+"/service/authority", plane)
	s.entry("spiffe://"+trustDomain+"/service/memory", plane)
	for _, role := range []string{"greeter", "caller", "stranger"} {
		s.entry(agentID(trustDomain, role), filepath.Join(dir, "agents", role))
	}
}

// authority runs a command on the server's X.509 authorities and returns the id that it prints.
func (s *spire) authority(args ...string) string {
	s.t.Helper()
	out := s.server(append([]string{"localauthority", "x509"}, args...)...)
	_, id, _ := strings.Cut(string(out), "Authority ID: ")
	id, _, _ = strings.Cut(id, "\n")
	return strings.TrimSpace(id)
}

// remove deletes the entry of that name.
func (s *spire) remove(name string) {
	s.t.Helper()
	s.server("entry", "delete", "-entryID", name)
}

// server runs a command of spire-server that has to succeed.
func (s *spire) server(args ...string) []byte {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), filepath.Join(s.bin, "spire-server"), append(args, "-socketPath", s.serverSocket())...)
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("spire-server %q: %v\n%s", args, err, out)
	}
	return out
}

func (s *spire) try(program string, args ...string) error {
	return exec.CommandContext(s.t.Context(), filepath.Join(s.bin, program), args...).Run()
}

// daemon runs a program of SPIRE until the test ends, and prints its log when the test has failed.
func (s *spire) daemon(program string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &log, &log, s.dir
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // how it ended does not matter
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", program, lastLines(log.String(), 30))
		}
	})
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal(l.Addr())
	}
	return addr.Port
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
