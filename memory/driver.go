package memory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/safeconduct/safeconduct/identity"
)

// Rev counts the commits of one tenant from 1, without gaps. 0 is none.
type Rev uint64

// Table is one of a closed set of ordered key spaces of a tenant. Zero is refused.
type Table uint8

// The tables. The change log belongs to the driver and is none of them.
const (
	Cur Table = iota + 1
	Ver
	Blob
	TTL
	Quar
	Prov
	Grant
	Sess
	Vec
	Meta
)

// Valid reports whether t is one of the tables.
func (t Table) Valid() bool { return t >= Cur && t <= Meta }

// Key is one driver key: 1 to [MaxDriverKey] bytes in a table.
type Key struct {
	T Table
	K []byte
}

// Item is a stored value. V is a copy that the caller owns; Rev last wrote it. A missing item has Rev 0.
type Item struct {
	Key
	V   []byte
	Rev Rev
}

// Cond holds when the key was last written by Rev; 0 means that it must not exist.
type Cond struct {
	Key
	Rev Rev
}

// Mut puts a value; nil deletes the key, an empty value does not.
type Mut struct {
	Key
	V []byte
}

// Add changes a bounded counter, which is 0 when absent and 8 big-endian bytes when stored. A result below 0 or above Max fails
// the batch with ErrFull.
type Add struct {
	Key
	Delta, Max int64
}

// Batch is committed as a whole or not at all. If is evaluated first, then Add, then Muts are applied. A key stands at most once
// in Add and Muts together.
type Batch struct {
	If   []Cond
	Add  []Add
	Muts []Mut
}

// Range is [Lo, Hi) in byte order; an empty Lo is the start, an empty Hi the open end. Limit is 1 to [MaxScan].
type Range struct {
	T      Table
	Lo, Hi []byte
	Limit  int
	Desc   bool
}

// Change names the keys that one commit touched.
type Change struct {
	Rev  Rev
	Keys []Key
}

// Driver keeps ordered bytes per tenant. All methods are safe for concurrent use. A method of an unknown tenant returns
// ErrNoTenant; one with a key, table or limit outside its bounds ErrInvalid or ErrTooLarge; one of a closed or failed engine
// ErrUnavailable. Errors are wrapped.
type Driver interface {
	// Get returns one item per key, in order, all of one snapshot, and the snapshot's revision.
	Get(ctx context.Context, t identity.Tenant, keys ...Key) ([]Item, Rev, error)
	// Scan returns at most Limit items of one snapshot in order, or in reverse order when Desc.
	Scan(ctx context.Context, t identity.Tenant, r Range) ([]Item, Rev, error)
	// Commit applies b and returns its revision once b is durable. Commits of a tenant are serialisable. A failing condition
	// returns ErrConflict, a counter out of bounds ErrFull, and nothing changes. A context that ends before the commit starts
	// drops it; after that the caller waits for the outcome.
	Commit(ctx context.Context, t identity.Tenant, b Batch) (Rev, error)
	// Changes returns at most limit changes after a revision, and the newest revision. ErrCompacted when some are trimmed.
	Changes(ctx context.Context, t identity.Tenant, after Rev, limit int) ([]Change, Rev, error)
	// Trim forgets the changes up to and including a revision.
	Trim(ctx context.Context, t identity.Tenant, upTo Rev) error
	// Wake returns a channel that receives after commits of t. Receipts are coalesced and only a hint. The channel is closed when
	// ctx ends, the tenant is dropped or the driver is closed.
	Wake(ctx context.Context, t identity.Tenant) (<-chan struct{}, error)
	// CreateTenant makes an empty tenant; an existing one is left as it is.
	CreateTenant(ctx context.Context, t identity.Tenant) error
	// DropTenant forgets a tenant and everything of it.
	DropTenant(ctx context.Context, t identity.Tenant) error
	// Stats returns the bytes of keys and values and the number of items, without the change log.
	Stats(ctx context.Context, t identity.Tenant) (bytes, items int64, err error)
	Close() error
}

// Checker is implemented by drivers that can verify their whole file. Check returns the first damage it finds.
type Checker interface {
	Check(ctx context.Context) error
}

