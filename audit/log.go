package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Log is one audit log, open for appending. All methods are safe for concurrent use.
type Log struct {
	cfg     Config
	fsys    fileSystem
	id      logIdentity
	bootID  [16]byte
	started time.Time
	lock    io.Closer
	scratch sync.Pool

	// lastWall is the newest wall clock reading of the log, across restarts.
	lastWall atomic.Int64
	// wanted is one past the newest seq that somebody waits for.
	wanted atomic.Uint64
	// written is how many records the file holds, synced or not.
	written atomic.Uint64
	// epoch is raised with mu held; see spelled.
	epoch   atomic.Uint64
	spelled spelled

	mu     sync.Mutex
	active *buffer
	spare  *buffer
	next   uint64
	closed bool
	failed error
	// room is closed and replaced when waiters may find room, or a reason to give up.
	room        chan struct{}
	roomWaiters int

	durable durability
	// poisoned is closed with the first write or sync error.
	poisoned chan struct{}

	dirty       chan struct{}
	kick        chan struct{}
	wrote       chan struct{}
	quit        chan struct{}
	flusherDone chan struct{}
	syncerDone  chan struct{}
	closeOnce   sync.Once
	closeErr    error

	// fileTurn holds a token while the file is synced or replaced; a channel, since a turn lasts as long as the disk takes. The
	// flusher alone replaces and writes the file.
	fileTurn chan struct{}
	file     file
	segSize  int64
	segStart time.Time
	chain    [32]byte
}

var _ Recorder = (*Log)(nil)

// Open opens the log in dir, creating both when they do not exist. It cuts the torn tail of a crash, then appends a BOOT record,
// a RECOVERED record when the last process did not close the log, and an UNKNOWN record for each call left unfinished; all of it
// is durable when Open returns.
//
// Errors: ErrLocked, ErrForeign, ErrTampered, and those of the file system.
func Open(dir string, cfg Config) (*Log, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	fsys := cfg.files
	if fsys == nil {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("opening audit log: %w", err)
		}
		if err := osDir(filepath.Dir(filepath.Clean(dir))).SyncDir(); err != nil {
			return nil, fmt.Errorf("opening audit log: %w", err)
		}
		fsys = osDir(dir)
	}
	l, err := open(fsys, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening audit log in %s: %w", dir, err)
	}
	return l, nil
}

func open(fsys fileSystem, cfg Config) (*Log, error) {
	lock, err := fsys.Lock(lockName)
	if err != nil {
		return nil, err
	}
	l, err := openLocked(fsys, cfg)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	l.lock = lock
	return l, nil
}

func openLocked(fsys fileSystem, cfg Config) (*Log, error) {
	l := &Log{
		cfg: cfg, fsys: fsys, started: time.Now(),
		active: newBuffer(cfg.BufferBytes), spare: newBuffer(cfg.BufferBytes),
		fileTurn: make(chan struct{}, 1), room: make(chan struct{}), poisoned: make(chan struct{}),
		dirty: make(chan struct{}, 1), kick: make(chan struct{}, 1), wrote: make(chan struct{}, 1),
		quit: make(chan struct{}), flusherDone: make(chan struct{}), syncerDone: make(chan struct{}),
	}
	l.epoch.Store(anyEpoch + 1)
	l.durable.changed = make(chan struct{})
	l.scratch.New = func() any { return &scratch{frame: make([]byte, frameHead, 1<<10)} }
	if _, err := rand.Read(l.bootID[:]); err != nil {
		return nil, err
	}
	if err := removeLeftovers(fsys); err != nil {
		return nil, err
	}
	id, fresh, err := loadIdentity(fsys, cfg.Origin)
	if err != nil {
		return nil, err
	}
	l.id = id
	if fresh {
		if err := l.create(); err != nil {
			return nil, err
		}
	}
	r, err := recoverLog(fsys, id)
	if err != nil {
		return nil, err
	}
	l.file, l.segSize, l.segStart = r.file, r.size, r.header.time
	l.next, l.chain = r.next, r.chain
	l.written.Store(r.next)
	l.durable.size = r.next
	l.lastWall.Store(r.lastTime)
	go l.runFlusher()
	go l.runSyncer()
	if err := l.startup(r); err != nil {
		l.poison(err)
		return nil, errors.Join(err, l.stop())
	}
	return l, nil
}

// create writes the first segment and then log.json: a directory with log.json has had a segment, so that a log whose segments
// were all removed does not pass for a new one.
func (l *Log) create() error {
	segs, err := listSegments(l.fsys)
	if err != nil {
		return err
	}
	switch {
	case len(segs) == 0:
		f, err := l.createSegment(0, [32]byte{})
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	default:
		f, _, err := openSegment(l.fsys, segs[0], l.id, os.O_RDONLY)
		if err != nil {
			return err
		}
		size, err := f.Size()
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if len(segs) > 1 || size > headerSize {
			return fmt.Errorf("%w: there are records but no %s", ErrTampered, infoName)
		}
	}
	return writeInfo(l.fsys, l.id, l.cfg.Now())
}

