package main

import (
	"bufio"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// enoughWrites are acknowledged before the kill, from four writers at once.
const enoughWrites = 200

func TestKillUpLosesNothing(t *testing.T) {
	w := newWorld(t)
	first := w.up("--agent-rate", "100000", "--agent-burst", "100000")
	w.agent("writer")
	grant := filepath.Join(w.bin, "writer.grant")

	cmd := w.command("agent", "run", "acme/writer", "--", w.program("writer"), grant)
	keys := killWhileWriting(t, first, cmd)

	w.up()
	r := w.feed(strings.NewReader(strings.Join(keys, "\n")), "agent", "run", "acme/writer", "--", w.program("reader"), grant)
	if r.code != 0 || r.out != "" {
		t.Errorf("acknowledged writes that are not there: %+v", r)
	}

	// What the writer holds receipts for is in the log of memory, unchanged and at its place.
	kept := map[uint64][32]byte{}
	memoryLog := filepath.Join(w.dir, "audit", "memory")
	recovered := false
	for rec, err := range audit.ReadDir(memoryLog) {
		if err != nil {
			t.Fatal(err)
		}
		kept[rec.Seq] = rec.Leaf
		recovered = recovered || rec.Event.GetKind() == v1.EventKind_EVENT_KIND_RECOVERED
	}
	receipts := 0
	for rec, err := range audit.Expanded(audit.ReadDir(filepath.Join(w.dir, "audit", "acme-writer"))) {
		if err != nil {
			t.Fatal(err)
		}
		receipt := rec.Event.GetPeerReceipt()
		if rec.Event.GetAction() != "memory.write" || receipt == nil {
			continue
		}
		receipts++
		if leaf, ok := kept[receipt.GetSeq()]; !ok || string(leaf[:]) != string(receipt.GetLeafHash()) {
			t.Errorf("record %d of memory's log is not what the writer has a receipt for", receipt.GetSeq())
		}
	}
	if receipts < len(keys) {
		t.Errorf("%d receipts for %d acknowledged writes", receipts, len(keys))
	}
	if rep, err := audit.Verify(memoryLog); err != nil || rep.Verdict == audit.Bad || !recovered {
		t.Errorf("Verify(memory) = %+v, %v; recovered: %t", rep, err, recovered)
	}
	t.Logf("%d writes were acknowledged before and during the kill", len(keys))
}

// killWhileWriting starts a writer, kills up in the middle, and returns every key that was acknowledged.
func killWhileWriting(t *testing.T, up *service, cmd *exec.Cmd) []string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for s := bufio.NewScanner(out); s.Scan(); {
		keys = append(keys, s.Text())
		if len(keys) == enoughWrites {
			_ = up.end(syscall.SIGKILL)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("writer: %v %s", err, complaints.String())
	}
	if len(keys) < enoughWrites {
		t.Fatalf("%d writes, want at least %d: %s", len(keys), enoughWrites, complaints.String())
	}
	return keys
}
