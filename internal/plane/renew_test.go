package plane_test

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/plane"
	"github.com/safeconduct/safeconduct/runtime"
)

const (
	worker = "spiffe://plane.test/tenant/acme/agent/worker"
	memory = "spiffe://plane.test/service/memory"
)

// mesh is a plane with an agent that may list notes.
type mesh struct {
	*plane.Plane
	t      *testing.T
	cfg    plane.Config
	worker *runtime.Agent
}

func newMesh(t *testing.T, cfg plane.Config) *mesh {
	t.Helper()
	p, err := plane.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := &mesh{Plane: p, t: t, cfg: cfg}
	t.Cleanup(func() { _ = p.Close() })
	if _, err := p.Authority.RegisterAgent(t.Context(), &v1.Agent{
		SpiffeId: worker, AgentClass: "worker", Owner: "ops@plane.test", Purpose: "works", IntegrityCap: v1.Integrity_INTEGRITY_ATTESTED,
	}); err != nil {
		t.Fatal(err)
	}
	row := &v1.CapabilityRow{
		Id: "list", Tenant: "acme", AgentClass: "worker", Peers: []string{memory},
		Capability: &v1.Capability{Action: "memory.list", Resource: []string{"notes"}},
	}
	if _, err := p.Authority.EditTable(t.Context(), []*v1.CapabilityRow{row}, nil); err != nil {
		t.Fatal(err)
	}
	m.worker = m.agent(worker)
	return m
}

// agent is a process of its own as far as the plane can tell: an SVID, mTLS, and what it knows from the authority.
func (m *mesh) agent(id string) *runtime.Agent {
	m.t.Helper()
	parsed, err := identity.ParseAgent(id)
	if err != nil {
		m.t.Fatal(err)
	}
	src, err := m.Authority.Source(parsed)
	if err != nil {
		m.t.Fatal(err)
	}
	a, err := runtime.New(m.t.Context(), runtime.Config{
		Source: src, Authority: m.AuthorityAddr(), AuditDir: filepath.Join(m.cfg.Dir, "audit", parsed.Name()),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = a.Close() })
	return a
}

