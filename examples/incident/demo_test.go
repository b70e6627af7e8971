package incident

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
)

// roleArg makes this test binary one agent process of the demo.
const roleArg = "-demo-role"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == roleArg {
		if err := Role(context.Background(), os.Args[2], os.Stdin, os.Stdout); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func options(t *testing.T, out *bytes.Buffer) Options {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Options{Out: out, Exe: exe, Args: []string{roleArg}}
}

func TestDemoTellsTheWholeStory(t *testing.T) {
	var out bytes.Buffer
	if err := Run(t.Context(), options(t, &out)); err != nil {
		t.Fatalf("Run() = %v\n%s", err, out.String())
	}
	lines := strings.Split(strings.TrimRight(out.String(), "\n"), "\n")
	if len(lines) > 100 {
		t.Errorf("%d lines, want at most 100", len(lines))
	}
	for _, l := range lines {
		if n := len([]rune(l)); n > width {
			t.Errorf("line of %d columns: %s", n, l)
		}
	}
}

func runDemo(t *testing.T, change func(*Options)) (*Result, string, error) {
	t.Helper()
	var out bytes.Buffer
	o := options(t, &out)
	change(&o)
	r, err := run(t.Context(), o)
	return r, out.String(), err
}

func TestDemoFailsWithoutARowOfTheTable(t *testing.T) {
	for _, row := range []string{"acme-oncall-memory-write-below", "acme-analyst-context-resolve-below", "acme-triage-incident-apply"} {
		t.Run(row, func(t *testing.T) {
			t.Parallel()
			r, out, err := runDemo(t, func(o *Options) { o.withoutRow = row })
			if !errors.Is(err, ErrFailed) || r.Applied != nil || r.Effects != 0 {
				t.Errorf("Run() = %v, applied %v, %d rules in force; want a failure and no effect\n%s", err, r.Applied, r.Effects, out)
			}
		})
	}
}

func TestExecutorCannotActWithoutTheScope(t *testing.T) {
	r, out, err := runDemo(t, func(o *Options) { o.withoutScope = "incident.apply" })
	if !errors.Is(err, ErrFailed) || r.Applied != nil || r.Effects != 0 {
		t.Errorf("Run() = %v, applied %v, %d rules in force; want a failure and no effect\n%s", err, r.Applied, r.Effects, out)
	}
	if len(r.Blocked) != 1 || r.Blocked[0].Reason != "SCOPE" {
		t.Errorf("the planner's order ended %v, want one refusal SCOPE", r.Blocked)
	}
}

// The findings that come out of the agents are those of the log, whatever the way it took.
func TestDemoReportsWhatIsInTheLog(t *testing.T) {
	quiet := "Nov 22 21:00:01 host systemd[1]: Started Daily apt upgrade.\nNov 22 21:00:02 host sshd[77]: Server listening on 0.0.0.0 port 22.\n"
	brute := ""
	for i := range 8 {
		brute += fmt.Sprintf("Nov 22 21:01:%02d host sshd[9%d]: Failed password for root from 203.0.113.9 port 4%d ssh2\n", i, i, i)
	}
	for _, c := range []struct {
		name, log string
		format    logs.Format
		findings  int
		stopped   int
	}{
		{"quiet syslog", quiet, logs.FormatSyslog, 0, 0},
		{"brute force", quiet + brute, logs.FormatSyslog, 1, 8},
		{"empty", "", logs.FormatEmpty, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, out, err := runDemo(t, func(o *Options) { o.Log, o.Stdin = "-", strings.NewReader(c.log) })
			if err != nil {
				t.Fatalf("Run() = %v\n%s", err, out)
			}
			if r.Report.Format != c.format || len(r.Report.Findings) != c.findings {
				t.Errorf("report = %s with %d findings, want %s with %d", r.Report.Format, len(r.Report.Findings), c.format, c.findings)
			}
			got := 0
			if r.Applied != nil {
				got = r.Applied.Stopped
			}
			if got != c.stopped || r.Effects != min(c.findings, 1) {
				t.Errorf("%d lines stopped by %d rules, want %d", got, r.Effects, c.stopped)
			}
			if c.findings == 0 && !strings.Contains(out, "nothing unusual was found") {
				t.Errorf("a quiet log is not called quiet:\n%s", out)
			}
		})
	}
}

func TestDemoRefusesABinaryLog(t *testing.T) {
	_, _, err := runDemo(t, func(o *Options) { o.Log, o.Stdin = "-", strings.NewReader("\x7fELF\x00\x01\x02\x00\x00") })
	if !errors.Is(err, logs.ErrBinary) {
		t.Errorf("Run() = %v, want %v", err, logs.ErrBinary)
	}
}

func TestCancelledDemoLeavesNoProcessAndNoFile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	ctx, cancel := context.WithCancel(t.Context())
	var out bytes.Buffer
	o := options(t, &out)
	o.Out = &cancelAt{w: &out, at: "delegates to the analyst", cancel: cancel}
	if err := Run(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("Run() = %v, want it to end with its context\n%s", err, out.String())
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("%d files left, %v", len(left), err)
	}
	if alive := childrenOf(t, os.Getpid()); len(alive) != 0 {
		t.Errorf("processes left: %v", alive)
	}
}

// cancelAt ends the demo in the middle of its story.
type cancelAt struct {
	w      *bytes.Buffer
	at     string
	cancel func()
}

func (c *cancelAt) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(c.at)) {
		c.cancel()
	}
	return c.w.Write(p)
}

func childrenOf(t *testing.T, pid int) []string {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(raw))
}