// StorageID returns the 16 bytes under which drivers keep a tenant. Drivers also keep the tenant's full name and refuse a tenant
// of another name under the same id.
func StorageID(t identity.Tenant) [16]byte {
	b := make([]byte, 0, 128)
	b = append(b, "safeconduct/tenant/v1\x00"...)
	b = append(b, t.TrustDomain().Name()...)
	b = append(b, 0)
	b = append(b, t.Name()...)
	sum := sha256.Sum256(b)
	return [16]byte(sum[:16])
}

// Check returns what a driver refuses about k.
func (k Key) Check() error {
	switch {
	case !k.T.Valid():
		return fmt.Errorf("table %d: %w", k.T, ErrInvalid)
	case len(k.K) == 0:
		return fmt.Errorf("empty driver key: %w", ErrInvalid)
	case len(k.K) > MaxDriverKey:
		return fmt.Errorf("driver key of %d bytes: %w", len(k.K), ErrTooLarge)
	}
	return nil
}

// Check returns what a driver refuses about b before it looks at any data.
func (b Batch) Check() error {
	n := len(b.Add) + len(b.Muts)
	switch {
	case n == 0:
		return fmt.Errorf("a batch without effect: %w", ErrInvalid)
	case n > MaxMuts || len(b.If) > MaxMuts:
		return fmt.Errorf("batch of %d mutations and %d conditions: %w", n, len(b.If), ErrTooLarge)
	case b.Size() > MaxCommitBytes:
		return fmt.Errorf("batch of %d bytes: %w", b.Size(), ErrTooLarge)
	}
	for _, c := range b.If {
		if err := c.Check(); err != nil {
			return err
		}
	}
	keys := b.Keys()
	for _, k := range keys {
		if err := k.Check(); err != nil {
			return err
		}
	}
	slices.SortFunc(keys, CompareKeys)
	for i := 1; i < len(keys); i++ {
		if CompareKeys(keys[i-1], keys[i]) == 0 {
			return fmt.Errorf("a key stands twice in a batch: %w", ErrInvalid)
		}
	}
	return nil
}

// Size returns the bytes of the keys and values of b.
func (b Batch) Size() int {
	n := 0
	for _, a := range b.Add {
		n += len(a.K) + 8
	}
	for _, m := range b.Muts {
		n += len(m.K) + len(m.V)
	}
	return n
}

// Keys returns the keys that b touches.
func (b Batch) Keys() []Key {
	keys := make([]Key, 0, len(b.Add)+len(b.Muts))
	for _, a := range b.Add {
		keys = append(keys, a.Key)
	}
	for _, m := range b.Muts {
		keys = append(keys, m.Key)
	}
	return keys
}

// Check returns what a driver refuses about r.
func (r Range) Check() error {
	if !r.T.Valid() || r.Limit < 1 || r.Limit > MaxScan {
		return fmt.Errorf("scan of table %d, limit %d: %w", r.T, r.Limit, ErrInvalid)
	}
	return nil
}

// CompareKeys orders keys by table, then by bytes.
func CompareKeys(a, b Key) int {
	if a.T != b.T {
		return int(a.T) - int(b.T)
	}
	return bytes.Compare(a.K, b.K)
}

// Count returns the counter that a stored value holds, 0 for an absent one.
func Count(it Item) (int64, error) {
	if it.Rev == 0 {
		return 0, nil
	}
	if len(it.V) != 8 {
		return 0, fmt.Errorf("value of %d bytes is no counter: %w", len(it.V), ErrInvalid)
	}
	return int64(binary.BigEndian.Uint64(it.V)), nil //nolint:gosec // G115: written from an int64 that was not negative
}

// Apply returns the counter's next value, or ErrFull.
func (a Add) Apply(n int64) (int64, error) {
	next := n + a.Delta
	overflow := (a.Delta > 0 && next < n) || (a.Delta < 0 && next > n)
	if overflow || next < 0 || next > a.Max {
		return n, fmt.Errorf("counter at %d, change %d, bound %d: %w", n, a.Delta, a.Max, ErrFull)
	}
	return next, nil
}
