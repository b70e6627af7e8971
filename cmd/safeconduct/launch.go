package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	goruntime "runtime"
	"syscall"

	"github.com/spf13/cobra"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/runtime"
)

// forwarded are the signals that reach a started program through us.
var forwarded = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
}

// fromTerminal are the signals that a terminal sends to a whole process group: the program has them already.
func fromTerminal(s os.Signal) bool { return s == syscall.SIGINT || s == syscall.SIGQUIT }

// env is the environment of a process that runs as id.
func (s *session) env(id identity.AgentID) []string {
	return append(os.Environ(),
		runtime.EnvWorkloadAPI+"=unix://"+s.up.WorkloadSocket,
		runtime.EnvAuthority+"="+s.up.Authority,
		runtime.EnvAuditDir+"="+auditDir(s.dir, id),
		envDir+"="+s.dir,
	)
}

// launch starts child, ties it to id before it runs its first instruction, and waits for its end. The error carries its exit code.
func (s *session) launch(ctx context.Context, id identity.AgentID, child *exec.Cmd) error {
	return launch(child, func(pid int) error {
		_, err := s.AdmitWorkload(ctx, &rpcv1.AdmitWorkloadRequest{SpiffeId: id.String(), Pid: int32(pid)}) //nolint:gosec // G115: pids are below 2^22
		if err != nil {
			return fmt.Errorf("admitting %s: %w", id, err)
		}
		return nil
	})
}

// launch starts child and lets it run once admit has returned nil for its pid; otherwise it kills it.
func launch(child *exec.Cmd, admit func(pid int) error) error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	running, ended := make(chan *os.Process, 1), make(chan error, 1)
	go func() {
		// The thread that traces the child, and with whose death the child gets SIGTERM; it ends with this goroutine.
		goruntime.LockOSThread()
		ended <- runTraced(child, admit, running)
	}()
	tty := isTerminal(os.Stdin)
	var p *os.Process
	for {
		// Until the child runs, signals wait in their channel.
		var arrived <-chan os.Signal
		if p != nil {
			arrived = signals
		}
		select {
		case p = <-running:
			running = nil
		case sig := <-arrived:
			if !tty || !fromTerminal(sig) {
				_ = p.Signal(sig) // it may have ended
			}
		case err := <-ended:
			return exitOf(err)
		}
	}
}

// runTraced starts child stopped at its first instruction, by PTRACE_TRACEME: a child that ran ahead of its admission would be
// refused by the Workload API. Where tracing is forbidden the child is stopped right after its start, which nearly always suffices.
func runTraced(child *exec.Cmd, admit func(pid int) error, running chan<- *os.Process) error {
	second := &exec.Cmd{ // a Cmd starts once
		Path: child.Path, Args: child.Args, Env: child.Env, Err: child.Err, ExtraFiles: child.ExtraFiles,
		Stdin: child.Stdin, Stdout: child.Stdout, Stderr: child.Stderr,
	}
	child.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGTERM}
	err := child.Start()
	traced := err == nil
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		child = second
		child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
		err = child.Start()
	}
	if err != nil {
		return &exitError{127, fmt.Errorf("starting the program: %w", err)}
	}
	pid := child.Process.Pid
	if traced {
		var status syscall.WaitStatus
		_, err = syscall.Wait4(pid, &status, 0, nil)
		if err == nil && !status.Stopped() {
			err = errors.New("it ended before it ran")
		}
	} else {
		err = child.Process.Signal(syscall.SIGSTOP)
	}
	if err == nil {
		err = admit(pid)
	}
	if err == nil && traced {
		err = syscall.PtraceDetach(pid)
	} else if err == nil {
		err = child.Process.Signal(syscall.SIGCONT)
	}
	if err != nil {
		_ = child.Process.Kill() // it may have ended
		_ = child.Wait()         // its end is not what went wrong
		return &exitError{exitFailed, err}
	}
	running <- child.Process
	return child.Wait()
}

// exitOf turns the end of a program into the end of this one: the same code, 128 and the number for a signal.
func exitOf(err error) error {
	var e *exec.ExitError
	if !errors.As(err, &e) {
		return err
	}
	if status, ok := e.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return silent(128 + int(status.Signal()))
	}
	return silent(e.ExitCode())
}

// standard gives child our input and output.
func standard(cmd *cobra.Command, child *exec.Cmd) *exec.Cmd {
	child.Stdin, child.Stdout, child.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	return child
}
