package bolt_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bbolt "go.etcd.io/bbolt"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/boltfile"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/bolt"
	"github.com/safeconduct/safeconduct/memory/memorytest"
)

func put(k string, size int) memory.Batch {
	return memory.Batch{Muts: []memory.Mut{{Key: memory.Key{T: memory.Cur, K: []byte(k)}, V: make([]byte, size)}}}
}

func openWith(t *testing.T, path string, o bolt.Options) *bolt.Driver {
	t.Helper()
	d, err := bolt.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := d.CreateTenant(t.Context(), memorytest.Tenant(t, "acme")); err != nil {
		t.Fatal(err)
	}
	return d
}

// S4: after a write to the file has failed, no write succeeds until the file is opened again, and reads go on.
func TestS4FailedCommitRefusesWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory.db")
	var file *os.File
	d := openWith(t, path, bolt.Options{OpenFile: func(name string, flag int, mode fs.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, mode)
		file = f
		return f, err
	}})
	acme := memorytest.Tenant(t, "acme")
	if _, err := d.Commit(t.Context(), acme, put("before", 10)); err != nil {
		t.Fatal(err)
	}
	// The next write to the file fails as on a disk that is gone; the map stays readable.
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := d.Commit(t.Context(), acme, put("lost", 10)); !errors.Is(err, memory.ErrUnavailable) {
			t.Fatalf("Commit() on a failed file = %v, want ErrUnavailable", err)
		}
	}
	if err := d.CreateTenant(t.Context(), memorytest.Tenant(t, "late")); !errors.Is(err, memory.ErrUnavailable) {
		t.Errorf("CreateTenant() on a failed file = %v, want ErrUnavailable", err)
	}
	items, _, err := d.Get(t.Context(), acme, memory.Key{T: memory.Cur, K: []byte("before")}, memory.Key{T: memory.Cur, K: []byte("lost")})
	if err != nil || items[0].Rev != 1 || items[1].Rev != 0 {
		t.Errorf("Get() on a failed file = %v, %v", items, err)
	}
	_ = d.Close()
	d = openWith(t, path, bolt.Options{})
	if rev, err := d.Commit(t.Context(), acme, put("after", 10)); err != nil || rev != 2 {
		t.Errorf("Commit() after reopening = %d, %v", rev, err)
	}
	if err := d.Check(t.Context()); err != nil {
		t.Errorf("Check() = %v", err)
	}
}

func TestFullFileRefusesOnlyWhatDoesNotFit(t *testing.T) {
	d := openWith(t, filepath.Join(t.TempDir(), "memory.db"), bolt.Options{InitialMmap: 1 << 16, MaxSize: 1 << 20})
	acme := memorytest.Tenant(t, "acme")
	if _, err := d.Commit(t.Context(), acme, put("large", 2<<20)); !errors.Is(err, memory.ErrFull) {
		t.Fatalf("Commit() beyond the size = %v, want ErrFull", err)
	}
	if rev, err := d.Commit(t.Context(), acme, put("small", 10)); err != nil || rev != 1 {
		t.Errorf("Commit() after a refused one = %d, %v", rev, err)
	}
}

// Two tenants whose storage ids collide never share a bucket: the second one is refused.
func TestStorageIDCollisionIsRefused(t *testing.T) {
	d, err := bolt.OpenWithID(filepath.Join(t.TempDir(), "memory.db"), func(identity.Tenant) [16]byte { return [16]byte{1} })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	acme, globex := memorytest.Tenant(t, "acme"), memorytest.Tenant(t, "globex")
	if err := d.CreateTenant(t.Context(), acme); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Commit(t.Context(), acme, put("k", 1)); err != nil {
		t.Fatal(err)
	}
	key := memory.Key{T: memory.Cur, K: []byte("k")}
	for what, call := range map[string]func() error{
		"CreateTenant": func() error { return d.CreateTenant(t.Context(), globex) },
		"DropTenant":   func() error { return d.DropTenant(t.Context(), globex) },
		"Commit":       func() error { _, err := d.Commit(t.Context(), globex, put("k", 1)); return err },
		"Get":          func() error { _, _, err := d.Get(t.Context(), globex, key); return err },
		"Wake":         func() error { _, err := d.Wake(t.Context(), globex); return err },
	} {
		if err := call(); !errors.Is(err, memory.ErrUnavailable) {
			t.Errorf("%s of a colliding tenant = %v, want ErrUnavailable", what, err)
		}
	}
	if items, _, err := d.Get(t.Context(), acme, key); err != nil || items[0].Rev != 1 {
		t.Errorf("Get() of the first tenant = %v, %v", items, err)
	}
}

func TestSecondProcessIsToldWhichFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory.db")
	openWith(t, path, bolt.Options{})
	_, err := bolt.Open(path, bolt.Options{})
	if !errors.Is(err, boltfile.ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("second Open() = %v, want ErrLocked and the file named", err)
	}
}

func TestOpenRefusesAnotherFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "memory.db")
	if err := openWith(t, path, bolt.Options{}).Close(); err != nil {
		t.Fatal(err)
	}
	edit(t, path, func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("safeconduct memory 2"))
	})
	if d, err := bolt.Open(path, bolt.Options{}); err == nil {
		_ = d.Close()
		t.Error("Open() of a later format succeeds")
	}
}

func edit(t *testing.T, path string, fn func(*bbolt.Tx) error) {
	t.Helper()
	db, err := boltfile.Open(path, boltfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestCheckFindsDamage(t *testing.T) {
	acme := memorytest.Tenant(t, "acme")
	id := memory.StorageID(acme)
	in := func(tx *bbolt.Tx, bucket string) *bbolt.Bucket {
		return tx.Bucket([]byte("t")).Bucket(id[:]).Bucket([]byte(bucket))
	}
	rev := func(n byte) []byte { return []byte{0, 0, 0, 0, 0, 0, 0, n} }
	for name, damage := range map[string]func(*bbolt.Tx) error{
		"value removed":       func(tx *bbolt.Tx) error { return in(tx, "cur").Delete([]byte("k3")) },
		"value of the future": func(tx *bbolt.Tx) error { return in(tx, "cur").Put([]byte("k3"), append(rev(99), "0123456789"...)) },
		"value without rev":   func(tx *bbolt.Tx) error { return in(tx, "cur").Put([]byte("k3"), []byte("x")) },
		"change removed":      func(tx *bbolt.Tx) error { return in(tx, "log").Delete(rev(3)) },
		"change altered": func(tx *bbolt.Tx) error {
			v := append([]byte(nil), in(tx, "log").Get(rev(3))...)
			v[len(v)-1] ^= 1
			return in(tx, "log").Put(rev(3), v)
		},
		"log cut": func(tx *bbolt.Tx) error { return in(tx, "log").Delete(rev(5)) },
		"head cut": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("t")).Bucket(id[:]).Put([]byte("head"), []byte("x"))
		},
		"table removed": func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("t")).Bucket(id[:]).DeleteBucket([]byte("ver"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "memory.db")
			d := openWith(t, path, bolt.Options{})
			for i := range 5 {
				if _, err := d.Commit(t.Context(), acme, put(fmt.Sprint("k", i), 10)); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(d.Check(t.Context()), d.Close()); err != nil {
				t.Fatalf("Check() of a sound file = %v", err)
			}
			edit(t, path, damage)
			d, err := bolt.Open(path, bolt.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = d.Close() }()
			if err := d.Check(t.Context()); !errors.Is(err, memory.ErrUnavailable) {
				t.Errorf("Check() = %v, want ErrUnavailable", err)
			}
		})
	}
}
