package bolt_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/bolt"
	"github.com/safeconduct/safeconduct/memory/memorytest"
)

// childEnv makes the test binary the process that is killed: it writes to the file named there and prints each acknowledged
// revision with its key.
const childEnv = "SAFECONDUCT_TEST_KILLED_WRITER"

// S4: a process killed between and inside commits loses nothing that it was told is durable.
func TestS4AcknowledgedCommitsSurviveKill(t *testing.T) {
	if path := os.Getenv(childEnv); path != "" {
		writeUntilKilled(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "memory.db")
	acme := memorytest.Tenant(t, "acme")
	acked := map[string]memory.Rev{}
	for round := range 3 {
		for k, rev := range runAndKill(t, path, 150+100*round) {
			acked[k] = rev
		}
		d, err := bolt.Open(path, bolt.Options{})
		if err != nil {
			t.Fatalf("Open() after kill = %v", err)
		}
		if err := d.Check(t.Context()); err != nil {
			t.Errorf("Check() after kill = %v", err)
		}
		for k, rev := range acked {
			items, newest, err := d.Get(t.Context(), acme, memory.Key{T: memory.Cur, K: []byte(k)}, memory.Key{T: memory.Ver, K: []byte(k)})
			if err != nil || items[0].Rev != rev || items[1].Rev != rev || newest < rev {
				t.Fatalf("after kill %d: %q is at %d and %d of %d, %v, was acknowledged at %d", round, k, items[0].Rev, items[1].Rev, newest, err, rev)
			}
		}
		// Half a batch would show as one table with more items than the other.
		var counts [2]int
		for i, table := range []memory.Table{memory.Cur, memory.Ver} {
			lo := []byte{0}
			for {
				items, _, err := d.Scan(t.Context(), acme, memory.Range{T: table, Lo: lo, Limit: memory.MaxScan})
				if err != nil {
					t.Fatal(err)
				}
				counts[i] += len(items)
				if len(items) < memory.MaxScan {
					break
				}
				lo = append(items[len(items)-1].K, 0)
			}
		}
		if counts[0] != counts[1] || counts[0] < len(acked) {
			t.Errorf("after kill %d: %d and %d items, %d acknowledged", round, counts[0], counts[1], len(acked))
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// runAndKill starts the writer, reads n acknowledgements and kills it with SIGKILL. It returns all that it had said by then.
func runAndKill(t *testing.T, path string, n int) map[string]memory.Rev {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestS4AcknowledgedCommitsSurviveKill$")
	cmd.Env = append(os.Environ(), childEnv+"="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	acked := map[string]memory.Rev{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "ack ")
		if !ok {
			continue
		}
		k, rev, _ := strings.Cut(text, " ")
		number, err := strconv.ParseUint(rev, 10, 64)
		if err != nil {
			break // the last line may be cut
		}
		acked[k] = memory.Rev(number)
		if len(acked) == n {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || len(acked) < n {
		t.Fatalf("the writer ended by itself after %d acknowledgements: %v", len(acked), err)
	}
	return acked
}

func writeUntilKilled(t *testing.T, path string) {
	d, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	acme := memorytest.Tenant(t, "acme")
	if err := d.CreateTenant(t.Context(), acme); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				k := fmt.Sprintf("%d-%d-%d", os.Getpid(), w, i)
				v := make([]byte, 200+i%3000)
				rev, err := d.Commit(t.Context(), acme, memory.Batch{Muts: []memory.Mut{
					{Key: memory.Key{T: memory.Cur, K: []byte(k)}, V: v}, {Key: memory.Key{T: memory.Ver, K: []byte(k)}, V: v},
				}})
				if err != nil {
					t.Errorf("Commit() = %v", err)
					return
				}
				mu.Lock()
				_, err = fmt.Fprintf(os.Stdout, "ack %s %d\n", k, rev)
				mu.Unlock()
				if err != nil && !errors.Is(err, os.ErrClosed) {
					return
				}
			}
		})
	}
	wg.Wait()
}
