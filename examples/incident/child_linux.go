package incident

import "syscall"

// childAttributes makes children end with the demo, whatever ends it, and keeps the terminal's Ctrl-C to the demo, which drains them.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
