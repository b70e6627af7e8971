package replaybolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/safeconduct/safeconduct/delegation"
	"github.com/safeconduct/safeconduct/internal/boltfile"
)

// Bounds of a store.
const (
	// DefaultPerTenant is how many live keys a tenant may hold: at the longest life, 16 minutes, about 1,000 new ones a second.
	DefaultPerTenant = 1_000_000
	// DefaultLife is the longest that a key can be needed: an invocation proof ends with its chain, and the skew is granted at both ends.
	DefaultLife = delegation.MaxGrantLife + 2*delegation.Skew
	// maxKeys bounds the file over all tenants: a key takes about 200 bytes.
	maxKeys = 8_000_000
	// slack is how much longer than asked a key is kept, so that a small correction of the clock finds it.
	slack = delegation.Skew
	// sweepStep is how many ended keys go in one commit, next to two for each key that comes: more than ever come at once.
	sweepStep = 1024
	// sweepEvery is how often ended keys go when nothing comes.
	sweepEvery = time.Minute
	// roundInserts bounds what one sync of the disk carries, and the queue before it.
	roundInserts = 1024
)

// Errors of a Store, besides those of delegation.ReplayStore and boltfile.
var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the replay store is closed")
	// ErrFailed is returned after a write has failed: whether the file can be relied on is known when it is opened again.
	ErrFailed = errors.New("the replay store failed and refuses until the process is started again")
	// ErrFormat means that the file was written by another version.
	ErrFormat = errors.New("the replay store has another format")
)

var (
	bucketKeys = []byte("keys") // key: held
	bucketEnds = []byte("ends") // end, 8 bytes big-endian, then key: tenant
	bucketMeta = []byte("meta")
	metaFormat = []byte("format")
	metaFloor  = []byte("floor") // the latest end of a key that was forgotten
)

const format = 1

// held is the value of a key. It is not empty: a transaction reads an empty value of its own as no value.
var held = []byte{1}

// Options vary a store. The zero value is what an agent wants.
type Options struct {
	PerTenant int           // live keys of one tenant; 0 is DefaultPerTenant
	Life      time.Duration // the longest that a key may have to be remembered; 0 is DefaultLife
	Now       func() time.Time
	// OpenFile replaces os.OpenFile, for fault injection.
	OpenFile func(path string, flag int, mode fs.FileMode) (*os.File, error)
}

// Store is an open file. It is safe for concurrent use.
type Store struct {
	db  *bolt.DB
	o   Options
	now func() time.Time

	queue   chan *insert
	closing chan struct{}
	stopped chan struct{}

	// Owned by the goroutine that writes.
	live   map[string]int // keys of each tenant
	total  int
	floor  int64
	failed error
}

var _ delegation.ReplayStore = (*Store)(nil)

// Open opens or creates the file at path. The error wraps boltfile.ErrLocked when another process holds it, boltfile.ErrUnsafe,
// boltfile.ErrDamaged, or ErrFormat.
func Open(path string, o Options) (*Store, error) {
	if o.PerTenant <= 0 {
		o.PerTenant = DefaultPerTenant
	}
	if o.Life <= 0 {
		o.Life = DefaultLife
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	db, err := boltfile.Open(path, boltfile.Options{OpenFile: o.OpenFile})
	if errors.Is(err, boltfile.ErrLocked) {
		return nil, fmt.Errorf("replay store: another process of this agent is running on the folder %s: end it, or give this one a "+
			"folder of its own: %w", filepath.Dir(path), err)
	}
	if err != nil {
		return nil, fmt.Errorf("replay store: %w", err)
	}
	s := &Store{
		db: db, o: o, now: o.Now, live: map[string]int{},
		queue: make(chan *insert, roundInserts), closing: make(chan struct{}), stopped: make(chan struct{}),
	}
	if err := s.prepare(path); err != nil {
		return nil, errors.Join(fmt.Errorf("replay store at %s: %w", path, err), db.Close())
	}
	go s.write()
	return s, nil
}

// prepare makes the buckets of a new file and counts the keys of an old one.
func (s *Store) prepare(path string) (err error) {
	defer recovered(&err)
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	return s.db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		switch raw := meta.Get(metaFormat); {
		case raw == nil:
			if err := meta.Put(metaFormat, []byte{format}); err != nil {
				return err
			}
		case len(raw) != 1 || raw[0] != format:
			return fmt.Errorf("%w: %x", ErrFormat, raw)
		}
		if raw := meta.Get(metaFloor); len(raw) == endBytes {
			s.floor = endOf(raw)
		}
		if _, err := tx.CreateBucketIfNotExists(bucketKeys); err != nil {
			return err
		}
		ends, err := tx.CreateBucketIfNotExists(bucketEnds)
		if err != nil {
			return err
		}
		return ends.ForEach(func(_, tenant []byte) error {
			s.live[string(tenant)]++
			s.total++
			return nil
		})
	})
}

// Seen implements delegation.ReplayStore: a look into the mapped file.
func (s *Store) Seen(key [32]byte) (seen bool, err error) {
	defer recovered(&err)
	err = s.db.View(func(tx *bolt.Tx) error {
		seen = tx.Bucket(bucketKeys).Get(key[:]) != nil
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("reading the replay store: %w", err)
	}
	return seen, nil
}

// Shared implements delegation.ReplayStore: the file is one process's.
func (s *Store) Shared() bool { return false }

// Insert implements delegation.ReplayStore. A fresh key survives the process and the machine. A context that ends first leaves open
// whether the key was spent.
func (s *Store) Insert(ctx context.Context, tenant string, key [32]byte, until time.Time) (fresh bool, err error) {
	r := &insert{tenant: tenant, key: key, end: until.UnixNano(), done: make(chan struct{})}
	select {
	case s.queue <- r:
	case <-ctx.Done():
		return false, ctx.Err()
	case <-s.closing:
		return false, ErrClosed
	}
	select {
	case <-r.done:
		return r.fresh, r.err
	case <-ctx.Done():
		return false, ctx.Err()
	case <-s.stopped:
	}
	select { // the queue may have taken r after the writer looked into it for the last time
	case <-r.done:
		return r.fresh, r.err
	default:
		return false, ErrClosed
	}
}

// Close ends the store; inserts that wait are refused. It is called once.
func (s *Store) Close() error {
	close(s.closing)
	<-s.stopped
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("closing the replay store: %w", err)
	}
	return nil
}

const endBytes = 8

// encodeEnd orders ends of all times after 1970 by their bytes.
func encodeEnd(end int64) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, endBytes+32), uint64(max(end, 0)))
}

func endOf(raw []byte) int64 {
	return int64(binary.BigEndian.Uint64(raw)) //nolint:gosec // G115: encodeEnd wrote it
}

// recovered turns a panic of bbolt, which finds pages that contradict each other, into an error.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", boltfile.ErrDamaged, p)
	}
}

// syncDir makes the name of a new file durable; bbolt syncs the file alone.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
