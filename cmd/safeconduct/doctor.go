package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/safeconduct/safeconduct/audit"
)

// doctorTimeout bounds all that asks another process; verifying logs takes as long as they are large.
const doctorTimeout = 10 * time.Second

// States of a finding.
const (
	stateOK      = "ok"
	stateWarning = "warning"
	stateBroken  = "broken"
	stateSkipped = "skipped" // another finding says why
)

// finding is the result of one check. Cure is one sentence, empty when there is nothing to do.
type finding struct {
	Check string `json:"check"`
	State string `json:"state"`
	Found string `json:"found"`
	Cure  string `json:"cure,omitempty"`
}

func newDoctor() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check the control plane and say how to cure what is broken",
		Long:    "Checks the state folder and what runs on it. Each check that fails says what to do in one sentence. Exit code 1 when something is broken.",
		Example: "  safeconduct doctor\n  safeconduct doctor --json | jq '.[] | select(.state == \"broken\")'",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := stateDir(cmd)
			if err != nil {
				return err
			}
			found := doctor{dir: dir, now: time.Now, peerPIDFD: peerPIDFD}.examine(cmd.Context())
			if asJSON {
				err = writeJSON(cmd, found)
			} else {
				err = printFindings(cmd.OutOrStdout(), found)
			}
			if err != nil {
				return err
			}
			for _, f := range found {
				if f.State == stateBroken {
					return silent(exitFailed)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

func printFindings(w io.Writer, found []finding) error {
	color := map[string]string{stateOK: green, stateWarning: yellow, stateBroken: red, stateSkipped: yellow}
	for _, f := range found {
		text := fmt.Sprintf("%s  %s: %s\n", paint(w, color[f.State], fmt.Sprintf("%-7s", f.State)), f.Check, audit.Visible(f.Found))
		if f.Cure != "" {
			text += "         " + audit.Visible(f.Cure) + "\n"
		}
		if _, err := io.WriteString(w, text); err != nil {
			return fmt.Errorf("writing the answer: %w", err)
		}
	}
	return nil
}

// doctor examines one state folder.
type doctor struct {
	dir       string
	now       func() time.Time
	peerPIDFD func() error
}

// examine runs every check. One that needs what another found missing is skipped.
func (d doctor) examine(ctx context.Context) []finding {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	p := &patient{doctor: d}
	defer p.close()
	return []finding{
		p.folder(), p.process(), p.operatorSocket(ctx), p.workloadSocket(ctx), p.authority(ctx), p.clock(),
		p.table(ctx), p.classes(ctx), p.memoryFile(), p.auditLogs(), p.kernel(),
	}
}

func fine(check, format string, args ...any) finding {
	return finding{Check: check, State: stateOK, Found: fmt.Sprintf(format, args...)}
}

func skipped(check, why string) finding {
	return finding{Check: check, State: stateSkipped, Found: why}
}

func broken(check, found, cure string) finding {
	return finding{Check: check, State: stateBroken, Found: found, Cure: cure}
}

// peerPIDFD asks the kernel for the pidfd of a socket's peer, as the authority does for every caller.
func peerPIDFD() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making a socket pair: %w", err)
	}
	defer unix.Close(pair[0]) //nolint:errcheck // nothing is lost with it
	defer unix.Close(pair[1]) //nolint:errcheck // nothing is lost with it
	fd, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
