package hammer

import (
	"fmt"
	"syscall"
)

// Numbers of statfs(2) for the file systems that lie in memory, and the names of common ones.
const (
	tmpfs = 0x01021994
	ramfs = 0x858458f6
)

// fileSystemOf names the file system that holds path, and reports whether it lies in memory.
func fileSystemOf(path string) (name string, memory bool, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		return "", false, fmt.Errorf("looking at the file system of %s: %w", path, err)
	}
	switch kind := uint32(s.Type); kind { //nolint:gosec // G115: the type has 32 bits, in a field that differs between architectures.
	case tmpfs:
		return "tmpfs", true, nil
	case ramfs:
		return "ramfs", true, nil
	case 0xef53:
		return "ext4", false, nil
	case 0x58465342:
		return "xfs", false, nil
	case 0x9123683e:
		return "btrfs", false, nil
	case 0x794c7630:
		return "overlayfs", false, nil
	default:
		return fmt.Sprintf("type %#x", kind), false, nil
	}
}
