package boltfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

const (
	// DefaultMmap is how many bytes are mapped at open. Remapping for growth waits for every reader and blocks new ones, so the
	// map is far larger than a fresh file. It is address space only, except on Windows, where bbolt would grow the file.
	DefaultMmap = 1 << 30
	// lockTimeout is how long an opener waits for the file lock: a restart of the same process fits in, a second process does
	// not have to be waited for.
	lockTimeout = time.Second

	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600
)

// Errors that Open returns wrapped.
var (
	// ErrLocked means that another process has the file open.
	ErrLocked = errors.New("another process holds the file")
	// ErrUnsafe means that the path is not a private regular file.
	ErrUnsafe = errors.New("not a private regular file")
	// ErrDamaged means that the pages of the file contradict each other. It needs a restored copy, and
	// this process keeps the lock until it ends.
	ErrDamaged = errors.New("damaged file")
)

// Options vary how a file is opened. The zero value is what a server wants.
type Options struct {
	// InitialMmap is the size of the first map in bytes; 0 is DefaultMmap. At least four times the expected file is advised.
	InitialMmap int
	// MaxSize bounds the file in bytes; a commit that would exceed it fails and changes nothing. 0 is no bound.
	MaxSize int
	// OpenFile replaces os.OpenFile, for fault injection.
	OpenFile func(path string, flag int, mode fs.FileMode) (*os.File, error)
}

// Open opens or creates the bbolt file at path. Missing directories are created with mode 0700 and the file has mode 0600. The
// caller closes the returned database. The error wraps ErrLocked when another process holds the file, ErrUnsafe when the path is
// no regular file or everybody may write to its directory, and ErrDamaged when bbolt finds its pages inconsistent.
func Open(path string, o Options) (*bolt.DB, error) {
	if err := prepare(path); err != nil {
		return nil, err
	}
	if err := warm(path); err != nil {
		return nil, fmt.Errorf("reading %s ahead: %w", path, err)
	}
	mmap := o.InitialMmap
	if mmap == 0 && runtime.GOOS != "windows" {
		mmap = DefaultMmap
	}
	db, err := open(path, &bolt.Options{
		Timeout:         lockTimeout,
		InitialMmapSize: mmap,
		MaxSize:         o.MaxSize,
		OpenFile:        o.OpenFile,
		// The free list is rebuilt at open; written with every commit it costs more than the commit.
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
		NoStatistics:   true,
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("opening %s: %w (waited %s for its lock)", path, ErrLocked, lockTimeout)
	case err != nil:
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return db, nil
}

// open is bolt.Open without its panics: looking for free pages, bbolt panics on a file whose pages contradict each other.
func open(path string, o *bolt.Options) (db *bolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("%w: %v", ErrDamaged, p)
		}
	}()
	return bolt.Open(path, fileMode, o)
}

// prepare makes the directory, and an existing file private.
func prepare(path string) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return fmt.Errorf("making the directory of %s: %w", path, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("looking at the directory of %s: %w", path, err)
	}
	// Whoever may write to the directory may put another file in place of this one.
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("opening %s: everybody may write to its directory: %w", path, ErrUnsafe)
	}
	info, err = os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking at %s: %w", path, err)
	case !info.Mode().IsRegular():
		return fmt.Errorf("opening %s: %w", path, ErrUnsafe)
	case info.Mode().Perm()&^fileMode != 0:
		if err := os.Chmod(path, fileMode); err != nil {
			return fmt.Errorf("making %s private: %w", path, err)
		}
	}
	return nil
}

// warm reads the file once from front to back. Without a synced free list bbolt visits every page at open, and in random order a
// cold 2 GiB file takes 19 s instead of 1 s.
func warm(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, f)
	return errors.Join(err, f.Close())
}
