package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// buffer holds whole frames. Until the flusher has it, the place of a frame's chain hash holds the record's leaf hash.
type buffer struct {
	data  []byte
	count uint64
}

func newBuffer(size int) *buffer { return &buffer{data: make([]byte, 0, size)} }

func (b *buffer) fits(frame int) bool { return len(b.data)+frame+frameTail <= cap(b.data) }

// put reports whether the buffer was empty before.
func (b *buffer) put(frame []byte, leaf [32]byte) bool {
	first := len(b.data) == 0
	b.data = append(b.data, frame...)
	b.data = append(b.data, leaf[:]...)
	b.count++
	return first
}

func (b *buffer) reset() { b.data, b.count = b.data[:0], 0 }

// seal replaces every leaf hash by the chain hash that follows from it.
func (b *buffer) seal(chain [32]byte) [32]byte {
	for off := 0; off < len(b.data); {
		off += frameHead + int(binary.LittleEndian.Uint32(b.data[off:]))
		slot := b.data[off : off+frameTail]
		chain = nextChain(chain, [32]byte(slot))
		copy(slot, chain[:])
		off += frameTail
	}
	return chain
}

// durability is what waiters look at.
type durability struct {
	mu      sync.Mutex
	size    uint64
	err     error
	changed chan struct{}
}

func (d *durability) state() (size uint64, changed <-chan struct{}, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size, d.changed, d.err
}

func (d *durability) advance(size uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil || size <= d.size {
		return
	}
	d.size = size
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *durability) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
	close(d.changed)
	d.changed = make(chan struct{})
}

// runFlusher writes the active buffer every flush interval while there is something in it, and at once when somebody waits.
func (l *Log) runFlusher() {
	defer close(l.flusherDone)
	timer := time.NewTimer(l.cfg.FlushInterval)
	defer timer.Stop()
	for {
		select {
		case <-l.dirty:
		case <-l.quit:
			l.flush()
			return
		}
		timer.Reset(l.cfg.FlushInterval)
		select {
		case <-timer.C:
		case <-l.kick:
		case <-l.quit:
		}
		l.flush()
	}
}

// flush writes what the active buffer holds. Appenders fill the other one meanwhile.
func (l *Log) flush() {
	l.mu.Lock()
	b := l.active
	if l.failed != nil || len(b.data) == 0 {
		l.mu.Unlock()
		return
	}
	l.active, l.spare = l.spare, nil
	turn := l.mustTurn(int64(len(b.data)))
	if turn {
		l.epoch.Add(1)
	}
	l.wakeRoom()
	l.mu.Unlock()

	if err := l.write(b, turn); err != nil {
		l.poison(err)
	}
	l.mu.Lock()
	b.reset()
	l.spare = b
	l.mu.Unlock()
	signal(l.wrote)
}

// write writes b, to a new segment with turn.
func (l *Log) write(b *buffer, turn bool) error {
	if turn {
		if err := l.rotate(); err != nil {
			return fmt.Errorf("starting a segment: %w", err)
		}
	}
	l.chain = b.seal(l.chain)
	n, err := l.file.Write(b.data)
	if err == nil && n < len(b.data) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("writing: %w", err)
	}
	l.segSize += int64(n)
	l.written.Add(b.count)
	return nil
}

// mustTurn says whether n more bytes would make the segment too large, or it is too old. The flusher alone calls it.
func (l *Log) mustTurn(n int64) bool {
	return l.segSize > headerSize && (l.segSize+n > l.cfg.SegmentBytes || l.cfg.Now().Sub(l.segStart) >= l.cfg.SegmentAge)
}

// rotate begins a new segment. The old one is durable before the new one exists, so that only the last segment can be torn.
func (l *Log) rotate() error {
	l.fileTurn <- struct{}{}
	defer func() { <-l.fileTurn }()
	if err := l.file.Sync(); err != nil {
		return err
	}
	next, err := l.createSegment(l.written.Load(), l.chain)
	if err != nil {
		return err
	}
	err = l.file.Close()
	l.file, l.segSize = next, headerSize
	if err != nil {
		return err
	}
	l.durable.advance(l.written.Load())
	return nil
}

// runSyncer makes written records durable: at once while somebody waits for one, else a sync interval after the write.
func (l *Log) runSyncer() {
	defer close(l.syncerDone)
	timer := time.NewTimer(l.cfg.SyncInterval)
	defer timer.Stop()
	for {
		select {
		case <-l.wrote:
		case <-l.flusherDone:
			l.sync()
			return
		}
		if l.wanted.Load() <= l.Durable() {
			timer.Reset(l.cfg.SyncInterval)
			l.lull(timer.C)
		}
		l.sync()
	}
}

// lull waits for the timer, or until a write that somebody waits for.
func (l *Log) lull(late <-chan time.Time) {
	for {
		select {
		case <-late:
			return
		case <-l.flusherDone:
			return
		case <-l.wrote:
			if l.wanted.Load() > l.Durable() {
				return
			}
		}
	}
}

func (l *Log) sync() {
	l.mu.Lock()
	failed := l.failed != nil
	l.mu.Unlock()
	if failed {
		return
	}
	l.fileTurn <- struct{}{}
	n := l.written.Load()
	var err error
	if n > l.Durable() {
		err = l.file.Sync()
	}
	<-l.fileTurn
	if err != nil {
		l.poison(fmt.Errorf("syncing: %w", err))
		return
	}
	l.durable.advance(n)
}

// poison makes the log refuse everything from now on. There is no second try on the same file: after a failed sync the kernel
// may have dropped the pages.
func (l *Log) poison(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return
	}
	l.failed = fmt.Errorf("%w: %w", ErrPoisoned, cause)
	if errors.Is(cause, ErrPoisoned) {
		l.failed = cause
	}
	l.durable.fail(l.failed)
	close(l.poisoned)
	l.wakeRoom()
}
