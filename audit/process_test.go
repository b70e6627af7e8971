package audit_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	origin   = "mesh.example/safeconduct/agent"
	childDir = "AUDIT_TEST_DIR"
)

// TestMain lets the test binary play the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := child(dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child appends effects from many goroutines and prints each position that was acknowledged, until it is killed.
func child(dir string) error {
	l, err := audit.Open(dir, audit.Config{Origin: origin, SegmentBytes: 64 << 10})
	if err != nil {
		return err
	}
	var out sync.Mutex
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for n := uint64(0); ; n++ {
				ev := event(uint64(g)<<32|n, v1.EventPhase_EVENT_PHASE_INTENT)
				pos, err := l.Append(context.Background(), audit.Class(n%2), ev)
				if err != nil {
					return
				}
				out.Lock()
				fmt.Println("ack", pos.Seq, hex.EncodeToString(pos.Leaf[:]))
				out.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.New("appending ended")
}

func event(n uint64, phase v1.EventPhase) *audit.Event {
	id := make([]byte, 16)
	binary.BigEndian.PutUint64(id[8:], n+1)
	return &audit.Event{
		Kind: v1.EventKind_EVENT_KIND_CALL, Phase: phase, Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND,
		InteractionId: id, EnvelopeId: id, Action: "memory.read", Decision: v1.EventDecision_EVENT_DECISION_ALLOW,
		Actor: &v1.Party{SpiffeId: "spiffe://mesh.example/tenant/acme/agent/planner/1", AgentClass: "planner"},
		Peer:  &v1.Party{SpiffeId: "spiffe://mesh.example/tenant/acme/agent/search/1", AgentClass: "search"},
	}
}

// TestU1KilledProcess kills a real process with signal 9 while 16 goroutines wait for the disk.
func TestU1KilledProcess(t *testing.T) {
	dir := t.TempDir()
	for _, acks := range []int{1, 700} {
		want := killedChild(t, dir, acks)
		l, err := audit.Open(dir, audit.Config{Origin: origin})
		if err != nil {
			t.Fatal(err)
		}
		open := map[string]bool{}
		for rec, err := range l.Read(t.Context(), 0) {
			if err != nil {
				t.Fatal(err)
			}
			switch rec.Event.Phase {
			case v1.EventPhase_EVENT_PHASE_INTENT:
				open[string(rec.Event.InteractionId)] = true
			case v1.EventPhase_EVENT_PHASE_UNKNOWN:
				delete(open, string(rec.Event.InteractionId))
			default:
			}
			if leaf, ok := want[rec.Seq]; ok && leaf == hex.EncodeToString(rec.Leaf[:]) {
				delete(want, rec.Seq)
			}
		}
		if len(want) > 0 || len(open) > 0 {
			t.Errorf("%d acknowledged records are gone, %d intents have no UNKNOWN", len(want), len(open))
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if rep, err := audit.Verify(dir); err != nil || rep.Verdict != audit.Good {
			t.Errorf("Verify = %v (%s), %v, want good", rep.Verdict, rep.Reason, err)
		}
	}
}

// killedChild returns the acknowledged leaf hashes by seq.
func killedChild(t *testing.T, dir string, acks int) map[uint64]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	got := map[uint64]string{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var seq uint64
		var leaf string
		if _, err := fmt.Sscanf(lines.Text(), "ack %d %s", &seq, &leaf); err != nil {
			if strings.HasPrefix(lines.Text(), "error") {
				t.Fatal(lines.Text())
			}
			continue // the kill cut the line
		}
		if len(leaf) == 64 {
			got[seq] = leaf
		}
		if len(got) == acks {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the child ended by itself")
	}
	return got
}

// TestU22OneWriter opens one directory twice, in one process and in two.
func TestU22OneWriter(t *testing.T) {
	dir := t.TempDir()
	cfg := audit.Config{Origin: origin}
	l, err := audit.Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(dir, cfg); !errors.Is(err, audit.ErrLocked) {
		t.Errorf("second Open = %v, want ErrLocked", err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), audit.ErrLocked.Error()) {
		t.Errorf("Open in another process = %s, %v, want ErrLocked", out, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = audit.Open(dir, cfg); err != nil {
		t.Fatalf("Open after Close = %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
