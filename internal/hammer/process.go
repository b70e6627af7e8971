package hammer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

// childWord is the argument with which a process becomes a child.
const childWord = "child"

// stopGrace is how long a child may take to drain before it is killed.
const stopGrace = 15 * time.Second

// process is one child as its parent sees it. One goroutine at a time orders it.
type process struct {
	name    string
	audit   string // folder of its audit log
	cmd     *exec.Cmd
	stdin   io.WriteCloser
	answers *json.Decoder
	stderr  tail
	address string
}

// spawn starts a child, admits it by its number, and waits until it is ready.
func (w *world) spawn(ctx context.Context, cfg *Config, name string, s *startSpec) (_ *process, err error) {
	id, err := identity.ParseAgent(agentID(name))
	if err != nil {
		return nil, err
	}
	p := &process{name: name, audit: filepath.Join(w.dir, name)}
	p.cmd = exec.CommandContext(ctx, cfg.Exe, append(append([]string{}, cfg.Args...), childWord)...) //nolint:gosec // G204: our own executable.
	p.cmd.Env = append(os.Environ(), w.plane.Env(p.audit)...)
	p.cmd.Stderr = &p.stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.answers = json.NewDecoder(stdout)
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if _, _, err := w.plane.Authority.AdmitWorkload(ctx, id, p.cmd.Process.Pid); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	a, err := p.order(&order{Do: doStart, Start: s})
	if err != nil {
		return nil, errors.Join(err, p.stop())
	}
	p.address = a.Address
	return p, nil
}

// order sends one order and returns the answer.
func (p *process) order(o *order) (*answer, error) {
	if err := json.NewEncoder(p.stdin).Encode(o); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", p.name, err, p.stderr.String())
	}
	a, err := read[answer](p.answers)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", p.name, err, p.stderr.String())
	}
	if a.Error != "" {
		return nil, fmt.Errorf("%s: %s", p.name, a.Error)
	}
	return a, nil
}

func (p *process) usage() (usage, error) {
	a, err := p.order(&order{Do: doUsage})
	if err != nil {
		return usage{}, err
	}
	if a.Usage == nil {
		return usage{}, fmt.Errorf("%s answers without its usage", p.name)
	}
	return *a.Usage, nil
}

// stop lets the child drain, and kills it when it does not.
func (p *process) stop() error {
	err := p.stdin.Close()
	kill := time.AfterFunc(stopGrace, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	if werr := p.cmd.Wait(); werr != nil {
		err = errors.Join(err, fmt.Errorf("%s: %w: %s", p.name, werr, p.stderr.String()))
	}
	return err
}

// tail keeps the last bytes of a child's standard error, for the message when it dies.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// maxTail bounds what is kept.
const maxTail = 4 << 10

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf); n > maxTail {
		t.buf = t.buf[n-maxTail:]
	}
	return len(p), nil
}

// String returns what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
