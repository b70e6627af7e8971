package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/memory/bolt"
)

// TestDoctorNamesWhatIsBroken breaks one thing at a time and puts it back.
func TestDoctorNamesWhatIsBroken(t *testing.T) {
	w := newWorld(t)
	s := w.up()
	w.agent("planner")
	healthy := doctor{dir: w.dir, now: time.Now, peerPIDFD: func() error { return nil }}
	u, err := readUp(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(*upState)) func(*doctor) func() {
		return func(*doctor) func() {
			changed := u
			change(&changed)
			_ = writeUp(w.dir, changed)
			return func() { _ = writeUp(w.dir, u) }
		}
	}
	chmod := func(path string, mode os.FileMode) func(*doctor) func() {
		return func(*doctor) func() {
			_ = os.Chmod(path, mode)
			return func() { _ = os.Chmod(path, 0o700) }
		}
	}
	away := func(path string) func(*doctor) func() {
		return func(*doctor) func() {
			_ = os.Rename(path, path+".away")
			return func() { _ = os.Rename(path+".away", path) }
		}
	}
	assertHealthy(t, healthy)
	for _, tt := range []struct {
		name  string
		crack func(*doctor) (mend func())
		check string
		found string
		cure  string
	}{
		{"folder open to others", chmod(w.dir, 0o755), "state folder", "0755", "chmod 700 " + w.dir},
		{"no up.json", away(filepath.Join(w.dir, upName)), "control plane", "there is no up.json", "safeconduct up --dir " + w.dir},
		{"dead process", edit(func(u *upState) { u.PID = deadPID }), "control plane", "has ended", "safeconduct up --dir " + w.dir},
		{"operator socket gone", away(u.OperatorSocket), "operator socket", "does not answer", "start it again"},
		{"workload socket gone", away(u.WorkloadSocket), "Workload API", "no such file", "start it again"},
		{"authority elsewhere", edit(func(u *upState) { u.Authority = "127.0.0.1:1" }), "authority", "does not accept TLS", "127.0.0.1:1"},
		{"memory in place of the authority", edit(func(u *upState) { u.Authority = u.Memory }), "authority", "/service/memory", "start it again"},
		{"clock ahead", func(d *doctor) func() {
			d.now = func() time.Time { return time.Now().Add(48 * time.Hour) }
			return func() {}
		}, "clock", "valid from", "Set the system clock"},
		{"clock behind", func(d *doctor) func() {
			d.now = func() time.Time { return time.Now().Add(-time.Hour) }
			return func() {}
		}, "clock", "valid from", "Set the system clock"},
		{"audit log changed", func(*doctor) func() { return flip(t, filepath.Join(w.dir, "audit", "authority")) }, "audit logs", "authority: record ", "evidence"},
		{"memory folder open", chmod(filepath.Join(w.dir, "memory"), 0o777), "memory file", "0777", "chmod 700"},
		{"old kernel or sandbox", func(d *doctor) func() {
			d.peerPIDFD = func() error { return errors.New("operation not permitted") }
			return func() {}
		}, "kernel", "operation not permitted", "Linux 6.5"},
		{"agent without a row", func(*doctor) func() {
			w.must("agent", "register", "idle", "--tenant", "acme", "--class", "idler", "--owner", "o", "--purpose", "p")
			return func() {
				w.must("table", "allow", "idle", "--tenant", "acme", "--class", "idler", "--action", "a.b", "--resource", "x", "--peer", memoryID)
			}
		}, "agent classes", "class idler of tenant acme", "safeconduct table allow"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := healthy
			mend := tt.crack(&d)
			assertBroken(t, d, tt.check, tt.found, tt.cure)
			mend()
			assertHealthy(t, healthy)
		})
	}

	t.Run("no table", func(t *testing.T) {
		w.must("table", "deny", "idle", "planner-memory-read", "planner-memory-write", "planner-memory-list")
		assertBroken(t, healthy, "capability table", "every call is denied", "safeconduct table allow")
	})
	t.Run("memory locked by a stranger", func(t *testing.T) {
		if err := s.end(15); err != nil {
			t.Fatal(err)
		}
		d, err := bolt.Open(filepath.Join(w.dir, "memory", "memory.db"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		assertBroken(t, healthy, "memory file", "is locked by process ", "then start safeconduct up")
	})
	t.Run("a folder that is not there", func(t *testing.T) {
		r := w.here("doctor", "--json", "--dir", filepath.Join(w.bin, "none"))
		var found []finding
		if err := json.Unmarshal([]byte(r.out), &found); err != nil || r.code != 1 || found[0].State != stateBroken {
			t.Errorf("doctor --json = %+v, %v", r, err)
		}
	})
}

func assertBroken(t *testing.T, d doctor, check, found, cure string) {
	t.Helper()
	for _, f := range d.examine(t.Context()) {
		if f.Check != check {
			continue
		}
		if f.State != stateBroken || !strings.Contains(f.Found, found) || !strings.Contains(f.Cure, cure) || strings.Contains(f.Cure, "\n") {
			t.Errorf("%s = %+v; want broken, %q, cure %q", check, f, found, cure)
		}
		return
	}
	t.Errorf("no check %q", check)
}

func assertHealthy(t *testing.T, d doctor) {
	t.Helper()
	for _, f := range d.examine(t.Context()) {
		if f.State == stateBroken || f.State == stateSkipped {
			t.Errorf("healthy: %+v", f)
		}
	}
}

// deadPID is a number that no process has: above the largest that the kernel gives out.
const deadPID = 1 << 23

// flip changes one byte in the middle of a log and returns how to put it back.
func flip(t *testing.T, dir string) func() {
	t.Helper()
	segs, err := filepath.Glob(filepath.Join(dir, "seg-*.log"))
	if err != nil || len(segs) == 0 {
		t.Fatalf("no segments in %s: %v", dir, err)
	}
	change := func() {
		f, err := os.OpenFile(segs[0], os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, 400); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b, 400); err != nil {
			t.Fatal(err)
		}
	}
	change()
	return change
}
