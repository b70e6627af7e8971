package incident

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	incidentv1 "github.com/safeconduct/safeconduct/examples/incident/gen/incident/v1"
	"github.com/safeconduct/safeconduct/examples/incident/logs"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/runtime"
)

// worker is what every agent of the incident has.
type worker struct {
	agent  *runtime.Agent
	shared *shared
	out    *emitter
	dir    string // where the executor keeps its rules
	hold   bool   // the planner waits to be killed
}

// peer returns the connection to another agent of the same tenant.
func (w *worker) peer(name string) (*runtime.Conn, error) {
	return w.agent.Dial("spiffe://" + w.agent.ID().TrustDomain().Name() + "/tenant/" + w.agent.ID().Tenant().Name() + "/agent/" + name)
}

// refs returns the references that came with the call, which must be as many as the handler works on.
func refs(ctx context.Context, want int) ([]*v1.ContextRef, error) {
	got := runtime.Refs(ctx)
	if len(got) != want {
		return nil, interceptors.Public(interceptors.CodeInvalidArgument, "want %d context references, got %d", want, len(got))
	}
	return got, nil
}

// triage delegates. It passes references on without reading them, so its own label stays what it was.
type triage struct {
	incidentv1.UnimplementedTriageServiceServer
	*worker
}

// Handle implements TriageServiceServer.
func (t *triage) Handle(ctx context.Context, req *incidentv1.HandleRequest) (*incidentv1.HandleResponse, error) {
	evidence, err := refs(ctx, 1)
	if err != nil {
		return nil, err
	}
	resp := &incidentv1.HandleResponse{}
	say := func(text string) {
		t.out.emit(kindStep, text, nil)
		resp.Steps = append(resp.Steps, text)
	}
	say("delegates to the analyst, passing the evidence by reference")
	findings, err := t.analyze(ctx, req.GetIncident(), evidence[0])
	if err != nil {
		return nil, err
	}
	say("delegates to the planner, passing the findings by reference")
	plan, err := t.propose(ctx, req.GetIncident(), evidence[0], findings)
	if err != nil {
		return nil, err
	}
	attached := []*v1.ContextRef{findings}
	if plan == nil {
		say("has no plan to carry out")
	} else {
		say("passes the plan on to the executor, unread; label " + runtime.Label(ctx).String())
		result, err := t.apply(ctx, req.GetIncident(), plan, evidence[0])
		if err != nil {
			return nil, err
		}
		attached = append(attached, plan, result)
	}
	return resp, runtime.Attach(ctx, attached...)
}

func (t *triage) analyze(ctx context.Context, incident string, evidence *v1.ContextRef) (*v1.ContextRef, error) {
	conn, err := t.peer("analyst")
	if err != nil {
		return nil, err
	}
	var out []*v1.ContextRef
	_, err = incidentv1.NewAnalystServiceClient(conn).Analyze(ctx, &incidentv1.AnalyzeRequest{Incident: incident},
		runtime.Share(evidence), runtime.Opaque(&out))
	if err != nil {
		return nil, err
	}
	if err := expect(len(out), 1); err != nil {
		return nil, err
	}
	return out[0], nil
}

// propose asks the planner, and asks again when it died on the way: nothing of the first attempt had an effect, because the plan
// takes effect at the executor only.
func (t *triage) propose(ctx context.Context, incident string, shared ...*v1.ContextRef) (*v1.ContextRef, error) {
	conn, err := t.peer("planner")
	if err != nil {
		return nil, err
	}
	client := incidentv1.NewPlannerServiceClient(conn)
	var out []*v1.ContextRef
	for attempt := 0; ; attempt++ {
		_, err = client.Propose(ctx, &incidentv1.ProposeRequest{Incident: incident}, runtime.Share(shared...), runtime.Opaque(&out), runtime.WaitForReady())
		if runtime.CodeOf(err) != interceptors.CodeUnavailable || attempt == 3 {
			break
		}
		t.out.emit(kindLost, "gets UNAVAILABLE: the planner died, the outcome is unknown", blockedData{
			Asked: "incident.propose", Code: "UNAVAILABLE",
		})
	}
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out[0], nil
}

