package hammer

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// Exit codes of [Main].
const (
	ExitDone        = 0
	ExitFailed      = 1 // the sweep failed, or a round does not count
	ExitUsage       = 2
	ExitCannotJudge = 3 // the machine was too busy: neither good nor bad
)

// Main is the command. self is how a process is started that calls Main with the arguments that follow: the executable and what
// comes first. It returns the exit code.
func Main(ctx context.Context, self, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == childWord {
		if err := child(ctx, stdin, stdout); err != nil {
			_, _ = fmt.Fprintf(stderr, "hammer child: %v\n", err)
			return ExitFailed
		}
		return ExitDone
	}
	cfg, jsonPath, err := parse(self, args, stderr)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			_, _ = fmt.Fprintf(stderr, "hammer: %v\n", err)
		}
		return ExitUsage
	}
	cfg.Lines, cfg.Progress = stdout, stderr
	if jsonPath != "" {
		f, err := os.Create(jsonPath)
		if err != nil {
			_, _ = fmt.Fprintf(stderr, "hammer: %v\n", err)
			return ExitFailed
		}
		defer f.Close() //nolint:errcheck // every line was checked as it was written.
		cfg.Lines = f
	}
	rep, err := Run(ctx, cfg)
	if err == nil {
		err = rep.Table(stdout)
	}
	switch {
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "hammer: %v\n", err)
		return ExitFailed
	case len(rep.Invalid()) > 0:
		return ExitFailed
	case len(rep.CannotJudge()) > 0:
		return ExitCannotJudge
	}
	return ExitDone
}

func parse(self, args []string, stderr io.Writer) (cfg Config, jsonPath string, err error) {
	fs := flag.NewFlagSet("hammer", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&cfg.Dir, "dir", "", "folder on a disk for the audit logs (default the folder for temporary files)")
	fs.IntVar(&cfg.Rounds, "rounds", defaultRounds, "rounds")
	fs.DurationVar(&cfg.Duration, "duration", defaultDuration, "length of a round")
	fs.DurationVar(&cfg.Warmup, "warmup", defaultWarmup, "calls before each round that are not measured")
	fs.IntVar(&cfg.Payload, "payload", defaultPayload, "bytes of payload each way")
	fs.StringVar(&cfg.Profiles, "profiles", "", "folder for profiles of every process; not for figures")
	fs.StringVar(&jsonPath, "json", "", "file for the JSON lines (default standard output)")
	inFlight := fs.String("in-flight", "1,16,64", "numbers of calls in flight")
	variants := fs.String("variants", "", "names of variants besides the floor and its control (default all)")
	if err := fs.Parse(args); err != nil {
		return cfg, "", err
	}
	if fs.NArg() > 0 {
		return cfg, "", fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	for s := range strings.SplitSeq(*inFlight, ",") {
		n, err := strconv.Atoi(s)
		if err != nil {
			return cfg, "", fmt.Errorf("-in-flight: %q is no number", s)
		}
		cfg.InFlight = append(cfg.InFlight, n)
	}
	if cfg.Variants, err = pick(*variants); err != nil {
		return cfg, "", err
	}
	if len(self) == 0 {
		return cfg, "", errors.New("no executable for the children")
	}
	cfg.Exe, cfg.Args = self[0], self[1:]
	return cfg, jsonPath, cfg.check()
}
