package authority

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// maxStatus bounds /proc files: status and fdinfo take about 2 KiB.
	maxStatus = 64 << 10
	// maxExecutable bounds what is hashed for one attestation.
	maxExecutable = 1 << 30
)

// process is a running process, pinned by a pidfd: whatever /proc says of its number is about this process as long as it was
// alive after the reading. It is safe for concurrent use.
type process struct {
	pid  int
	file *os.File
	raw  syscall.RawConn
}

// openProcess pins the process that has the number pid now.
func openProcess(pid int) (*process, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("%w: pid %d", ErrUnattested, pid)
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("%w: opening pid %d: %w", ErrUnattested, pid, err)
	}
	return newProcess(fd, pid)
}

func newProcess(fd, pid int) (*process, error) {
	// Non-blocking makes the runtime poll the descriptor, so that waiting for the exit costs no thread.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("pinning pid %d: %w", pid, err), unix.Close(fd))
	}
	p := &process{pid: pid, file: os.NewFile(uintptr(fd), "pidfd")}
	var err error
	if p.raw, err = p.file.SyscallConn(); err != nil {
		return nil, errors.Join(fmt.Errorf("pinning pid %d: %w", pid, err), p.file.Close())
	}
	return p, nil
}

// peerProcess pins the process that opened the other end of conn and returns its user at that time.
func peerProcess(conn *net.UnixConn) (*process, uint32, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrUnattested, err)
	}
	var (
		cred    *unix.Ucred
		credErr error
		pidfd   int
		fdErr   error
	)
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		pidfd, fdErr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	})
	if err := errors.Join(err, credErr); err != nil {
		return nil, 0, fmt.Errorf("%w: peer credentials: %w", ErrUnattested, err)
	}
	if errors.Is(fdErr, unix.ENOPROTOOPT) && cred.Pid > 0 {
		// Kernels before 6.5. The number could have been given to another process since the connection was made; what
		// remains is that this other process must itself be registered, and that it is pinned from here on.
		p, err := openProcess(int(cred.Pid))
		return p, cred.Uid, err
	}
	if fdErr != nil {
		return nil, 0, fmt.Errorf("%w: peer process: %w", ErrUnattested, fdErr)
	}
	// A process of a foreign pid namespace has the number 0 here: it cannot be looked up in /proc.
	if cred.Pid <= 0 {
		return nil, 0, errors.Join(fmt.Errorf("%w: peer of a foreign pid namespace", ErrUnattested), unix.Close(pidfd))
	}
	p, err := newProcess(pidfd, int(cred.Pid))
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrUnattested, err)
	}
	pid, err := pidOf(pidfd)
	if err == nil && pid != p.pid {
		err = fmt.Errorf("%w: peer pid %d has gone", ErrUnattested, p.pid)
	}
	if err != nil {
		p.close()
		return nil, 0, err
	}
	return p, cred.Uid, nil
}

// pidOf returns the number of a pidfd's process, -1 once it was reaped.
func pidOf(fd int) (int, error) {
	raw, err := readProc("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	return pidField(raw, "Pid:")
}

// alive reports whether the process still runs; a zombie does not.
func (p *process) alive() bool {
	running := false
	err := p.raw.Control(func(fd uintptr) { running = !exited(fd) })
	return err == nil && running
}

func exited(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} //nolint:gosec // G115: the kernel bounds descriptors
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err != nil || n > 0
	}
}

// wait returns when the process has exited or p was closed.
func (p *process) wait() {
	// The error says only that p was closed.
	_ = p.raw.Read(exited)
}

func (p *process) close() { _ = p.file.Close() }

// uid returns the effective user. Check alive afterwards.
func (p *process) uid() (uint32, error) {
	raw, err := readProc(p.proc("status"))
	if err != nil {
		return 0, err
	}
	word, err := field(raw, "Uid:", 1)
	if err != nil {
		return 0, err
	}
	uid, err := strconv.ParseUint(word, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: user: %w", ErrUnattested, err)
	}
	return uint32(uid), nil
}

// parent returns the number of the parent, 0 when it is in no pid namespace of ours. Check alive afterwards.
func (p *process) parent() (int, error) {
	raw, err := readProc(p.proc("status"))
	if err != nil {
		return 0, err
	}
	return pidField(raw, "PPid:")
}

// executable returns the SHA-256 of the running file, also when it was deleted or replaced. Check alive afterwards.
func (p *process) executable() ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	f, err := os.Open(p.proc("exe"))
	if err != nil {
		return sum, fmt.Errorf("%w: executable: %w", ErrUnattested, err)
	}
	defer f.Close() //nolint:errcheck // read only
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxExecutable+1))
	switch {
	case err != nil:
		return sum, fmt.Errorf("%w: executable: %w", ErrUnattested, err)
	case n > maxExecutable:
		return sum, fmt.Errorf("%w: executable is over %d bytes", ErrUnattested, maxExecutable)
	}
	h.Sum(sum[:0])
	return sum, nil
}

func (p *process) proc(name string) string { return "/proc/" + strconv.Itoa(p.pid) + "/" + name }

func readProc(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnattested, err)
	}
	defer f.Close() //nolint:errcheck // read only
	raw, err := io.ReadAll(io.LimitReader(f, maxStatus))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnattested, err)
	}
	return raw, nil
}

// pidField returns the process number in the line that starts with name.
func pidField(raw []byte, name string) (int, error) {
	word, err := field(raw, name, 0)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(word)
	if err != nil {
		return 0, fmt.Errorf("%w: %s %w", ErrUnattested, name, err)
	}
	return pid, nil
}

// field returns the word at position index of the line that starts with name. The kernel escapes newlines in the only field that
// a process names itself.
func field(raw []byte, name string, index int) (string, error) {
	for line := range bytes.Lines(raw) {
		rest, ok := bytes.CutPrefix(line, []byte(name))
		if !ok {
			continue
		}
		fields := bytes.Fields(rest)
		if index >= len(fields) {
			break
		}
		return string(fields[index]), nil
	}
	return "", fmt.Errorf("%w: no %s in /proc", ErrUnattested, name)
}