func (t *triage) apply(ctx context.Context, incident string, shared ...*v1.ContextRef) (*v1.ContextRef, error) {
	conn, err := t.peer("executor")
	if err != nil {
		return nil, err
	}
	var out []*v1.ContextRef
	_, err = incidentv1.NewExecutorServiceClient(conn).Apply(ctx, &incidentv1.ApplyRequest{Incident: incident},
		runtime.Share(shared...), runtime.Opaque(&out))
	if err != nil {
		return nil, err
	}
	if err := expect(len(out), 1); err != nil {
		return nil, err
	}
	return out[0], nil
}

func expect(got, want int) error {
	if got == want {
		return nil
	}
	return interceptors.Public(interceptors.CodeInternal, "the callee attached %d references, want %d", got, want)
}

// analyst reads the evidence and writes findings. From then on its conversation is untrusted.
type analyst struct {
	incidentv1.UnimplementedAnalystServiceServer
	*worker
}

// Analyze implements AnalystServiceServer.
func (a *analyst) Analyze(ctx context.Context, req *incidentv1.AnalyzeRequest) (*incidentv1.AnalyzeResponse, error) {
	given, err := refs(ctx, 1)
	if err != nil {
		return nil, err
	}
	a.leak(ctx)
	l, source, err := a.shared.getEvidence(ctx, given[0])
	if err != nil {
		return nil, err
	}
	report := logs.NewReport(source, l)
	if len(report.Findings) > maxFindings {
		report.Findings = report.Findings[:maxFindings]
	}
	var raw bytes.Buffer
	if err := report.WriteJSON(&raw); err != nil {
		return nil, err
	}
	ref, err := a.shared.put(ctx, namespace(req.GetIncident(), "findings"), "report", mediaJSON, raw.Bytes(), nil, given...)
	if err != nil {
		return nil, err
	}
	a.out.emit(kindReport, "read the evidence by reference; label now "+runtime.Label(ctx).String(), report)
	return &incidentv1.AnalyzeResponse{Findings: uint32(len(report.Findings))}, runtime.Attach(ctx, ref) //nolint:gosec // G115: bounded.
}

// leak logs the chain that this agent acts under, as a careless agent would. A chain is no secret: it is of use only to the agent
// that signed its last hop, towards the agent that hop names.
func (a *analyst) leak(ctx context.Context) {
	in, ok := interceptors.From(ctx)
	if !ok || in.Leaf() == nil {
		return
	}
	if raw, err := proto.Marshal(in.Leaf().Chain()); err == nil {
		a.out.emit(kindLeak, "", raw)
	}
}

// maxFindings keeps a report within one entry of shared memory.
const maxFindings = 40

// planner proposes rules from findings. Its model is a set of rules; any Model of runtime/model can stand in its place.
type planner struct {
	incidentv1.UnimplementedPlannerServiceServer
	*worker
	model Planner
}

