package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"slices"
	"time"
)

// Read yields the durable records from seq from on, in order, and ends where the log is durable when it gets there. It yields an
// error once and stops: ErrTampered, those of the file system and of ctx.
func (l *Log) Read(ctx context.Context, from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		limit := l.Durable()
		for rec, err := range readFrom(l.fsys, l.id, from, limit) {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// Since yields the durable records whose wall clock is t or later. It begins in the newest segment that was started at or before t.
func (l *Log) Since(t time.Time) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		from, err := startedBefore(l.fsys, l.id, t)
		if err != nil {
			yield(Record{}, err)
			return
		}
		for rec, err := range readFrom(l.fsys, l.id, from, l.Durable()) {
			if err == nil && rec.Event.TimeUnixNs < t.UnixNano() {
				continue
			}
			if !yield(rec, err) || err != nil {
				return
			}
		}
	}
}

// startedBefore returns the first seq of the newest segment that was started at or before t, or 0.
func startedBefore(fsys fileSystem, id logIdentity, t time.Time) (uint64, error) {
	segs, err := listSegments(fsys)
	if err != nil {
		return 0, err
	}
	for _, s := range slices.Backward(segs) {
		f, h, err := openSegment(fsys, s, id, os.O_RDONLY)
		if err != nil {
			return 0, err
		}
		if err := f.Close(); err != nil {
			return 0, err
		}
		if !h.time.After(t) {
			return s.first, nil
		}
	}
	return 0, nil
}

// ReadDir yields the records of the log in dir without a lock. It ends before the torn tail of a crash or of a live writer. It
// yields an error once and stops: ErrNoLog, ErrTampered, or one of the file system.
func ReadDir(dir string) iter.Seq2[Record, error] { return ReadDirFrom(dir, 0) }

// ReadDirFrom is ReadDir from seq from on, for following a log.
func ReadDirFrom(dir string, from uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		fsys := osDir(dir)
		id, err := readInfo(fsys)
		if err != nil {
			yield(Record{}, fmt.Errorf("reading audit log in %s: %w", dir, err))
			return
		}
		for rec, err := range readFrom(fsys, id, from, math.MaxUint64) {
			if err != nil {
				yield(Record{}, fmt.Errorf("reading audit log in %s: %w", dir, err))
				return
			}
			if !yield(rec, nil) {
				return
			}
		}
	}
}

// errStop ends a scan whose consumer has enough.
var errStop = errors.New("stop")

// readFrom yields the records with from <= seq < limit. The last segment may end with a frame cut short; anything else that is
// wrong is ErrTampered.
func readFrom(fsys fileSystem, id logIdentity, from, limit uint64) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		segs, err := listSegments(fsys)
		if err != nil {
			yield(Record{}, err)
			return
		}
		start := 0
		for i, s := range segs {
			if s.first <= from {
				start = i
			}
		}
		var next uint64
		var chain [32]byte
		for i := start; i < len(segs) && segs[i].first < limit; i++ {
			end, h, err := readSegment(fsys, segs[i], id, from, limit, yield)
			switch {
			case errors.Is(err, errStop):
				return
			case err != nil:
			case i > start && (h.first != next || h.chain != chain):
				err = fmt.Errorf("%w: the records before seq %d do not lead to it", ErrTampered, h.first)
			case end.fault != nil && (i < len(segs)-1 || end.fault.kind != faultShort):
				err = end.fault
			}
			if err != nil {
				yield(Record{}, err)
				return
			}
			next, chain = end.next, end.chain
		}
	}
}

func readSegment(fsys fileSystem, s segment, id logIdentity, from, limit uint64, yield func(Record, error) bool) (scanEnd, segmentHeader, error) {
	f, h, err := openSegment(fsys, s, id, os.O_RDONLY)
	if err != nil {
		return scanEnd{}, h, err
	}
	end, err := scanSegment(f, h, func(x frame, ev *Event) error {
		if x.seq >= limit {
			return errStop
		}
		if x.seq >= from && !yield(newRecord(id, x, ev), nil) {
			return errStop
		}
		return nil
	})
	return end, h, errors.Join(err, f.Close())
}

func newRecord(id logIdentity, x frame, ev *Event) Record {
	return Record{
		Position: Position{LogID: id.logID, BootID: [16]byte(ev.BootId), Seq: x.seq, Leaf: x.leaf},
		Event:    ev, Raw: slices.Clone(x.record), Chain: x.chain,
	}
}

// Concat yields the records of several logs one after the other.
func Concat(logs ...iter.Seq2[Record, error]) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		for _, log := range logs {
			for rec, err := range log {
				if !yield(rec, err) || err != nil {
					return
				}
			}
		}
	}
}
