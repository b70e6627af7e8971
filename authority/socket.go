package authority

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	workloadSocket = "workload.sock"
	operatorSocket = "operator.sock"
	// maxSocketPath is what fits sun_path on every unix: 104 bytes on BSD and macOS, 108 on Linux, with the closing zero.
	maxSocketPath = 103
	// maxConnections bounds open connections of one socket.
	maxConnections = 512
	// probeTimeout bounds the look whether a socket file that is already there still has a server.
	probeTimeout = time.Second
)

// Errors of the sockets.
var (
	ErrSocketPath = errors.New("socket path refused")
	ErrSocketBusy = errors.New("socket is served by another process")
)

// socketDir makes dir with mode 0700, or checks that it is ours and closed to everyone else.
func socketDir(dir string) error {
	for _, name := range []string{workloadSocket, operatorSocket} {
		if path := filepath.Join(dir, name); len(path) > maxSocketPath {
			return fmt.Errorf("%w: %s has %d bytes, at most %d fit a unix socket address: choose a shorter folder",
				ErrSocketPath, path, len(path), maxSocketPath)
		}
	}
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", ErrSocketPath, err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSocketPath, err)
	}
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%w: %s must be a folder of mode 0700, is %s", ErrSocketPath, dir, info.Mode())
	}
	return nil
}

// listen opens a socket of mode 0600. A file left by a crash is replaced, one that still has a server is not.
func listen(ctx context.Context, path string) (*unixListener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrSocketPath, err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%w: %s is not a socket", ErrSocketPath, path)
	default:
		dialer := net.Dialer{Timeout: probeTimeout}
		if conn, err := dialer.DialContext(ctx, "unix", path); err == nil {
			return nil, errors.Join(fmt.Errorf("%w: %s", ErrSocketBusy, path), conn.Close())
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSocketPath, err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSocketPath, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrSocketPath, err), l.Close())
	}
	return &unixListener{UnixListener: l, slots: make(chan struct{}, maxConnections), closed: make(chan struct{})}, nil
}

// unixListener accepts at most maxConnections at a time.
type unixListener struct {
	*net.UnixListener
	slots  chan struct{}
	once   sync.Once
	closed chan struct{}
}

// Accept waits for a free slot and a connection.
func (l *unixListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		<-l.slots
		return nil, fmt.Errorf("accepting: %w", err)
	}
	return &unixConn{UnixConn: conn, release: func() { <-l.slots }}, nil
}

// Close ends Accept.
func (l *unixListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.UnixListener.Close()
}

// unixConn gives back its slot and the pin of its peer when it is closed.
type unixConn struct {
	*net.UnixConn
	proc    *process
	once    sync.Once
	release func()
}

// Close may be called more than once.
func (c *unixConn) Close() error {
	err := c.UnixConn.Close()
	c.once.Do(func() {
		if c.proc != nil {
			c.proc.close()
		}
		c.release()
	})
	return err
}
