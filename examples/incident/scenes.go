package incident

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/intruder"
)

// shortLife is how long the grant lives that an intruder uses past its end.
const shortLife = 3

// intruders lets two agents with identities of their own try ten ways around the enforcement, by a raw client.
func (d *demo) intruders(ctx context.Context) error {
	began := time.Now()
	byRole := map[string][]string{"visitor": {"cross-tenant"}}
	for _, a := range intruder.Attacks() {
		if a.Name != "cross-tenant" {
			byRole["intern"] = append(byRole["intern"], a.Name)
		}
	}
	want := 0
	for role, names := range byRole {
		order, err := d.order(ctx, role, names)
		if err != nil {
			return err
		}
		if err := d.child(role).send(command{Do: doAttack, Attack: order}); err != nil {
			return err
		}
		want += len(names)
	}
	timeout := time.NewTimer(storyWait)
	defer timer(timeout)
	for len(d.result.Attacks) < want {
		ev, err := d.next(ctx, timeout.C)
		if err != nil {
			return fmt.Errorf("intruders: %w", err)
		}
		switch ev.Kind {
		case kindAttacks:
			var got []intruder.Result
			if err := json.Unmarshal(ev.Data, &got); err != nil {
				return err
			}
			d.result.Attacks = append(d.result.Attacks, got...)
		case kindFailed:
			return fmt.Errorf("%w: %s: %s", ErrFailed, ev.Role, ev.Text)
		}
	}
	d.sortAttacks()
	return d.judge(began)
}

func (d *demo) sortAttacks() {
	var sorted []intruder.Result
	for _, a := range intruder.Attacks() {
		for _, r := range d.result.Attacks {
			if r.Attack == a.Name {
				sorted = append(sorted, r)
			}
		}
	}
	d.result.Attacks = sorted
}

// judge fills in what only the receiver knows, and fails the run for every attack that was not refused for the right reason.
func (d *demo) judge(began time.Time) error {
	for i := range d.result.Attacks {
		r := &d.result.Attacks[i]
		if r.Attack == "forged-id" && r.Refused && r.DecisionID == "" {
			id, reason, err := d.handshakeRefusal(began)
			if err != nil {
				return err
			}
			r.DecisionID = id
			r.Refused = r.Refused && reason == r.Want
		}
		switch {
		case !r.TwinAdmitted:
			d.fail(fmt.Sprintf("intruder %s: its valid twin was refused: %s", r.Attack, r.TwinError))
		case !r.Refused || r.Got != r.Want:
			d.fail(fmt.Sprintf("intruder %s: got %q, want %s", r.Attack, r.Got, r.Want))
		case r.DecisionID == "":
			d.fail(fmt.Sprintf("intruder %s: refused without a decision id", r.Attack))
		}
	}
	d.show.attacks(d.result.Attacks)
	return nil
}

// handshakeRefusal finds the record of a refused handshake: its sender was told nothing.
func (d *demo) handshakeRefusal(since time.Time) (id, reason string, err error) {
	for range 200 { // the receiver writes the record when its side of the handshake has failed
		for rec, err := range audit.ReadDir(d.plane.AuditDir("memory")) {
			if err != nil {
				return "", "", err
			}
			ev := rec.Event
			if ev.GetKind() == v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED && ev.GetTimeUnixNs() >= since.UnixNano() &&
				ev.GetReason() == v1.Reason_REASON_PEER_NOT_SVID {
				return hex.EncodeToString(ev.GetDecisionId()), strings.TrimPrefix(ev.GetWireReason().String(), "REASON_"), nil
			}
		}
		<-time.After(5 * time.Millisecond)
	}
	return "", "", nil
}

// order is what an intruder gets: what any agent of its class has, and what a careless colleague leaked.
func (d *demo) order(ctx context.Context, role string, names []string) ([]byte, error) {
	id := d.child(role).id
	own := []string{"shared", role}
	o := attackOrder{
		Names: names, Target: memoryID, TargetAddr: d.plane.MemoryAddr(), Namespace: own, Foreign: []string{"shared", "incident", incidentID},
		OtherTenant: tenantA, Purpose: "read my own notes", StolenChain: d.leaked, Operator: d.plane.Authority.OperatorSocket(),
		Workload: d.plane.Authority.WorkloadSocket(), Sibling: agentID(tenantA, "executor"),
	}
	if role == "intern" {
		o.OtherTenant = tenantB
	}
	for _, g := range []struct {
		dst *[]byte
		ttl int64
	}{{&o.Grant, 0}, {&o.ShortGrant, shortLife}, {&o.OtherGrant, 0}} {
		issued, err := d.plane.Authority.IssueGrant(ctx, &rpcv1.IssueGrantRequest{
			Principal: "mallory@" + id.Tenant().Name() + ".example", Delegate: id.String(), Purpose: o.Purpose, TtlS: g.ttl, MaxDepth: 2,
			Capabilities: []*v1.Capability{
				{Action: "memory.list", Resource: own, Reach: 2}, {Action: "memory.list", Resource: own, Subtree: true, Reach: 2},
			},
		})
		if err != nil {
			return nil, fmt.Errorf("grant for %s: %w", role, err)
		}
		if *g.dst, err = proto.Marshal(issued.GetGrant()); err != nil {
			return nil, err
		}
	}
	return json.Marshal(o)
}

