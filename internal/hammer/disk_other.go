//go:build !linux

package hammer

// fileSystemOf names no file system here.
func fileSystemOf(string) (name string, memory bool, err error) { return "unknown", false, nil }
