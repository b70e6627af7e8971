package delegation_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// readIntent is what the default grant allows.
func readIntent() delegation.Intent {
	return delegation.Intent{Action: "memory.read", Resource: []string{"ns", "a"}, Purpose: purpose}
}

// TestRecheck has rows 40 and 64, and what step 17 checks beside them.
func TestRecheck(t *testing.T) {
	with := func(facts ...delegation.Fact) delegation.Intent {
		in := readIntent()
		in.Facts = facts
		return in
	}
	size := func(n int64) delegation.Fact { return delegation.Fact{Key: "size", Value: num(n)} }
	small := []*v1.Capability{constrained(capability("memory.read", "ns"), within("size", 0, 10))}
	for _, tc := range []struct {
		name string
		caps []*v1.Capability // nil is the default grant's
		in   func() delegation.Intent
		want v1.Reason
	}{
		{"covered", nil, readIntent, 0},
		{"row 40: B's own task", nil, func() delegation.Intent { in := readIntent(); in.Purpose = "own task"; return in }, otherPurpose},
		{"row 40: no purpose", nil, func() delegation.Intent { in := readIntent(); in.Purpose = ""; return in }, otherPurpose},
		{"row 40: B's own strong rights", nil, func() delegation.Intent { in := readIntent(); in.Action = "memory.delete"; return in }, intersection},
		{"another resource", nil, func() delegation.Intent { in := readIntent(); in.Resource = []string{"ns2", "a"}; return in }, intersection},
		{"the subtree's own root", nil, func() delegation.Intent { in := readIntent(); in.Resource = []string{"ns"}; return in }, intersection},
		{"nothing", nil, func() delegation.Intent { return delegation.Intent{} }, intersection},
		{"constraint met", small, func() delegation.Intent { return with(size(10)) }, 0},
		{"row 64: fact missing", small, func() delegation.Intent { return with() }, unmet},
		{"row 64: fact of another key", small, func() delegation.Intent { return with(delegation.Fact{Key: "count", Value: num(1)}) }, unmet},
		{"row 64: wrong kind", small, func() delegation.Intent { return with(delegation.Fact{Key: "size", Value: word("1")}) }, unmet},
		{"row 64: no value", small, func() delegation.Intent { return with(delegation.Fact{Key: "size"}) }, unmet},
		{
			"row 64: no value for an eq",
			[]*v1.Capability{constrained(capability("memory.read", "ns"), equal("size", num(0)))},
			func() delegation.Intent { return with(delegation.Fact{Key: "size", Value: &v1.Value{}}) }, unmet,
		},
		{
			"value without a kind against a set",
			[]*v1.Capability{constrained(capability("memory.read", "ns"), oneOf("size", num(0)))},
			func() delegation.Intent { return with(delegation.Fact{Key: "size", Value: &v1.Value{}}) }, unmet,
		},
		{"row 64: out of range", small, func() delegation.Intent { return with(size(11)) }, unmet},
		{"row 64: one of two facts out of range", small, func() delegation.Intent { return with(size(1), size(11)) }, unmet},
		{
			"a second capability meets it", append([]*v1.Capability{constrained(capability("memory.read", "ns"), within("size", 11, 12))}, small...),
			func() delegation.Intent { return with(size(3)) }, 0,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newScene(t)
			v := s.verifier(s.b)
			x, err := v.Verify(s.grant1(func(p *v1.GrantPayload) {
				if tc.caps != nil {
					p.Capabilities = tc.caps
				}
			}).chain, s.a.peer)
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Recheck(x, s.a.peer, tc.in()); reason(err) != tc.want {
				t.Errorf("Recheck() = %v, want %v", err, tc.want)
			}
		})
	}
}