// proof verifies every log, finds the flipped byte in a copy, rebuilds the graph and explains one denial.
func (d *demo) proof(context.Context) error {
	dirs, err := d.auditDirs()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		report, err := audit.Verify(dir)
		if err != nil {
			return err
		}
		if report.Verdict == audit.Bad {
			d.fail(fmt.Sprintf("audit log %s does not verify: record %d, %s", filepath.Base(dir), report.FirstBad, report.Reason))
			continue
		}
		d.result.Verified = append(d.result.Verified, filepath.Base(dir))
	}
	if err := d.tamper(); err != nil {
		return err
	}
	var all []iter.Seq2[audit.Record, error]
	for _, dir := range dirs {
		all = append(all, calls(audit.Expanded(audit.ReadDir(dir))))
	}
	g, err := audit.BuildGraph(all...)
	if err != nil {
		return err
	}
	for _, e := range g.Edges {
		d.result.Unknown += e.Unknown
	}
	if d.result.Unknown != 1 {
		d.fail(fmt.Sprintf("%d calls have an unknown outcome, want 1: the planner that was killed", d.result.Unknown))
	}
	d.show.graph(g)
	return d.explain(audit.Concat(all...))
}

func (d *demo) auditDirs() ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(d.plane.AuditDir("x")))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		out = append(out, d.plane.AuditDir(e.Name()))
	}
	return out, nil
}

// calls leaves out the open methods by which agents keep in touch with their authority.
func calls(in iter.Seq2[audit.Record, error]) iter.Seq2[audit.Record, error] {
	return func(yield func(audit.Record, error) bool) {
		for rec, err := range in {
			if err == nil && strings.HasPrefix(rec.Event.GetMethod(), "/safeconduct.rpc.v1.AuthorityService/") {
				continue
			}
			if !yield(rec, err) {
				return
			}
		}
	}
}

// tamper flips one byte in a copy of the executor's log: the verifier must name the record. The original must verify.
func (d *demo) tamper() error {
	src, dst := d.plane.AuditDir(tenantA+"-executor"), filepath.Join(d.dir, "tampered")
	if err := copyDir(dst, src); err != nil {
		return err
	}
	segments, err := filepath.Glob(filepath.Join(dst, "seg-*.log"))
	if err != nil || len(segments) == 0 {
		return fmt.Errorf("no segment in %s: %w", filepath.Base(src), err)
	}
	raw, err := os.ReadFile(segments[0])
	if err != nil {
		return err
	}
	at := len(raw)/2 + int(random(64))
	raw[at] ^= 1
	if err := os.WriteFile(segments[0], raw, 0o600); err != nil { //nolint:gosec // G703: a file of the copy made above.
		return err
	}
	report, err := audit.Verify(dst)
	if err != nil {
		return err
	}
	if report.Verdict != audit.Bad {
		d.fail("one flipped byte in a copy of an audit log went unnoticed")
		return nil
	}
	d.result.Tampered = fmt.Sprintf("record %d: %s", report.FirstBad, report.Reason)
	return nil
}

func random(n byte) byte {
	var b [1]byte
	_, _ = rand.Read(b[:])
	return b[0] % n
}

// explain shows why one call was refused: the injected order where the log held one, an intruder's otherwise.
func (d *demo) explain(records iter.Seq2[audit.Record, error]) error {
	var decision string
	switch {
	case len(d.result.Blocked) > 0:
		decision = d.result.Blocked[0].Decision
	case len(d.result.Attacks) > 0:
		decision = d.result.Attacks[0].DecisionID
	}
	id, err := audit.ParseID(decision)
	if err != nil {
		return fmt.Errorf("decision %q: %w", decision, err)
	}
	x, err := audit.Explain(records, id)
	if err != nil {
		return fmt.Errorf("explaining %s: %w", decision, err)
	}
	d.show.explain(x)
	return nil
}
