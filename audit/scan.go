package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// segment is one segment file.
type segment struct {
	name  string
	first uint64
}

// listSegments returns the segments by first seq.
func listSegments(fsys fileSystem) ([]segment, error) {
	names, err := fsys.List()
	if err != nil {
		return nil, err
	}
	var segs []segment
	for _, name := range names {
		if first, ok := segmentSeq(name); ok {
			segs = append(segs, segment{name: name, first: first})
		}
	}
	slices.SortFunc(segs, func(a, b segment) int {
		if a.first < b.first {
			return -1
		}
		return 1 // names are unique, so first differs
	})
	return segs, nil
}

// openSegment opens a segment and checks its header against its name and the log it should belong to.
func openSegment(fsys fileSystem, s segment, id logIdentity, flag int) (file, segmentHeader, error) {
	f, err := fsys.Open(s.name, flag, 0)
	if err != nil {
		return nil, segmentHeader{}, err
	}
	b := make([]byte, headerSize)
	n, err := f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, segmentHeader{}, errors.Join(err, f.Close())
	}
	h, err := decodeHeader(b[:n])
	switch {
	case err != nil:
	case h.first != s.first:
		err = fmt.Errorf("segment header begins at seq %d, its name at %d", h.first, s.first)
	case h.logID != id.logID || h.keyID != id.keyID:
		err = errors.New("segment header names another log")
	}
	if err != nil {
		_ = f.Close() // read only: nothing to lose
		return nil, segmentHeader{}, &headerFault{seq: s.first, cause: err}
	}
	return f, h, nil
}

// headerFault is a segment header that is not what was written.
type headerFault struct {
	seq   uint64
	cause error
}

func (e *headerFault) Error() string        { return fmt.Sprintf("seq %d: %s", e.seq, e.cause) }
func (e *headerFault) Is(target error) bool { return target == ErrTampered }

// scanEnd is where the good frames of a segment end.
type scanEnd struct {
	next  uint64
	chain [32]byte
	off   int64
	size  int64
	// fault is nil when the segment ends with a whole frame.
	fault *fault
}

// scanSegment visits every good frame of f in order. The frame's bytes and the event are valid during the visit only.
func scanSegment(f file, h segmentHeader, visit func(frame, *Event) error) (scanEnd, error) {
	size, err := f.Size()
	if err != nil {
		return scanEnd{}, err
	}
	frames := max(0, size-headerSize)
	boot := slices.Clone(h.bootID[:])
	fr := newFrameReader(io.NewSectionReader(f, headerSize, frames), frames, h.first, headerSize, h.chain)
	for {
		x, err := fr.next()
		end := scanEnd{next: fr.seq, chain: fr.chain, off: fr.off, size: size}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return end, nil
			}
			if errors.As(err, &end.fault) {
				return end, nil
			}
			return end, err
		}
		ev, ok := decodeEvent(x.record, boot)
		if ok && ev.Kind == v1.EventKind_EVENT_KIND_BOOT {
			boot = ev.BootId
		}
		if !ok {
			end.next, end.off, end.fault = x.seq, x.off, &fault{kind: faultDecode, seq: x.seq, off: x.off}
			return end, nil
		}
		if err := visit(x, ev); err != nil {
			return end, err
		}
	}
}

// decodeEvent returns the event of a record that this package can have written, after a start with the id boot. What the record leaves
// to its place is put back: the boot id, which the header of the segment and each BOOT record say, and the decision id of a call that
// was decided on here, which is that of the interaction.
func decodeEvent(record, boot []byte) (*Event, bool) {
	ev := new(v1.AuditEvent)
	if proto.Unmarshal(record, ev) != nil {
		return nil, false
	}
	switch {
	case ev.SchemaVersion != SchemaVersion:
	case ev.BootId != nil && ev.Kind != v1.EventKind_EVENT_KIND_BOOT:
		return nil, false
	case ev.Kind != v1.EventKind_EVENT_KIND_BOOT:
		ev.BootId = boot
		if ev.Kind == v1.EventKind_EVENT_KIND_CALL && ev.DecisionId == nil {
			ev.DecisionId = ev.InteractionId
		}
	}
	return ev, (ev.SchemaVersion == SchemaVersion || ev.SchemaVersion == oldSchema) && len(ev.RecordNonce) == 16 && len(ev.BootId) == 16 &&
		ev.Kind != v1.EventKind_EVENT_KIND_UNSPECIFIED
}

// ownDecision says whether decodeEvent puts the decision id back.
func ownDecision(ev *Event) bool {
	return ev.Kind == v1.EventKind_EVENT_KIND_CALL && len(ev.DecisionId) > 0 && string(ev.DecisionId) == string(ev.InteractionId)
}

const (
	searchWindow = 1 << 20
	// maxSearchCRC bounds the checksum work of findFrame over hostile bytes. Beyond it the answer is "found", the safe side.
	maxSearchCRC = 256 << 20
	// sector is the unit that a disk writes as a whole.
	sector = 512
)

// findFrame looks for a whole valid record at or after from. It tells a torn tail, after which there is nothing, from a change
// in the middle.
func findFrame(f io.ReaderAt, from, size int64) (at int64, found bool, err error) {
	window := make([]byte, min(searchWindow+MaxRecordBytes+frameOverhead, max(0, size-from)))
	budget := int64(maxSearchCRC)
	for base := from; base < size; base += searchWindow {
		n, err := f.ReadAt(window[:min(int64(len(window)), size-base)], base)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, false, err
		}
		b := window[:n]
		for i := 0; i < min(searchWindow, n-frameOverhead); i++ {
			l := int(binary.LittleEndian.Uint32(b[i:]))
			if l == 0 || l > MaxRecordBytes || i+l+frameOverhead > n {
				continue
			}
			if budget -= int64(l); budget < 0 {
				return base + int64(i), true, nil
			}
			record := b[i+frameHead : i+frameHead+l]
			if frameCRC(b[i:], record) != binary.LittleEndian.Uint32(b[i+4:]) {
				continue
			}
			if _, ok := decodeEvent(record, make([]byte, 16)); ok {
				return base + int64(i), true, nil
			}
		}
	}
	return 0, false, nil
}

// lostSectors says whether the bytes from a bad frame to the next good one hold a sector that never reached the disk: zero from
// the bad frame to the end of its sector, or a whole sector of zeros. Only a power loss between two syncs, or whoever could as
// well have cut the file here, leaves that.
func lostSectors(f io.ReaderAt, from, to int64) (bool, error) {
	b := make([]byte, sector)
	for off := from; off < to; {
		end := min(off-off%sector+sector, to)
		if end%sector != 0 {
			return false, nil
		}
		part := b[:end-off]
		if _, err := f.ReadAt(part, off); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if !slices.ContainsFunc(part, func(c byte) bool { return c != 0 }) {
			return true, nil
		}
		off = end
	}
	return false, nil
}

// readFrameAt returns the event of the frame at off, which a scan has checked.
func readFrameAt(fsys fileSystem, s segment, off int64) (*Event, error) {
	f, err := fsys.Open(s.name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only: nothing to lose
	var head [frameHead]byte
	if _, err := f.ReadAt(head[:], off); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > MaxRecordBytes {
		return nil, fmt.Errorf("%w: frame at %d changed while it was read", ErrTampered, off)
	}
	record := make([]byte, n)
	if _, err := f.ReadAt(record, off+frameHead); err != nil {
		return nil, err
	}
	ev, ok := decodeEvent(record, make([]byte, 16))
	if !ok {
		return nil, fmt.Errorf("%w: frame at %d changed while it was read", ErrTampered, off)
	}
	return ev, nil
}
