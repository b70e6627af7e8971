package memory

import (
	"bytes"
	"encoding/binary"
	"errors"
)

// Driver keys are final: stored files depend on every byte of this file.
//
//	esc(s)   every byte 00 -> 00 FF
//	encNS    for each label: esc(label) 00 01
//	cur key  encNS 00 00 esc(key) 00 01
//	ver key  cur key, then the big-endian complement of the version: newest first
//
// A namespace's own keys sort before its children, because no label starts with 00 00, and the terminator belongs to every
// prefix, so a sibling never matches a subtree.

const verSuffix = 8 // bytes of the version in a ver key

var errBadKey = errors.New("driver key does not decode")

func appendEsc[S string | []byte](dst []byte, s S) []byte {
	for i := range len(s) {
		if s[i] == 0 {
			dst = append(dst, 0, 0xFF)
		} else {
			dst = append(dst, s[i])
		}
	}
	return dst
}

func appendNS(dst []byte, labels []string) []byte {
	for _, l := range labels {
		dst = append(appendEsc(dst, l), 0, 1)
	}
	return dst
}

func nsSize(labels []string) int {
	n := 0
	for _, l := range labels {
		n += len(l) + 2
	}
	return n
}

func curKey(labels []string, key []byte) []byte {
	// verSuffix spare bytes, so that a ver key can be made in place.
	dst := make([]byte, 0, nsSize(labels)+len(key)+4+verSuffix)
	dst = append(appendNS(dst, labels), 0, 0)
	return append(appendEsc(dst, key), 0, 1)
}

func verKey(cur []byte, version uint64) []byte {
	dst := make([]byte, len(cur), len(cur)+verSuffix)
	copy(dst, cur)
	return binary.BigEndian.AppendUint64(dst, ^version)
}

// exactRange covers the keys of one namespace, subtreeRange also those of every namespace below it.
func exactRange(labels []string) (lo, hi []byte) {
	ns := appendNS(nil, labels)
	return append(bytes.Clone(ns), 0, 0), append(ns, 0, 1)
}

func subtreeRange(labels []string) (lo, hi []byte) {
	lo = appendNS(nil, labels)
	return lo, successor(lo)
}

// prefixRange covers the keys of one namespace that start with prefix.
func prefixRange(labels []string, prefix []byte) (lo, hi []byte) {
	lo = appendEsc(append(appendNS(nil, labels), 0, 0), prefix)
	return lo, successor(lo)
}

// successor returns the first byte string after every string that starts with p, nil when there is none.
func successor(p []byte) []byte {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != 0xFF {
			out := bytes.Clone(p[:i+1])
			out[i]++
			return out
		}
	}
	return nil
}

// takeTerm reads one escaped string up to its terminator 00 01.
func takeTerm(b []byte) (s, rest []byte, err error) {
	for i := 0; i+1 < len(b); i++ {
		if b[i] != 0 {
			s = append(s, b[i])
			continue
		}
		switch b[i+1] {
		case 0xFF:
			s = append(s, 0)
			i++
		case 1:
			return s, b[i+2:], nil
		default:
			return nil, nil, errBadKey
		}
	}
	return nil, nil, errBadKey
}

// decodeCurKey is the inverse of curKey and refuses what curKey would not write.
func decodeCurKey(b []byte) (labels []string, key []byte, err error) {
	rest := b
	for len(rest) < 2 || rest[0] != 0 || rest[1] != 0 {
		var l []byte
		if l, rest, err = takeTerm(rest); err != nil {
			return nil, nil, err
		}
		labels = append(labels, string(l))
	}
	if key, rest, err = takeTerm(rest[2:]); err != nil {
		return nil, nil, err
	}
	if len(rest) != 0 || !bytes.Equal(curKey(labels, key), b) {
		return nil, nil, errBadKey
	}
	return labels, key, nil
}

// decodeVerKey is the inverse of verKey.
func decodeVerKey(b []byte) (labels []string, key []byte, version uint64, err error) {
	if len(b) < verSuffix {
		return nil, nil, 0, errBadKey
	}
	cut := len(b) - verSuffix
	if labels, key, err = decodeCurKey(b[:cut]); err != nil {
		return nil, nil, 0, err
	}
	return labels, key, ^binary.BigEndian.Uint64(b[cut:]), nil
}
