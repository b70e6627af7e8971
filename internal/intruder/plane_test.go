package intruder_test

import (
	"context"
	"encoding/hex"
	"os"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/intruder"
	"github.com/safeconduct/safeconduct/internal/plane"
)

const (
	td      = "td.test"
	self    = "spiffe://" + td + "/tenant/acme/agent/mallory"
	sibling = "spiffe://" + td + "/tenant/acme/agent/alice"
	target  = "spiffe://" + td + "/service/memory"
	purpose = "read the notes"
)

var (
	namespace = []string{"notes"}
	foreign   = []string{"payroll"}
)

// scene is a whole control plane with the intruder's process, its sibling's, and what the intruder holds.
type scene struct {
	t     *testing.T
	plane *plane.Plane
	agent *agentProcess
	order order
}

func newScene(t *testing.T) *scene {
	t.Helper()
	dir, err := os.MkdirTemp("", "sc") //nolint:usetesting // t.TempDir has the test's name in its path, too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p, err := plane.Start(t.Context(), plane.Config{Dir: dir, TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("closing the plane: %v", err)
		}
	})
	s := &scene{t: t, plane: p}
	for _, id := range []string{self, sibling, "spiffe://" + td + "/tenant/globex/agent/bob"} {
		s.register(id)
	}
	var rows []*v1.CapabilityRow
	for i, ns := range [][]string{namespace, foreign} { // the table permits both: only the chain keeps the intruder out
		rows = append(rows, &v1.CapabilityRow{
			Id: "list-" + string(rune('a'+i)), Tenant: "acme", AgentClass: "reader", Peers: []string{target},
			Capability: &v1.Capability{Action: "memory.list", Resource: ns},
		})
	}
	if _, err := p.Authority.EditTable(t.Context(), rows, nil); err != nil {
		t.Fatal(err)
	}
	s.agent = s.start(self)
	s.order = order{
		Target: target, TargetAddr: p.MemoryAddr(), Sibling: sibling, Namespace: namespace, Foreign: foreign,
		OtherTenant: "globex", Purpose: purpose, Operator: p.Authority.OperatorSocket(), Workload: p.Authority.WorkloadSocket(),
		Grant: s.grant(self, 0), OtherGrant: s.grant(self, 0),
	}
	s.order.StolenChain = s.start(sibling).do(order{
		Steal: true, Target: target, Purpose: purpose, Grant: s.grant(sibling, 0),
	}).Chain
	return s
}

