package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// keepWait bounds one demo that stays.
const keepWait = 90 * time.Second

// The lines that demo --keep prints are run as they stand, by a shell: two that are allowed and two that are denied.
func TestDemoKeepPrintsLinesThatWork(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(w.bin, "tools") + ":" + w.bin + ":" + os.Getenv("PATH")
	buildGrpcurl(t, filepath.Join(w.bin, "tools"))
	if _, err := exec.LookPath("curl"); err != nil {
		t.Fatal("this test runs the curl line that the demo prints: install curl")
	}
	t.Setenv("TMPDIR", w.bin)
	cmd := w.command("demo", "--keep")
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { // before the test's context ends, which would kill it
		_ = cmd.Process.Signal(syscall.SIGINT)
		if err := cmd.Wait(); err != nil {
			t.Errorf("demo --keep after SIGINT: %v\n%s", err, out)
		}
		if left, _ := filepath.Glob(filepath.Join(w.bin, "sc-demo-*")); len(left) != 0 {
			t.Errorf("files left: %v", left)
		}
	}()
	lines := keptLines(t, out)
	if len(lines) != 6 {
		t.Fatalf("%d lines to run, want 6:\n%s", len(lines), out)
	}
	export := lines[0]
	wants := []string{`"payloadType"`, `"reason":"SCOPE"`, "files below", `"revision"`, "NO_ENVELOPE"}
	for i, line := range lines[1:] {
		sh := exec.CommandContext(t.Context(), "sh", "-c", export+"\n"+line)
		sh.Env = append(os.Environ(), "PATH="+path, "NO_COLOR=1", "GORACE=atexit_sleep_ms=0")
		got, err := sh.CombinedOutput()
		if !strings.Contains(string(got), wants[i]) {
			t.Errorf("%s\n= %s (%v), want %s in it", line, got, err, wants[i])
		}
	}
}

// keptLines waits for the last line that the demo prints and returns those that are to be run.
func keptLines(t *testing.T, out *lockedBuffer) []string {
	t.Helper()
	for end := time.Now().Add(keepWait); time.Now().Before(end); {
		text := out.String()
		if i := strings.Index(text, "export SAFECONDUCT_DIR="); i >= 0 && strings.Contains(text[i:], "\necho ") && strings.HasSuffix(text, "\n") {
			var lines []string
			for line := range strings.Lines(text[i:]) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
					lines = append(lines, line)
				}
			}
			return lines
		}
		<-time.After(testPoll)
	}
	t.Fatalf("the demo does not get to its end:\n%s", out)
	return nil
}

func buildGrpcurl(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	cmd.Dir = filepath.Join("..", "..", "tools")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building grpcurl: %v\n%s", err, out)
	}
}

// lockedBuffer is written by a process and read by its test.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestDemosRunSideBySide(t *testing.T) {
	w := newWorld(t)
	type end struct {
		r   result
		err error
	}
	ends := make(chan end, 2)
	for range 2 {
		go func() {
			cmd := w.command("demo", "--json")
			var out, errOut bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &errOut
			err := cmd.Run()
			ends <- end{result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}, err}
		}()
	}
	for range 2 {
		e := <-ends
		if e.r.code != 0 || !strings.Contains(e.r.out, `"failures": []`) {
			t.Errorf("demo --json = %d, %v\n%s%s", e.r.code, e.err, e.r.out, e.r.err)
		}
	}
}
