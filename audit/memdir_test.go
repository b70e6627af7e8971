package audit

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
)

var errCrashed = errors.New("the machine is off")

// memFile is one file in memory: what a reader sees and what a power loss leaves for sure.
type memFile struct {
	data, synced []byte
}

// memDir is a directory in memory that can be cut off at any byte, told to fail, and asked what a killed process or a power loss
// would leave of it.
type memDir struct {
	mu      sync.Mutex
	names   map[string]*memFile
	durable map[string]*memFile
	locked  bool
	// budget is how many bytes may still be written before everything stops; negative is no bound.
	budget  int64
	crashed bool
	written int64
	writes  int
	syncs   int
	// onWrite and onSync may fail an operation; onWrite also says how many bytes get through.
	onWrite func(name string, n int) (int, error)
	onSync  func(name string) error
}

func newMemDir() *memDir {
	return &memDir{names: make(map[string]*memFile), durable: make(map[string]*memFile), budget: -1}
}

// loss says what a crash leaves.
type loss int

const (
	// killed: the process dies, the kernel has every byte written.
	killed loss = iota
	// unsyncedGone: the power fails, everything unsynced is gone.
	unsyncedGone
	// unsyncedTorn: the power fails, a prefix of the unsynced bytes is there.
	unsyncedTorn
	// unsyncedReordered: the power fails, some unsynced sectors are there and those before them are not.
	unsyncedReordered
)

// after returns the directory that the next process finds.
func (d *memDir) after(l loss, rnd *rand.Rand) *memDir {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := newMemDir()
	names := d.names
	if l != killed {
		names = d.durable
	}
	for name, f := range names {
		b := slices.Clone(f.data)
		switch l {
		case killed:
		case unsyncedGone:
			b = slices.Clone(f.synced)
		case unsyncedTorn:
			if extra := len(f.data) - len(f.synced); extra > 0 {
				b = b[:len(f.synced)+rnd.IntN(extra+1)]
			}
		case unsyncedReordered:
			for off := len(f.synced); off < len(b); {
				end := min(off-off%sector+sector, len(b))
				if rnd.IntN(3) == 0 {
					clear(b[off:end])
				}
				off = end
			}
		}
		out.names[name] = &memFile{data: b, synced: slices.Clone(b)}
		out.durable[name] = out.names[name]
	}
	return out
}

func (d *memDir) Open(name string, flag int, _ fs.FileMode) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return nil, errCrashed
	}
	f := d.names[name]
	switch {
	case f == nil && flag&os.O_CREATE == 0:
		return nil, fs.ErrNotExist
	case f != nil && flag&os.O_EXCL != 0:
		return nil, fs.ErrExist
	case f == nil:
		f = &memFile{}
		d.names[name] = f
	case flag&os.O_TRUNC != 0:
		f.data = nil
	}
	return &memHandle{d: d, f: f, name: name}, nil
}

func (d *memDir) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return nil, errCrashed
	}
	var names []string
	for name := range d.names {
		names = append(names, name)
	}
	return names, nil
}

func (d *memDir) Mode(string) (fs.FileMode, error) { return 0o600, nil }

func (d *memDir) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return errCrashed
	}
	d.names[to] = d.names[from]
	delete(d.names, from)
	return nil
}

func (d *memDir) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return errCrashed
	}
	delete(d.names, name)
	return nil
}

func (d *memDir) SyncDir() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return errCrashed
	}
	clear(d.durable)
	for name, f := range d.names {
		d.durable[name] = f
	}
	return nil
}

func (d *memDir) Lock(string) (io.Closer, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locked {
		return nil, ErrLocked
	}
	d.locked = true
	return memLock{d}, nil
}

type memLock struct{ d *memDir }

func (l memLock) Close() error {
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	l.d.locked = false
	return nil
}

type memHandle struct {
	d    *memDir
	f    *memFile
	name string
	off  int64
}

// spend returns how many of n bytes get through before the crash. It is called with mu held.
func (d *memDir) spend(n int) (int, error) {
	if d.crashed {
		return 0, errCrashed
	}
	if d.budget >= 0 && int64(n) > d.budget {
		n = int(d.budget)
		d.budget, d.crashed = 0, true
		d.written += int64(n)
		return n, errCrashed
	}
	if d.budget >= 0 {
		d.budget -= int64(n)
	}
	d.written += int64(n)
	return n, nil
}

func (h *memHandle) Write(b []byte) (int, error) {
	h.d.mu.Lock()
	hook := h.d.onWrite
	h.d.writes++
	h.d.mu.Unlock()
	n := len(b)
	var hookErr error
	if hook != nil {
		n, hookErr = hook(h.name, n)
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	n, err := h.d.spend(n)
	h.put(b[:n], h.off)
	h.off += int64(n)
	return n, errors.Join(err, hookErr)
}

func (h *memHandle) put(b []byte, off int64) {
	if grow := off + int64(len(b)) - int64(len(h.f.data)); grow > 0 {
		h.f.data = append(h.f.data, make([]byte, grow)...)
	}
	copy(h.f.data[off:], b)
}

func (h *memHandle) WriteAt(b []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	n, err := h.d.spend(len(b))
	h.put(b[:n], off)
	return n, err
}

func (h *memHandle) ReadAt(b []byte, off int64) (int, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if off >= int64(len(h.f.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.f.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *memHandle) Read(b []byte) (int, error) {
	n, err := h.ReadAt(b, h.off)
	h.off += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (h *memHandle) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekStart {
		return 0, errors.ErrUnsupported
	}
	h.off = off
	return off, nil
}

func (h *memHandle) Truncate(size int64) error {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	if h.d.crashed {
		return errCrashed
	}
	h.f.data = h.f.data[:size]
	return nil
}

func (h *memHandle) Size() (int64, error) {
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	return int64(len(h.f.data)), nil
}

func (h *memHandle) Sync() error {
	h.d.mu.Lock()
	hook := h.d.onSync
	h.d.syncs++
	snapshot := slices.Clone(h.f.data)
	crashed := h.d.crashed
	h.d.mu.Unlock()
	if crashed {
		return errCrashed
	}
	if hook != nil {
		if err := hook(h.name); err != nil {
			return err
		}
	}
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	h.f.synced = snapshot
	return nil
}

func (h *memHandle) Close() error { return nil }
