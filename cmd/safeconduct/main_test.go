package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	testWait = time.Minute
	testPoll = 5 * time.Millisecond
	memoryID = "spiffe://safeconduct.local/service/memory"
)

// roles are programs that the tests start as processes of their own: this binary under another name.
var roles = map[string]func() int{
	"safeconduct": func() int { return run(context.Background(), os.Args[1:], os.Stdout, os.Stderr) },
	"writer":      writerRole,
	"reader":      readerRole,
	"spinner":     spinnerRole,
}

func TestMain(m *testing.M) {
	if role := roles[filepath.Base(os.Args[0])]; role != nil {
		os.Exit(role())
	}
	os.Exit(m.Run())
}

// world is a state folder and the programs to use it with.
type world struct {
	t   *testing.T
	bin string
	dir string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for name := range roles {
		if err := os.Symlink(self, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	return &world{t: t, bin: root, dir: filepath.Join(root, "sc")}
}

func (w *world) program(name string) string { return filepath.Join(w.bin, name) }

// result is how a command ended.
type result struct {
	code     int
	out, err string
}

// command is safeconduct on the world's state folder.
func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.t.Context(), w.program("safeconduct"), args...)
	// The race detector sleeps a second at the end of every process otherwise.
	cmd.Env = append(os.Environ(), envDir+"="+w.dir, "NO_COLOR=1", "GORACE="+os.Getenv("GORACE")+" atexit_sleep_ms=0")
	cmd.WaitDelay = time.Second
	return cmd
}

func (w *world) feed(input io.Reader, args ...string) result {
	w.t.Helper()
	cmd := w.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = input, &out, &errOut
	err := cmd.Run()
	var e *exec.ExitError
	if err != nil && !errors.As(err, &e) {
		w.t.Fatalf("safeconduct %q: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

func (w *world) run(args ...string) result {
	w.t.Helper()
	return w.feed(nil, args...)
}

// here runs a command in the test's own process, which is faster and serves those that start no other.
func (w *world) here(args ...string) result {
	var out, errOut bytes.Buffer
	code := run(w.t.Context(), append([]string{"--dir", w.dir}, args...), &out, &errOut)
	return result{code, out.String(), errOut.String()}
}

// must runs a command that has to succeed and returns what it printed.
func (w *world) must(args ...string) string {
	w.t.Helper()
	start := w.here
	if args[0] == "memory" || args[0] == "agent" && args[1] != "register" {
		start = w.run
	}
	r := start(args...)
	if r.code != 0 {
		w.t.Fatalf("safeconduct %q = %d: %s%s", args, r.code, r.out, r.err)
	}
	return r.out
}

// service is a running up.
type service struct {
	w    *world
	cmd  *exec.Cmd
	out  *bytes.Buffer
	once sync.Once
	err  error
}

// up starts the control plane and waits until it answers.
func (w *world) up(args ...string) *service {
	w.t.Helper()
	s := &service{w: w, cmd: w.command(append([]string{"up"}, args...)...), out: &bytes.Buffer{}}
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	if err := s.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = s.wait(); close(ended) }()
	w.t.Cleanup(func() { _ = s.cmd.Process.Kill(); <-ended })
	w.until("up.json", func() bool {
		select {
		case <-ended:
			w.t.Fatalf("up has ended: %v\n%s", s.err, s.out)
		default:
		}
		u, err := readUp(w.dir)
		return err == nil && u.PID == s.cmd.Process.Pid
	})
	return s
}

func (s *service) wait() error {
	s.once.Do(func() { s.err = s.cmd.Wait() })
	return s.err
}

// end sends sig and waits for the end.
func (s *service) end(sig syscall.Signal) error {
	if err := s.cmd.Process.Signal(sig); err != nil {
		return err
	}
	return s.wait()
}

// until waits until ok.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.NewTimer(testWait)
	defer deadline.Stop()
	tick := time.NewTicker(testPoll)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			w.t.Fatalf("no %s within %s", what, testWait)
		case <-tick.C:
		}
	}
}

// agent registers acme/name of class name with rows for the memory actions on notes and a grant for all of them.
func (w *world) agent(name string) (who []string) {
	w.t.Helper()
	w.must("agent", "register", name, "--tenant", "acme", "--class", name, "--owner", "ops", "--purpose", "tests", "--integrity", "attested")
	grant := filepath.Join(w.bin, name+".grant")
	args := []string{"grant", "--principal", "alice", "--to", "acme/" + name, "--purpose", "report", "-o", grant}
	for _, action := range []string{"memory.write", "memory.read", "memory.list"} {
		w.must("table", "allow", name+"-"+strings.ReplaceAll(action, ".", "-"), "--tenant", "acme", "--class", name,
			"--action", action, "--resource", "notes", "--peer", memoryID)
		args = append(args, "--can", action+":notes")
	}
	w.must(args...)
	return []string{"--as", "acme/" + name, "--grant", grant, "--purpose", "report"}
}

func with(who []string, args ...string) []string { return append(args, who...) }

func decode[T any](t *testing.T, raw string) (out T) {
	t.Helper()
	if err := json.Unmarshal([]byte(raw), &out); err != nil {
		t.Fatalf("%v in %q", err, raw)
	}
	return out
}

// oneLineError checks that a refusal is one line that holds every part.
func (r result) check(t *testing.T, code int, parts ...string) {
	t.Helper()
	first, rest, _ := strings.Cut(r.err, "\n")
	if r.code != code || !strings.HasPrefix(first, "safeconduct: ") || rest != "" && !strings.HasPrefix(rest, "See: ") {
		t.Errorf("= %d, %q; want %d and one line", r.code, r.err, code)
	}
	for _, p := range parts {
		if !strings.Contains(r.err, p) {
			t.Errorf("error %q does not say %q", r.err, p)
		}
	}
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}
