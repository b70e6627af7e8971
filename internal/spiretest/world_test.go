package spiretest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	trustDomain = "spire.example"
	tenant      = "acme"
	// testWait bounds every wait: a process without an identity gives up after 30 s, an SVID lives shorter.
	testWait = 60 * time.Second
	testPoll = 20 * time.Millisecond
)

func agentID(td, name string) string {
	return "spiffe://" + td + "/tenant/" + tenant + "/agent/" + name
}

// build returns the programs of a world in dir: two copies of safeconduct, because what tells SPIRE the control plane from its
// operator is the path, and a copy of this binary for each role.
func build(t *testing.T, dir string) {
	t.Helper()
	cli := filepath.Join(dir, "operator", "safeconduct")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", cli, "./cmd/safeconduct")
	cmd.Dir = filepath.Join("..", "..")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building safeconduct: %v\n%s", err, out)
	}
	copyProgram(t, filepath.Join(dir, "plane", "safeconduct"), cli)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for role := range roles {
		copyProgram(t, filepath.Join(dir, "agents", role), self)
	}
}

func copyProgram(t *testing.T, to, from string) {
	t.Helper()
	raw, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o700)
	}
	if err == nil {
		err = os.WriteFile(to, raw, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// world is a control plane, its state folder, and the programs in dir.
type world struct {
	t     *testing.T
	dir   string
	state string
	grant string
	plane *process
	up    upState
}

// upState is what the tests need of up.json.
type upState struct {
	PID       int    `json:"pid"`
	Authority string `json:"authority"`
	Memory    string `json:"memory"`
}

// startWorld starts a control plane on the folder dir/name, registers greeter and caller, and grants the caller its work.
func startWorld(t *testing.T, dir, name string, args ...string) *world {
	t.Helper()
	w := &world{t: t, dir: dir, state: filepath.Join(dir, name), grant: filepath.Join(dir, name+".grant")}
	w.plane = w.start(nil, append([]string{filepath.Join(dir, "plane", "safeconduct"), "up", "--trust-domain", trustDomain}, args...)...)
	until(t, "control plane", func() bool {
		w.plane.alive()
		raw, err := os.ReadFile(filepath.Join(w.state, "up.json"))
		return err == nil && json.Unmarshal(raw, &w.up) == nil && w.up.PID == w.plane.cmd.Process.Pid
	})
	greeter, memory := agentID(trustDomain, "greeter"), "spiffe://"+trustDomain+"/service/memory"
	w.register("greeter")
	w.register("caller")
	w.operate("table", "allow", "greet", "--tenant", tenant, "--class", "caller", "--action", "hello.greet", "--resource", "agent/greeter", "--peer", greeter)
	w.operate("table", "allow", "keep", "--tenant", tenant, "--class", "greeter", "--action", "memory.write", "--resource", "greetings", "--peer", memory)
	w.operate("grant", "--principal", "alice", "--to", tenant+"/caller", "--purpose", purpose, "-o", w.grant,
		"--can", "hello.greet:agent/greeter", "--can", "memory.write:greetings")
	return w
}

func (w *world) register(name string) {
	w.t.Helper()
	w.operate("agent", "register", name, "--tenant", tenant, "--class", name, "--owner", "ops", "--purpose", "tests", "--integrity", "attested")
}

// operate runs a command of the operator that has to succeed and returns what it printed.
func (w *world) operate(args ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), filepath.Join(w.dir, "operator", "safeconduct"), args...)
	cmd.Env = append(os.Environ(), "SAFECONDUCT_DIR="+w.state, "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("safeconduct %q: %v\n%s", args, err, out)
	}
	return string(out)
}

func (w *world) program(role string) string { return filepath.Join(w.dir, "agents", role) }

// embedded starts a role under the embedded Workload API, which wants to know the process from its parent.
func (w *world) embedded(role string, args ...string) *process {
	w.t.Helper()
	cli := filepath.Join(w.dir, "operator", "safeconduct")
	return w.start(nil, append([]string{cli, "agent", "run", tenant + "/" + role, "--", w.program(role)}, args...)...)
}