// createSegment returns a new durable segment, open at its end. It gets its name only when its header is durable, so that a bad
// header is never the work of a crash.
func (l *Log) createSegment(first uint64, chain [32]byte) (file, error) {
	name := segmentName(first)
	f, err := l.fsys.Open(name+".tmp", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	l.segStart = l.cfg.Now()
	h := segmentHeader{
		logID: l.id.logID, first: first, chain: chain, keyID: l.id.keyID, bootID: l.bootID, time: l.segStart,
	}
	_, err = f.Write(h.encode())
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = l.fsys.Rename(name+".tmp", name)
	}
	if err == nil {
		err = l.fsys.SyncDir()
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// startup appends the records of a start and waits until they are durable.
func (l *Log) startup(r *recovery) error {
	ctx := context.Background()
	boot := &Event{Kind: v1.EventKind_EVENT_KIND_BOOT, Detail: "first start"}
	if r.next > 0 || r.torn > 0 {
		boot.Detail = "previous boot " + hex.EncodeToString(r.prevBoot[:])
	}
	if _, err := l.Append(ctx, Buffered, boot); err != nil {
		return err
	}
	if !r.clean && (r.next > 0 || r.torn > 0) {
		rec := &Event{
			Kind: v1.EventKind_EVENT_KIND_RECOVERED, RecoveredFromSeq: r.next, RecoveredBytes: uint64(r.torn), //nolint:gosec // a size
			Detail: "the previous process did not close the log; records it gave out from this seq on are lost",
		}
		if _, err := l.Append(ctx, Buffered, rec); err != nil {
			return err
		}
	}
	for from, more := uint64(0), true; more; {
		calls, next, err := r.openCalls(l.fsys, l.id, from, maxOpenIntents)
		if err != nil {
			return err
		}
		for _, c := range calls {
			ev, err := readFrameAt(l.fsys, r.segs[c.seg], c.off)
			if err != nil {
				return err
			}
			if _, err := l.Append(ctx, Buffered, unknownOf(ev)); err != nil {
				return err
			}
		}
		from, more = next, next != 0
	}
	return l.Sync(ctx)
}

// unknownOf returns the record that closes an intent whose process died. What the intent said about authority and decision stays
// there.
func unknownOf(intent *Event) *Event {
	ev, ok := proto.Clone(intent).(*Event)
	if !ok {
		return &Event{Kind: intent.GetKind(), Phase: v1.EventPhase_EVENT_PHASE_UNKNOWN, InteractionId: intent.GetInteractionId()}
	}
	ev.Phase = v1.EventPhase_EVENT_PHASE_UNKNOWN
	ev.Chain, ev.ChainRef, ev.Presented, ev.DecisionInput, ev.Touched, ev.Outcome = nil, nil, nil, nil, nil, nil
	ev.ControlClaimed, ev.ControlEffective, ev.Policies, ev.PolicySerial, ev.PolicySha256 = nil, nil, nil, 0, nil
	ev.Detail = "process ended between intent and outcome"
	return ev
}

// LogID returns the first 16 bytes of SHA-256(origin || 0x00 || public key).
func (l *Log) LogID() [16]byte { return l.id.logID }

// BootID returns the random id of this opening of the log.
func (l *Log) BootID() [16]byte { return l.bootID }

// Origin returns the name of the log.
func (l *Log) Origin() string { return l.id.origin }

// Poisoned returns a channel that is closed when the log fails for good. A service then stops serving.
func (l *Log) Poisoned() <-chan struct{} { return l.poisoned }

// Err returns nil while the log takes records, and else ErrPoisoned with its cause, or ErrClosed.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refusal()
}

// Durable returns how many records are on stable storage: every seq below it.
func (l *Log) Durable() uint64 {
	size, _, _ := l.durable.state()
	return size
}

// Sync waits until every record accepted before it is durable. Errors: ErrPoisoned and those of ctx.
func (l *Log) Sync(ctx context.Context) error {
	l.mu.Lock()
	next := l.next
	if next > l.wanted.Load() {
		l.wanted.Store(next)
	}
	l.mu.Unlock()
	if next == 0 {
		return nil
	}
	signal(l.wrote)
	return l.wait(ctx, next-1)
}

// Close writes and syncs what was accepted, then releases the directory. Waiters see their record durable, later appends
// ErrClosed. It returns ErrPoisoned when records may be missing, and blocks as long as the disk does.
func (l *Log) Close() error {
	l.closeOnce.Do(func() { l.closeErr = errors.Join(l.stop(), l.lock.Close()) })
	return l.closeErr
}

// stop ends both goroutines and closes the file.
func (l *Log) stop() error {
	l.mu.Lock()
	l.closed = true
	l.wakeRoom()
	l.mu.Unlock()
	close(l.quit)
	<-l.flusherDone
	<-l.syncerDone
	l.mu.Lock()
	err := l.failed
	l.mu.Unlock()
	if err == nil {
		if err = l.writeClosing(l.written.Load(), l.chain); err != nil {
			err = fmt.Errorf("closing audit log: %w", err)
		}
	}
	return errors.Join(err, l.file.Close())
}
