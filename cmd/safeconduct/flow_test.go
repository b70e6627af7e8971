package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/memory"
)

func TestFromUpToMemory(t *testing.T) {
	w := newWorld(t)
	s := w.up()
	who := w.agent("planner")

	t.Run("put, get, list", func(t *testing.T) {
		if r := w.feed(strings.NewReader("hello\n"), with(who, "memory", "put", "notes", "today")...); r.code != 0 || r.out != "version 1, revision 1\n" {
			t.Fatalf("put = %+v", r)
		}
		if got := w.must(with(who, "memory", "get", "notes", "today")...); got != "hello\n" {
			t.Errorf("get = %q, want the value as it was written", got)
		}
		file := filepath.Join(w.bin, "page.html")
		if err := os.WriteFile(file, []byte("<b>"), 0o600); err != nil {
			t.Fatal(err)
		}
		w.must(with(who, "memory", "put", "notes", "page", file, "--untrusted")...)
		var got []string
		for _, e := range decode[[]struct {
			Ref   struct{ Key []byte }
			Label struct{ Integrity string }
		}](t, w.must(with(who, "memory", "list", "notes", "--json")...)) {
			got = append(got, string(e.Ref.Key)+" "+e.Label.Integrity)
		}
		if want := "page INTEGRITY_UNTRUSTED, today INTEGRITY_ATTESTED"; strings.Join(got, ", ") != want {
			t.Errorf("list = %q, want %q", got, want)
		}
	})

	t.Run("preconditions", func(t *testing.T) {
		w.run(with(who, "memory", "put", "notes", "today", "--if-absent")...).check(t, 1, "CONFLICT")
		w.run(with(who, "memory", "put", "notes", "today", "--if-version", "7")...).check(t, 1, "CONFLICT")
		if r := w.feed(strings.NewReader("again"), with(who, "memory", "put", "notes", "today", "--if-version", "1")...); r.code != 0 {
			t.Errorf("put --if-version 1 = %+v", r)
		}
		if got := w.must(with(who, "memory", "get", "notes", "today", "--version", "1")...); got != "hello\n" {
			t.Errorf("get --version 1 = %q", got)
		}
	})

	t.Run("refusals", func(t *testing.T) {
		w.run(with(who, "memory", "get", "notes", "none")...).check(t, 1, "nothing at notes none", "NOT_FOUND")
		big := bytes.NewReader(make([]byte, memory.MaxValueBytes+1))
		w.feed(big, with(who, "memory", "put", "notes", "big")...).check(t, 1, "64 KiB")
		r := w.run(with(who, "memory", "put", "other", "today")...)
		r.check(t, 1, "SCOPE", "safeconduct audit explain ")
		_, id, _ := strings.Cut(strings.TrimSpace(r.err), "audit explain ")
		if got := w.must("audit", "explain", id); !strings.Contains(got, "DENIED") || !strings.Contains(got, "memory.write on other") {
			t.Errorf("audit explain = %s", got)
		}
		if got := w.must("audit", "show", id); !strings.Contains(got, "decision "+id) || !strings.Contains(got, "1 calls, 0 gaps") {
			t.Errorf("audit show = %s", got)
		}
		purpose := append(who[:len(who)-1:len(who)-1], "something else")
		w.run(with(purpose, "memory", "get", "notes", "today")...).check(t, 2, "another purpose")
		w.here("grant", "--principal", "alice", "--to", "acme/planner", "--can", "memory.write:secrets", "--purpose", "x", "--json").
			check(t, 1, "beyond what the capability table allows", "SCOPE")
	})

	t.Run("an agent cannot act as operator", func(t *testing.T) {
		r := w.run("agent", "run", "acme/planner", "--", w.program("safeconduct"), "agent", "list")
		r.check(t, 1, "PEER_UNVERIFIED")
	})

	t.Run("the table", func(t *testing.T) {
		w.must("table", "allow", "below", "--tenant", "acme", "--class", "planner", "--action", "memory.read", "--resource", "notes/a%2Fb/*", "--peer", memoryID)
		if got := w.must("table", "show"); !strings.Contains(got, "notes/a%2Fb/*") {
			t.Errorf("table show = %s", got)
		}
		w.must("table", "deny", "below")
		if got := w.must("table", "show", "--json"); strings.Contains(got, "below") || !strings.Contains(got, "planner-memory-read") {
			t.Errorf("table show --json = %s", got)
		}
		w.here("table", "deny", "below").check(t, 1, "no row")
	})

	t.Run("a grant as JSON", func(t *testing.T) {
		g := decode[struct {
			Grant string
		}](t, w.must("grant", "--principal", "alice", "--to", "acme/planner", "--can", "memory.read:notes", "--purpose", "x", "--ttl", "1m", "--json"))
		raw, err := base64.StdEncoding.DecodeString(g.Grant)
		var st v1.SignedStatement
		var p v1.GrantPayload
		if err != nil || proto.Unmarshal(raw, &st) != nil || proto.Unmarshal(st.GetPayload(), &p) != nil {
			t.Fatalf("grant %q: %v", g.Grant, err)
		}
		if p.GetMaxDepth() != 4 || p.GetCapabilities()[0].GetReach() != 4 || p.GetExpiresAtMs()-p.GetIssuedAtMs() != 60_000 {
			t.Errorf("grant = %v", &p)
		}
	})

	t.Run("grants are private files", func(t *testing.T) {
		info, err := os.Stat(filepath.Join(w.bin, "planner.grant"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("Stat() = %v, %v; want mode 0600", info.Mode(), err)
		}
	})

	t.Run("graph and verify", func(t *testing.T) {
		if got := w.must("audit", "graph"); !strings.Contains(got, "memory.write: 3 allowed") {
			t.Errorf("audit graph = %s", got)
		}
		if got := w.must("audit", "graph", "--dot"); !strings.HasPrefix(got, "digraph audit {") {
			t.Errorf("audit graph --dot = %s", got)
		}
		if got := strings.Count(w.must("audit", "tail", "-n", "5", "--json"), "\n"); got != 5 {
			t.Errorf("audit tail -n 5: %d lines", got)
		}
	})

	if err := s.end(15); err != nil {
		t.Errorf("up after SIGTERM: %v\n%s", err, s.out)
	}
	if _, err := os.Stat(filepath.Join(w.dir, upName)); !os.IsNotExist(err) {
		t.Errorf("%s is left behind: %v", upName, err)
	}
	if r := w.here("audit", "verify"); r.code != 0 || strings.Count(r.out, "good") != 3 {
		t.Errorf("audit verify = %+v, want three good logs", r)
	}
	w.here("agent", "list").check(t, 1, "safeconduct up --dir")
}

func TestAgentRun(t *testing.T) {
	w := newWorld(t)
	w.up()
	w.agent("planner")

	t.Run("environment and exit code", func(t *testing.T) {
		r := w.run("agent", "run", "acme/planner", "--", "sh", "-c", "env; exit 7")
		want := "SAFECONDUCT_AUDIT_DIR=" + filepath.Join(w.dir, "audit", "acme-planner") + "\n"
		if r.code != 7 || !strings.Contains(r.out, want) || !strings.Contains(r.out, "SPIFFE_ENDPOINT_SOCKET=unix://") || r.err != "" {
			t.Errorf("= %+v, want code 7 and %q", r, want)
		}
	})
	t.Run("a program that is not admitted never runs", func(t *testing.T) {
		file := filepath.Join(w.bin, "ran")
		w.run("agent", "run", "acme/nobody", "--", "touch", file).check(t, 1, "admitting", "NOT_FOUND")
		if _, err := os.Stat(file); !os.IsNotExist(err) {
			t.Errorf("it ran: %v", err)
		}
	})
	t.Run("no such program", func(t *testing.T) {
		w.run("agent", "run", "acme/planner", "--", "/nonexistent").check(t, 127, "no such file")
	})
	t.Run("killed by a signal", func(t *testing.T) {
		if r := w.run("agent", "run", "acme/planner", "--", "sh", "-c", "kill -9 $$"); r.code != 137 {
			t.Errorf("= %+v, want 137", r)
		}
	})
	t.Run("signals are passed on", func(t *testing.T) {
		ready := filepath.Join(w.bin, "ready")
		cmd := w.command("agent", "run", "acme/planner", "--", w.program("spinner"), ready)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.until("spinner", func() bool { _, err := os.Stat(ready); return err == nil })
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != 42 {
			t.Errorf("exit code = %d, want 42 of the signal handler", got)
		}
	})
}

func TestExecTLS(t *testing.T) {
	w := newWorld(t)
	w.up()
	w.agent("planner")
	r := w.run("agent", "exec-tls", "acme/planner", "--", "sh", "-c",
		`cat "$SAFECONDUCT_CERT" "$SAFECONDUCT_KEY"; echo ====; cat "$SAFECONDUCT_BUNDLE"; readlink "$SAFECONDUCT_KEY" >&2; exit 5`)
	if r.code != 5 || !strings.HasPrefix(r.err, "/memfd:key.pem") {
		t.Fatalf("= %d, %q; want 5 and a key in memory", r.code, r.err)
	}
	pair, roots, _ := strings.Cut(r.out, "====\n")
	cert, err := tls.X509KeyPair([]byte(pair), []byte(pair))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil || leaf.URIs[0].String() != "spiffe://safeconduct.local/tenant/acme/agent/planner" {
		t.Fatalf("certificate is of %v, %v", leaf.URIs, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(roots)) {
		t.Fatalf("bundle = %q", roots)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("certificate does not verify against the bundle: %v", err)
	}
	block, _ := pem.Decode([]byte(pair[strings.Index(pair, "-----BEGIN PRIVATE KEY"):]))
	line := strings.Split(pair[strings.Index(pair, "-----BEGIN PRIVATE KEY"):], "\n")[2] // the first one is the same for all keys
	err = filepath.WalkDir(w.bin, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, block.Bytes) || bytes.Contains(raw, []byte(line)) {
			t.Errorf("%s holds the private key", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	w.run("agent", "exec-tls", "acme/nobody", "--", "true").check(t, 1, "NOT_FOUND")
	// By hand the flag of the admitted process gains nothing.
	cmd := w.command("agent", "exec-tls", "--admitted", "acme/planner", "--", "true")
	out := &bytes.Buffer{}
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	trail := func() string { return w.must("audit", "tail", "-n", "3", filepath.Join(w.dir, "audit", "authority")) }
	w.until("refusal", func() bool { return strings.Contains(trail(), "workload_refused") })
	_ = cmd.Process.Kill()
	if err := cmd.Wait(); err == nil {
		t.Errorf("exec-tls --admitted ran without admission: %s", out)
	}
}
