package main

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// writeLog makes a log of n records below DIR/audit and returns its folder and last segment.
func (w *world) writeLog(name string, n int) (dir, segment string) {
	w.t.Helper()
	dir = filepath.Join(w.dir, "audit", name)
	l, err := audit.Open(dir, audit.Config{Origin: "td/safeconduct/" + name})
	if err != nil {
		w.t.Fatal(err)
	}
	for range n {
		e := &audit.Event{Kind: v1.EventKind_EVENT_KIND_REGISTRY_CHANGED, Detail: "clears \x1b[2J the screen"}
		if _, err := l.Append(w.t.Context(), audit.Effect, e); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		w.t.Fatal(err)
	}
	segs, err := filepath.Glob(filepath.Join(dir, "seg-*.log"))
	if err != nil || len(segs) != 1 {
		w.t.Fatalf("segments %q, %v", segs, err)
	}
	return dir, segs[0]
}

func TestAuditVerifyExitCodes(t *testing.T) {
	for _, tt := range []struct {
		name string
		harm func(t *testing.T, dir, segment string)
		code int
		want string
	}{
		{"good", func(*testing.T, string, string) {}, 0, "good"},
		{"changed", func(t *testing.T, dir, _ string) { flip(t, dir) }, 1, "at record 1: "},
		{"cut short", func(t *testing.T, dir, segment string) {
			info, err := os.Stat(segment)
			if err == nil {
				err = os.Truncate(segment, info.Size()-3)
			}
			if err == nil {
				err = os.Remove(filepath.Join(dir, "closed")) // as a crash leaves it
			}
			if err != nil {
				t.Fatal(err)
			}
		}, 2, "cut short"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			dir, segment := w.writeLog("a", 5)
			w.writeLog("b", 1)
			tt.harm(t, dir, segment)
			if r := w.here("audit", "verify"); r.code != tt.code || !strings.Contains(r.out, tt.want) {
				t.Errorf("audit verify = %+v, want %d and %q", r, tt.code, tt.want)
			}
			got := decode[[]verdict](t, w.here("audit", "verify", "--json").out)
			if len(got) != 2 || got[1].Verdict != "good" || (got[0].FirstBad == nil) != (tt.code == 0) {
				t.Errorf("audit verify --json = %+v", got)
			}
		})
	}
}

func TestAuditTailEscapesAndFollows(t *testing.T) {
	w := newWorld(t)
	w.writeLog("a", 3)
	for _, args := range [][]string{{"audit", "tail"}, {"audit", "tail", "--json"}} {
		if r := w.here(args...); r.code != 0 || strings.Contains(r.out, "\x1b") || !strings.Contains(r.out, "clears ") {
			t.Errorf("%q = %+v", args, r)
		}
	}
	cmd := w.command("audit", "tail", "-f", "-n", "1", "--json")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() {
		t.Fatal("tail -n 1 prints nothing")
	}
	w.writeLog("b", 1) // a log that was not there
	for range 2 {
		if !lines.Scan() || !strings.Contains(lines.Text(), `"event"`) {
			t.Fatalf("tail -f: %q, %v", lines.Text(), lines.Err())
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("tail -f after SIGINT: %v", err)
	}
}

func TestCommandsOfOneAgentWaitForEachOther(t *testing.T) {
	w := newWorld(t)
	w.up()
	who := w.agent("planner")
	var wg sync.WaitGroup
	for _, key := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			if r := w.feed(strings.NewReader(key), with(who, "memory", "put", "notes", key)...); r.code != 0 {
				t.Errorf("put %s = %+v", key, r)
			}
		})
	}
	wg.Wait()
	if got := strings.Count(w.must(with(who, "memory", "list", "notes")...), "\n"); got != 5 {
		t.Errorf("memory list: %d lines, want a head and four entries", got)
	}
}
