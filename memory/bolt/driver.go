package bolt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	bbolt "go.etcd.io/bbolt"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/boltfile"
	"github.com/safeconduct/safeconduct/memory"
)

// Options vary how a file is opened. The zero value is what a server wants.
type Options struct {
	// InitialMmap is the first map of the file in bytes; 0 is 1 GiB. At least four times the expected file is advised: growth
	// beyond it waits for readers.
	InitialMmap int
	// MaxSize bounds the file in bytes; a commit that would exceed it returns memory.ErrFull. 0 is no bound.
	MaxSize int
	// OpenFile replaces os.OpenFile, for fault injection.
	OpenFile func(path string, flag int, mode fs.FileMode) (*os.File, error)
}

// Driver is a memory.Driver over one bbolt file. It is safe for concurrent use.
type Driver struct {
	db        *bbolt.DB
	storageID func(identity.Tenant) [16]byte

	queue   chan *request
	closing chan struct{} // closed by Close
	stopped chan struct{} // closed when the writer has answered its last request
	once    sync.Once
	closed  error

	mu       sync.Mutex
	poison   error // set by the writer; refuses every later write
	watchers map[[16]byte]map[chan struct{}]struct{}
}

var (
	_ memory.Driver  = (*Driver)(nil)
	_ memory.Checker = (*Driver)(nil)
)

// Open opens or creates the file at path. It fails within about a second, naming the file, when another process has it open.
func Open(path string, o Options) (*Driver, error) {
	return open(path, o, memory.StorageID)
}

func open(path string, o Options, storageID func(identity.Tenant) [16]byte) (*Driver, error) {
	db, err := boltfile.Open(path, boltfile.Options{InitialMmap: o.InitialMmap, MaxSize: o.MaxSize, OpenFile: o.OpenFile})
	if err != nil {
		return nil, err
	}
	if err := db.Update(initFile); err != nil {
		return nil, errors.Join(fmt.Errorf("preparing %s: %w", path, err), db.Close())
	}
	d := &Driver{
		db: db, storageID: storageID,
		queue: make(chan *request, queueSlots), closing: make(chan struct{}), stopped: make(chan struct{}),
		watchers: map[[16]byte]map[chan struct{}]struct{}{},
	}
	go d.write()
	return d, nil
}

func initFile(tx *bbolt.Tx) error {
	m, err := tx.CreateBucketIfNotExists(bucketMeta)
	if err != nil {
		return err
	}
	if _, err := tx.CreateBucketIfNotExists(bucketTenants); err != nil {
		return err
	}
	switch got := m.Get(keyFormat); {
	case got == nil:
		return m.Put(keyFormat, []byte(format))
	case string(got) != format:
		return fmt.Errorf("format %q, want %q: %w", got, format, errDamaged)
	}
	return nil
}

// Close answers what is queued with memory.ErrUnavailable, waits for the running commit and closes the file.
func (d *Driver) Close() error {
	d.once.Do(func() {
		close(d.closing)
		<-d.stopped
		d.mu.Lock()
		for _, set := range d.watchers {
			for ch := range set {
				close(ch)
			}
		}
		d.watchers = nil
		d.mu.Unlock()
		d.closed = d.db.Close()
	})
	return d.closed
}

// Get implements memory.Driver.
func (d *Driver) Get(ctx context.Context, t identity.Tenant, keys ...memory.Key) ([]memory.Item, memory.Rev, error) {
	if len(keys) > memory.MaxGet {
		return nil, 0, fmt.Errorf("get of %d keys: %w", len(keys), memory.ErrTooLarge)
	}
	for _, k := range keys {
		if err := k.Check(); err != nil {
			return nil, 0, err
		}
	}
	items := make([]memory.Item, len(keys))
	rev, err := d.view(ctx, t, func(b *bbolt.Bucket, _ head) error {
		var tb *bbolt.Bucket
		var err error
		for i, k := range keys {
			if i == 0 || keys[i-1].T != k.T {
				if tb, err = tableBucket(b, k.T); err != nil {
					return err
				}
			}
			if items[i], err = copyItem(k, tb.Get(k.K)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return items, rev, nil
}

// Changes implements memory.Driver.
func (d *Driver) Changes(ctx context.Context, t identity.Tenant, after memory.Rev, limit int) ([]memory.Change, memory.Rev, error) {
	if limit < 1 || limit > memory.MaxScan {
		return nil, 0, fmt.Errorf("changes with limit %d: %w", limit, memory.ErrInvalid)
	}
	var out []memory.Change
	rev, err := d.view(ctx, t, func(b *bbolt.Bucket, h head) error {
		if after < h.floor {
			return fmt.Errorf("changes after %d, kept after %d: %w", after, h.floor, memory.ErrCompacted)
		}
		log := b.Bucket(bucketLog)
		if log == nil {
			return fmt.Errorf("no change log: %w", errDamaged)
		}
		c := log.Cursor()
		for k, v := c.Seek(encodeRev(after + 1)); k != nil && len(out) < limit; k, v = c.Next() {
			change, _, err := decodeChange(v)
			if err != nil {
				return err
			}
			out = append(out, change)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return out, rev, nil
}

// Stats implements memory.Driver.
func (d *Driver) Stats(ctx context.Context, t identity.Tenant) (bytes, items int64, err error) {
	_, err = d.view(ctx, t, func(_ *bbolt.Bucket, h head) error {
		bytes, items = h.bytes, h.items
		return nil
	})
	return bytes, items, err
}

// view runs fn in one read transaction of t. fn copies what it keeps.
func (d *Driver) view(ctx context.Context, t identity.Tenant, fn func(*bbolt.Bucket, head) error) (memory.Rev, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	tx, err := d.db.Begin(false)
	if err != nil {
		return 0, unavailable(err)
	}
	defer func() { _ = tx.Rollback() }()
	b, h, err := d.tenantBucket(tx, t)
	if err != nil {
		return 0, unavailable(err)
	}
	if err := fn(b, h); err != nil {
		return 0, unavailable(err)
	}
	return h.rev, nil
}

// unavailable adds memory.ErrUnavailable to an error that the contract does not name.
func unavailable(err error) error {
	for _, known := range []error{
		memory.ErrNoTenant, memory.ErrCompacted, memory.ErrConflict, memory.ErrFull, memory.ErrInvalid, memory.ErrTooLarge,
		memory.ErrUnavailable, context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, known) {
			return err
		}
	}
	return fmt.Errorf("%w: %w", memory.ErrUnavailable, err)
}
