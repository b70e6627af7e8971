package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/replaybolt"
)

// replayFile is where spent invocation proofs stand, beside the segments of the audit log.
const replayFile = "replay.db"

// ErrReplicas is why invocation proofs are refused where several processes of one identity do not share a replay store: each of
// them would take the same proof once.
var ErrReplicas = errors.New("several processes of this identity are live, or were a moment ago, and their replay stores are not shared: " +
	"run one process, or set Config.Replay to a store that all of them use")

// replays is the replay store of a process, of all its transports. It refuses what a store of one process cannot answer for.
type replays struct {
	delegation.ReplayStore
	self  identity.AgentID
	trust identity.Registry
	log   *slog.Logger
	now   func() time.Time
	close func() error

	mu sync.Mutex
	// until is how long proofs are refused: what another process took stays usable here until it ends.
	until time.Time
}

// openReplays opens the store of spent proofs: the configured one, a file in the audit folder, or, for a process without a folder of
// its own, memory.
func (a *Agent) openReplays() (*replays, error) {
	r := &replays{ReplayStore: a.cfg.Replay, self: a.id, trust: a.trust, log: a.cfg.Logger, now: a.cfg.Now, close: func() error { return nil }}
	switch {
	case r.ReplayStore != nil: // its owner closes it
	case a.cfg.AuditDir != "":
		s, err := replaybolt.Open(filepath.Join(a.cfg.AuditDir, replayFile), replaybolt.Options{Now: a.cfg.Now})
		if err != nil {
			return nil, fmt.Errorf("runtime: %w", err)
		}
		r.ReplayStore, r.close = s, s.Close
	default:
		r.ReplayStore = interceptors.NewMemoryReplay(0, replaybolt.DefaultLife, a.cfg.Now)
	}
	_ = r.look(context.Background())
	return r, nil
}

// look asks the trust bundle whether this identity has more than one process. It is called when the bundle changes and for each proof.
func (r *replays) look(ctx context.Context) error {
	if r.Shared() {
		return nil
	}
	rec, now := r.trust.Agent(r.self), r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	many := rec != nil && rec.Replicated
	if many {
		if !now.Before(r.until) {
			r.log.WarnContext(ctx, "invocation proofs are refused", slog.String("spiffe_id", r.self.String()), slog.String("reason", ErrReplicas.Error()))
		}
		r.until = now.Add(replaybolt.DefaultLife)
	}
	if now.Before(r.until) {
		return ErrReplicas
	}
	return nil
}

// restore spends a proof that an earlier process of this identity admitted, where the store does not know it: the file was lost, or there
// is none. Nobody else is served yet.
func (r *replays) restore(ctx context.Context, caller identity.AgentID, jti []byte) error {
	key := delegation.ReplayKey(delegation.ReplayInvocation, caller, jti)
	if seen, err := r.Seen(key); seen || err != nil {
		return err
	}
	// Longer than a live proof may end after it was admitted. What the store refuses as forgotten it refuses to everybody.
	until := r.now().Add(delegation.MaxProofLife + 2*delegation.Skew)
	if _, err := r.ReplayStore.Insert(ctx, caller.Tenant().String(), key, until); err != nil && !errors.Is(err, delegation.ErrReplayForgotten) {
		return err
	}
	return nil
}

// Insert implements delegation.ReplayStore.
func (r *replays) Insert(ctx context.Context, tenant string, key [32]byte, until time.Time) (bool, error) {
	if err := r.look(ctx); err != nil {
		return false, err
	}
	return r.ReplayStore.Insert(ctx, tenant, key, until)
}

// Seen implements delegation.ReplayStore.
func (r *replays) Seen(key [32]byte) (bool, error) { return r.ReplayStore.Seen(key) }
