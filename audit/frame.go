package audit

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A frame is u32 len | u32 crc32c(len | record) | record | chain hash 32 B, little-endian.
const (
	frameHead     = 8
	frameTail     = sha256.Size
	frameOverhead = frameHead + frameTail
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func frameCRC(head []byte, record []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[:4], castagnoli), castagnoli, record)
}

// sealFrame takes a buffer with a record from byte 8 on, writes the frame's head and returns the record's leaf hash. The byte
// before the record serves as the RFC 6962 leaf prefix until the head is written.
func sealFrame(b []byte) [32]byte {
	b[frameHead-1] = 0
	leaf := sha256.Sum256(b[frameHead-1:])
	record := b[frameHead:]
	binary.LittleEndian.PutUint32(b, uint32(len(record))) //nolint:gosec // at most MaxRecordBytes
	binary.LittleEndian.PutUint32(b[4:], frameCRC(b, record))
	return leaf
}

func nextChain(chain, leaf [32]byte) [32]byte {
	var b [64]byte
	copy(b[:], chain[:])
	copy(b[32:], leaf[:])
	return sha256.Sum256(b[:])
}

// faultKind says what is wrong with a frame.
type faultKind uint8

const (
	faultShort faultKind = iota
	faultLength
	faultCRC
	faultChain
	faultDecode
)

// fault is the first bad frame of a segment. It is an error so that it can pass through iterators.
type fault struct {
	kind faultKind
	seq  uint64
	off  int64
}

func (f *fault) Error() string { return fmt.Sprintf("seq %d: %s", f.seq, f.reason()) }

// Is makes every fault an ErrTampered for callers who did not decide that it is a torn tail.
func (f *fault) Is(target error) bool { return target == ErrTampered }

func (f *fault) reason() string {
	switch f.kind {
	case faultShort:
		return "the frame is cut short"
	case faultLength:
		return "the frame has no valid length"
	case faultCRC:
		return "the bytes do not match their checksum"
	case faultChain:
		return "the chain hash does not follow from the records before: one was edited, removed, added or moved"
	default:
		return "the record is not an audit event of this version"
	}
}

// frame is one checked record. Its bytes are valid until the next call of next.
type frame struct {
	seq    uint64
	off    int64
	record []byte
	leaf   [32]byte
	chain  [32]byte
}

// frameReader reads the frames of one segment in order and checks length, CRC and chain. Its memory is bounded by the largest
// frame, whatever the input claims.
type frameReader struct {
	r     *bufio.Reader
	seq   uint64
	off   int64
	chain [32]byte
	// buf holds the leaf prefix, the record and its chain hash.
	buf []byte
}

// newFrameReader reads size bytes of r; off is where they begin in the file.
func newFrameReader(r io.Reader, size int64, first uint64, off int64, chain [32]byte) *frameReader {
	const window = 64 << 10 // past it larger reads gain nothing
	return &frameReader{r: bufio.NewReaderSize(r, int(min(size, window))), seq: first, off: off, chain: chain}
}

// next returns the next frame, io.EOF at a clean end, a *fault, or an error of the reader.
func (fr *frameReader) next() (frame, error) {
	var head [frameHead]byte
	if n, err := io.ReadFull(fr.r, head[:]); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return frame{}, io.EOF
		}
		return frame{}, fr.short(err)
	}
	n := int(binary.LittleEndian.Uint32(head[:]))
	if n == 0 || n > MaxRecordBytes {
		return frame{}, fr.bad(faultLength)
	}
	need := 1 + n + frameTail
	if cap(fr.buf) < need {
		fr.buf = make([]byte, need)
	}
	fr.buf = fr.buf[:need]
	fr.buf[0] = 0
	if _, err := io.ReadFull(fr.r, fr.buf[1:]); err != nil {
		return frame{}, fr.short(err)
	}
	record := fr.buf[1 : 1+n]
	if frameCRC(head[:], record) != binary.LittleEndian.Uint32(head[4:]) {
		return frame{}, fr.bad(faultCRC)
	}
	f := frame{seq: fr.seq, off: fr.off, record: record, leaf: sha256.Sum256(fr.buf[:1+n])}
	f.chain = nextChain(fr.chain, f.leaf)
	if f.chain != [32]byte(fr.buf[1+n:]) {
		return frame{}, fr.bad(faultChain)
	}
	fr.seq++
	fr.off += int64(n + frameOverhead)
	fr.chain = f.chain
	return f, nil
}

func (fr *frameReader) bad(k faultKind) error { return &fault{kind: k, seq: fr.seq, off: fr.off} }

func (fr *frameReader) short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fr.bad(faultShort)
	}
	return fmt.Errorf("reading seq %d: %w", fr.seq, err)
}
