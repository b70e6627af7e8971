package incident

import "os"

func selfPid() int { return os.Getpid() }

// kept tells how to call what --keep leaves running.
func (s *screen) kept(d *demo) {
	s.title("Left running. Ctrl-C ends it and removes every file.")
	s.line("", "  state      %s", d.dir)
	s.line("", "  authority  %s", d.plane.AuthorityAddr())
	s.line("", "  memory     %s", d.plane.MemoryAddr())
}
