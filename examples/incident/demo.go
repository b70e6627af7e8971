package incident

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
	"github.com/safeconduct/safeconduct/internal/intruder"
	"github.com/safeconduct/safeconduct/internal/plane"
)

// Options say how the demo runs. Exe and Out are required.
type Options struct {
	// Log is the path of a text log, "-" for Stdin, or empty for the sample that ships with the example.
	Log   string
	Stdin io.Reader
	Out   io.Writer
	// JSON prints one JSON object at the end instead of the story.
	JSON  bool
	Color bool
	// Keep leaves everything running after the story, until ctx ends.
	Keep bool
	// ModelURL names an OpenAI-compatible endpoint for the planner, Model the model, and ModelKeyEnv the environment variable with
	// its key; empty is the planner's own rules.
	ModelURL, Model, ModelKeyEnv string
	// Exe and Args start a role: Exe Args... ROLE. Name, when set, is what the process is called.
	Exe, Name string
	Args      []string
	// Version is shown in the header.
	Version string

	// For tests: a row of the capability table, and an action of the grant, to leave out.
	withoutRow, withoutScope string
}

// ErrFailed is returned when something happened that must not: an intruder got through, or for another reason than the right one.
var ErrFailed = errors.New("the demo failed")

// bounds of one run.
const (
	readyWait = 30 * time.Second
	storyWait = 60 * time.Second
)

// demo is one run.
type demo struct {
	o       Options
	show    *screen
	dir     string
	effects string
	plane   *plane.Plane
	events  chan Event
	started time.Time

	mu       sync.Mutex
	children []*child

	result Result
	leaked []byte
}

// Result is what `safeconduct demo --json` prints.
type Result struct {
	Processes []Process         `json:"processes"`
	Report    *logs.Report      `json:"report,omitempty"`
	Blocked   []blockedData     `json:"blocked"`
	Applied   *appliedData      `json:"applied,omitempty"`
	Effects   int               `json:"rules_in_force"`
	Attacks   []intruder.Result `json:"attacks"`
	Unknown   uint64            `json:"calls_with_unknown_outcome"`
	Tampered  string            `json:"tampered_copy"`
	Verified  []string          `json:"logs_verified"`
	Seconds   float64           `json:"seconds"`
	Failures  []string          `json:"failures"`
}

// Process is one agent process.
type Process struct {
	Role   string `json:"role"`
	Tenant string `json:"tenant"`
	readyData
}

// Run runs the demo. It returns an error that wraps ErrFailed, naming what got through, when anything that must be refused was not.
// It leaves no process and, without Keep, no file.
func Run(ctx context.Context, o Options) error {
	_, err := run(ctx, o)
	return err
}

func run(ctx context.Context, o Options) (_ *Result, err error) {
	d := &demo{o: o, show: newScreen(o), events: make(chan Event, 256), started: time.Now()}
	if d.dir, err = os.MkdirTemp("", "sc-demo-"); err != nil {
		return &d.result, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(d.dir)) }()
	d.effects = filepath.Join(d.dir, "effects")
	if err := os.MkdirAll(d.effects, 0o700); err != nil {
		return &d.result, err
	}
	evidence, source, err := d.evidence()
	if err != nil {
		return &d.result, err
	}
	edge := ""
	if o.Keep {
		edge = "127.0.0.1:0"
	}
	d.plane, err = plane.Start(ctx, plane.Config{
		Dir: d.dir, TrustDomain: trustDomain, SocketDir: filepath.Join(d.dir, "s"), MemoryEdge: edge, Version: o.Version,
	})
	if err != nil {
		return &d.result, err
	}
	defer func() { err = errors.Join(err, d.end()) }()
	if err := d.register(ctx); err != nil {
		return &d.result, err
	}
	if err := d.populate(ctx); err != nil {
		return &d.result, err
	}
	for _, scene := range []func(context.Context) error{
		func(ctx context.Context) error { return d.story(ctx, evidence, source) },
		d.intruders,
		d.proof,
	} {
		if err := scene(ctx); err != nil {
			return &d.result, err
		}
	}
	if d.result.Failures == nil {
		d.result.Failures = []string{}
	}
	if d.result.Blocked == nil {
		d.result.Blocked = []blockedData{}
	}
	d.result.Seconds = time.Since(d.started).Seconds()
	d.show.closing(d)
	if o.JSON {
		enc := json.NewEncoder(o.Out)
		enc.SetIndent("", "  ")
		if err := enc.Encode(d.result); err != nil {
			return &d.result, err
		}
	}
	if len(d.result.Failures) > 0 {
		return &d.result, fmt.Errorf("%w: %s", ErrFailed, strings.Join(d.result.Failures, "; "))
	}
	if o.Keep {
		return &d.result, d.keep(ctx)
	}
	return &d.result, nil
}

