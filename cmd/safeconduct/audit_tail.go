package main

import (
	"cmp"
	"context"
	"errors"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
)

const (
	// followPoll is how often a followed log is looked at.
	followPoll  = 200 * time.Millisecond
	defaultTail = 20
)

func newAuditTail() *cobra.Command {
	var follow, asJSON bool
	var count int
	cmd := &cobra.Command{
		Use: "tail [DIR...]", Short: "Print the newest records of all logs, in order of time",
		Example: "  safeconduct audit tail\n  safeconduct audit tail -f -n 0\n  safeconduct audit tail -n 100 --json /srv/logs/memory",
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 0 {
				return usagef("-n is not negative")
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			t := &tail{cmd: cmd, args: args, asJSON: asJSON, next: map[string]uint64{}}
			if err := t.newest(count); err != nil || !follow {
				return err
			}
			return t.follow(ctx)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "keep printing what is added, and the records of new logs")
	f.IntVarP(&count, "lines", "n", defaultTail, "how many records to begin with")
	f.BoolVar(&asJSON, "json", false, "print lines of JSON")
	return cmd
}

// tail prints records of several logs. next is the first seq of each folder that is not printed yet; expand keeps what the records
// before it have said.
type tail struct {
	expand audit.Expander
	cmd    *cobra.Command
	args   []string
	asJSON bool
	next   map[string]uint64
}

// added returns what was added to all logs since the last call, in order of time, and only the last most of it.
func (t *tail) added(most int) ([]audit.Record, error) {
	dirs, err := logDirs(t.cmd, t.args)
	if err != nil {
		return nil, err
	}
	var out []audit.Record
	for _, dir := range dirs {
		for rec, err := range audit.ReadDirFrom(dir, t.next[dir]) {
			if errors.Is(err, audit.ErrNoLog) && len(t.args) == 0 {
				break // a log that its owner is only making
			}
			if err != nil {
				return nil, cannotRead(err)
			}
			t.next[dir] = rec.Seq + 1
			out = append(out, t.expand.Expand(rec))
			if len(out) >= 2*most+1024 {
				out = newestOf(out, most)
			}
		}
	}
	return newestOf(out, most), nil
}

func newestOf(recs []audit.Record, most int) []audit.Record {
	slices.SortStableFunc(recs, func(a, b audit.Record) int { return cmp.Compare(a.Event.GetTimeUnixNs(), b.Event.GetTimeUnixNs()) })
	if len(recs) > most {
		recs = slices.Clone(recs[len(recs)-most:])
	}
	return recs
}

func (t *tail) newest(count int) error {
	recs, err := t.added(count)
	if err != nil {
		return err
	}
	return t.print(recs)
}

func (t *tail) follow(ctx context.Context) error {
	tick := time.NewTicker(followPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		recs, err := t.added(maxAdded)
		if err != nil {
			return err
		}
		if err := t.print(recs); err != nil {
			return err
		}
	}
}

// maxAdded bounds what is sorted at once; a log does not grow by more between two looks.
const maxAdded = 1 << 20

func (t *tail) print(recs []audit.Record) error {
	for _, rec := range recs {
		if err := printRecord(t.cmd, rec, t.asJSON); err != nil {
			return err
		}
	}
	return nil
}