// act is the worker under a grant that lives for so many seconds.
func (m *mesh) act(seconds int64) (context.Context, *rpcv1.IssueGrantResponse) {
	m.t.Helper()
	g, err := m.Authority.IssueGrant(m.t.Context(), &rpcv1.IssueGrantRequest{
		Delegate: worker, Principal: "alice@plane.test", Purpose: "keep the list", TtlS: seconds,
		Capabilities: []*v1.Capability{{Action: "memory.list", Resource: []string{"notes"}, Reach: 2}},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, err := m.worker.Act(m.t.Context(), g.GetGrant(), "keep the list")
	if err != nil {
		m.t.Fatal(err)
	}
	return ctx, g
}

// list is one call to memory.
func (m *mesh) list(ctx context.Context) error {
	m.t.Helper()
	conn, err := m.worker.Dial(memory)
	if err != nil {
		m.t.Fatal(err)
	}
	_, err = rpcv1.NewMemoryServiceClient(conn).List(ctx, &rpcv1.ListRequest{Ns: &v1.Path{Labels: []string{"notes"}}}, grpc.WaitForReady(true))
	return err
}

// everyTenth calls until the time is over, and fails the test at the first call that fails. It ends early when done, which may be nil,
// holds; that it never does is a failure too.
func (m *mesh) everyTenth(ctx context.Context, d time.Duration, done func() bool) (calls int) {
	m.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(d)
	defer end.Stop()
	for {
		if err := m.list(ctx); err != nil {
			m.t.Fatalf("call %d: %v", calls, err)
		}
		calls++
		if done != nil && done() {
			return calls
		}
		select {
		case <-tick.C:
		case <-end.C:
			if done != nil {
				m.t.Fatalf("after %d calls in %v it has not come to what is waited for", calls, d)
			}
			return calls
		}
	}
}

// An agent works on for twice its grant's life, over real connections and with nothing but its context.
func TestAgentOutlivesItsGrant(t *testing.T) {
	t.Parallel()
	m := newMesh(t, config(t))
	ctx, g := m.act(2)
	calls := m.everyTenth(ctx, 4500*time.Millisecond, nil)
	if err := m.worker.Close(); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	previous := map[string]bool{}
	renewed := 0
	for rec, err := range audit.ReadDir(m.AuditDir("authority")) {
		if err != nil {
			t.Fatal(err)
		}
		e := rec.Event
		switch e.GetKind() {
		case v1.EventKind_EVENT_KIND_GRANT_ISSUED:
			previous[string(e.GetChain()[0].GetStatementId())] = true
		case v1.EventKind_EVENT_KIND_GRANT_RENEWED:
			renewed++
			if string(e.GetChainId()) != string(g.GetChainId()) || e.GetPeer().GetSpiffeId() != worker || !previous[string(e.GetChain()[0].GetStatementId())] || len(e.GetDecisionId()) != 16 {
				t.Errorf("recorded %v", e)
			}
			previous[string(e.GetChain()[1].GetStatementId())] = true
		default:
		}
	}
	if renewed < 2 {
		t.Errorf("%d renewals recorded over %d calls", renewed, calls)
	}
}

// The wire between agent and authority carries reasons and no causes.
func TestRenewalRefusalsOnTheWire(t *testing.T) {
	t.Parallel()
	m := newMesh(t, config(t))
	ctx, g := m.act(60)
	other := "spiffe://plane.test/tenant/acme/agent/other"
	if _, err := m.Authority.RegisterAgent(t.Context(), &v1.Agent{
		SpiffeId: other, AgentClass: "worker", Owner: "ops@plane.test", Purpose: "steals", IntegrityCap: v1.Integrity_INTEGRITY_ATTESTED,
	}); err != nil {
		t.Fatal(err)
	}
	thief := m.agent(other)
	conn, err := thief.Dial("spiffe://plane.test/service/authority")
	if err != nil {
		t.Fatal(err)
	}
	client := rpcv1.NewAuthorityServiceClient(conn)
	forged := proto.CloneOf(g.GetGrant())
	forged.Signature[0] ^= 1
	for name, tt := range map[string]struct {
		grant *v1.SignedStatement
		want  v1.Reason
	}{
		"another agent's grant": {g.GetGrant(), v1.Reason_REASON_PRESENTER_MISMATCH},
		"a forged one":          {forged, v1.Reason_REASON_PRESENTER_MISMATCH},
		"nothing":               {nil, v1.Reason_REASON_CHAIN_INVALID},
	} {
		_, err := client.RenewGrant(t.Context(), &rpcv1.RenewGrantRequest{Chain: &v1.DelegationChain{Grant: tt.grant}})
		var refused *runtime.Refusal
		if !asRefusal(err, &refused) || refused.Reason != tt.want {
			t.Errorf("%s: RenewGrant() = %v, want %s", name, err, tt.want)
		}
	}
	if err := m.worker.Renew(ctx); err != nil {
		t.Errorf("the holder's own renewal = %v", err)
	}
}

func asRefusal(err error, into **runtime.Refusal) bool { return errors.As(err, into) }

// The root is replaced under load: every call before, during and after finds a bundle that verifies both sides, on old connections and
// new ones, with chains that the old root's SVIDs signed and the new root's. That the old root goes in the end is the authority's test.
func TestRootRotatesUnderLoad(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.SVIDLifetime = 8 * time.Second // the new root signs after half of it, when the SVIDs are replaced too
	m := newMesh(t, cfg)
	ctx, _ := m.act(600)
	if m.signedByTheNewestRoot() != 1 {
		t.Fatal("not one root")
	}
	if err := m.Authority.RotateRoot(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Until the worker's SVID is the new root's, which takes four to nine seconds, and a second longer.
	m.everyTenth(ctx, 11*time.Second, func() bool { return m.signedByTheNewestRoot() == 2 })
	m.everyTenth(ctx, time.Second, nil)
}

// signedByTheNewestRoot returns how many roots there are, 0 when the newest did not sign the worker's SVID.
func (m *mesh) signedByTheNewestRoot() int {
	m.t.Helper()
	bundle, err := m.worker.Source().GetX509BundleForTrustDomain(m.Authority.TrustDomain())
	if err != nil {
		m.t.Fatal(err)
	}
	svid, err := m.worker.Source().GetX509SVID()
	if err != nil {
		m.t.Fatal(err)
	}
	roots := bundle.X509Authorities()
	if svid.Certificates[0].CheckSignatureFrom(roots[len(roots)-1]) != nil {
		return 0
	}
	return len(roots)
}

// A grant key that is withdrawn ends grants at every endpoint, those it has verified before too; its replacement works at once.
func TestWithdrawnGrantKeyReachesTheEndpoints(t *testing.T) {
	t.Parallel()
	m := newMesh(t, config(t))
	ctx, g := m.act(600)
	if err := m.list(ctx); err != nil {
		t.Fatal(err)
	}
	if err := m.Authority.WithdrawGrantKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	var refused *runtime.Refusal
	if err := m.list(ctx); !asRefusal(err, &refused) {
		t.Errorf("a call under the withdrawn key = %v, want a refusal", err)
	}
	end := time.NewTimer(time.Minute)
	defer end.Stop()
	for { // the worker learns of it by its trust bundle
		_, err := m.worker.Act(t.Context(), g.GetGrant(), "keep the list")
		if asRefusal(err, &refused) {
			break
		}
		select {
		case <-end.C:
			t.Fatalf("the worker still acts under the withdrawn key: %v", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := m.worker.Renew(ctx); err == nil {
		t.Error("a chain of the withdrawn key was renewed")
	}
	fresh, _ := m.act(600)
	if err := m.list(fresh); err != nil {
		t.Errorf("a call under the new key = %v", err)
	}
}
