//go:build unix

package hammer

import (
	"fmt"
	"syscall"
)

// processorTime returns what this process has used so far, user and system, in nanoseconds.
func processorTime() (int64, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("reading own resource usage: %w", err)
	}
	return u.Utime.Nano() + u.Stime.Nano(), nil
}
