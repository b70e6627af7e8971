package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// book is a log for queries, without a disk.
type book struct {
	agent string
	recs  []audit.Record
}

func (b *book) all() iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) {
		for _, r := range b.recs {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (b *book) add(ev *audit.Event) {
	pos := audit.Position{Seq: uint64(len(b.recs))}
	copy(pos.LogID[:], b.agent+"-log-id-123456")
	ev.Kind = v1.EventKind_EVENT_KIND_CALL
	if ev.TimeUnixNs == 0 {
		ev.TimeUnixNs = int64(1_000_000 * (len(b.recs) + 1))
	}
	b.recs = append(b.recs, audit.Record{Position: pos, Event: ev})
}

func ident(s string) []byte {
	b := make([]byte, 16)
	copy(b, s)
	return b
}

func agent(name string) string { return "spiffe://mesh.example/tenant/acme/agent/" + name + "/1" }

// talk is one call as a table writes it.
type talk struct {
	from, to, env, cause string
	// what each side recorded: "" nothing, "i" intent, "io" both, "iu" UNKNOWN after the intent, "d" a denial.
	caller, callee string
	wire           v1.Reason
}

type mesh map[string]*book

func (m mesh) log(name string) *book {
	if m[name] == nil {
		m[name] = &book{agent: name}
	}
	return m[name]
}

func (m mesh) logs(names ...string) []iter.Seq2[audit.Record, error] {
	var out []iter.Seq2[audit.Record, error]
	for _, n := range names {
		out = append(out, m.log(n).all())
	}
	return out
}

func (m mesh) say(talks ...talk) mesh {
	for i, c := range talks {
		base := func(d v1.EventDirection) *audit.Event {
			return &audit.Event{
				Direction: d, InteractionId: ident(c.env + "-i"), EnvelopeId: ident(c.env), CausationId: ident(c.cause),
				ConversationId: ident("talk"), Tenant: "acme", Action: "memory.read",
				Actor:  &v1.Party{SpiffeId: agent(c.from), AgentClass: c.from},
				Peer:   &v1.Party{SpiffeId: agent(c.to), AgentClass: c.to},
				Origin: &v1.Principal{Type: v1.Principal_TYPE_USER, Subject: "alice"}, TimeUnixNs: int64(i+1) * 1e6,
			}
		}
		write := func(b *book, d v1.EventDirection, what string) {
			for _, step := range what {
				ev := base(d)
				ev.Decision = v1.EventDecision_EVENT_DECISION_ALLOW
				switch step {
				case 'i':
					ev.Phase = v1.EventPhase_EVENT_PHASE_INTENT
				case 'o':
					ev.Phase = v1.EventPhase_EVENT_PHASE_OUTCOME
					if d == v1.EventDirection_EVENT_DIRECTION_OUTBOUND {
						ev.WireReason = c.wire
					}
				case 'u':
					ev.Phase = v1.EventPhase_EVENT_PHASE_UNKNOWN
				case 'd':
					ev.Phase = v1.EventPhase_EVENT_PHASE_OUTCOME
					ev.Decision = v1.EventDecision_EVENT_DECISION_DENY
					ev.Reason = v1.Reason_REASON_SCOPE_MISSING
				}
				b.add(ev)
			}
		}
		write(m.log(c.from), v1.EventDirection_EVENT_DIRECTION_OUTBOUND, c.caller)
		write(m.log(c.to), v1.EventDirection_EVENT_DIRECTION_INBOUND, c.callee)
	}
	return m
}

func TestGraphCounts(t *testing.T) {
	type counts struct{ Allowed, Denied, Unknown uint64 }
	for _, tc := range []struct {
		name  string
		talks []talk
		logs  []string
		want  counts
	}{
		{"the callee denies, the caller was told", []talk{{"a", "b", "e1", "", "io", "d", v1.Reason_REASON_SCOPE}}, []string{"a", "b"}, counts{0, 1, 0}},
		{"the callee died: unknown, whatever the caller says", []talk{{"a", "b", "e1", "", "io", "iu", 0}}, []string{"a", "b"}, counts{0, 0, 1}},
		{"an intent without an outcome", []talk{{"a", "b", "e1", "", "io", "i", 0}}, []string{"a", "b"}, counts{0, 0, 1}},
		{"both sides count once", []talk{{"a", "b", "e1", "", "io", "io", 0}}, []string{"a", "b"}, counts{1, 0, 0}},
		{"both sides, logs the other way round", []talk{{"a", "b", "e1", "", "io", "io", 0}}, []string{"b", "a"}, counts{1, 0, 0}},
		{"only the caller's log", []talk{{"a", "b", "e1", "", "io", "io", 0}}, []string{"a"}, counts{1, 0, 0}},
		{"only the caller's log, and it was refused", []talk{{"a", "b", "e1", "", "io", "d", v1.Reason_REASON_SCOPE}}, []string{"a"}, counts{0, 1, 0}},
		{"only the caller's log, end not known", []talk{{"a", "b", "e1", "", "io", "io", v1.Reason_REASON_OUTCOME_UNKNOWN}}, []string{"a"}, counts{0, 0, 1}},
		{"the caller refused itself", []talk{{"a", "b", "e1", "", "d", "", 0}}, []string{"a", "b"}, counts{0, 1, 0}},
		{"several calls", []talk{{"a", "b", "e1", "", "io", "io", 0}, {"a", "b", "e2", "", "io", "io", 0}, {"a", "b", "e3", "", "io", "d", 0}}, []string{"a", "b"}, counts{2, 1, 0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g, err := audit.BuildGraph(mesh{}.say(tc.talks...).logs(tc.logs...)...)
			if err != nil || len(g.Edges) != 1 || len(g.Nodes) != 2 {
				t.Fatalf("BuildGraph() = %+v, %v, want one edge", g, err)
			}
			e := g.Edges[0]
			if got := (counts{e.Allowed, e.Denied, e.Unknown}); got != tc.want || e.From != agent("a") || e.To != agent("b") {
				t.Errorf("edge %s -> %s %+v, want %+v", e.From, e.To, got, tc.want)
			}
			if diff := cmp.Diff([]string{"user alice"}, e.OnBehalf); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestGraphReplay counts a replayed envelope as a second, denied call.
func TestGraphReplay(t *testing.T) {
	m := mesh{}.say(talk{"a", "b", "e1", "", "io", "io", 0})
	replay := &audit.Event{
		Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND, Phase: v1.EventPhase_EVENT_PHASE_OUTCOME, InteractionId: ident("other"),
		EnvelopeId: ident("e1"), Actor: &v1.Party{SpiffeId: agent("a")}, Peer: &v1.Party{SpiffeId: agent("b")}, Action: "memory.read",
		Decision: v1.EventDecision_EVENT_DECISION_DENY, Reason: v1.Reason_REASON_REPLAYED, RepeatedCount: 41,
	}
	m.log("b").add(replay)
	g, err := audit.BuildGraph(m.logs("a", "b")...)
	if err != nil || len(g.Edges) != 1 {
		t.Fatalf("BuildGraph() = %+v, %v", g, err)
	}
	if e := g.Edges[0]; e.Allowed != 1 || e.Denied != 41 || e.Reasons["REPLAYED"] != 41 {
		t.Errorf("edge = %+v, want 1 allowed and 41 replays denied", e)
	}
}

func TestGraphIsBounded(t *testing.T) {
	b := &book{agent: "a"}
	for i := range 1000 {
		b.add(&audit.Event{
			Phase: v1.EventPhase_EVENT_PHASE_OUTCOME, Actor: &v1.Party{SpiffeId: agent("a")},
			Peer: &v1.Party{SpiffeId: agent(strings.Repeat("x", i+1))}, Decision: v1.EventDecision_EVENT_DECISION_ALLOW,
		})
	}
	g, err := audit.BuildGraph(b.all())
	if err != nil || len(g.Nodes) != audit.MaxGraphNodes || g.Hidden != 1000-audit.MaxGraphNodes+1 {
		t.Errorf("%d nodes, %d calls hidden, %v", len(g.Nodes), g.Hidden, err)
	}
}

// shape writes a tree as nested names.
func shape(nodes []*audit.CallNode) string {
	var parts []string
	for _, n := range nodes {
		s := strings.TrimRight(string(n.Envelope[:]), "\x00")
		if n.Gap != audit.NoGap {
			s += "!" + string(n.Gap)
		}
		if n.Cut {
			s += "!CUT"
		}
		if len(n.Children) > 0 {
			s += "(" + shape(n.Children) + ")"
		}
		parts = append(parts, s)
	}
	return strings.Join(parts, " ")
}

func TestTree(t *testing.T) {
	chain := []talk{
		{"a", "b", "e1", "", "io", "io", 0},
		{"b", "c", "e2", "e1", "io", "io", 0},
		{"b", "d", "e3", "e1", "io", "d", v1.Reason_REASON_SCOPE},
		{"c", "d", "e4", "e2", "io", "io", 0},
		{"x", "y", "other", "", "io", "io", 0},
	}
	conversation := audit.Selector{Conversation: [16]byte(ident("talk"))}
	envelope := func(e string) audit.Selector { return audit.Selector{Envelope: [16]byte(ident(e))} }
	for _, tc := range []struct {
		name  string
		talks []talk
		logs  []string
		sel   audit.Selector
		want  string
	}{
		{"nothing found", chain, []string{"a"}, envelope("zzz"), "not found"},
		{"log of b is not there", chain, []string{"a", "c", "d"}, envelope("e1"), "e1(e1!MISSING_AT_CALLEE e2!MISSING_AT_CALLER(e4) e3!MISSING_AT_CALLER)"},
		{"cause in no log", []talk{{"b", "c", "e2", "gone", "io", "io", 0}}, []string{"b", "c"}, envelope("e2"), "gone!CAUSE_NOT_RECORDED(e2)"},
		{"circle", []talk{{"a", "b", "e1", "e2", "io", "io", 0}, {"b", "a", "e2", "e1", "io", "io", 0}}, []string{"a", "b"}, envelope("e1"), "e1!CUT(e2)"},
		{"its own cause", []talk{{"a", "b", "e1", "e1", "io", "io", 0}}, []string{"a", "b"}, envelope("e1"), "e1!CUT"},
		{"by envelope: causes and consequences", chain, []string{"a", "b", "c", "d"}, envelope("e2"), "e1(e2(e4))"},
		{"by conversation", chain, []string{"a", "b", "c", "d", "x", "y"}, conversation, "e1(e2(e4) e3) other"},
		{"order of the logs does not matter", chain, []string{"y", "d", "x", "c", "b", "a"}, conversation, "e1(e2(e4) e3) other"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tree, err := audit.BuildTree(tc.sel, mesh{}.say(tc.talks...).logs(tc.logs...)...)
			if tc.want == "not found" {
				if !errors.Is(err, audit.ErrNotFound) {
					t.Errorf("BuildTree() = %v, want ErrNotFound", err)
				}
				return
			}
			if err != nil || shape(tree.Roots) != tc.want {
				t.Errorf("BuildTree() = %s, %v, want %s", shape(tree.Roots), err, tc.want)
			}
			var b bytes.Buffer
			if err := tree.Text(&b); err != nil {
				t.Error(err)
			}
			harmless(t, b.String(), 80)
		})
	}
}

func denied(reason v1.Reason) *audit.Event {
	return &audit.Event{
		Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND, Phase: v1.EventPhase_EVENT_PHASE_INTENT, InteractionId: ident("i1"),
		EnvelopeId: ident("e1"), DecisionId: ident("d1"), Tenant: "acme", Action: "memory.write", Resource: []string{"notes", "q3"},
		Actor:    &v1.Party{SpiffeId: agent("planner"), AgentClass: "planner"},
		Peer:     &v1.Party{SpiffeId: agent("store"), AgentClass: "store"},
		Origin:   &v1.Principal{Type: v1.Principal_TYPE_USER, Subject: "alice", Issuer: "https://id.example"},
		ChainRef: ident("chain"), Depth: 1, MaxDepth: 3, ControlClaimed: &v1.Label{Integrity: v1.Integrity_INTEGRITY_TRUSTED},
		ControlEffective: &v1.Label{Integrity: v1.Integrity_INTEGRITY_ATTESTED},
		Decision:         v1.EventDecision_EVENT_DECISION_DENY, Reason: reason, WireReason: v1.Reason_REASON_SCOPE,
		Cause: "no capability covers it", PolicySerial: 12, Policies: []string{"row-3"},
		DecisionInput: &v1.DecisionInput{
			Principal: agent("planner"), PrincipalClass: "planner", PrincipalState: "suspended", Callee: agent("store"),
			MinIntegrity: v1.Integrity_INTEGRITY_TRUSTED, IntegrityCap: v1.Integrity_INTEGRITY_ATTESTED,
			Capabilities: []*v1.Capability{{Action: "memory.read", Resource: []string{"notes"}, Subtree: true}},
		},
	}
}

func TestExplain(t *testing.T) {
	m := mesh{}
	callee, caller := m.log("store"), m.log("planner")
	first := denied(0)
	first.InteractionId, first.DecisionId, first.Decision = ident("i0"), ident("d0"), v1.EventDecision_EVENT_DECISION_ALLOW
	first.Chain = []*v1.ChainLink{
		{Delegator: "spiffe://mesh.example/service/authority", Delegate: agent("planner"), ExpiresAtMs: 1_790_000_000_000, Capabilities: []*v1.Capability{
			{Action: "memory.read", Resource: []string{"notes"}, Subtree: true},
		}},
	}
	callee.add(first)
	callee.add(denied(v1.Reason_REASON_SCOPE_MISSING))
	end := &audit.Event{
		Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND, Phase: v1.EventPhase_EVENT_PHASE_OUTCOME, InteractionId: ident("i1"),
		Outcome: &v1.Outcome{Code: 7},
	}
	callee.add(end)
	caller.add(&audit.Event{ // what the caller was told
		Direction: v1.EventDirection_EVENT_DIRECTION_OUTBOUND, Phase: v1.EventPhase_EVENT_PHASE_OUTCOME, InteractionId: ident("i9"),
		DecisionId: ident("d1"), Decision: v1.EventDecision_EVENT_DECISION_ALLOW, WireReason: v1.Reason_REASON_SCOPE,
	})
	x, err := audit.Explain(audit.Concat(m.logs("planner", "store")...), [16]byte(ident("d1")))
	if err != nil {
		t.Fatal(err)
	}
	want := audit.Explanation{
		DecisionID: [16]byte(ident("d1")), Position: callee.recs[1].Position, At: time.Unix(0, 2_000_000),
		Direction: v1.EventDirection_EVENT_DIRECTION_INBOUND, Decision: v1.EventDecision_EVENT_DECISION_DENY,
		Reason: v1.Reason_REASON_SCOPE_MISSING, WireReason: v1.Reason_REASON_SCOPE, Cause: "no capability covers it",
		Actor: agent("planner"), ActorClass: "planner", ActorState: "suspended", Callee: agent("store"),
		Origin: "user alice (https://id.example)", Tenant: "acme", Action: "memory.write", Resource: []string{"notes", "q3"},
		Links: []audit.Link{{
			From: "spiffe://mesh.example/service/authority", To: agent("planner"), Expires: time.UnixMilli(1_790_000_000_000),
			Capabilities: []string{"memory.read on notes and below"},
		}},
		Capabilities: []string{"memory.read on notes and below"}, Depth: 1, MaxDepth: 3,
		Floor: v1.Integrity_INTEGRITY_TRUSTED, Cap: v1.Integrity_INTEGRITY_ATTESTED, PolicySerial: 12, Policies: []string{"row-3"},
		Finished: true, Code: 7,
		Otherwise: "The chain would have had to hold a capability for memory.write on notes/q3; it holds none for that action.",
	}
	if diff := cmp.Diff(want, x, cmpopts.IgnoreFields(audit.Explanation{}, "Claimed", "Effective")); diff != "" {
		t.Errorf("Explain() (-want +got):\n%s", diff)
	}
	if _, err := audit.Explain(callee.all(), [16]byte(ident("zz"))); !errors.Is(err, audit.ErrNotFound) {
		t.Errorf("Explain of an unknown id = %v, want ErrNotFound", err)
	}
}

// TestExplainEveryReason wants a sentence of its own for each reason that there is.
func TestExplainEveryReason(t *testing.T) {
	for n, name := range v1.Reason_name {
		for _, input := range []bool{true, false} {
			b := &book{agent: "store"}
			ev := denied(v1.Reason(n))
			if !input {
				ev.DecisionInput = nil
			}
			b.add(ev)
			x, err := audit.Explain(b.all(), [16]byte(ident("d1")))
			if err != nil || !strings.HasSuffix(x.Otherwise, ".") || strings.Contains(x.Otherwise, "is all it knows") && n != 253 {
				t.Errorf("%s: %q, %v", name, x.Otherwise, err)
			}
			if !x.ChainMissing {
				t.Errorf("%s: a chain that no record holds is not reported", name)
			}
		}
	}
}

func TestExplainNearMiss(t *testing.T) {
	for _, tc := range []struct {
		reason v1.Reason
		change func(*audit.Event)
		want   string
	}{
		{v1.Reason_REASON_INTEGRITY_FLOOR, nil, "What influenced the request would have had to be at least TRUSTED; it was ATTESTED, and this caller reaches ATTESTED at most."},
		{v1.Reason_REASON_AGENT_SUSPENDED, nil, "The operator would have had to keep the caller active; its state was suspended."},
		{v1.Reason_REASON_SCOPE_MISSING, func(ev *audit.Event) { ev.Action = "memory.read" }, "The chain would have had to cover memory.read on notes/q3; for that action it covers only notes and below."},
		{v1.Reason_REASON_CHAIN_DEPTH, func(ev *audit.Event) { ev.Depth = 5 }, "The chain would have had to have at most 3 hops; it has 5."},
		{v1.Reason(9999), nil, "The log names the reason 9999; the cause above is all it knows."},
	} {
		b := &book{agent: "store"}
		ev := denied(tc.reason)
		if tc.change != nil {
			tc.change(ev)
		}
		b.add(ev)
		x, err := audit.Explain(b.all(), [16]byte(ident("d1")))
		if err != nil || x.Otherwise != tc.want {
			t.Errorf("%s: %q, %v, want %q", tc.reason, x.Otherwise, err, tc.want)
		}
	}
}

// hostile holds what must never reach a terminal, a line format or a DOT file as it is.
const hostile = "a\nb\r\t\x1b[31mred\x07 \u202egnp.exe\u2066 \u200b <script>&amp; \" \\ \"]; evil -> node; \u0301\u0301 \u2028end"

// TestU9HostileStrings puts them into every text field of every answer.
func TestU9HostileStrings(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, dir, audit.Config{})
	ev := denied(v1.Reason_REASON_SCOPE_MISSING)
	ev.Kind = v1.EventKind_EVENT_KIND_CALL
	ev.Action, ev.Method, ev.Purpose, ev.Cause, ev.Detail, ev.Tenant, ev.PeerTenant = hostile, hostile, hostile, hostile, hostile, hostile, "other"
	ev.Resource, ev.Policies = []string{hostile}, []string{hostile}
	ev.Actor = &v1.Party{SpiffeId: hostile, AgentClass: hostile}
	ev.Peer = &v1.Party{SpiffeId: "peer" + hostile, AgentClass: hostile}
	ev.Origin = &v1.Principal{Subject: hostile, Issuer: hostile}
	ev.DecisionInput.PrincipalState = hostile
	ev.Chain = []*v1.ChainLink{{Delegator: hostile, Delegate: hostile, Capabilities: []*v1.Capability{{Action: hostile, Resource: []string{hostile}}}}}
	ev.ControlClaimed.Tags, ev.ControlClaimed.Sources = []string{hostile}, []string{hostile}
	appendOne(t, l, audit.Effect, ev)
	closeLog(t, l)
	recs := records(t, dir)
	g, err := audit.BuildGraph(audit.ReadDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	x, err := audit.Explain(audit.ReadDir(dir), [16]byte(ident("d1")))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := audit.BuildTree(audit.Selector{Envelope: [16]byte(ident("e1"))}, audit.ReadDir(dir))
	if err != nil {
		t.Fatal(err)
	}
	line, err := recs[1].JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Event struct{ Action string }
	}
	if err := json.Unmarshal(line, &back); err != nil || back.Event.Action != hostile {
		t.Errorf("JSON does not read back: %q, %v", back.Event.Action, err)
	}
	for _, tc := range []struct {
		name  string
		width int
		write func(*bytes.Buffer) error
	}{
		{"graph text", 80, func(b *bytes.Buffer) error { return g.Text(b) }},
		{"graph DOT", 0, func(b *bytes.Buffer) error { return g.DOT(b) }},
		{"tree", 80, func(b *bytes.Buffer) error { return tree.Text(b) }},
		{"explanation", 80, func(b *bytes.Buffer) error { return x.Text(b) }},
		{"record", 80, func(b *bytes.Buffer) error { return recs[1].Text(b) }},
		{"JSON", 0, func(b *bytes.Buffer) error { _, err := b.Write(line); return err }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var b bytes.Buffer
			if err := tc.write(&b); err != nil {
				t.Fatal(err)
			}
			harmless(t, b.String(), tc.width)
			if tc.name == "JSON" && strings.Contains(b.String(), "\n") {
				t.Error("a record takes more than one line")
			}
			if tc.name == "graph DOT" {
				dotLabelsHold(t, b.String())
			}
		})
	}
}

// harmless wants visible characters only, and lines of at most width columns.
func harmless(t *testing.T, s string, width int) {
	t.Helper()
	for line := range strings.SplitSeq(strings.TrimSuffix(s, "\n"), "\n") {
		for _, r := range line {
			if r != ' ' && (!unicode.IsGraphic(r) || unicode.In(r, unicode.M, unicode.Z, unicode.C)) {
				t.Errorf("%q reaches the terminal in %q", r, line)
			}
		}
		if n := len([]rune(line)); width > 0 && n > width {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// dotLabelsHold wants every statement of the DOT file to be one of ours once the quoted strings are taken out.
func dotLabelsHold(t *testing.T, s string) {
	t.Helper()
	for line := range strings.Lines(s) {
		var bare strings.Builder
		quoted := false
		for i := 0; i < len(line); i++ {
			switch {
			case quoted && line[i] == '\\':
				i++
			case line[i] == '"':
				quoted = !quoted
			case !quoted:
				bare.WriteByte(line[i])
			}
		}
		if quoted || strings.Contains(bare.String(), "evil") || strings.Contains(bare.String(), "script") {
			t.Errorf("a label leaks: %s", line)
		}
	}
}

func TestGraphText(t *testing.T) {
	m := mesh{}.say(talk{"a", "b", "e1", "", "io", "io", 0}, talk{"a", "b", "e2", "", "io", "d", v1.Reason_REASON_SCOPE}, talk{"b", "c", "e3", "", "io", "i", 0})
	g, err := audit.BuildGraph(m.logs("a", "b", "c")...)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := g.Text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"3 agents, 2 edges: 1 allowed, 1 denied, 1 unknown", "denied 1 times: SCOPE_MISSING", "for user alice", "tenant acme"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("text has no %q:\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := g.DOT(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"digraph audit {", `color="red", style=solid`, `color="black", style=dashed`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("DOT has no %q:\n%s", want, b.String())
		}
	}
}

// Senders choose the ids of their messages. One that uses another's id does not get what came of the other's message, in whichever order
// the logs are read.
func TestTreeIsNotJoinedByAnIdThatIsUsedTwice(t *testing.T) {
	chains := map[string]string{"a": "of alice", "m": "of mallory"}
	for _, tc := range []struct {
		name string
		to   string // who m sends its message to
		want string
	}{
		{"to the same callee", "b", "e1 e1(e2(e3))"},
		{"to another", "c", "e1 e1(e2(e3))"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := mesh{}.say(talk{"m", tc.to, "e1", "", "io", "io", 0}, talk{"a", "b", "e1", "", "io", "io", 0},
				talk{"b", "c", "e2", "e1", "io", "io", 0}, talk{"c", "d", "e3", "e2", "io", "io", 0})
			for _, b := range m {
				for i, r := range b.recs {
					r.Event.ChainId = ident(chains["a"])
					if r.Event.Actor.SpiffeId == agent("m") {
						r.Event.ChainId = ident(chains["m"])
						r.Event.InteractionId = ident("m-i")
					}
					b.recs[i] = r
				}
			}
			for _, logs := range [][]string{{"m", "a", "b", "c", "d"}, {"d", "c", "b", "a", "m"}} {
				tree, err := audit.BuildTree(audit.Selector{Conversation: [16]byte(ident("talk"))}, m.logs(logs...)...)
				if err != nil || shape(tree.Roots) != tc.want {
					t.Fatalf("BuildTree(%v) = %s, %v, want %s", logs, shape(tree.Roots), err, tc.want)
				}
				for _, n := range tree.Roots {
					if (n.From == agent("a")) != (len(n.Children) > 0) {
						t.Errorf("%v: %s has %d consequences", logs, n.From, len(n.Children))
					}
				}
			}
		})
	}
}