// evidence copies the log into the demo's folder: standard input can be read once, and by one process.
func (d *demo) evidence() (path, source string, err error) {
	var r io.Reader
	switch d.o.Log {
	case "":
		r, source = logs.Sample(), "the sample that ships with the demo"
	case "-":
		r, source = d.o.Stdin, "standard input"
	default:
		f, err := os.Open(d.o.Log)
		if err != nil {
			return "", "", err
		}
		defer func() { _ = f.Close() }()
		r, source = f, filepath.Base(d.o.Log)
	}
	path = filepath.Join(d.dir, "evidence.log")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", "", err
	}
	n, err := io.Copy(out, io.LimitReader(r, maxEvidence+1))
	if err = errors.Join(err, out.Close()); err != nil {
		return "", "", fmt.Errorf("reading the log: %w", err)
	}
	if n > maxEvidence {
		return "", "", fmt.Errorf("the log is larger than %d MiB; give the part that matters", maxEvidence>>20)
	}
	return path, source, readable(path, source)
}

// readable says at once, and in words, what the analyst would stumble over.
func readable(path, source string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := logs.Read(f, logs.Limits{Lines: 1000}); err != nil {
		return fmt.Errorf("%s: %w", source, err)
	}
	return nil
}

// populate starts the cast, each as a process, and waits until all serve.
func (d *demo) populate(ctx context.Context) error {
	for _, c := range cast {
		var env []string
		if c.role == "planner" {
			env = append(d.modelEnv(), envHold+"=1")
		}
		if err := d.spawn(ctx, c.role, c.tenant, env...); err != nil {
			return err
		}
	}
	if err := d.awaitReady(ctx, len(cast)); err != nil {
		return err
	}
	d.show.header(d)
	return nil
}

// modelEnv tells the planner which model to ask.
func (d *demo) modelEnv() []string {
	if d.o.ModelURL == "" {
		return nil
	}
	return []string{envModelURL + "=" + d.o.ModelURL, envModelName + "=" + d.o.Model, envModelKey + "=" + os.Getenv(d.o.ModelKeyEnv)}
}

func (d *demo) awaitReady(ctx context.Context, n int) error {
	timeout := time.NewTimer(readyWait)
	defer timer(timeout)
	for n > 0 {
		ev, err := d.next(ctx, timeout.C)
		if err != nil {
			return fmt.Errorf("waiting for the agents: %w", err)
		}
		switch ev.Kind {
		case kindReady:
			d.ready(ev)
			n--
		case kindFailed:
			return fmt.Errorf("%s: %s", ev.Role, ev.Text)
		}
	}
	return nil
}

func timer(t *time.Timer) { t.Stop() }

func (d *demo) ready(ev Event) {
	c := d.child(ev.Role)
	_ = json.Unmarshal(ev.Data, &c.ready)
	for i, p := range d.result.Processes {
		if p.Role == c.role {
			d.result.Processes[i].readyData = c.ready
			return
		}
	}
	d.result.Processes = append(d.result.Processes, Process{Role: c.role, Tenant: c.id.Tenant().Name(), readyData: c.ready})
}

// child returns the newest process of a role.
func (d *demo) child(role string) *child {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.children) - 1; i >= 0; i-- {
		if d.children[i].role == role {
			return d.children[i]
		}
	}
	return nil
}

func (d *demo) next(ctx context.Context, timeout <-chan time.Time) (Event, error) {
	select {
	case ev := <-d.events:
		return ev, nil
	case <-ctx.Done():
		return Event{}, context.Cause(ctx)
	case <-timeout:
		return Event{}, fmt.Errorf("nothing happened in time: %s", d.lastWords())
	}
}

