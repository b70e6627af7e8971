package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
)

func newAuditVerify() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "verify [DIR...]", Short: "Check that logs are whole and unchanged",
		Long: `Checks headers, checksums and hash chain of every log and names the first bad record. Exit code: 0 all are good, 1 one is bad, 2
one is incomplete: its oldest segments are elsewhere, or its last record is cut short by a crash or a writer at work. What the
chain cannot show is that newest records were removed.`,
		Example: "  safeconduct audit verify\n  safeconduct audit verify --json /srv/logs/memory",
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := logDirs(cmd, args)
			if err != nil {
				return err
			}
			reports := make([]verdict, 0, len(dirs))
			worst := audit.Good
			for _, dir := range dirs {
				rep, err := audit.Verify(dir)
				if err != nil {
					return err
				}
				worst = min(worst, rep.Verdict)
				reports = append(reports, verdictOf(dir, rep))
			}
			if asJSON {
				err = writeJSON(cmd, reports)
			} else {
				err = printVerdicts(cmd.OutOrStdout(), reports)
			}
			if err != nil {
				return err
			}
			return silent(worst.ExitCode())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// verdict is a report for scripts. Next is one past the newest good record.
type verdict struct {
	Dir      string    `json:"dir"`
	Verdict  string    `json:"verdict"`
	Origin   string    `json:"origin"`
	LogID    string    `json:"log_id"`
	First    uint64    `json:"first"`
	Next     uint64    `json:"next"`
	Bytes    int64     `json:"bytes"`
	Chain    string    `json:"chain"`
	Newest   time.Time `json:"newest"`
	FirstBad *uint64   `json:"first_bad,omitempty"`
	Reason   string    `json:"reason,omitempty"`
}

func verdictOf(dir string, r audit.Report) verdict {
	v := verdict{
		Dir: dir, Verdict: r.Verdict.String(), Origin: r.Origin, LogID: fmt.Sprintf("%x", r.LogID), First: r.First, Next: r.Next,
		Bytes: r.Bytes, Chain: fmt.Sprintf("%x", r.Chain), Newest: r.Newest.UTC(), Reason: r.Reason,
	}
	if r.Reason != "" {
		v.FirstBad = &r.FirstBad
	}
	return v
}

func printVerdicts(w io.Writer, reports []verdict) error {
	for _, r := range reports {
		color := map[string]string{"good": green, "incomplete": yellow}[r.Verdict]
		if color == "" {
			color = red
		}
		line := fmt.Sprintf("%s  %s: %d records", paint(w, color, r.Verdict), audit.Visible(r.Dir), r.Next-r.First)
		if r.FirstBad != nil {
			line += fmt.Sprintf("; at record %d: %s", *r.FirstBad, audit.Visible(r.Reason))
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return fmt.Errorf("writing the answer: %w", err)
		}
	}
	return nil
}
