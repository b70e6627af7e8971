package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// An agent that is registered with --single-process runs once: the second start says which process is in the way, and works when that
// has ended. Another agent runs as often as it is started, and that is in the audit log.
func TestAgentOfASingleProcess(t *testing.T) {
	w := newWorld(t)
	w.up()
	for name, flags := range map[string][]string{"single": {"--single-process"}, "many": nil} {
		w.must(append([]string{"agent", "register", name, "--tenant", "acme", "--class", name, "--owner", "ops", "--purpose", "tests"}, flags...)...)
	}
	list := w.must("agent", "list")
	for _, line := range strings.Split(list, "\n") {
		for name, want := range map[string]string{"/agent/single": "single", "/agent/many": "any"} {
			if fields := strings.Fields(line); strings.Contains(line, name) && (len(fields) < 5 || fields[4] != want) {
				t.Errorf("agent list says %q, want %s", line, want)
			}
		}
	}
	spin := func(id, file string) *exec.Cmd {
		ready := filepath.Join(w.bin, file)
		cmd := w.command("agent", "run", id, "--", w.program("spinner"), ready)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		w.until(file, func() bool { _, err := os.Stat(ready); return err == nil })
		return cmd
	}
	first := spin("acme/single", "first")
	w.run("agent", "run", "acme/single", "--", "true").check(t, 1, "another process of this agent is live", "must end first", "AGENT_STATE")
	if err := first.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait() // 42, as the program says
	if r := w.run("agent", "run", "acme/single", "--", "true"); r.code != 0 {
		t.Errorf("a start after the end of the first = %+v", r)
	}

	spin("acme/many", "one")
	spin("acme/many", "another")
	w.until("record", func() bool {
		r := w.here("audit", "tail")
		return strings.Count(r.out, "DUPLICATE_IDENTITY") >= 2 || strings.Count(strings.ToLower(r.out), "duplicate") >= 2
	})
}
