package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// maxOpenIntents bounds the table of calls that the last process left unfinished. More are found in further passes.
const maxOpenIntents = 1 << 16

// recovery is what Open found in the directory.
type recovery struct {
	segs   []segment
	file   file
	header segmentHeader
	size   int64
	next   uint64
	chain  [32]byte
	// settled is the segment from which on unfinished calls are looked for.
	settled  int
	lastTime int64
	prevBoot [16]byte
	clean    bool
	tornAt   uint64
	torn     int64
}

// recoverLog checks the newest segments, cuts a torn tail and opens the last segment for appending. It refuses with ErrTampered
// what no crash can leave behind.
func recoverLog(fsys fileSystem, id logIdentity) (*recovery, error) {
	segs, err := listSegments(fsys)
	if err != nil {
		return nil, err
	}
	if len(segs) == 0 {
		return nil, fmt.Errorf("%w: all segments are missing", ErrTampered)
	}
	if segs[0].first != 0 {
		return nil, fmt.Errorf("%w: the records before seq %d are missing", ErrTampered, segs[0].first)
	}
	r := &recovery{segs: segs}
	if err := r.openLast(fsys, id); err != nil {
		return nil, err
	}
	if err := r.scanBack(fsys, id); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	if r.clean, err = checkClosing(fsys, r.next, r.chain); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	if err := r.makeDurable(); err != nil {
		return nil, errors.Join(err, r.file.Close())
	}
	return r, nil
}

