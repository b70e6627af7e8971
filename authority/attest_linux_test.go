package authority

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/safeconduct/safeconduct/identity"
)

// sleeper starts a process that does nothing until the test ends.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func pin(t *testing.T, pid int) *process {
	t.Helper()
	p, err := openProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func testID(t *testing.T, name string) identity.AgentID {
	t.Helper()
	tenant, err := identity.RegisteredTenant(spiffeid.RequireTrustDomainFromString("dev.example"), "acme")
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.NewAgentID(tenant, name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// A number that is given to a later process does not carry the registration of the earlier one. The later process is simulated
// by a caller whose number is that of the dead one.
func TestReusedNumberInheritsNothing(t *testing.T) {
	dead := sleeper(t)
	w, err := pinWorkload(testID(t, "alice"), dead.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	// No watcher: the moment between the exit and the end of the registration, made long.
	table := &workloads{byPID: map[int]*workload{dead.Process.Pid: w}}
	defer w.proc.close()
	live := sleeper(t)
	impostor := &caller{proc: pin(t, live.Process.Pid), uid: uint32(os.Geteuid())}
	if _, err := table.identify(impostor); !errors.Is(err, ErrUnattested) {
		t.Errorf("identify() of an unknown number = %v, want ErrUnattested", err)
	}
	if err := dead.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dead.Wait()
	table.byPID[live.Process.Pid] = w
	if got, err := table.identify(impostor); !errors.Is(err, ErrUnattested) {
		t.Errorf("identify() of a reused number = %v, %v, want ErrUnattested", got, err)
	}
	// The number is free for a new registration.
	next, err := pinWorkload(testID(t, "bob"), live.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.add(t.Context(), next, func(context.Context, *workload) {}); err != nil {
		t.Fatal(err)
	}
	if got, err := table.identify(impostor); err != nil || got.id != next.id {
		t.Errorf("identify() after a new registration = %v, %v, want bob", got, err)
	}
	table.close()
}

func TestIdentifyComparesUserAndExecutable(t *testing.T) {
	p := sleeper(t)
	for _, tt := range []struct {
		name   string
		change func(*workload, *caller)
		ok     bool
	}{
		{"as admitted", func(*workload, *caller) {}, true},
		{"another executable", func(w *workload, _ *caller) { w.exe[0] ^= 1 }, false},
		{"another user now", func(w *workload, _ *caller) { w.uid++ }, false},
		{"another user when it connected", func(_ *workload, c *caller) { c.uid++ }, false},
		{"a caller that could not be pinned", func(_ *workload, c *caller) { c.err = ErrUnattested }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w, err := pinWorkload(testID(t, "alice"), p.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			defer w.proc.close()
			c := &caller{proc: pin(t, p.Process.Pid), uid: w.uid}
			tt.change(w, c)
			table := &workloads{byPID: map[int]*workload{p.Process.Pid: w}}
			if _, err := table.identify(c); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrUnattested) {
				t.Errorf("identify() = %v, want ok %v", err, tt.ok)
			}
		})
	}
}

func TestWorkloadsAreBounded(t *testing.T) {
	p := sleeper(t)
	w, err := pinWorkload(testID(t, "alice"), p.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer w.proc.close()
	table := &workloads{byPID: map[int]*workload{}}
	for i := range maxWorkloads {
		table.byPID[-1-i] = w
	}
	if _, err := table.check(w); !errors.Is(err, ErrLimit) {
		t.Errorf("check() of one too many = %v, want ErrLimit", err)
	}
	for range maxStreams {
		if err := w.enter(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.enter(); !errors.Is(err, ErrLimit) {
		t.Errorf("enter() of one too many = %v, want ErrLimit", err)
	}
}

func TestPeerProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p, uid, err := peerProcess(conn)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if p.pid != os.Getpid() || uid != uint32(os.Geteuid()) || !p.alive() {
		t.Errorf("peerProcess() = pid %d, uid %d, alive %v", p.pid, uid, p.alive())
	}
	pids, err := lineage(p)
	if err != nil || len(pids) < 2 || pids[0] != os.Getpid() || pids[1] != os.Getppid() {
		t.Errorf("lineage() = %v, %v", pids, err)
	}
}

func TestWaitReturnsAtExitAndAtClose(t *testing.T) {
	p := sleeper(t)
	waitFor(t, "close", p.Process.Pid, func(q *process) { q.close() })
	waitFor(t, "exit", p.Process.Pid, func(*process) { _ = p.Process.Kill() })
	// A zombie is not alive, although its number is still taken.
	if q, err := openProcess(p.Process.Pid); err == nil {
		if q.alive() {
			t.Error("a zombie counts as alive")
		}
		q.close()
	}
}

func waitFor(t *testing.T, name string, pid int, end func(*process)) {
	t.Helper()
	q := pin(t, pid)
	done := make(chan struct{})
	go func() {
		q.wait()
		close(done)
	}()
	end(q)
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Errorf("%s: wait() did not return", name)
	}
}

func TestLineageOfADeadProcess(t *testing.T) {
	cmd := sleeper(t)
	p := pin(t, cmd.Process.Pid)
	if pids, err := lineage(p); err != nil || !slices.Contains(pids, os.Getpid()) {
		t.Errorf("lineage() = %v, %v", pids, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if _, err := lineage(p); !errors.Is(err, ErrUnattested) {
		t.Errorf("lineage() of a dead process = %v, want ErrUnattested", err)
	}
	if _, _, err := attest(p); !errors.Is(err, ErrUnattested) {
		t.Errorf("attest() of a dead process = %v, want ErrUnattested", err)
	}
	if _, err := openProcess(0); !errors.Is(err, ErrUnattested) {
		t.Errorf("openProcess(0) = %v, want ErrUnattested", err)
	}
}

func TestProcFields(t *testing.T) {
	const status = "Name:\tUid: 7\nUid:\t1000\t1001\t1002\t1003\nPPid:\t12\nBad:\tx\n"
	for _, tt := range []struct {
		name  string
		index int
		want  string
		ok    bool
	}{
		{"Uid:", 1, "1001", true},
		{"PPid:", 0, "12", true},
		{"PPid:", 1, "", false},
		{"Bad:", 0, "x", true},
		{"None:", 0, "", false},
	} {
		got, err := field([]byte(status), tt.name, tt.index)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("field(%s, %d) = %q, %v, want %q", tt.name, tt.index, got, err, tt.want)
		}
	}
	if pid, err := pidField([]byte(status), "Bad:"); err == nil {
		t.Errorf("pidField(Bad:) = %d, want an error", pid)
	}
}
