package intruder_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/intruder"
	"github.com/safeconduct/safeconduct/runtime"
)

// processEnv turns the test binary into an agent's process, because one process has one identity: it takes its SVID from the
// socket that the variable names, says that it is ready, reads orders from stdin and answers each with one line.
const processEnv = "INTRUDER_TEST_WORKLOAD_SOCKET"

// wait bounds everything a test waits for.
const wait = time.Minute

func TestMain(m *testing.M) {
	if socket := os.Getenv(processEnv); socket != "" {
		if err := process(socket); err != nil {
			fmt.Fprintln(os.Stderr, "process:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// order is intruder.Config for another process. Steal asks for the process's own chain under Grant instead of attacks.
type order struct {
	Steal                         bool
	Names                         []string
	Target, TargetAddr, Sibling   string
	Namespace, Foreign            []string
	OtherTenant, Purpose          string
	Grant, ShortGrant, OtherGrant []byte
	StolenChain                   []byte
	Operator, Workload            string
}

type answer struct {
	Err     string
	Chain   []byte
	Results []intruder.Result
}

// process is an agent's process. It asks for its identity when it is told that it was admitted.
func process(socket string) error {
	lines := bufio.NewReader(os.Stdin)
	if _, err := lines.ReadString('\n'); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*wait)
	defer cancel()
	src, err := runtime.WorkloadAPI(ctx, "unix://"+socket, "")
	if err != nil {
		return err
	}
	defer src.Close()
	fmt.Println("{}")
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		out, err := obey(ctx, src, line)
		if err != nil {
			out.Err = err.Error()
		}
		raw, err := json.Marshal(out)
		if err != nil {
			return err
		}
		fmt.Println(string(raw))
	}
}

func obey(ctx context.Context, src identity.Source, line []byte) (out answer, err error) {
	var o order
	if err := json.Unmarshal(line, &o); err != nil {
		return out, err
	}
	svid, err := src.GetX509SVID()
	if err != nil {
		return out, err
	}
	cfg := intruder.Config{
		Source: src, TargetAddr: o.TargetAddr, Namespace: o.Namespace, Foreign: o.Foreign, OtherTenant: o.OtherTenant,
		Purpose: o.Purpose, OperatorSocket: o.Operator, WorkloadSocket: o.Workload, Now: time.Now,
		Grant: statement(o.Grant), ShortGrant: statement(o.ShortGrant), OtherGrant: statement(o.OtherGrant),
	}
	if cfg.Self, err = identity.ParseAgentID(svid.ID); err != nil {
		return out, err
	}
	if cfg.Target, err = identity.ParseAgent(o.Target); err != nil {
		return out, err
	}
	if o.Steal {
		chain, err := intruder.OwnChain(cfg, cfg.Grant)
		if err != nil {
			return out, err
		}
		out.Chain, err = proto.Marshal(chain)
		return out, err
	}
	if cfg.Sibling, err = identity.ParseAgent(o.Sibling); err != nil {
		return out, err
	}
	cfg.StolenChain = new(v1.DelegationChain)
	if err := proto.Unmarshal(o.StolenChain, cfg.StolenChain); err != nil {
		return out, err
	}
	out.Results, err = intruder.Run(ctx, cfg, o.Names...)
	return out, err
}

func statement(raw []byte) *v1.SignedStatement {
	s := new(v1.SignedStatement)
	if len(raw) == 0 || proto.Unmarshal(raw, s) != nil {
		return nil
	}
	return s
}

// agentProcess is a running agent of the test.
type agentProcess struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// startProcess starts an agent's process; admit ties it to its identity.
func startProcess(t *testing.T, workloadSocket string, admit func(pid int)) *agentProcess {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), processEnv+"="+workloadSocket)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &agentProcess{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	admit(cmd.Process.Pid)
	p.tell("admitted")
	return p
}

// do sends one order and returns the answer.
func (p *agentProcess) do(o order) answer {
	p.t.Helper()
	raw, err := json.Marshal(o)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.tell(string(raw))
}

func (p *agentProcess) tell(line string) (a answer) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
	raw, err := p.out.ReadBytes('\n')
	if err != nil {
		p.t.Fatalf("the agent's process ended: %v", err)
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		p.t.Fatalf("answer %q: %v", raw, err)
	}
	if a.Err != "" {
		p.t.Fatal(a.Err)
	}
	return a
}
