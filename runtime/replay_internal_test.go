package runtime

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/replaybolt"
)

// register is a registry of one record.
type register struct{ rec *identity.Record }

func (r *register) Agent(identity.AgentID) *identity.Record { return r.rec }
func (*register) Generation() uint64                        { return 0 }

// common is a store that all processes use.
type common struct{ *interceptors.MemoryReplay }

func (common) Shared() bool { return true }

// What one process took, another would take too: with stores of their own, processes of one identity refuse proofs while they are many,
// and afterwards until what the other one took has ended.
func TestProofsAreRefusedWhileSeveralProcessesLive(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_700_000_000, 0)
	clock := func() time.Time { return now }
	reg, log := &register{rec: &identity.Record{}}, &bytes.Buffer{}
	r := &replays{
		ReplayStore: interceptors.NewMemoryReplay(0, replaybolt.DefaultLife, clock), trust: reg, now: clock,
		log: slog.New(slog.NewTextHandler(log, nil)),
	}
	insert := func(n byte) error {
		_, err := r.Insert(context.Background(), "acme", [32]byte{n}, now.Add(time.Minute))
		return err
	}
	if err := insert(1); err != nil {
		t.Fatalf("Insert() of the only process = %v", err)
	}
	reg.rec = &identity.Record{Replicated: true}
	for range 3 {
		if err := insert(2); !errors.Is(err, ErrReplicas) {
			t.Errorf("Insert() while several live = %v, want ErrReplicas", err)
		}
	}
	if n := strings.Count(log.String(), "invocation proofs are refused"); n != 1 {
		t.Errorf("%d lines in the log, want 1:\n%s", n, log)
	}
	reg.rec = &identity.Record{}
	now = now.Add(replaybolt.DefaultLife - time.Second)
	if err := insert(3); !errors.Is(err, ErrReplicas) {
		t.Errorf("Insert() before what the other process took has ended = %v, want ErrReplicas", err)
	}
	now = now.Add(time.Second)
	if err := insert(4); err != nil {
		t.Errorf("Insert() afterwards = %v", err)
	}

	// The bundle is followed: that there were many counts also when no proof came meanwhile.
	reg.rec = &identity.Record{Replicated: true}
	_ = r.look(context.Background())
	reg.rec = nil
	if err := insert(5); !errors.Is(err, ErrReplicas) {
		t.Errorf("Insert() after a second process without proofs = %v, want ErrReplicas", err)
	}
	if seen, err := r.Seen([32]byte{1}); !seen || err != nil {
		t.Errorf("Seen() = %v, %v", seen, err)
	}

	r.ReplayStore, reg.rec = common{interceptors.NewMemoryReplay(0, replaybolt.DefaultLife, clock)}, &identity.Record{Replicated: true}
	if err := insert(6); err != nil {
		t.Errorf("Insert() into a shared store = %v", err)
	}
}

var _ delegation.ReplayStore = (*replays)(nil)
