package incident

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

// stopGrace is how long a child may drain before it is killed.
const stopGrace = 5 * time.Second

// child is one agent process.
type child struct {
	role  string
	id    identity.AgentID
	cmd   *exec.Cmd
	stdin io.WriteCloser
	audit string
	ready readyData

	mu     sync.Mutex // of stdin
	exited chan struct{}
	stderr tail
}

// spawn starts a role as a process of its own, admits it by its pid, and lets it connect. Its events go to sink.
func (d *demo) spawn(ctx context.Context, role, tenant string, env ...string) error {
	id, err := identity.ParseAgent("spiffe://" + trustDomain + "/tenant/" + tenant + "/agent/" + role)
	if err != nil {
		return err
	}
	c := &child{role: role, id: id, audit: d.plane.AuditDir(tenant + "-" + role), exited: make(chan struct{})}
	args := append(append([]string{}, d.o.Args...), role)
	c.cmd = exec.Command(d.o.Exe, args...) //nolint:gosec // G204: our own executable.
	if d.o.Name != "" {
		c.cmd.Args[0] = d.o.Name
	}
	c.cmd.Env = append(append(os.Environ(), d.plane.Env(c.audit)...), envDir+"="+d.effects)
	c.cmd.Env = append(c.cmd.Env, env...)
	c.cmd.Stderr = &c.stderr
	c.cmd.SysProcAttr = childAttributes()
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return err
	}
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", role, err)
	}
	d.mu.Lock()
	d.children = append(d.children, c)
	d.mu.Unlock()
	go func() {
		defer close(c.exited)
		c.pump(stdout, d.events)
		_ = c.cmd.Wait() // how a child ended shows in its events
	}()
	if _, _, err := d.plane.Authority.AdmitWorkload(ctx, id, c.cmd.Process.Pid); err != nil {
		return fmt.Errorf("admitting %s: %w", role, err)
	}
	return c.send(command{Do: doStart})
}

func (c *child) pump(r io.Reader, sink chan<- Event) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), 4<<20)
	for lines.Scan() {
		var ev Event
		if json.Unmarshal(lines.Bytes(), &ev) == nil {
			sink <- ev
		}
	}
}

func (c *child) send(cmd command) error {
	raw, err := json.Marshal(cmd)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.stdin.Write(append(raw, '\n')); err != nil {
		return fmt.Errorf("%s: %w: %s", c.role, err, c.stderr.String())
	}
	return nil
}

// kill ends the process as a crash would.
func (c *child) kill() {
	_ = c.cmd.Process.Signal(syscall.SIGKILL)
	<-c.exited
}

// stop lets the process drain, and kills it when it does not.
func (c *child) stop() error {
	c.mu.Lock()
	_ = c.stdin.Close()
	c.mu.Unlock()
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-c.exited:
		return nil
	case <-timer.C:
		c.kill()
		return fmt.Errorf("%s did not drain and was killed", c.role)
	}
}

// tail keeps the last bytes of a child's standard error, for the message when it dies.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if n := len(t.buf); n > 4096 {
		t.buf = t.buf[n-4096:]
	}
	return len(p), nil
}

// String returns what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}

// copyDir copies a folder of plain files.
func copyDir(dst, src string) error {
	entries, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dst, 0o700); err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(src, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dst, e.Name()), raw, 0o600); err != nil { //nolint:gosec // G703: a name out of a folder listing has no separator.
			return err
		}
	}
	return nil
}
