package authority

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/boltfile"
)

const (
	registryFile = "registry.db"
	// registryMmap is four times the largest registry: 4096 agents and a table of 4 MiB.
	registryMmap = 64 << 20
	schema       = 1
)

// Errors of the registry file.
var (
	// ErrLocked is returned when another authority holds the folder.
	ErrLocked = errors.New("folder is in use by another authority")
	// ErrForeign is returned when the folder belongs to another trust domain or a later version.
	ErrForeign = errors.New("folder belongs to another authority")
)

var (
	bucketAgents = []byte("agents") // SPIFFE ID -> Agent
	bucketKeys   = []byte("keys")   // key id -> not before, milliseconds; root id -> when it signs; withdrawnKey and id -> since when
	bucketMeta   = []byte("meta")

	metaSchema       = []byte("schema")
	metaTrustDomain  = []byte("trust-domain")
	metaBundleSerial = []byte("bundle-serial")
	metaRevision     = []byte("revision")
	metaTableSerial  = []byte("table-serial")
	metaTable        = []byte("table")
)

// store is the registry file. Only the holder of Authority.mu writes.
type store struct{ db *bolt.DB }

// saved is what the file holds.
type saved struct {
	agents       []*v1.Agent
	bundleSerial uint64
	revision     uint64
	tableSerial  uint64
	table        *v1.Dsse
}

func openStore(dir, trustDomain string) (*store, error) {
	path := filepath.Join(dir, registryFile)
	db, err := boltfile.Open(path, boltfile.Options{InitialMmap: registryMmap})
	if errors.Is(err, boltfile.ErrLocked) {
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	}
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketAgents, bucketKeys, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if td := meta.Get(metaTrustDomain); td == nil {
			return errors.Join(meta.Put(metaTrustDomain, []byte(trustDomain)), putUint(meta, metaSchema, schema))
		} else if string(td) != trustDomain {
			return fmt.Errorf("%w: trust domain %q", ErrForeign, td)
		}
		if got := getUint(meta, metaSchema); got != schema {
			return fmt.Errorf("%w: schema %d, want %d", ErrForeign, got, schema)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", path, err), db.Close())
	}
	return &store{db: db}, nil
}

func (s *store) close() error { return s.db.Close() }

func (s *store) load() (saved, error) {
	var out saved
	err := s.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		out.bundleSerial, out.revision = getUint(meta, metaBundleSerial), getUint(meta, metaRevision)
		out.tableSerial = getUint(meta, metaTableSerial)
		if raw := meta.Get(metaTable); raw != nil {
			out.table = &v1.Dsse{}
			if err := proto.Unmarshal(raw, out.table); err != nil {
				return fmt.Errorf("capability table: %w", err)
			}
		}
		return tx.Bucket(bucketAgents).ForEach(func(id, raw []byte) error {
			a := &v1.Agent{}
			if err := proto.Unmarshal(raw, a); err != nil {
				return fmt.Errorf("agent %q: %w", id, err)
			}
			out.agents = append(out.agents, a)
			return nil
		})
	})
	if err != nil {
		return saved{}, fmt.Errorf("reading registry: %w", err)
	}
	return out, nil
}

// keySince returns when the key was first published here, in milliseconds, and remembers now for a new one.
func (s *store) keySince(id string, now time.Time) (int64, error) {
	since := now.UnixMilli()
	err := s.db.Update(func(tx *bolt.Tx) error {
		keys := tx.Bucket(bucketKeys)
		if keys.Get([]byte(id)) == nil {
			return putUint(keys, []byte(id), uint64(since)) //nolint:gosec // G115: after 1970
		}
		since = int64(getUint(keys, []byte(id))) //nolint:gosec // G115: written above
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("recording key %s: %w", id, err)
	}
	return since, nil
}

// keyTime returns what keySince remembers of a key.
func (s *store) keyTime(id string) (at int64, known bool, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		keys := tx.Bucket(bucketKeys)
		if known = keys.Get([]byte(id)) != nil; known {
			at = int64(getUint(keys, []byte(id))) //nolint:gosec // G115: written by keySince
		}
		return nil
	})
	if err != nil {
		return 0, false, fmt.Errorf("reading key %s: %w", id, err)
	}
	return at, known, nil
}

// setBundleSerial makes a bundle serial durable before a bundle of that serial exists.
func (s *store) setBundleSerial(serial uint64) error {
	return s.update(serial, func(*bolt.Tx) error { return nil })
}

func (s *store) putAgent(a *v1.Agent, bundleSerial uint64) error {
	raw, err := proto.Marshal(a)
	if err != nil {
		return fmt.Errorf("encoding agent: %w", err)
	}
	return s.update(bundleSerial, func(tx *bolt.Tx) error {
		return errors.Join(
			putUint(tx.Bucket(bucketMeta), metaRevision, a.GetRevision()),
			tx.Bucket(bucketAgents).Put([]byte(a.GetSpiffeId()), raw),
		)
	})
}

func (s *store) putTable(d *v1.Dsse, serial, bundleSerial uint64) error {
	raw, err := proto.Marshal(d)
	if err != nil {
		return fmt.Errorf("encoding table: %w", err)
	}
	return s.update(bundleSerial, func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		return errors.Join(putUint(meta, metaTableSerial, serial), meta.Put(metaTable, raw))
	})
}

func (s *store) update(bundleSerial uint64, change func(*bolt.Tx) error) error {
	err := s.db.Update(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		// A second lock on the serial: nothing that reads this file may see it fall.
		if old := getUint(meta, metaBundleSerial); bundleSerial <= old {
			return fmt.Errorf("bundle serial %d does not follow %d", bundleSerial, old)
		}
		return errors.Join(change(tx), putUint(meta, metaBundleSerial, bundleSerial))
	})
	if err != nil {
		return fmt.Errorf("writing registry: %w", err)
	}
	return nil
}

func putUint(b *bolt.Bucket, key []byte, n uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, n))
}

func getUint(b *bolt.Bucket, key []byte) uint64 {
	raw := b.Get(key)
	if len(raw) != 8 {
		return 0
	}
	return binary.BigEndian.Uint64(raw)
}
