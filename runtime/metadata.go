package runtime

import (
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/metadata"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Bounds of application metadata, which travels in the Envelope and is never trusted.
const (
	maxPairs     = 16
	maxPairValue = 200
	maxPairBytes = 1 << 10
)

// reserved are keys that an author may not use.
func reserved(key string) bool {
	return strings.HasPrefix(key, "grpc-") || strings.HasPrefix(key, "safeconduct-") || key == "authorization" || key == "dpop"
}

func validPairKey(key string) bool {
	if key == "" || len(key) > 64 || reserved(key) {
		return false
	}
	for i := range len(key) {
		c := key[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// toPairs returns md as pairs, sorted by key, and whether all of it fits.
func toPairs(md metadata.MD) ([]*v1.Pair, bool) {
	keys := make([]string, 0, len(md))
	for k := range md {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var out []*v1.Pair
	sum := 0
	for _, k := range keys {
		for _, v := range md[k] {
			sum += len(k) + len(v)
			if !validPairKey(k) || len(v) > maxPairValue || len(out) == maxPairs || sum > maxPairBytes {
				return nil, false
			}
			out = append(out, &v1.Pair{Key: k, Value: []byte(v)})
		}
	}
	return out, true
}

// fromPairs drops what an author could mistake for ours.
func fromPairs(pairs []*v1.Pair) metadata.MD {
	if len(pairs) == 0 {
		return nil
	}
	md := metadata.MD{}
	for _, p := range pairs {
		if validPairKey(p.GetKey()) {
			md.Append(p.GetKey(), string(p.GetValue()))
		}
	}
	return md
}

// headers collects what a handler sends as header and trailer, as grpc.ServerTransportStream asks. A carried reply has one place for
// both: a caller that asks for either gets all of it.
type headers struct {
	method string
	mu     sync.Mutex
	md     metadata.MD
}

// Method implements grpc.ServerTransportStream.
func (h *headers) Method() string { return h.method }

// SetHeader implements grpc.ServerTransportStream.
func (h *headers) SetHeader(md metadata.MD) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.md = metadata.Join(h.md, md)
	return nil
}

// SendHeader implements grpc.ServerTransportStream.
func (h *headers) SendHeader(md metadata.MD) error { return h.SetHeader(md) }

// SetTrailer implements grpc.ServerTransportStream.
func (h *headers) SetTrailer(md metadata.MD) error { return h.SetHeader(md) }

// pairs returns what fits; a reply is not lost for its metadata.
func (h *headers) pairs() []*v1.Pair {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.md) == 0 {
		return nil
	}
	out, ok := toPairs(h.md)
	if !ok {
		return nil
	}
	return out
}