// attested starts a role with nothing but its environment: the Workload API at socket finds out by itself what it is.
func (w *world) attested(socket, role string, args ...string) *process {
	w.t.Helper()
	return w.start([]string{
		"SPIFFE_ENDPOINT_SOCKET=unix://" + socket, "SAFECONDUCT_AUTHORITY=" + w.up.Authority,
		"SAFECONDUCT_AUDIT_DIR=" + filepath.Join(w.state, "audit", tenant+"-"+role),
	}, append([]string{w.program(role)}, args...)...)
}

// process is a running program that reports events.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan struct{}

	mu     sync.Mutex
	events []event
	stderr []string
}

func (w *world) start(env []string, args ...string) *process {
	w.t.Helper()
	// Not w.t.Context: a plane and its agents drain in order.
	p := &process{t: w.t, name: filepath.Base(args[0]), cmd: exec.CommandContext(context.WithoutCancel(w.t.Context()), args[0], args[1:]...), ended: make(chan struct{})}
	// The race detector sleeps a second at the end of every process otherwise.
	p.cmd.Env = append(append(os.Environ(), "SAFECONDUCT_DIR="+w.state, "NO_COLOR=1", "GORACE=atexit_sleep_ms=0"), env...)
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.read(stdout, p.event) })
	wg.Go(func() { p.read(stderr, func(line []byte) { p.stderr = append(p.stderr, string(line)) }) })
	go func() {
		wg.Wait()
		_ = p.cmd.Wait() // how it ended shows in its state
		close(p.ended)
	}()
	w.t.Cleanup(func() {
		p.stop()
		if w.t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			w.t.Logf("%s, standard error:\n%v", p.name, p.stderr[max(0, len(p.stderr)-20):])
		}
	})
	return p
}

func (p *process) read(r io.Reader, line func([]byte)) {
	for s := bufio.NewScanner(r); s.Scan(); {
		p.mu.Lock()
		line(slices.Clone(s.Bytes()))
		p.mu.Unlock()
	}
}

func (p *process) event(line []byte) {
	var e event
	if json.Unmarshal(line, &e) == nil {
		p.events = append(p.events, e)
	}
}

// all returns the events of a kind so far.
func (p *process) all(kind string) []event {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []event
	for _, e := range p.events {
		if e.Kind == kind {
			out = append(out, e)
		}
	}
	return out
}

// tally is the newest count of calls.
func (p *process) tally() event {
	all := p.all(kindTally)
	if len(all) == 0 {
		return event{}
	}
	return all[len(all)-1]
}

// worst is the longest call since a tally of that time.
func (p *process) worst(since time.Time) time.Duration {
	var worst time.Duration
	for _, e := range p.all(kindTally) {
		if e.At.After(since) {
			worst = max(worst, e.Worst)
		}
	}
	return worst
}

// first waits for the first event of a kind.
func (p *process) first(kind string) event {
	p.t.Helper()
	until(p.t, p.name+" "+kind, func() bool {
		if kind != kindEnd && len(p.all(kind)) == 0 {
			p.alive()
		}
		return len(p.all(kind)) > 0
	})
	return p.all(kind)[0]
}

// alive fails the test when the program has ended.
func (p *process) alive() {
	p.t.Helper()
	select {
	case <-p.ended:
		p.t.Fatalf("%s has ended: %v", p.name, p.cmd.ProcessState)
	default:
	}
}

// stop lets the program drain, and kills it when it does not.
func (p *process) stop() {
	_ = p.stdin.Close()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return
	}
	timer := time.NewTimer(testWait / 3)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		p.t.Errorf("%s does not drain", p.name)
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// until waits until ok.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, testWait, what, ok)
}

func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(testPoll)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("no %s within %s", what, limit)
		case <-tick.C:
		}
	}
}

// pass waits for d.
func pass(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}
