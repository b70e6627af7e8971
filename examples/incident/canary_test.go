package incident

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	incidentv1 "github.com/safeconduct/safeconduct/examples/incident/gen/incident/v1"
	"github.com/safeconduct/safeconduct/examples/incident/logs"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/bolt"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
	"github.com/safeconduct/safeconduct/runtime/memoryserver"
)

// wire keeps what passed between two parties.
type wire struct {
	mu   sync.Mutex
	seen map[string][]byte // by "from to"
}

func (w *wire) see(m agenttest.Message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[m.From+" "+m.To] = append(w.seen[m.From+" "+m.To], m.Raw...)
}

// The evidence goes into the store and to those who resolve it there. Between agents it never travels, whatever they say to each
// other: a line that stands in the evidence once is searched in every message on the wire.
func TestEvidenceTravelsByReferenceOnly(t *testing.T) {
	w := agenttest.New(t)
	tap := &wire{seen: map[string][]byte{}}
	w.Tap(tap.see)
	store := serveMemory(t, w)
	agents := map[string]*runtime.Agent{}
	attested := agenttest.IntegrityCap(v1.Integrity_INTEGRITY_ATTESTED)
	for _, role := range []string{"oncall", "triage", "analyst", "planner", "executor"} {
		agents[role] = w.Agent(role, attested)
	}
	dir := t.TempDir()
	worker := func(role string) *worker {
		s, err := openShared(agents[role])
		if err != nil {
			t.Fatal(err)
		}
		return &worker{agent: agents[role], shared: s, out: &emitter{w: io.Discard, role: role}, dir: dir}
	}
	incidentv1.RegisterTriageServiceServer(agents["triage"], &triage{worker: worker("triage")})
	incidentv1.RegisterAnalystServiceServer(agents["analyst"], &analyst{worker: worker("analyst")})
	incidentv1.RegisterPlannerServiceServer(agents["planner"], &planner{worker: worker("planner"), model: Rules{}})
	incidentv1.RegisterExecutorServiceServer(agents["executor"], &executor{worker: worker("executor")})
	w.Serve(agents["triage"], agents["analyst"], agents["planner"], agents["executor"])

	ns := []string{"shared", "incident", incidentID}
	w.Allow(agents["oncall"], agents["triage"], "incident.handle")
	w.Allow(agents["triage"], agents["analyst"], "incident.analyze")
	w.Allow(agents["triage"], agents["planner"], "incident.propose")
	w.Allow(agents["triage"], agents["executor"], "incident.apply")
	w.AllowBelow(agents["oncall"], store, "memory.write", ns...)
	for _, role := range []string{"analyst", "planner", "executor"} {
		w.AllowBelow(agents[role], store, "context.resolve", ns...)
		w.AllowBelow(agents[role], store, "memory.write", ns...)
	}
	ctx := w.As(engineer, agents["oncall"],
		agenttest.Can("incident.handle", "agent", "triage"), agenttest.Can("incident.analyze", "agent", "analyst"),
		agenttest.Can("incident.propose", "agent", "planner"), agenttest.Can("incident.apply", "agent", "executor"),
		agenttest.CanBelow("context.resolve", ns...), agenttest.CanBelow("memory.write", ns...))

	evidence, err := worker("oncall").shared.putEvidence(ctx, incidentID, "sample", logs.Sample())
	if err != nil {
		t.Fatal(err)
	}
	_, err = incidentv1.NewTriageServiceClient(w.Dial(agents["oncall"], agents["triage"])).
		Handle(ctx, &incidentv1.HandleRequest{Incident: incidentID}, runtime.Share(evidence))
	if err != nil {
		t.Fatal(err)
	}

	tap.mu.Lock()
	defer tap.mu.Unlock()
	inStore, between := 0, 0
	for who, raw := range tap.seen {
		found := bytes.Contains(raw, []byte(logs.SampleCanary))
		switch {
		case strings.Contains(who, store.ID().String()):
			if found {
				inStore++
			}
		default:
			between++
			if found {
				t.Errorf("the evidence travelled %s", who)
			}
		}
	}
	// In: oncall. Out: analyst, planner, executor. Otherwise the search finds nothing because it looks at nothing.
	if inStore != 4 || between < 8 {
		t.Errorf("the canary was seen on %d ways from and to the store, want 4; %d ways between agents, want at least 8", inStore, between)
	}
}

func serveMemory(t *testing.T, w *agenttest.World) *runtime.Agent {
	t.Helper()
	a := w.Service("memory")
	driver, err := bolt.Open(filepath.Join(t.TempDir(), "memory.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = driver.Close() })
	rec, err := memoryserver.NewRecorder(a.Audit(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	store, err := memory.New(t.Context(), memory.Config{Driver: driver, Recorder: rec, Now: time.Now, Self: a.ID()})
	if err != nil {
		t.Fatal(err)
	}
	memoryserver.Register(a, store)
	w.Serve(a)
	return a
}