func (s *scene) register(id string) {
	s.t.Helper()
	a, err := identity.ParseAgent(id)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = s.plane.Authority.RegisterAgent(s.t.Context(), &v1.Agent{
		SpiffeId: id, Tenant: a.Tenant().Name(), Name: a.Name(), AgentClass: "reader", Owner: "tests", Purpose: "reads notes",
		IntegrityCap: v1.Integrity_INTEGRITY_ATTESTED,
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// start runs a process that is id.
func (s *scene) start(id string) *agentProcess {
	s.t.Helper()
	return startProcess(s.t, s.plane.Authority.WorkloadSocket(), func(pid int) {
		a, err := identity.ParseAgent(id)
		if err != nil {
			s.t.Fatal(err)
		}
		if _, _, err := s.plane.Authority.AdmitWorkload(s.t.Context(), a, pid); err != nil {
			s.t.Fatal(err)
		}
	})
}

func (s *scene) grant(id string, ttl time.Duration) []byte {
	s.t.Helper()
	r, err := s.plane.Authority.IssueGrant(s.t.Context(), &rpcv1.IssueGrantRequest{
		Principal: "carol", Delegate: id, Purpose: purpose, TtlS: int64(ttl / time.Second),
		Capabilities: []*v1.Capability{{Action: "memory.list", Resource: namespace, Reach: 4}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	raw, err := proto.Marshal(r.GetGrant())
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// record finds what a refused caller was told about in the log of a service of the plane.
func (s *scene) record(service string, match func(*v1.AuditEvent) bool) *v1.AuditEvent {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), wait)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		for rec, err := range audit.ReadDir(s.plane.AuditDir(service)) {
			if err != nil {
				s.t.Fatal(err)
			}
			if match(rec.Event) {
				return rec.Event
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.t.Fatalf("no such record in the log of %s", service)
		}
	}
}

// The precise reasons that the receiver's log must give for what the wire only hints at.
var recorded = map[string]v1.Reason{
	"cross-tenant":      v1.Reason_REASON_TENANT_MISMATCH,
	"widened-scope":     v1.Reason_REASON_CHAIN_SCOPE_AMPLIFIED,
	"stolen-chain":      v1.Reason_REASON_CHAIN_PRESENTER,
	"replay":            v1.Reason_REASON_REPLAYED,
	"expired-grant":     v1.Reason_REASON_CHAIN_TIME,
	"foreign-namespace": v1.Reason_REASON_CHAIN_INTERSECTION,
	"sibling-svid":      v1.Reason_REASON_OPERATOR_REQUIRED,
	"spliced-chain":     v1.Reason_REASON_CHAIN_PARENT_MISMATCH,
	"no-envelope":       v1.Reason_REASON_NO_ENVELOPE,
}

func TestAllAttacksAreRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.order.ShortGrant = s.grant(self, 3*time.Second)
	results := s.agent.do(s.order).Results
	attacks := intruder.Attacks()
	if len(results) != len(attacks) {
		t.Fatalf("%d results, want %d", len(results), len(attacks))
	}
	for i, r := range results {
		t.Run(r.Attack, func(t *testing.T) {
			t.Logf("%+v", r)
			if r.Attack != attacks[i].Name || r.Want != attacks[i].Want {
				t.Errorf("result %d is of %s, want of %s", i, r.Attack, attacks[i].Name)
			}
			if !r.Refused || !r.TwinAdmitted || r.Inconclusive || r.Got != r.Want {
				t.Fatalf("%s = %+v, want refused with %s", r.Attack, r, r.Want)
			}
			if r.Attack == "forged-id" {
				ev := s.record("memory", func(ev *v1.AuditEvent) bool { return ev.GetKind() == v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED })
				if ev.GetReason() != v1.Reason_REASON_PEER_NOT_SVID || r.DecisionID != "" {
					t.Errorf("recorded reason %v with decision %q on the client's side, want PEER_NOT_SVID and none", ev.GetReason(), r.DecisionID)
				}
				return
			}
			id, err := hex.DecodeString(r.DecisionID)
			if err != nil || len(id) != 16 {
				t.Fatalf("decision id %q, want 16 bytes in hexadecimal", r.DecisionID)
			}
			service := "memory"
			if r.Attack == "sibling-svid" {
				service = "authority"
			}
			ev := s.record(service, func(ev *v1.AuditEvent) bool { return slices.Equal(ev.GetDecisionId(), id) })
			if ev.GetReason() != recorded[r.Attack] || ev.GetDecision() != v1.EventDecision_EVENT_DECISION_DENY {
				t.Errorf("recorded %v with %v, want a denial with %v", ev.GetDecision(), ev.GetReason(), recorded[r.Attack])
			}
		})
	}
}

func TestTwinThatIsRefusedIsInconclusive(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	// Without the row even valid calls are refused, so refusals prove nothing.
	if _, err := s.plane.Authority.EditTable(t.Context(), nil, []string{"list-a"}); err != nil {
		t.Fatal(err)
	}
	for _, r := range s.agent.do(named(s.order, "cross-tenant", "no-envelope", "replay")).Results {
		if r.Refused || !r.Inconclusive || r.TwinAdmitted || r.TwinError == "" || r.Got != "" {
			t.Errorf("%s = %+v, want inconclusive because the twin was refused", r.Attack, r)
		}
	}
}

func named(o order, names ...string) order {
	o.Names = names
	return o
}
