package meshtest

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// awaitTime bounds how long Await waits; a test that needs it has failed.
const awaitTime = time.Minute

// Recorder is an audit log in memory. It is safe for concurrent use; the zero value is ready.
type Recorder struct {
	mu      sync.Mutex
	events  []*audit.Event
	classes []audit.Class
	fail    func(*audit.Event) error
	stall   <-chan struct{}
	changed chan struct{}
}

var _ audit.Recorder = (*Recorder)(nil)

// Append implements audit.Recorder.
func (r *Recorder) Append(ctx context.Context, c audit.Class, e *audit.Event) (audit.Position, error) {
	r.mu.Lock()
	stall, fail := r.stall, r.fail
	r.mu.Unlock()
	if stall != nil && c != audit.Buffered {
		select {
		case <-stall:
		case <-ctx.Done():
			return audit.Position{}, ctx.Err()
		}
	}
	if fail != nil {
		if err := fail(e); err != nil {
			return audit.Position{}, err
		}
	}
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	e.SchemaVersion, e.RecordNonce, e.TimeUnixNs = audit.SchemaVersion, nonce[:], time.Now().UnixNano()
	raw, err := proto.Marshal(e)
	if err != nil {
		return audit.Position{}, audit.ErrInvalid
	}
	if len(raw) > audit.MaxRecordBytes {
		return audit.Position{}, audit.ErrTooLarge
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events, r.classes = append(r.events, proto.CloneOf(e)), append(r.classes, c)
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
	return audit.Position{LogID: [16]byte{1}, BootID: [16]byte{1}, Seq: uint64(len(r.events)), Leaf: sha256.Sum256(append([]byte{0}, raw...))}, nil
}

// Fail makes Append return what f returns for an event, nil to accept it; nil ends that.
func (r *Recorder) Fail(f func(*audit.Event) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fail = f
}

// Stall makes records that must be durable wait until release is closed or their context ends; nil ends that.
func (r *Recorder) Stall(release <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stall = release
}

// Events returns the events in order.
func (r *Recorder) Events() []*audit.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*audit.Event(nil), r.events...)
}

// Classes returns the classes with which the events were appended, in the same order.
func (r *Recorder) Classes() []audit.Class {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]audit.Class(nil), r.classes...)
}

// Reset forgets all events.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events, r.classes = nil, nil
}

// Decision returns the events of one decision id, in hex as peers see it.
func (r *Recorder) Decision(id string) []*audit.Event {
	var out []*audit.Event
	for _, e := range r.Events() {
		if hex.EncodeToString(e.GetDecisionId()) == id {
			out = append(out, e)
		}
	}
	return out
}

// Phases returns the phases of the calls recorded, by interaction.
func (r *Recorder) Phases() map[[16]byte][]v1.EventPhase {
	out := map[[16]byte][]v1.EventPhase{}
	for _, e := range r.Events() {
		if e.GetKind() == v1.EventKind_EVENT_KIND_CALL {
			id := [16]byte(e.GetInteractionId())
			out[id] = append(out[id], e.GetPhase())
		}
	}
	return out
}

// Await waits until done holds for the events and returns them; it fails the test after 10 seconds.
func (r *Recorder) Await(tb testing.TB, done func([]*audit.Event) bool) []*audit.Event {
	tb.Helper()
	timer := time.NewTimer(awaitTime)
	defer timer.Stop()
	for {
		r.mu.Lock()
		if r.changed == nil {
			r.changed = make(chan struct{})
		}
		changed := r.changed
		r.mu.Unlock()
		events := r.Events()
		if done(events) {
			return events
		}
		select {
		case <-changed:
		case <-timer.C:
			tb.Fatalf("audit events after %v: %v", awaitTime, events)
		}
	}
}
