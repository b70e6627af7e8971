package audit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"
)

const (
	headerSize    = 256
	headerVersion = 1
	headerMagic   = "SCAUDIT1"
	headerCRC     = headerSize - 4
)

// segmentHeader opens a segment. Offsets: magic 0, version 8, log id 16, first seq 32, chain hash before it 40, tree root before
// it 72 (zero: no tree yet), key id 104, boot id 120, time 136, zero until the CRC-32C at 252.
type segmentHeader struct {
	logID  [16]byte
	first  uint64
	chain  [32]byte
	keyID  [16]byte
	bootID [16]byte
	time   time.Time
}

func (h segmentHeader) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, headerMagic)
	binary.LittleEndian.PutUint32(b[8:], headerVersion)
	copy(b[16:], h.logID[:])
	binary.LittleEndian.PutUint64(b[32:], h.first)
	copy(b[40:], h.chain[:])
	copy(b[104:], h.keyID[:])
	copy(b[120:], h.bootID[:])
	binary.LittleEndian.PutUint64(b[136:], uint64(h.time.UnixNano())) // two's complement both ways
	binary.LittleEndian.PutUint32(b[headerCRC:], crc32.Checksum(b[:headerCRC], castagnoli))
	return b
}

// decodeHeader refuses everything that encode does not write.
func decodeHeader(b []byte) (segmentHeader, error) {
	var h segmentHeader
	switch {
	case len(b) != headerSize:
		return h, errors.New("segment header is cut short")
	case string(b[:8]) != headerMagic:
		return h, errors.New("segment header has another magic")
	case crc32.Checksum(b[:headerCRC], castagnoli) != binary.LittleEndian.Uint32(b[headerCRC:]):
		return h, errors.New("segment header does not match its checksum")
	case binary.LittleEndian.Uint32(b[8:]) != headerVersion:
		return h, fmt.Errorf("segment header has version %d", binary.LittleEndian.Uint32(b[8:]))
	}
	for _, zero := range [][]byte{b[12:16], b[72:104], b[144:headerCRC]} {
		for _, c := range zero {
			if c != 0 {
				return h, errors.New("segment header uses reserved bytes")
			}
		}
	}
	h.logID = [16]byte(b[16:])
	h.first = binary.LittleEndian.Uint64(b[32:])
	h.chain = [32]byte(b[40:])
	h.keyID = [16]byte(b[104:])
	h.bootID = [16]byte(b[120:])
	h.time = time.Unix(0, int64(binary.LittleEndian.Uint64(b[136:]))) //nolint:gosec // G115: two's complement both ways
	return h, nil
}

const (
	segmentPrefix = "seg-"
	segmentSuffix = ".log"
	segmentDigits = 20
)

func segmentName(first uint64) string {
	return fmt.Sprintf("%s%0*d%s", segmentPrefix, segmentDigits, first, segmentSuffix)
}

// segmentSeq returns the first seq that a file name claims.
func segmentSeq(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, segmentPrefix)
	if !ok {
		return 0, false
	}
	digits, ok = strings.CutSuffix(digits, segmentSuffix)
	if !ok || len(digits) != segmentDigits {
		return 0, false
	}
	var n uint64
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' || n > (1<<63)/10 {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}