func TestRecheckBinding(t *testing.T) {
	s := newScene(t)
	v := s.verifier(s.b)
	x, err := v.Verify(s.hop1().chain, s.a.peer)
	if err != nil {
		t.Fatal(err)
	}
	stranger := s.a.peer
	stranger.Tenant = s.as("spiffe://" + domain + "/tenant/red/agent/a").peer.Tenant
	for name, err := range map[v1.Reason]error{
		unknownChain: v.Recheck(nil, s.a.peer, readIntent()),
		presenter:    v.Recheck(x, s.e.peer, readIntent()),
		tenant:       v.Recheck(x, stranger, readIntent()),
	} {
		if reason(err) != name {
			t.Errorf("Recheck() = %v, want %v", err, name)
		}
	}
	if err := v.Recheck(new(delegation.Leaf), identity.Peer{}, delegation.Intent{}); reason(err) != unknownChain {
		t.Errorf("Recheck(zero leaf) = %v, want %v", err, unknownChain)
	}
	if err := s.verifier(s.b).Recheck(x, s.a.peer, readIntent()); reason(err) != unknownChain {
		t.Errorf("Recheck(another verifier's leaf) = %v, want %v", err, unknownChain)
	}
	own, err := s.verifier(s.a).VerifyGrant(s.grant(s.a))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.verifier(s.a).Recheck(own, s.a.peer, readIntent()); err == nil {
		t.Error("Recheck(a grant presented by its own delegate) = nil, want a refusal")
	}
	auth := s.as(authority)
	y, err := v.Verify(s.chain(auth).to(s.b).c, auth.peer)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Recheck(y, auth.peer, readIntent()); err != nil {
		t.Errorf("Recheck(service) = %v", err)
	}
	s.bundle.Add(1)
	if err := v.Recheck(x, s.a.peer, readIntent()); reason(err) != unknownChain {
		t.Errorf("Recheck(bundle changed) = %v, want %v", err, unknownChain)
	}
}

// TestResolve is row 60.
func TestResolve(t *testing.T) {
	s := newScene(t)
	view := new(revoked)
	v := s.verifier(s.b, func(c *delegation.Config) { c.Revoked = view })
	x, err := v.Verify(s.hop1().chain, s.a.peer)
	if err != nil {
		t.Fatal(err)
	}
	table := delegation.NewConnTable()
	table.Remember(x)
	table.Remember(x)
	table.Remember(nil)
	table.Remember(new(delegation.Leaf))
	link := x.Link()
	got, err := v.Resolve(table, link[:], s.a.peer)
	if err != nil || got != x {
		t.Fatalf("Resolve() = %v, %v, want the leaf", got, err)
	}
	refuse := func(name string, table *delegation.ConnTable, ref []byte, p identity.Peer, want v1.Reason) {
		t.Helper()
		if got, err := v.Resolve(table, ref, p); reason(err) != want || got != nil {
			t.Errorf("%s: Resolve() = %v, %v, want %v", name, got, err, want)
		}
	}
	refuse("another connection", delegation.NewConnTable(), link[:], s.a.peer, unknownChain)
	refuse("no connection", nil, link[:], s.a.peer, unknownChain)
	refuse("another peer", table, link[:], s.e.peer, presenter)
	refuse("short", table, link[:31], s.a.peer, unknownChain)
	refuse("long", table, append(link[:], 0), s.a.peer, unknownChain)
	refuse("zero", table, make([]byte, 32), s.a.peer, unknownChain)
	if _, err := s.verifier(s.b).Resolve(table, link[:], s.a.peer); reason(err) != unknownChain {
		t.Errorf("another verifier: Resolve() = %v, want %v", err, unknownChain)
	}
	view.revoke(x.ID())
	if err := v.Recheck(x, s.a.peer, readIntent()); reason(err) != gone {
		t.Errorf("after revocation: Recheck() = %v, want %v", err, gone)
	}
	s.bundle.Add(1)
	refuse("bundle changed", table, link[:], s.a.peer, unknownChain)
	s.move(15 * time.Minute)
	refuse("expired", table, link[:], s.a.peer, late)
}

func TestConnTableBound(t *testing.T) {
	s := newScene(t)
	v := s.verifier(s.b)
	b := s.chain(s.a)
	table := delegation.NewConnTable()
	var leaves []*delegation.Leaf
	for range delegation.MaxRemembered + 10 {
		c := &builder{w: s.world, c: proto.CloneOf(b.c), last: s.a, parentID: b.parentID, payload: b.payload}
		x, err := v.Verify(c.to(s.b).c, s.a.peer)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, x)
	}
	var wg sync.WaitGroup
	for _, x := range leaves[:10] {
		table.Remember(x)
	}
	for _, x := range leaves[10:] {
		wg.Go(func() { table.Remember(x) })
	}
	wg.Wait()
	if got := table.Remembered(); got != delegation.MaxRemembered {
		t.Errorf("%d chains remembered, want %d", got, delegation.MaxRemembered)
	}
	for i, x := range leaves {
		link := x.Link()
		if _, err := v.Resolve(table, link[:], s.a.peer); (err == nil) != (i >= 10) {
			t.Errorf("Resolve(chain %d) = %v, want the 10 oldest forgotten", i, err)
		}
	}
}

