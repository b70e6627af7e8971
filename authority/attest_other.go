//go:build !linux

package authority

import (
	"crypto/sha256"
	"fmt"
	"net"
	"runtime"
)

// process stands for a pinned process. Only Linux has pidfds; every other system refuses to attest.
type process struct{ pid int }

func errNoAttestation() error {
	return fmt.Errorf("%w: processes cannot be pinned on %s, use Linux or SPIRE", ErrUnattested, runtime.GOOS)
}

func openProcess(int) (*process, error) { return nil, errNoAttestation() }

func peerProcess(*net.UnixConn) (*process, uint32, error) { return nil, 0, errNoAttestation() }

func (*process) alive() bool { return false }

func (*process) wait() {}

func (*process) close() {}

func (*process) uid() (uint32, error) { return 0, errNoAttestation() }

func (*process) parent() (int, error) { return 0, errNoAttestation() }

func (*process) executable() ([sha256.Size]byte, error) {
	return [sha256.Size]byte{}, errNoAttestation()
}