// openLast scans the last segment and cuts its torn tail.
func (r *recovery) openLast(fsys fileSystem, id logIdentity) error {
	last := r.segs[len(r.segs)-1]
	f, h, err := openSegment(fsys, last, id, os.O_RDWR)
	if err != nil {
		return err
	}
	end, err := scanSegment(f, h, func(frame, *Event) error { return nil })
	if err == nil && end.fault != nil {
		err = r.cutTail(fsys, f, end)
	}
	if err == nil {
		_, err = f.Seek(end.off, io.SeekStart)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.file, r.header, r.size, r.next, r.chain = f, h, end.off, end.next, end.chain
	return nil
}

// cutTail keeps what follows the last good frame in a file of its own and truncates, unless the tail is no torn one.
func (r *recovery) cutTail(fsys fileSystem, f file, end scanEnd) error {
	if end.fault.kind == faultDecode {
		return end.fault // whole and chained: no crash writes that
	}
	at, found, err := findFrame(f, end.off+1, end.size)
	if err != nil {
		return err
	}
	if found {
		lost, err := lostSectors(f, end.off, at)
		if err != nil {
			return err
		}
		if !lost {
			return end.fault
		}
	}
	if err := saveTorn(fsys, f, end); err != nil {
		return fmt.Errorf("saving the torn tail at seq %d: %w", end.next, err)
	}
	r.tornAt, r.torn = end.next, end.size-end.off
	return f.Truncate(end.off)
}

// saveTorn never overwrites what an earlier crash left.
func saveTorn(fsys fileSystem, f file, end scanEnd) error {
	const most = 100
	for i := range most {
		name := fmt.Sprintf("torn-%d.bin", end.next)
		if i > 0 {
			name = fmt.Sprintf("torn-%d-%d.bin", end.next, i)
		}
		out, err := fsys.Open(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = io.Copy(struct{ io.Writer }{out}, io.NewSectionReader(f, end.off, end.size-end.off))
		if err == nil {
			err = out.Sync()
		}
		if err = errors.Join(err, out.Close()); err != nil {
			return err
		}
		return fsys.SyncDir()
	}
	return fmt.Errorf("there are %d torn tails of this seq already", most)
}

// scanBack walks from the newest segment to the one in which the last complete start lies. Records before that start have no
// unfinished calls: the start wrote UNKNOWN for them.
func (r *recovery) scanBack(fsys fileSystem, id logIdentity) error {
	next, chain := r.next, r.chain
	later := false
	for i := len(r.segs) - 1; i >= 0; i-- {
		f, h, err := openSegment(fsys, r.segs[i], id, os.O_RDONLY)
		if err != nil {
			return err
		}
		booted, settled, laterSegment := false, false, later
		var boot [16]byte
		end, err := scanSegment(f, h, func(x frame, ev *Event) error {
			r.lastTime = max(r.lastTime, ev.TimeUnixNs)
			boot = [16]byte(ev.BootId)
			switch {
			case ev.Kind == v1.EventKind_EVENT_KIND_BOOT:
				booted = true
				settled = settled || laterSegment
			case !startupRecord(ev):
				settled = settled || booted
				later = true
			}
			return nil
		})
		err = errors.Join(err, f.Close())
		switch {
		case err != nil:
			return err
		case end.fault != nil:
			return end.fault
		case end.next != next || end.chain != chain:
			return fmt.Errorf("%w: the records before seq %d do not lead to it", ErrTampered, next)
		}
		next, chain = h.first, h.chain
		r.settled = i
		if r.prevBoot == ([16]byte{}) {
			r.prevBoot = boot
		}
		if settled {
			return nil
		}
	}
	if chain != ([32]byte{}) {
		return fmt.Errorf("%w: the first segment does not begin the chain", ErrTampered)
	}
	return nil
}

// startupRecord says whether ev is one that Open writes after BOOT, before anybody else can append.
func startupRecord(ev *Event) bool {
	return ev.Kind == v1.EventKind_EVENT_KIND_BOOT || ev.Kind == v1.EventKind_EVENT_KIND_RECOVERED ||
		ev.Phase == v1.EventPhase_EVENT_PHASE_UNKNOWN
}

// makeDurable writes the bytes since the last sync again. After a failed sync the kernel may hold pages that it takes for
// written and that the disk never got; to build on them would look like tampering after the next power loss.
func (r *recovery) makeDurable() error {
	if !r.clean {
		b := make([]byte, min(searchWindow, r.size))
		for off := int64(0); off < r.size; off += int64(len(b)) {
			n, err := r.file.ReadAt(b[:min(int64(len(b)), r.size-off)], off)
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := r.file.WriteAt(b[:n], off); err != nil {
				return err
			}
		}
	}
	return r.file.Sync()
}

// openCall is an intent without an outcome.
type openCall struct {
	seq uint64
	seg int
	off int64
}

type callKey struct {
	interaction [16]byte
	direction   v1.EventDirection
}

// openCalls finds intents from seq from on that have no outcome, oldest first. A nonzero more says from where to go on.
func (r *recovery) openCalls(fsys fileSystem, id logIdentity, from uint64, bound int) (calls []openCall, more uint64, err error) {
	open := make(map[callKey]openCall)
	var boundary uint64
	booting := false
	for i := r.settled; i < len(r.segs); i++ {
		f, h, err := openSegment(fsys, r.segs[i], id, os.O_RDONLY)
		if err != nil {
			return nil, 0, err
		}
		_, err = scanSegment(f, h, func(x frame, ev *Event) error {
			if ev.Kind == v1.EventKind_EVENT_KIND_BOOT {
				boundary, booting = x.seq, true
			} else if booting && !startupRecord(ev) {
				booting = false
				for k, c := range open {
					if c.seq < boundary {
						delete(open, k)
					}
				}
			}
			interaction, ok := id16(ev.InteractionId)
			if ev.Kind != v1.EventKind_EVENT_KIND_CALL || !ok {
				return nil
			}
			key := callKey{interaction, ev.Direction}
			switch ev.Phase {
			case v1.EventPhase_EVENT_PHASE_INTENT:
				if x.seq < from || more != 0 {
					return nil
				}
				if len(open) == bound {
					more = x.seq
					return nil
				}
				open[key] = openCall{seq: x.seq, seg: i, off: x.off}
			case v1.EventPhase_EVENT_PHASE_OUTCOME, v1.EventPhase_EVENT_PHASE_UNKNOWN:
				delete(open, key)
			default:
			}
			return nil
		})
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, 0, err
		}
	}
	for _, c := range open {
		calls = append(calls, c)
	}
	slices.SortFunc(calls, func(a, b openCall) int { return cmp.Compare(a.seq, b.seq) })
	return calls, more, nil
}

// removeLeftovers removes files that a crash kept from getting their name.
func removeLeftovers(fsys fileSystem) error {
	names, err := fsys.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".tmp") {
			if err := fsys.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}
