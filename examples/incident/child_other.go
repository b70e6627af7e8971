//go:build !linux

package incident

import "syscall"

func childAttributes() *syscall.SysProcAttr { return nil }