func TestLeaf(t *testing.T) {
	s := newScene(t)
	p := s.hop2()
	x, err := s.verifier(s.c).Verify(p.chain, s.b.peer)
	if err != nil {
		t.Fatal(err)
	}
	if x.Tenant() != "blue" || x.TaskID() != "task-1" || x.Delegate() != s.c.id || x.Issuer() != s.b.id || x.Depth() != 2 || x.MaxDepth() != 4 ||
		x.PurposeDigest() != [32]byte(digestOf(purpose)) || x.Principal().GetSubject() != "ada" {
		t.Errorf("leaf %v does not say what the chain says", x)
	}
	if !x.Covers("memory.write", []string{"ns", "a"}) || x.Covers("memory.write", []string{"ns"}) {
		t.Error("Covers() is not what the capabilities are")
	}
	if !proto.Equal(x.Chain(), p.chain) {
		t.Errorf("Chain() = %v, want %v", x.Chain(), p.chain)
	}
	links := x.Links()
	if again := x.Links(); &again[0] != &links[0] {
		t.Error("Links() made the links twice")
	}
	if len(links) != 3 || links[0].GetDelegator() != authority || links[2].GetDelegate() != s.c.id.String() || links[1].GetDepth() != 1 {
		t.Errorf("Links() = %v", links)
	}
	if id := x.ID(); string(links[2].GetStatementId()) != string(id[:]) {
		t.Errorf("Links()[2] names %x, want %x", links[2].GetStatementId(), id)
	}
	ca := newCA(t, s.ca)
	s.a = s.agent("a", issuedBy(ca, ca.cert))
	p = s.hop2()
	if x, err = s.verifier(s.c).Verify(p.chain, s.b.peer); err != nil || !proto.Equal(x.Chain(), p.chain) {
		t.Errorf("Chain() with an intermediate = %v, %v, want %v", x.Chain(), err, p.chain)
	}
	var zero delegation.Leaf
	if zero.Principal() != nil || zero.TaskID() != "" || zero.Chain() != nil || zero.Links() != nil || zero.Covers("", nil) {
		t.Error("the zero leaf says something")
	}
}

func TestError(t *testing.T) {
	s := newScene(t)
	p := s.hop1()
	p.chain.Certs[0].Leaf = []byte("x")
	_, err := s.verifier(s.b).Verify(p.chain, s.a.peer)
	var e *delegation.Error
	if !errors.As(err, &e) || e.Depth != 1 || errors.Unwrap(e) == nil || !errors.Is(err, delegation.ErrBroken) || errors.Is(err, delegation.ErrAmplified) {
		t.Errorf("Verify() = %#v, want an Error at depth 1 with its cause", err)
	}
	if got, want := (&delegation.Error{Reason: loop, Depth: 2}).Error(), "chain_loop at depth 2"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if got, want := (&delegation.Error{Reason: coldLimit, Depth: -1}).Error(), "chain_cold_limit"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if got := s.parseError(); got != "chain_non_canonical: field 9 of DelegationChain" {
		t.Errorf("Error() = %q, want the field", got)
	}
	if delegation.ReasonOf(errors.New("other")) != 0 || delegation.ReasonOf(nil) != 0 {
		t.Error("ReasonOf(no Error) is a reason")
	}
	for r, want := range map[v1.Reason]error{
		amplified: delegation.ErrAmplified, loosened: delegation.ErrAmplified, unknown: delegation.ErrAmplified,
		notDelegable: delegation.ErrAmplified, tooDeep: delegation.ErrTooDeep, lifetime: delegation.ErrExpired, late: delegation.ErrExpired,
		presenter: delegation.ErrBroken, gone: delegation.ErrBroken,
	} {
		if !errors.Is(&delegation.Error{Reason: r}, want) {
			t.Errorf("errors.Is(%v, %v) = false", r, want)
		}
	}
}

func (s *scene) parseError() string {
	_, err := delegation.ParseChain([]byte{0x48, 1})
	return err.Error()
}
