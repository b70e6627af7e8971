package incident

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/protobuf/proto"

	incidentv1 "github.com/safeconduct/safeconduct/examples/incident/gen/incident/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/runtime"
)

// Environment of a role process, beside that of runtime.Config.
const (
	envDir  = "SAFECONDUCT_DEMO_DIR"
	envHold = "SAFECONDUCT_DEMO_HOLD"
)

// command is one line from the demo to a child process.
type command struct {
	Do       string `json:"do"`
	Grant    []byte `json:"grant,omitempty"`
	Purpose  string `json:"purpose,omitempty"`
	Incident string `json:"incident,omitempty"`
	Path     string `json:"path,omitempty"`
	Source   string `json:"source,omitempty"`
	Attack   []byte `json:"attack,omitempty"`
}

// Commands.
const (
	doStart  = "start"  // the process is admitted; connect and serve
	doHandle = "handle" // oncall: work this incident
	doAttack = "attack" // intruders
)

// Role runs one agent of the demo until its input ends. It is the entry point of the demo's child processes.
func Role(ctx context.Context, name string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &worker{out: &emitter{w: out, role: name}, dir: os.Getenv(envDir), hold: os.Getenv(envHold) != ""}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	if !lines.Scan() {
		return errors.New("no start command: this process is a part of safeconduct demo")
	}
	served := make(chan error, 1)
	if err := w.start(ctx, name, served); err != nil {
		w.out.emit(kindFailed, err.Error(), nil)
		return err
	}
	defer func() { _ = w.agent.Close() }()
	go func() {
		defer cancel() // the demo has closed our input: it is over, or dead
		for lines.Scan() {
			var c command
			if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
				return
			}
			if err := w.do(ctx, name, c); err != nil {
				w.out.emit(kindFailed, err.Error(), nil)
			}
		}
	}()
	return <-served
}

func (w *worker) start(ctx context.Context, name string, served chan<- error) error {
	var err error
	if w.agent, err = runtime.New(ctx, runtime.Config{}); err != nil {
		return err
	}
	if w.shared, err = openShared(w.agent); err != nil {
		return err
	}
	switch name {
	case "triage":
		incidentv1.RegisterTriageServiceServer(w.agent, &triage{worker: w})
	case "analyst":
		incidentv1.RegisterAnalystServiceServer(w.agent, &analyst{worker: w})
	case "planner":
		incidentv1.RegisterPlannerServiceServer(w.agent, &planner{worker: w, model: newPlanner()})
	case "executor":
		incidentv1.RegisterExecutorServiceServer(w.agent, &executor{worker: w})
	}
	l, err := w.agent.Listen(ctx)
	if err != nil {
		return err
	}
	go func() { served <- w.agent.ServeListener(ctx, l) }()
	svid, err := w.agent.Source().GetX509SVID()
	if err != nil {
		return err
	}
	leaf := svid.Certificates[0]
	w.out.emit(kindReady, "", readyData{
		SpiffeID: svid.ID.String(), Serial: leaf.SerialNumber.Text(16), Expires: leaf.NotAfter.UTC().Format(time.RFC3339),
		Address: l.Addr().String(), Pid: os.Getpid(),
	})
	return nil
}

func (w *worker) do(ctx context.Context, name string, c command) error {
	switch {
	case c.Do == doHandle && name == "oncall":
		return w.oncall(ctx, c)
	case c.Do == doAttack && (name == "intern" || name == "visitor"):
		return w.attack(ctx, c)
	}
	return fmt.Errorf("role %s does not do %q", name, c.Do)
}

// oncall is the engineer's own agent: it brings the evidence in, asks triage, and reads the answer.
func (w *worker) oncall(ctx context.Context, c command) error {
	var grant v1.SignedStatement
	if err := proto.Unmarshal(c.Grant, &grant); err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	ctx, err := w.agent.Act(ctx, &grant, c.Purpose)
	if err != nil {
		return err
	}
	f, err := os.Open(c.Path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	evidence, err := w.shared.putEvidence(ctx, c.Incident, c.Source, f)
	if err != nil {
		return err
	}
	w.out.emit(kindStep, "puts the log into memory as untrusted, and asks triage", nil)
	conn, err := w.peer("triage")
	if err != nil {
		return err
	}
	var refs []*v1.ContextRef
	_, err = incidentv1.NewTriageServiceClient(conn).Handle(ctx, &incidentv1.HandleRequest{Incident: c.Incident},
		runtime.Share(evidence), runtime.ReplyRefs(&refs))
	if err != nil {
		return fmt.Errorf("triage: %w", err)
	}
	w.out.emit(kindDone, fmt.Sprintf("has the answer as %d references; label %s", len(refs), runtime.Label(ctx)), nil)
	return nil
}
