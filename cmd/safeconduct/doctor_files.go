package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/safeconduct/safeconduct/audit"
)

// memoryFile checks the file of shared memory.
func (p *patient) memoryFile() finding {
	const check = "memory file"
	dir := filepath.Join(p.dir, "memory")
	path := filepath.Join(dir, "memory.db")
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return skipped(check, "there is none before the first start")
	}
	if err != nil {
		return broken(check, err.Error(), "Make it readable for this user with: chmod 700 "+quote(dir))
	}
	if perm := info.Mode().Perm(); perm != 0o700 {
		return broken(check, fmt.Sprintf("%s has mode %#o", dir, perm), "Close it to others with: chmod 700 "+quote(dir))
	}
	info, err = os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return skipped(check, "there is none before the first start")
	case err != nil:
		return broken(check, err.Error(), "Make it readable for this user with: chmod 600 "+quote(path))
	case !info.Mode().IsRegular():
		return broken(check, path+" is no regular file", "Put the file of a backup in its place.")
	case p.up != nil:
		return fine(check, "%s, %d KiB, held by the control plane", path, info.Size()>>10)
	}
	held, err := isLocked(path)
	if err != nil {
		return broken(check, err.Error(), "Make it readable for this user with: chmod 600 "+quote(path))
	}
	if held {
		who := lockHolder(info)
		return broken(check, fmt.Sprintf("%s is locked by %s", path, who), fmt.Sprintf("End %s, then start safeconduct up.", who))
	}
	return fine(check, "%s, %d KiB, held by nobody", path, info.Size()>>10)
}

// isLocked reports whether another process has the file open for writing.
func isLocked(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("opening: %w", err)
	}
	defer f.Close() //nolint:errcheck // gives the lock back
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("locking %s: %w", path, err)
	}
	return false, nil
}

// lockHolder names the process that holds the lock of a file, as far as /proc/locks tells.
func lockHolder(info fs.FileInfo) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	f, err := os.Open("/proc/locks")
	if !ok || err != nil {
		return "another process"
	}
	defer f.Close() //nolint:errcheck // read only
	inode := fmt.Sprintf(":%d", st.Ino)
	for s := bufio.NewScanner(f); s.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
		if col := strings.Fields(s.Text()); len(col) > 5 && col[1] == "FLOCK" && strings.HasSuffix(col[5], inode) {
			return "process " + col[4]
		}
	}
	return "another process"
}

// auditLogs verifies every log below the state folder.
func (p *patient) auditLogs() finding {
	const check = "audit logs"
	dirs, err := auditDirs(p.dir)
	if err != nil {
		return broken(check, err.Error(), "Make the folder readable for this user with: chmod 700 "+quote(filepath.Join(p.dir, "audit")))
	}
	var bad, cut []string
	records := uint64(0)
	for _, dir := range dirs {
		rep, err := audit.Verify(dir)
		name := filepath.Base(dir)
		switch {
		case err != nil:
			bad = append(bad, name+": "+err.Error())
		case rep.Verdict == audit.Good:
			records += rep.Next - rep.First
		case rep.Verdict == audit.Incomplete:
			cut = append(cut, name+": "+rep.Reason)
		default:
			bad = append(bad, fmt.Sprintf("%s: record %d: %s", name, rep.FirstBad, rep.Reason))
		}
	}
	switch {
	case len(bad) > 0:
		return broken(check, strings.Join(bad, "; "),
			"Find out who changed them, move the folders away as evidence, and restart their owners, which begin new logs.")
	case len(cut) > 0:
		return finding{check, stateWarning, strings.Join(cut, "; "), "Nothing to do while the owner writes; after a crash its next start repairs the end."}
	}
	return fine(check, "%d records in %d logs verify", records, len(dirs))
}

func (p *patient) kernel() finding {
	const check = "kernel"
	err := p.peerPIDFD()
	switch {
	case err == nil:
		return fine(check, "tells which process is at the other end of a socket (SO_PEERPIDFD)")
	case errors.Is(err, unix.ENOPROTOOPT):
		return finding{
			check, stateWarning, "has no SO_PEERPIDFD: a caller is pinned by its number a moment after it connected",
			"Use Linux 6.5 or later.",
		}
	}
	return broken(check, "SO_PEERPIDFD: "+err.Error(), "Run where the kernel answers it: outside of this sandbox, on Linux 6.5 or later.")
}