// Propose implements PlannerServiceServer.
func (p *planner) Propose(ctx context.Context, req *incidentv1.ProposeRequest) (*incidentv1.ProposeResponse, error) {
	if p.hold {
		p.out.emit(kindHolding, "", nil)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	given, err := refs(ctx, 2)
	if err != nil {
		return nil, err
	}
	l, _, err := p.shared.getEvidence(ctx, given[0])
	if err != nil {
		return nil, err
	}
	raw, err := p.shared.get(ctx, given[1])
	if err != nil {
		return nil, err
	}
	var report logs.Report
	if err := json.Unmarshal(raw, &report); err != nil {
		return nil, fmt.Errorf("findings: %w", err)
	}
	plan, err := p.model.Plan(ctx, l, report)
	if err != nil {
		return nil, fmt.Errorf("planning: %w", err)
	}
	for _, order := range plan.Orders {
		p.obey(ctx, req.GetIncident(), order)
	}
	if len(plan.Rules) == 0 {
		p.out.emit(kindStep, "proposes nothing: "+plan.Note, nil)
		return &incidentv1.ProposeResponse{}, nil
	}
	text := strings.Join(plan.Rules, "\n") + "\n"
	ref, err := p.shared.put(ctx, namespace(req.GetIncident(), "plan"), "rules", mediaText, []byte(text), nil, given...)
	if err != nil {
		return nil, err
	}
	p.out.emit(kindStep, fmt.Sprintf("proposes %d rule(s); label now %s", len(plan.Rules), runtime.Label(ctx)), nil)
	return &incidentv1.ProposeResponse{Rules: uint32(len(plan.Rules))}, runtime.Attach(ctx, ref) //nolint:gosec // G115: bounded.
}

// obey does what an instruction found in the log asks for, as a model that was taken in would. It has the scope for it. What stops
// it is the label of what it has read.
func (p *planner) obey(ctx context.Context, incident, order string) {
	conn, err := p.peer("executor")
	if err != nil {
		p.out.emit(kindFailed, err.Error(), nil)
		return
	}
	_, err = incidentv1.NewExecutorServiceClient(conn).Apply(ctx, &incidentv1.ApplyRequest{Incident: incident, Rule: order})
	asked := "incident.apply, because the log says " + logs.Escape(order, 60)
	var r *runtime.Refusal
	switch {
	case errors.As(err, &r):
		p.out.emit(kindBlocked, "was talked into an order by the log", blockedData{
			Asked: asked, Reason: interceptors.ReasonName(r.Reason), Decision: hex.EncodeToString(r.DecisionID),
		})
	default: // whatever the executor answered, its enforcement let the order through
		p.out.emit(kindBreach, "the executor obeyed the log", blockedData{Asked: asked})
	}
}

// executor puts rules in force: they are appended to a file that a proxy would read.
type executor struct {
	incidentv1.UnimplementedExecutorServiceServer
	*worker
}

// rulesFile is the executor's effect.
const rulesFile = "deny.rules"

// Apply implements ExecutorServiceServer.
func (x *executor) Apply(ctx context.Context, req *incidentv1.ApplyRequest) (*incidentv1.ApplyResponse, error) {
	if order := req.GetRule(); order != "" {
		return x.direct(order)
	}
	given, err := refs(ctx, 2)
	if err != nil {
		return nil, err
	}
	raw, err := x.shared.get(ctx, given[0])
	if err != nil {
		return nil, err
	}
	rules, err := parseRules(string(raw)) // the plan is untrusted; only what parses as a bounded rule passes
	if err != nil {
		return nil, err
	}
	l, _, err := x.shared.getEvidence(ctx, given[1])
	if err != nil {
		return nil, err
	}
	if err := x.append(rules); err != nil {
		return nil, err
	}
	replayed := logs.ReplayAll(l, rules)
	done := appliedData{Stopped: replayed.Stopped, Offending: replayed.Offending, Collateral: replayed.Collateral}
	for _, r := range rules {
		done.Rules = append(done.Rules, r.String())
	}
	out, err := json.Marshal(done)
	if err != nil {
		return nil, err
	}
	ref, err := x.shared.put(ctx, namespace(req.GetIncident(), "result"), "applied", mediaJSON, out, nil, given...)
	if err != nil {
		return nil, err
	}
	x.out.emit(kindApplied, "", done)
	return &incidentv1.ApplyResponse{
		Rules: uint32(len(rules)), Stopped: uint64(replayed.Stopped), Offending: uint64(replayed.Offending), Collateral: uint64(replayed.Collateral), //nolint:gosec // G115: counts.
	}, runtime.Attach(ctx, ref)
}

// direct applies a rule that a trusted caller gives in words.
func (x *executor) direct(order string) (*incidentv1.ApplyResponse, error) {
	rules, err := parseRules(order)
	if err != nil {
		return nil, err
	}
	return &incidentv1.ApplyResponse{Rules: uint32(len(rules))}, x.append(rules) //nolint:gosec // G115: bounded.
}

func parseRules(text string) ([]logs.Rule, error) {
	var out []logs.Rule
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			continue
		}
		r, err := logs.ParseRule(line)
		if err != nil {
			return nil, interceptors.Public(interceptors.CodeInvalidArgument, "%v", err)
		}
		if out = append(out, r); len(out) > logs.MaxRules {
			return nil, interceptors.Public(interceptors.CodeInvalidArgument, "more than %d rules", logs.MaxRules)
		}
	}
	if len(out) == 0 {
		return nil, interceptors.Public(interceptors.CodeInvalidArgument, "no rule")
	}
	return out, nil
}

// append makes rules durable before anyone is told that they are in force.
func (x *executor) append(rules []logs.Rule) (err error) {
	f, err := os.OpenFile(filepath.Join(x.dir, rulesFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("rules: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, r := range rules {
		if _, err := fmt.Fprintf(f, "%s # %s\n", r, time.Now().UTC().Format(time.RFC3339)); err != nil {
			return fmt.Errorf("rules: %w", err)
		}
	}
	return f.Sync()
}
