package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/internal/operator"
	"github.com/safeconduct/safeconduct/runtime"
)

// Exit codes of every command.
const (
	exitFailed = 1
	exitUsage  = 2
)

// exitError ends the program with a code of its own. Without err nothing is printed: what there is to say was said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usagef is an error in how the command was called.
func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// silent ends the program with code and no further word.
func silent(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	root := newRoot() // Close of a plane drains on its own time
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	code := exitFailed
	var e *exitError
	if errors.As(err, &e) {
		code = e.code
		if e.err == nil {
			return code
		}
	}
	_, _ = fmt.Fprintf(errOut, "safeconduct: %s\n", oneLine(err))
	if code == exitUsage && e != nil {
		_, _ = fmt.Fprintf(errOut, "See: %s --help\n", cmd.CommandPath())
	}
	return code
}

// oneLine is err in one line that cannot act on a terminal, with what to do about it.
func oneLine(err error) string {
	s := audit.Visible(strings.ReplaceAll(err.Error(), "\n", "; "))
	if errors.Is(err, operator.ErrUnreachable) {
		s += "; is it still running? See: safeconduct doctor"
	}
	if id := decisionOf(err); id != "" {
		s += "; for the reason run: safeconduct audit explain " + id
	}
	return s
}

// decisionOf returns the decision id of a call that an enforcement core refused. The authority's own refusals say their cause.
func decisionOf(err error) string {
	var r *runtime.Refusal
	if !errors.As(err, &r) || len(r.DecisionID) != 16 || [16]byte(r.DecisionID) == [16]byte{} {
		return "" // refused before there was anything to record
	}
	return fmt.Sprintf("%x", r.DecisionID)
}
