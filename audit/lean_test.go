package audit_test

import (
	"bytes"
	"encoding/hex"
	"iter"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// whole writes what both sides of a call say when every record says everything.
func (m mesh) whole(from, to, env, cause, origin string, chain byte, reason v1.Reason, end bool) {
	label := &v1.Label{Integrity: v1.Integrity_INTEGRITY_ATTESTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL, AnyReader: true}
	decision := v1.EventDecision_EVENT_DECISION_ALLOW
	if reason != 0 {
		decision = v1.EventDecision_EVENT_DECISION_DENY
	}
	base := func(d v1.EventDirection, id string) *audit.Event {
		return &audit.Event{
			Phase: v1.EventPhase_EVENT_PHASE_INTENT, Direction: d, InteractionId: ident(id), DecisionId: ident(id), EnvelopeId: ident(env),
			CausationId: ident(cause), ConversationId: ident("talk"), TraceId: ident("trace"), Tenant: "acme", PeerTenant: "acme", Action: "memory.read",
			Method: "/m.v1.M/Read", Purpose: "answer", Resource: []string{"notes", from}, Transport: "deliver", RequestBytes: 7,
			Actor: &v1.Party{SpiffeId: agent(from), AgentClass: from}, Peer: &v1.Party{SpiffeId: agent(to)}, ChainId: ident(origin), Depth: 1, MaxDepth: 4,
			Origin: &v1.Principal{Type: v1.Principal_TYPE_USER, Subject: origin, Issuer: "idp"}, TaskId: "task", ControlClaimed: label, DeadlineUnixMs: 99,
			Decision: v1.EventDecision_EVENT_DECISION_ALLOW,
		}
	}
	outcome := func(ev *audit.Event) *audit.Event {
		out, _ := proto.Clone(ev).(*audit.Event)
		out.Phase, out.Chain, out.DecisionInput, out.ControlClaimed, out.ControlEffective, out.Policies = v1.EventPhase_EVENT_PHASE_OUTCOME, nil, nil, nil, nil, nil
		out.Outcome = &v1.Outcome{BytesIn: 7, DurationUs: 3}
		return out
	}
	caller := base(v1.EventDirection_EVENT_DIRECTION_OUTBOUND, env+"-out")
	m.log(from).add(caller)
	callee := base(v1.EventDirection_EVENT_DIRECTION_INBOUND, env+"-in")
	callee.Actor.CertSha256, callee.Actor.Serial = make([]byte, 32), "7f"
	callee.ChainRef, callee.Chain = bytes.Repeat([]byte{chain}, 32), []*v1.ChainLink{
		{Delegator: agent("authority"), Delegate: agent(from), Capabilities: []*v1.Capability{{Action: "memory.read", Subtree: true}}},
		{Delegator: agent(from), Delegate: agent(to), Depth: 1, ExpiresAtMs: 5, Capabilities: []*v1.Capability{{Action: "memory.read", Resource: []string{"notes"}}}},
	}
	callee.ControlEffective, callee.Policies, callee.PolicySerial, callee.PolicySha256 = label, []string{"row"}, 3, make([]byte, 32)
	callee.DecisionInput = &v1.DecisionInput{
		Principal: agent(from), PrincipalClass: from, PrincipalState: "active", Action: "memory.read", Resource: callee.Resource, Callee: agent(to),
		Tenant: "acme", Origin: origin, Purpose: "answer", Capabilities: callee.Chain[1].Capabilities, Control: label,
		MinIntegrity: v1.Integrity_INTEGRITY_ATTESTED, IntegrityCap: v1.Integrity_INTEGRITY_TRUSTED, Depth: 1, MaxDepth: 4, NowUnixMs: 12,
	}
	callee.Decision, callee.Reason, callee.WireReason = decision, reason, reason
	m.log(to).add(callee)
	if !end {
		return
	}
	done := outcome(callee)
	m.log(to).add(done)
	told := outcome(caller)
	told.Decision, told.WireReason, told.Reason = decision, reason, reason
	if reason != 0 {
		told.DecisionId = callee.DecisionId
	}
	told.PeerReceipt = &v1.AuditReceipt{Seq: 4}
	m.log(from).add(told)
}

// lean leaves out of every record what the writers of today leave out.
func (b *book) lean() *book {
	out := &book{agent: b.agent}
	said := map[string]bool{}
	for _, rec := range b.recs {
		ev, _ := proto.Clone(rec.Event).(*audit.Event)
		ref := string(ev.GetChainRef())
		switch {
		case ev.GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME:
			short := &audit.Event{
				Kind: ev.Kind, Phase: ev.Phase, Direction: ev.Direction, TimeUnixNs: ev.TimeUnixNs, InteractionId: ev.InteractionId, DecisionId: ev.DecisionId,
				Tenant: ev.Tenant, Decision: ev.Decision, Reason: ev.Reason, WireReason: ev.WireReason, Outcome: ev.Outcome, PeerReceipt: ev.PeerReceipt,
			}
			if ev.Direction == v1.EventDirection_EVENT_DIRECTION_INBOUND {
				short.Actor = &v1.Party{SpiffeId: ev.GetActor().GetSpiffeId()}
			} else {
				short.Peer = &v1.Party{SpiffeId: ev.GetPeer().GetSpiffeId()}
			}
			ev = short
		case ref != "" && said[ref]:
			ev.Chain, ev.ChainId, ev.Origin, ev.Peer, ev.TaskId, ev.Depth, ev.MaxDepth = nil, nil, nil, nil, "", 0, 0
		}
		said[ref] = true
		if in := ev.GetDecisionInput(); in != nil {
			ev.DecisionInput = &v1.DecisionInput{MinIntegrity: in.MinIntegrity, IntegrityCap: in.IntegrityCap, NowUnixMs: in.NowUnixMs}
			ev.ControlEffective = nil
		}
		rec.Event = ev
		out.recs = append(out.recs, rec)
	}
	return out
}

// What every query answers does not depend on how often the records repeat themselves.
func TestLeanRecordsGiveTheSameAnswers(t *testing.T) {
	const scope = v1.Reason_REASON_SCOPE
	m := mesh{}
	m.whole("planner", "search", "e1", "", "alice", 1, 0, true)
	m.whole("search", "memory", "e2", "e1", "alice", 2, 0, true)
	m.whole("search", "memory", "e3", "e1", "alice", 2, scope, true)
	m.whole("planner", "search", "e4", "", "bob", 3, 0, true)
	m.whole("search", "memory", "e5", "e4", "bob", 4, 0, false) // somebody was killed
	m.whole("planner", "search", "e6", "e9", "alice", 1, scope, true)
	names := []string{"planner", "search", "memory"}
	short := mesh{}
	saved := 0
	for _, n := range names {
		short[n] = m.log(n).lean()
		for i, rec := range m.log(n).recs {
			saved += proto.Size(rec.Event) - proto.Size(short[n].recs[i].Event)
		}
	}
	if saved < 1000 {
		t.Fatalf("the lean records are only %d bytes smaller", saved)
	}
	answer := func(logs ...iter.Seq2[audit.Record, error]) string {
		var out bytes.Buffer
		g, err := audit.BuildGraph(logs...)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := audit.BuildTree(audit.Selector{Conversation: [16]byte(ident("talk"))}, logs...)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Text(&out); err != nil {
			t.Fatal(err)
		}
		if err := g.DOT(&out); err != nil {
			t.Fatal(err)
		}
		if err := tree.Text(&out); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"e1-in", "e2-in", "e3-in", "e4-in", "e5-in", "e6-in", "e1-out", "e5-out"} {
			x, err := audit.Explain(audit.Concat(logs...), [16]byte(ident(id)))
			if err != nil {
				t.Fatalf("%s: %v", id, err)
			}
			out.WriteString(hex.EncodeToString([]byte(id)))
			if err := x.Text(&out); err != nil {
				t.Fatal(err)
			}
		}
		for rec, err := range audit.Expanded(audit.Concat(logs...)) {
			if err != nil {
				t.Fatal(err)
			}
			if err := rec.Text(&out); err != nil {
				t.Fatal(err)
			}
		}
		return out.String()
	}
	if diff := cmp.Diff(answer(m.logs(names...)...), answer(short.logs(names...)...)); diff != "" {
		t.Errorf("lean records are answered with other words (whole -, lean +): %s", diff)
	}
	for _, n := range names {
		var x audit.Expander
		for i, rec := range short[n].recs {
			got := x.Expand(rec).Event
			if diff := cmp.Diff(m[n].recs[i].Event, got, protocmp.Transform(),
				protocmp.IgnoreFields(&v1.AuditEvent{}, "policy_serial", "policy_sha256")); diff != "" {
				t.Errorf("record %d of %s (whole -, expanded +): %s", i, n, diff)
			}
		}
	}
}
