package memoryserver

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/memory"
)

const digestKeyFile = "key-digest.key"

// Recorder writes what a store reads and writes into an audit log. Key names are content, so the log keeps a keyed digest of them.
type Recorder struct {
	log audit.Recorder
	key []byte
}

// NewRecorder returns a recorder whose digest key is kept in dir, mode 0600, and made there at the first start.
func NewRecorder(log audit.Recorder, dir string) (*Recorder, error) {
	path := filepath.Join(dir, digestKeyFile)
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key = make([]byte, 32)
		_, _ = rand.Read(key)
		err = os.WriteFile(path, key, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("digest key: %w", err)
	}
	if len(key) != 32 {
		return nil, fmt.Errorf("digest key in %s is not 32 bytes", path)
	}
	return &Recorder{log: log, key: key}, nil
}

// Begin implements memory.Recorder. The call's own intent record already stands before the access.
func (*Recorder) Begin(context.Context, *memory.Access) error { return nil }

// End implements memory.Recorder: one record per access, before bytes leave. The call's outcome record, which follows in the same
// log, makes it durable where the call's class asks for that.
func (r *Recorder) End(ctx context.Context, a *memory.Access, o *memory.Outcome) error {
	p := a.Permit
	id, chainID := p.DecisionID(), p.ChainID()
	ev := &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_MEMORY, Phase: v1.EventPhase_EVENT_PHASE_OUTCOME, Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND,
		InteractionId: id[:], DecisionId: id[:], ConversationId: p.Conversation(), ChainId: chainID[:], Tenant: p.Tenant().Name(),
		Actor: &v1.Party{SpiffeId: p.Peer().ID.String()}, Origin: p.Principal(), Action: p.Action(), Resource: a.Namespace.Labels(),
		Decision: v1.EventDecision_EVENT_DECISION_ALLOW, ControlEffective: p.Control().Proto(),
	}
	if o.Err != nil {
		ev.Decision, ev.Reason, ev.Cause = v1.EventDecision_EVENT_DECISION_DENY, o.Reason, o.Err.Error()
	}
	for i, t := range o.Touched {
		if i == maxTouched {
			ev.RepeatedCount = uint64(len(o.Touched) - maxTouched) //nolint:gosec // G115: positive here.
			break
		}
		ev.Touched = append(ev.Touched, &v1.TouchedResource{
			Ns: t.Ref.Namespace.Proto(), KeyHmac: r.digest(t.Ref.Key), VersionBefore: t.VersionBefore, VersionAfter: t.VersionAfter,
			Label: t.Label.Proto(), Commitment: t.Commitment[:],
		})
	}
	_, err := r.log.Append(ctx, audit.Buffered, ev)
	return err
}

// maxTouched bounds the entries that one record lists; the rest is a count.
const maxTouched = 64

func (r *Recorder) digest(key []byte) []byte {
	mac := hmac.New(sha256.New, r.key)
	mac.Write(key)
	return mac.Sum(nil)
}
