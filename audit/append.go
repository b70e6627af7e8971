package audit

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// scratch is the memory of one encoding, pooled.
type scratch struct {
	frame []byte
	// random is a supply for record nonces: one read of the system's generator serves 32 records. Used bytes are not used again.
	random [512]byte
	left   int
}

// nonce returns 16 bytes that are valid until the next call.
func (s *scratch) nonce() ([]byte, error) {
	const n = 16
	if s.left < n {
		if _, err := rand.Read(s.random[:]); err != nil {
			return nil, err
		}
		s.left = len(s.random)
	}
	s.left -= n
	return s.random[s.left : s.left+n : s.left+n], nil
}

// Append implements Recorder.
func (l *Log) Append(ctx context.Context, c Class, e *Event) (Position, error) {
	return l.append(ctx, c, e, nil)
}

func (l *Log) append(ctx context.Context, c Class, e *Event, s Speller) (Position, error) {
	if e == nil || e.Kind == v1.EventKind_EVENT_KIND_UNSPECIFIED {
		return Position{}, fmt.Errorf("%w: it has no kind", ErrInvalid)
	}
	x, ok := l.scratch.Get().(*scratch)
	if !ok {
		return Position{}, errors.New("audit scratch pool holds something else")
	}
	wait := c != Buffered
	pos, err := l.accept(ctx, x, e, s, wait)
	e.RecordNonce = nil // it lies in x
	l.scratch.Put(x)
	if err != nil || !wait {
		return pos, err
	}
	return pos, l.wait(ctx, pos.Seq)
}

// encode fills the fields that the log owns and leaves the frame in x, its chain hash still missing.
func (l *Log) encode(x *scratch, e *Event) ([32]byte, error) {
	var err error
	if e.RecordNonce, err = x.nonce(); err != nil {
		return [32]byte{}, err
	}
	e.SchemaVersion, e.BootId = SchemaVersion, nil
	if e.Kind == v1.EventKind_EVENT_KIND_BOOT {
		e.BootId = l.bootID[:]
	}
	if decision := e.DecisionId; ownDecision(e) {
		e.DecisionId = nil
		defer func() { e.DecisionId = decision }()
	}
	defer func() { e.BootId = l.bootID[:] }()
	now := l.cfg.Now()
	if now == now.Round(0) { //nolint:staticcheck // QF1009: this asks for the monotonic reading, which Equal ignores.
		e.MonoNs = int64(time.Since(l.started))
	} else {
		e.MonoNs = int64(now.Sub(l.started))
	}
	e.TimeUnixNs, e.ClockRegressed = l.clock(now)
	e.Cause, e.Detail = capText(e.Cause), capText(e.Detail)
	if e.Presented != nil && e.Presented.SizeVT() > MaxPresentedBytes {
		e.Presented = nil
	}
	n := e.SizeVT()
	if n > MaxRecordBytes && e.Presented != nil { // the links say by themselves who gave what to whom
		e.Presented = nil
		n = e.SizeVT()
	}
	if n > MaxRecordBytes {
		return [32]byte{}, fmt.Errorf("%w: %d bytes", ErrTooLarge, n)
	}
	if !validText(e) {
		return [32]byte{}, fmt.Errorf("%w: a text is not UTF-8", ErrInvalid)
	}
	x.frame = slices.Grow(x.frame[:0], frameHead+n)[:frameHead+n]
	if wrote, err := e.MarshalToSizedBufferVT(x.frame[frameHead:]); err != nil || wrote != n {
		return [32]byte{}, fmt.Errorf("%w: %d bytes instead of %d: %w", ErrInvalid, wrote, n, err)
	}
	return sealFrame(x.frame), nil
}

// clock returns the wall clock and whether it stands behind an earlier reading. The earlier one is loaded first, so that two
// concurrent appenders do not accuse each other.
func (l *Log) clock(wall time.Time) (now int64, regressed bool) {
	last := l.lastWall.Load()
	now = wall.UnixNano()
	for seen := last; now > seen; seen = l.lastWall.Load() {
		if l.lastWall.CompareAndSwap(seen, now) {
			break
		}
	}
	return now, now < last
}

// capText makes a text that may come from a foreign error fit to be recorded: a long or broken text must not keep a denial out
// of the log.
func capText(s string) string {
	const mark = "..."
	if len(s) > MaxTextBytes {
		n := MaxTextBytes - len(mark)
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + mark
	}
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "?")
	}
	return s
}

// anyEpoch is no condition.
const anyEpoch uint64 = 0

// errEpoch says that the epoch is another one than the record was made for.
var errEpoch = errors.New("audit epoch has ended")

// enqueue copies the frame into the active buffer and returns its seq and epoch. A full buffer makes it wait. With only, the
// record is for that epoch and no other.
func (l *Log) enqueue(ctx context.Context, frame []byte, leaf [32]byte, wanted bool, only uint64) (seq, epoch uint64, err error) {
	l.mu.Lock()
	if err := l.refusal(); err != nil {
		l.mu.Unlock()
		return 0, 0, err
	}
	if !l.active.fits(len(frame)) {
		if err := l.awaitRoom(ctx, len(frame)); err != nil {
			l.mu.Unlock()
			return 0, 0, err
		}
	}
	if epoch = l.epoch.Load(); only != anyEpoch && epoch != only {
		l.mu.Unlock()
		return 0, epoch, errEpoch
	}
	seq = l.next
	l.next++
	first := l.active.put(frame, leaf)
	if wanted {
		l.wanted.Store(seq + 1)
	}
	l.mu.Unlock()
	if first {
		signal(l.dirty)
	}
	return seq, epoch, nil
}

// awaitRoom is called and returns with mu held. After nil the active buffer has room for n more bytes.
func (l *Log) awaitRoom(ctx context.Context, n int) error {
	var late <-chan time.Time
	if _, ok := ctx.Deadline(); !ok {
		t := time.NewTimer(l.cfg.FullWait)
		defer t.Stop()
		late = t.C
	}
	for !l.active.fits(n) {
		room := l.room
		l.roomWaiters++
		l.mu.Unlock()
		signal(l.kick)
		var err error
		select {
		case <-room:
		case <-late:
			err = ErrFull
		case <-ctx.Done():
			err = context.Cause(ctx)
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				err = fmt.Errorf("%w: %w", ErrFull, ctx.Err())
			}
		}
		l.mu.Lock()
		l.roomWaiters--
		if refused := l.refusal(); refused != nil {
			return refused
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// refusal is called with mu held.
func (l *Log) refusal() error {
	if l.failed != nil {
		return l.failed
	}
	if l.closed {
		return ErrClosed
	}
	return nil
}

// wakeRoom is called with mu held.
func (l *Log) wakeRoom() {
	if l.roomWaiters > 0 {
		close(l.room)
		l.room = make(chan struct{})
	}
}

// wait returns when seq is durable.
func (l *Log) wait(ctx context.Context, seq uint64) error {
	signal(l.kick)
	for {
		size, changed, err := l.durable.state()
		switch {
		case seq < size:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("waiting for audit record %d: %w", seq, context.Cause(ctx))
		}
	}
}

// signal leaves a token in c unless one is there.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
