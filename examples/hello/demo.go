package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/plane"
)

const (
	// envStarted tells a process of the demo to wait for its admission and to end with the demo.
	envStarted  = "SAFECONDUCT_HELLO_STARTED"
	trustDomain = "hello.example"
	tenant      = "acme"
	user        = "alice@acme.example"
	demoTime    = time.Minute
	stopTime    = 15 * time.Second // a drain, and a margin
)

// stage is a control plane in this process, and agents that are processes of their own: a process is one workload.
type stage struct {
	plane *plane.Plane
	dir   string
	exe   string
	out   io.Writer
}

// demo shows one call that is allowed and one that is refused. It leaves no process and no file.
func demo(ctx context.Context, out io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, demoTime)
	defer cancel()
	s := &stage{out: out}
	if s.exe, err = os.Executable(); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "hello-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(s.dir)) }()
	if s.plane, err = plane.Start(ctx, plane.Config{Dir: s.dir, TrustDomain: trustDomain}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.plane.Close()) }()
	if err := s.register(ctx); err != nil {
		return err
	}
	greeter, err := s.start(ctx, "greeter", io.Discard, "serve")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, greeter.stop()) }()
	return s.show(ctx)
}

// register makes three agents, and one rule: agents of class caller may greet the greeter.
func (s *stage) register(ctx context.Context) error {
	for _, name := range []string{"greeter", "caller", "stranger"} {
		_, err := s.plane.Authority.RegisterAgent(ctx, &v1.Agent{
			SpiffeId: agentID(name), AgentClass: name, Owner: user, Purpose: "a first look", IntegrityCap: v1.Integrity_INTEGRITY_ATTESTED,
		})
		if err != nil {
			return err
		}
	}
	_, err := s.plane.Authority.EditTable(ctx, []*v1.CapabilityRow{{
		Id: "greet", Tenant: tenant, AgentClass: "caller", Peers: []string{agentID("greeter")}, Capability: greet(0),
	}}, nil)
	return err
}

func agentID(name string) string {
	return "spiffe://" + trustDomain + "/tenant/" + tenant + "/agent/" + name
}

// greet is the right to greet. In a grant it reaches some hops far; a rule has no reach.
func greet(reach uint32) *v1.Capability {
	return &v1.Capability{Action: "hello.greet", Resource: []string{"agent", "greeter"}, Reach: reach}
}

// show makes both calls. The user grants both the same; only the caller has a rule of the organisation.
func (s *stage) show(ctx context.Context) error {
	for _, c := range []struct {
		name, what string
		allowed    bool
	}{
		{"caller", "a rule of the organisation and a grant of " + user, true},
		{"stranger", "a grant of the same person, and no rule", false},
	} {
		s.printf("%s calls the greeter with %s:\n", c.name, c.what)
		answer, err := s.callAs(ctx, c.name)
		s.printf("  %s\n", bytes.TrimSpace(answer))
		switch {
		case c.allowed && err != nil:
			return fmt.Errorf("the call of %s ended with %w", c.name, err)
		case !c.allowed && err == nil:
			return fmt.Errorf("the call of %s ended without an error", c.name)
		}
	}
	s.printf("Both are in the audit logs of both sides. README.md goes on from here.\n")
	return nil
}

// callAs runs the caller's program as the agent name and returns what it printed.
func (s *stage) callAs(ctx context.Context, name string) ([]byte, error) {
	issued, err := s.plane.Authority.IssueGrant(ctx, &rpcv1.IssueGrantRequest{
		Principal: user, Delegate: agentID(name), Purpose: purpose, MaxDepth: 1, Capabilities: []*v1.Capability{greet(1)},
	})
	if err != nil {
		return nil, err
	}
	raw, err := proto.Marshal(issued.GetGrant())
	if err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, name+".grant")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return nil, err
	}
	var answer bytes.Buffer
	p, err := s.start(ctx, name, &answer, "call", file)
	if err != nil {
		return nil, err
	}
	err = p.cmd.Wait()
	return answer.Bytes(), err
}

func (s *stage) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(s.out, format, args...) // a closed terminal ends nothing here
}

// process is one agent of the demo.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
}

// start runs this program once more and admits it, by its pid, as the agent name.
func (s *stage) start(ctx context.Context, name string, out io.Writer, args ...string) (*process, error) {
	id, err := identity.ParseAgent(agentID(name))
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, s.exe, args...)} //nolint:gosec // G204: our own executable.
	p.cmd.Env = append(append(os.Environ(), s.plane.Env(s.plane.AuditDir(name))...), envStarted+"=1")
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.WaitDelay = out, out, stopTime
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	_, _, err = s.plane.Authority.AdmitWorkload(ctx, id, p.cmd.Process.Pid)
	if err == nil {
		_, err = p.stdin.Write([]byte{'\n'})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("admitting %s: %w", name, err), p.stop())
	}
	return p, nil
}

// stop lets the process drain.
func (p *process) stop() error {
	_ = p.stdin.Close() // it may have ended
	return p.cmd.Wait()
}

// await returns when this process has been admitted, and calls ended when the demo is over or dead.
func await(in io.Reader, ended func()) error {
	if _, err := io.ReadFull(in, make([]byte, 1)); err != nil {
		return fmt.Errorf("waiting for admission: %w", err)
	}
	go func() {
		defer ended()
		_, _ = io.Copy(io.Discard, in)
	}()
	return nil
}
