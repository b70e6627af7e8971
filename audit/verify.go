package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"time"
)

// Verdict is the result of an offline verification. The zero value is Bad.
type Verdict uint8

const (
	// Bad says that bytes were changed, added, removed or moved.
	Bad Verdict = iota
	// Incomplete says that what is there is good, but the log ends with a frame cut short (a live writer, a crash) or its oldest segments
	// are not there.
	Incomplete
	// Good says that every record is there from the first on, and follows from the one before it. Newer records may be missing: only a
	// statement kept elsewhere can show that.
	Good
)

// ExitCode returns 0 for Good, 2 for Incomplete, 1 otherwise.
func (v Verdict) ExitCode() int {
	switch v {
	case Good:
		return 0
	case Incomplete:
		return 2
	default:
		return 1
	}
}

// String returns good, incomplete or bad.
func (v Verdict) String() string {
	switch v {
	case Good:
		return "good"
	case Incomplete:
		return "incomplete"
	default:
		return "bad"
	}
}

// Report is the result of Verify.
type Report struct {
	Verdict Verdict
	Origin  string
	LogID   [16]byte
	// First is the seq of the oldest record present; not 0 means that older ones are missing.
	First uint64
	// Next is one past the newest good record.
	Next     uint64
	Segments int
	Bytes    int64
	// Chain is the chain hash of the newest good record.
	Chain [32]byte
	// Newest is the wall clock of the newest good record.
	Newest time.Time
	// FirstBad and Reason say where and why a log is not good; FirstBad is valid when Reason is not empty.
	FirstBad uint64
	Reason   string
}

// Verify checks the log in dir without a lock or a key: headers, checksums, chain, and that every record is an event. The error
// is about reading only (ErrNoLog, file system); what is wrong with the log stands in the report.
func Verify(dir string) (Report, error) {
	rep, err := verify(osDir(dir))
	if err != nil {
		return rep, fmt.Errorf("verifying audit log in %s: %w", dir, err)
	}
	return rep, nil
}

func verify(fsys fileSystem) (Report, error) {
	rep := Report{}
	id, err := readInfo(fsys)
	if errors.Is(err, ErrTampered) {
		rep.Reason = err.Error()
		return rep, nil
	}
	if err != nil {
		return rep, err
	}
	rep.Origin, rep.LogID = id.origin, id.logID
	segs, err := listSegments(fsys)
	if err != nil {
		return rep, err
	}
	if len(segs) == 0 {
		return rep.bad(Bad, 0, "all segments are missing"), nil
	}
	rep.First, rep.Next = segs[0].first, segs[0].first
	verdict := Good
	for i, s := range segs {
		v, err := rep.segment(fsys, id, s, i == len(segs)-1)
		if err != nil {
			return rep, err
		}
		if v != Good {
			verdict = v
			break
		}
	}
	if verdict != Bad {
		if _, err := checkClosing(fsys, rep.Next, rep.Chain); err != nil {
			return rep.bad(Bad, rep.Next, err.Error()), nil
		}
	}
	if verdict == Good && rep.First > 0 {
		return rep.bad(Incomplete, 0, fmt.Sprintf("the records before seq %d are not there", rep.First)), nil
	}
	rep.Verdict = verdict
	return rep, nil
}

func (rep Report) bad(v Verdict, seq uint64, reason string) Report {
	rep.Verdict, rep.FirstBad, rep.Reason = v, seq, reason
	return rep
}

// segment verifies one segment and moves rep forward.
func (rep *Report) segment(fsys fileSystem, id logIdentity, s segment, last bool) (Verdict, error) {
	note := func(v Verdict, seq uint64, reason string) (Verdict, error) {
		*rep = rep.bad(v, seq, reason)
		return v, nil
	}
	if s.first > rep.Next {
		return note(Bad, rep.Next, fmt.Sprintf("the records up to seq %d are missing", s.first-1))
	}
	if s.first < rep.Next {
		return note(Bad, s.first, "two segments hold this seq")
	}
	f, h, err := openSegment(fsys, s, id, os.O_RDONLY)
	if hf := (*headerFault)(nil); errors.As(err, &hf) {
		return note(Bad, hf.seq, hf.cause.Error())
	}
	if err != nil {
		return Bad, err
	}
	defer func() { _ = f.Close() }() // read only: nothing to lose
	if (rep.Segments > 0 || s.first == 0) && h.chain != rep.Chain {
		return note(Bad, s.first, "the segment does not follow from the one before it")
	}
	rep.Segments++
	end, err := scanSegment(f, h, func(_ frame, ev *Event) error {
		rep.Newest = time.Unix(0, ev.TimeUnixNs)
		return nil
	})
	if err != nil {
		return Bad, err
	}
	rep.Next, rep.Chain = end.next, end.chain
	rep.Bytes += end.off
	if end.fault == nil {
		return Good, nil
	}
	torn := false
	if last && end.fault.kind == faultShort {
		if torn, err = tornTail(f, end); err != nil {
			return Bad, err
		}
	}
	if torn {
		return note(Incomplete, end.next, "the last frame is cut short: a crash, or a writer at work")
	}
	return note(Bad, end.fault.seq, end.fault.reason())
}

// tornTail says whether a frame cut short is the beginning of a frame and nothing else: no record follows it, and it does not
// become whole with another length.
func tornTail(f io.ReaderAt, end scanEnd) (bool, error) {
	_, found, err := findFrame(f, end.off+1, end.size)
	if err != nil || found {
		return false, err
	}
	n := end.size - end.off - frameOverhead
	if n <= 0 || n > MaxRecordBytes {
		return true, nil
	}
	b := make([]byte, frameHead+n)
	if _, err := f.ReadAt(b, end.off); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	want := binary.LittleEndian.Uint32(b[4:])
	binary.LittleEndian.PutUint32(b, uint32(n)) // at most MaxRecordBytes
	return crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[frameHead:]) != want, nil
}
