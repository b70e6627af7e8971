package boltfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/safeconduct/safeconduct/internal/boltfile"
)

func TestOpenMakesPrivateFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", "x.db")
	db, err := boltfile.Open(path, boltfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700, filepath.Dir(filepath.Dir(path)): 0o700} {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s = %o, want %o", p, got, want)
		}
	}
}

func TestOpenTightensALooseFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := boltfile.Open(path, boltfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if db, err = boltfile.Open(path, boltfile.Options{}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode after reopening = %v, %v, want 0600", info.Mode(), err)
	}
}

func TestOpenRefusesASecondOpener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := boltfile.Open(path, boltfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	_, err = boltfile.Open(path, boltfile.Options{})
	if !errors.Is(err, boltfile.ErrLocked) {
		t.Fatalf("second Open() = %v, want ErrLocked", err)
	}
	if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second Open() = %q, want the file and the cause named", err)
	}
}

func TestOpenRefusesUnsafePaths(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"symlink": link, "directory": dir, "public directory": filepath.Join(open, "x.db")} {
		t.Run(name, func(t *testing.T) {
			if _, err := boltfile.Open(path, boltfile.Options{}); !errors.Is(err, boltfile.ErrUnsafe) {
				t.Errorf("Open(%s) = %v, want ErrUnsafe", path, err)
			}
		})
	}
}

func TestOpenBoundsTheFile(t *testing.T) {
	db, err := boltfile.Open(filepath.Join(t.TempDir(), "x.db"), boltfile.Options{InitialMmap: 1 << 16, MaxSize: 1 << 18})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("b"))
		if err != nil {
			return err
		}
		return b.Put([]byte("k"), make([]byte, 1<<20))
	})
	if !errors.Is(err, berrors.ErrMaxSizeReached) {
		t.Errorf("Update() beyond MaxSize = %v, want ErrMaxSizeReached", err)
	}
}

// bbolt panics when it looks for free pages in a file with keys out of order.
func TestOpenRefusesADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := boltfile.Open(path, boltfile.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("b"))
		for i := 0; i < 200 && err == nil; i++ {
			err = b.Put(fmt.Appendf(nil, "k%04d", i), make([]byte, 1000))
		}
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	sound, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(sound, []byte("k0100"), []byte("k0900")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = boltfile.Open(path, boltfile.Options{}); !errors.Is(err, boltfile.ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Fatalf("Open() of a damaged file = %v, want ErrDamaged and the file named", err)
	}
}
