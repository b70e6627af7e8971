package replaybolt_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/internal/replaybolt"
)

// childEnv makes the test binary the process that is killed: it inserts into the file named there and prints what was acknowledged.
const childEnv = "SAFECONDUCT_TEST_KILLED_REPLAY"

// A process that is killed right after an acknowledgement, and in the middle of writes, has spent what was acknowledged.
func TestAcknowledgedKeysSurviveKill(t *testing.T) {
	if path := os.Getenv(childEnv); path != "" {
		insertUntilKilled(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "replay.db")
	var acked []uint64
	for round := range 5 {
		acked = append(acked, runAndKill(t, path, uint64(round), 1+40*round)...)
		s := open(t, path, replaybolt.Options{})
		for _, n := range acked {
			wantInsert(t, fmt.Sprintf("after kill %d: acknowledged key %d", round, n), s, "acme", keyOf(n), time.Now().Add(time.Minute), false, nil)
		}
		wantInsert(t, "a new key", s, "acme", keyOf(1<<60+uint64(round)), time.Now().Add(time.Minute), true, nil)
		closeStore(t, s)
	}
}

// runAndKill starts the writer, reads n acknowledgements and kills it with SIGKILL. It returns all that it had said by then.
func runAndKill(t *testing.T, path string, round uint64, n int) (acked []uint64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestAcknowledgedKeysSurviveKill$")
	cmd.Env = append(os.Environ(), childEnv+"="+path, childEnv+"_ROUND="+strconv.FormatUint(round, 10))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		k, err := strconv.ParseUint(lines.Text(), 10, 64)
		if err != nil {
			t.Errorf("the writer says %q", lines.Text())
			break
		}
		acked = append(acked, k)
		if len(acked) >= n && !killed {
			killed = true
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || len(acked) < n {
		t.Fatalf("the writer ended by itself after %d keys: %v", len(acked), err)
	}
	return acked
}

func insertUntilKilled(t *testing.T, path string) {
	s := open(t, path, replaybolt.Options{})
	round, err := strconv.ParseUint(os.Getenv(childEnv+"_ROUND"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			for n := uint64(0); ; n++ {
				k := round<<40 | g<<32 | n
				if fresh, err := s.Insert(t.Context(), "acme", keyOf(k), time.Now().Add(10*time.Minute)); !fresh || err != nil {
					return // the parent sees an end that it did not make
				}
				mu.Lock()
				_, _ = os.Stdout.WriteString(strconv.FormatUint(k, 10) + "\n")
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}