// lastWords is what dead or complaining children wrote to standard error.
func (d *demo) lastWords() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, c := range d.children {
		if s := strings.TrimSpace(c.stderr.String()); s != "" {
			out = append(out, c.role+": "+s)
		}
	}
	return strings.Join(out, "\n")
}

// story is the main job, with the death of the planner in the middle.
func (d *demo) story(ctx context.Context, evidence, source string) error {
	issued, err := d.plane.Authority.IssueGrant(ctx, d.grantRequest())
	if err != nil {
		return fmt.Errorf("issuing the grant: %w", err)
	}
	grant, err := proto.Marshal(issued.GetGrant())
	if err != nil {
		return err
	}
	d.show.grant(d)
	err = d.child("oncall").send(command{Do: doHandle, Grant: grant, Purpose: purpose, Incident: incidentID, Path: evidence, Source: source})
	if err != nil {
		return err
	}
	timeout := time.NewTimer(storyWait)
	defer timer(timeout)
	for {
		ev, err := d.next(ctx, timeout.C)
		if err != nil {
			return fmt.Errorf("working the incident: %w", err)
		}
		done, err := d.happen(ctx, ev)
		if err != nil {
			return err
		}
		if done {
			break
		}
	}
	return d.effect()
}

// happen takes one event of the story.
func (d *demo) happen(ctx context.Context, ev Event) (done bool, err error) {
	switch ev.Kind {
	case kindHolding:
		d.show.say("", "kill -9 of the planner, in the middle of the call")
		d.child("planner").kill()
		return false, d.spawn(ctx, "planner", tenantA, d.modelEnv()...)
	case kindReady:
		d.ready(ev)
		d.show.say("", fmt.Sprintf("the planner is started again, pid %d", d.child(ev.Role).ready.Pid))
	case kindReport:
		d.result.Report = new(logs.Report)
		if err := json.Unmarshal(ev.Data, d.result.Report); err != nil {
			return false, err
		}
		d.show.say(ev.Role, ev.Text)
		d.show.report(*d.result.Report)
	case kindBlocked:
		var b blockedData
		if err := json.Unmarshal(ev.Data, &b); err != nil {
			return false, err
		}
		d.result.Blocked = append(d.result.Blocked, b)
		d.show.blocked(ev, b)
		if b.Reason != "INTEGRITY_TOO_LOW" {
			d.fail("the injected order was refused for the wrong reason: " + b.Reason)
		}
	case kindBreach:
		d.fail("prompt-injection: the executor obeyed the log")
	case kindApplied:
		d.result.Applied = new(appliedData)
		if err := json.Unmarshal(ev.Data, d.result.Applied); err != nil {
			return false, err
		}
		d.show.applied(*d.result.Applied)
	case kindLeak:
		if err := json.Unmarshal(ev.Data, &d.leaked); err != nil {
			return false, err
		}
	case kindFailed:
		return false, fmt.Errorf("%w: %s: %s", ErrFailed, ev.Role, ev.Text)
	case kindDone:
		d.show.say(ev.Role, ev.Text)
		return true, nil
	default:
		d.show.say(ev.Role, ev.Text)
	}
	return false, nil
}

func (d *demo) fail(what string) {
	d.result.Failures = append(d.result.Failures, what)
	d.show.failure(what)
}

// effect counts the rules in force: as many as were applied, although a call was cut and made again.
func (d *demo) effect() error {
	raw, err := os.ReadFile(filepath.Join(d.effects, rulesFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	d.result.Effects = strings.Count(string(raw), "\n")
	want := 0
	if d.result.Applied != nil {
		want = len(d.result.Applied.Rules)
	}
	if d.result.Effects != want {
		d.fail(fmt.Sprintf("%d rules are in force, %d were applied", d.result.Effects, want))
	}
	return nil
}

// end stops every process and then the plane.
func (d *demo) end() error {
	d.mu.Lock()
	children := d.children
	d.mu.Unlock()
	done := make(chan struct{})
	go func() { // children may still be talking
		for {
			select {
			case <-d.events:
			case <-done:
				return
			}
		}
	}()
	defer close(done)
	errs := make(chan error, len(children))
	for _, c := range children {
		go func() { errs <- c.stop() }()
	}
	var err error
	for range children {
		err = errors.Join(err, <-errs)
	}
	return errors.Join(err, d.plane.Close())
}
