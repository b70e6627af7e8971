package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestUpRefusals(t *testing.T) {
	w := newWorld(t)
	s := w.up()
	t.Run("a second up", func(t *testing.T) {
		w.here("up").check(t, 1, "another safeconduct up (pid ", "--dir")
		if u, err := readUp(w.dir); err != nil || u.PID != s.cmd.Process.Pid {
			t.Errorf("%s = %+v, %v; the first up must stand", upName, u, err)
		}
	})
	open := filepath.Join(w.bin, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(w.bin, strings.Repeat("long", 25))
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"a socket path that does not fit", []string{"--dir", long}, 1, "shorter state folder with --dir"},
		{"a folder open to others", []string{"--dir", open}, 1, "chmod 700"},
		{"an address that others reach", []string{"--authority-listen", "0.0.0.0:0"}, 2, "--dev-authority-remote"},
		{"memory for others", []string{"--memory-listen", ":0"}, 2, "--dev-authority-remote"},
		{"an edge for others", []string{"--edge", "example.com:443"}, 2, "--dev-authority-remote"},
		{"no port", []string{"--edge", "localhost"}, 2, "host:port"},
		{"a trust domain with a scheme", []string{"--dir", filepath.Join(w.bin, "td"), "--trust-domain", "spiffe://x"}, 2, "trust domain"},
		{"certificates for a second", []string{"--dir", filepath.Join(w.bin, "ttl"), "--svid-ttl", "1s"}, 2, "lifetime"},
		{"a Workload API that is no unix socket", []string{"--workload-api", "tcp://127.0.0.1:1"}, 2, "unix:// and an absolute path"},
		{"a negative budget", []string{"--agent-burst", "-1"}, 2, "--agent-burst"},
		{"arguments", []string{"now"}, 2, "no arguments"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w.here(append([]string{"up"}, tt.args...)...).check(t, tt.code, tt.want)
		})
	}
}

func TestUsage(t *testing.T) {
	w := newWorld(t)
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no such command", []string{"frob"}, 2, `no command "frob"`},
		{"no such subcommand", []string{"agent", "frob"}, 2, "register"},
		{"no such flag", []string{"agent", "list", "--frob"}, 2, "--frob"},
		{"missing flags", []string{"agent", "register", "x", "--tenant", "acme"}, 2, "--class, --owner, --purpose"},
		{"integrity", []string{"agent", "register", "x", "--tenant", "a", "--class", "c", "--owner", "o", "--purpose", "p", "--integrity", "high"}, 2, "untrusted or attested"},
		{"nothing runs", []string{"agent", "list"}, 1, "safeconduct up --dir"},
		{"no command to run", []string{"agent", "run", "acme/x"}, 2, "an agent and a command"},
		{"star in the middle", []string{"table", "allow", "x", "--tenant", "a", "--class", "c", "--action", "m.r", "--resource", "a/*/b", "--peer", "p"}, 2, "last segment"},
		{"grant to nowhere", []string{"grant", "--principal", "p", "--to", "a/b", "--can", "m.r:n", "--purpose", "p"}, 2, "-o FILE"},
		{"no grant file", []string{"memory", "get", "notes", "k", "--as", "a/b", "--grant", "/nonexistent", "--purpose", "p"}, 2, "safeconduct grant -o"},
		{"bad namespace", []string{"memory", "get", "a//b", "k", "--as", "a/b", "--grant", "g", "--purpose", "p"}, 2, "namespace"},
		{"bad id", []string{"audit", "explain", "xyz"}, 2, "32 hex digits"},
		{"no logs", []string{"audit", "verify"}, 2, "no audit logs"},
		{"not a log", []string{"audit", "verify", "/"}, 1, "no audit log here"},
	} {
		t.Run(tt.name, func(t *testing.T) { w.here(tt.args...).check(t, tt.code, tt.want) })
	}
	if r := w.here("help", "grant"); r.code != 0 || !strings.Contains(r.out, "Examples:") {
		t.Errorf("help grant = %+v", r)
	}
}

func TestEveryCommandHasAnExample(t *testing.T) {
	for todo := newRoot().Commands(); len(todo) > 0; todo = todo[1:] {
		c := todo[0]
		todo = append(todo, c.Commands()...)
		if !c.IsAvailableCommand() || c.Name() == "help" {
			continue
		}
		if c.Short == "" || c.Example == "" || !strings.Contains(c.Example, c.CommandPath()) {
			t.Errorf("%s: Short %q, Example %q", c.CommandPath(), c.Short, c.Example)
		}
	}
}

func TestProtoExportAndVersion(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.bin, "proto")
	w.must("proto", "export", dir)
	file := filepath.Join(dir, "safeconduct", "v1", "envelope.proto")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.here("proto", "export", dir).check(t, 1, "envelope.proto", "--force")
	if raw, err := os.ReadFile(file); err != nil || string(raw) != "mine" {
		t.Errorf("%s = %q, %v", file, raw, err)
	}
	w.must("proto", "export", "--force", dir)
	w.must("proto", "export", dir)
	if v := decode[buildInfo](t, w.must("version", "--json")); !strings.HasPrefix(v.Go, "go1.") {
		t.Errorf("version --json = %+v", v)
	}
}
