package bolt

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	bbolt "go.etcd.io/bbolt"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/memory"
)

// The file:
//
//	/meta          format
//	/t/<tenant16>/ head, and a bucket for each table and for the change log
//
// head is be64 rev, be64 highest trimmed rev, be64 items, be64 bytes, SHA-256 of the newest change record, the tenant's full name.
// A change record is be64 rev, SHA-256 of the record before it, and for each key one table byte, be16 length and the key.
var (
	bucketMeta    = []byte("meta")
	bucketTenants = []byte("t")
	bucketLog     = []byte("log")
	keyFormat     = []byte("format")
	keyHead       = []byte("head")

	tableBuckets = map[memory.Table][]byte{
		memory.Cur: []byte("cur"), memory.Ver: []byte("ver"), memory.Blob: []byte("blob"), memory.TTL: []byte("ttl"),
		memory.Quar: []byte("quar"), memory.Prov: []byte("prov"), memory.Grant: []byte("grant"), memory.Sess: []byte("sess"),
		memory.Vec: []byte("vec"), memory.Meta: []byte("meta"),
	}
)

const (
	format    = "safeconduct memory 1"
	revBytes  = 8
	headBytes = 4*8 + sha256.Size
)

var (
	errDamaged     = errors.New("damaged file")
	errForeignName = errors.New("the storage id belongs to another tenant")
)

// head is the state of one tenant beside its tables.
type head struct {
	rev, floor   memory.Rev
	items, bytes int64
	last         [sha256.Size]byte
}

func (h *head) encode(tenant string) []byte {
	b := make([]byte, 0, headBytes+len(tenant))
	b = binary.BigEndian.AppendUint64(b, uint64(h.rev))
	b = binary.BigEndian.AppendUint64(b, uint64(h.floor))
	b = binary.BigEndian.AppendUint64(b, uint64(h.items)) //nolint:gosec // G115: a count, never negative
	b = binary.BigEndian.AppendUint64(b, uint64(h.bytes)) //nolint:gosec // G115: a count, never negative
	return append(append(b, h.last[:]...), tenant...)
}

// decodeHead returns the head and the tenant's name, which aliases b.
func decodeHead(b []byte) (h head, tenant []byte, err error) {
	if len(b) <= headBytes {
		return head{}, nil, fmt.Errorf("tenant head of %d bytes: %w", len(b), errDamaged)
	}
	return head{
		rev: memory.Rev(binary.BigEndian.Uint64(b)), floor: memory.Rev(binary.BigEndian.Uint64(b[8:])),
		items: int64(binary.BigEndian.Uint64(b[16:])), //nolint:gosec // G115: inverse of encode
		bytes: int64(binary.BigEndian.Uint64(b[24:])), //nolint:gosec // G115: inverse of encode
		last:  [sha256.Size]byte(b[32:headBytes]),
	}, b[headBytes:], nil
}

func encodeRev(r memory.Rev) []byte { return binary.BigEndian.AppendUint64(nil, uint64(r)) }

// encodeChange is the record of one commit in the change log.
func encodeChange(rev memory.Rev, last [sha256.Size]byte, keys []memory.Key) []byte {
	n := revBytes + len(last)
	for _, k := range keys {
		n += 3 + len(k.K)
	}
	b := binary.BigEndian.AppendUint64(make([]byte, 0, n), uint64(rev))
	b = append(b, last[:]...)
	for _, k := range keys {
		b = append(b, byte(k.T))
		b = binary.BigEndian.AppendUint16(b, uint16(len(k.K))) //nolint:gosec // G115: at most MaxDriverKey
		b = append(b, k.K...)
	}
	return b
}

// decodeChange copies the keys out of a record.
func decodeChange(b []byte) (memory.Change, [sha256.Size]byte, error) {
	var last [sha256.Size]byte
	if len(b) < revBytes+len(last) {
		return memory.Change{}, last, fmt.Errorf("change record of %d bytes: %w", len(b), errDamaged)
	}
	c := memory.Change{Rev: memory.Rev(binary.BigEndian.Uint64(b))}
	copy(last[:], b[revBytes:])
	for b = b[revBytes+len(last):]; len(b) > 0; {
		if len(b) < 3 {
			return memory.Change{}, last, fmt.Errorf("change record is cut: %w", errDamaged)
		}
		n := int(binary.BigEndian.Uint16(b[1:]))
		if len(b) < 3+n {
			return memory.Change{}, last, fmt.Errorf("change record is cut: %w", errDamaged)
		}
		c.Keys = append(c.Keys, memory.Key{T: memory.Table(b[0]), K: append([]byte(nil), b[3:3+n]...)})
		b = b[3+n:]
	}
	return c, last, nil
}

// tenantBucket returns the bucket and the head of t after comparing its full name, so that two tenants of one storage id never
// meet.
func (d *Driver) tenantBucket(tx *bbolt.Tx, t identity.Tenant) (*bbolt.Bucket, head, error) {
	if t.IsZero() {
		return nil, head{}, fmt.Errorf("no tenant named: %w", memory.ErrNoTenant)
	}
	all := tx.Bucket(bucketTenants)
	if all == nil {
		return nil, head{}, fmt.Errorf("no tenants: %w", errDamaged)
	}
	id := d.storageID(t)
	b := all.Bucket(id[:])
	if b == nil {
		return nil, head{}, fmt.Errorf("tenant %s: %w", t, memory.ErrNoTenant)
	}
	h, name, err := decodeHead(b.Get(keyHead))
	if err != nil {
		return nil, head{}, err
	}
	if string(name) != t.String() {
		return nil, head{}, fmt.Errorf("tenant %s: %w: %w", t, memory.ErrUnavailable, errForeignName)
	}
	return b, h, nil
}

func tableBucket(b *bbolt.Bucket, t memory.Table) (*bbolt.Bucket, error) {
	tb := b.Bucket(tableBuckets[t])
	if tb == nil {
		return nil, fmt.Errorf("table %d is missing: %w", t, errDamaged)
	}
	return tb, nil
}

// copyItem copies a stored value out of its transaction.
func copyItem(k memory.Key, stored []byte) (memory.Item, error) {
	if stored == nil {
		return memory.Item{Key: k}, nil
	}
	if len(stored) < revBytes {
		return memory.Item{}, fmt.Errorf("value of %d bytes: %w", len(stored), errDamaged)
	}
	v := make([]byte, len(stored)-revBytes)
	copy(v, stored[revBytes:])
	return memory.Item{Key: k, V: v, Rev: memory.Rev(binary.BigEndian.Uint64(stored))}, nil
}
