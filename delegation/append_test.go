package delegation_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// root returns the leaf of a grant for a.
func (s *scene) root(a *agent, change ...func(*v1.GrantPayload)) *delegation.Leaf {
	s.tb.Helper()
	x, err := s.verifier(a).VerifyGrant(s.grant(a, change...))
	if err != nil {
		s.tb.Fatal(err)
	}
	return x
}

func TestAppendDefaults(t *testing.T) {
	s := newScene(t)
	root := s.root(s.a, func(p *v1.GrantPayload) {
		p.Capabilities = append(p.Capabilities, &v1.Capability{Action: "mine"}, &v1.Capability{Action: "once", Reach: 1})
	})
	c, err := delegation.Append(root, delegation.HopSpec{Delegate: s.b.id}, s.a.signer, s.now())
	if err != nil {
		t.Fatal(err)
	}
	x, err := s.verifier(s.b).Verify(c, s.a.peer)
	if err != nil {
		t.Fatal(err)
	}
	var actions []string
	for _, c := range x.Capabilities() {
		actions = append(actions, c.GetAction())
	}
	if want := []string{"memory.read", "memory.write", "once"}; !slices.Equal(actions, want) {
		t.Errorf("passed on %v, want %v", actions, want)
	}
	if !x.Expires().Equal(root.Expires()) || !x.NotBefore().Equal(root.NotBefore()) || x.MaxDepth() != root.MaxDepth() {
		t.Errorf("leaf %v - %v depth %d, want the root's", x.NotBefore(), x.Expires(), x.MaxDepth())
	}
	// The next hop is self-contained, although this one was sent with the certificate left to the connection.
	c.Hops[0].CertRef, c.Certs = 0, nil
	if x, err = s.verifier(s.b).Verify(c, s.a.peer); err != nil {
		t.Fatal(err)
	}
	spec := delegation.HopSpec{Delegate: s.c.id, MaxDepth: 2, Lifetime: time.Minute}
	if c, err = delegation.Append(x, spec, s.b.signer, s.now()); err != nil {
		t.Fatal(err)
	}
	if len(c.GetCerts()) != 2 || c.GetHops()[0].GetCertRef() != 1 || c.GetHops()[1].GetCertRef() != 2 {
		t.Errorf("%d certificates with references %v, want each hop its own", len(c.GetCerts()), c.GetHops())
	}
	if x, err = s.verifier(s.c).Verify(c, s.b.peer); err != nil {
		t.Fatal(err)
	}
	if got := x.Expires(); !got.Equal(s.now().Add(time.Minute)) {
		t.Errorf("expires %v, want a minute", got)
	}
	if x.MaxDepth() != 2 || x.Capabilities()[0].GetReach() != 2 || len(x.Capabilities()) != 2 {
		t.Errorf("max depth %d with %v, want 2 and two capabilities that reach it", x.MaxDepth(), x.Capabilities())
	}
	if _, err = delegation.Append(x, delegation.HopSpec{Delegate: s.d.id}, s.c.signer, s.now()); reason(err) != tooDeep || !errors.Is(err, delegation.ErrTooDeep) {
		t.Errorf("Append(below the last) = %v, want %v", err, tooDeep)
	}
}

// TestAppendShortSVID: a hop ends before a certificate of 20 s by a tenth of its life, before one of an hour by 30 s.
func TestAppendShortSVID(t *testing.T) {
	for _, tc := range []struct{ before, after, want time.Duration }{
		{0, 20 * time.Second, 18 * time.Second},
		{0, 10 * time.Minute, 9*time.Minute + 30*time.Second},
		{0, time.Hour, 15 * time.Minute},
		{-50 * time.Minute, 10 * time.Minute, 9*time.Minute + 30*time.Second},
	} {
		s := newScene(t)
		a := s.agent("a", life(tc.before, tc.after))
		c, err := delegation.Append(s.root(a), delegation.HopSpec{Delegate: s.b.id}, a.signer, s.now())
		if err != nil {
			t.Fatal(err)
		}
		x, err := s.verifier(s.b).Verify(c, a.peer)
		if err != nil {
			t.Fatal(err)
		}
		if got := x.Expires().Sub(s.now()); got != tc.want {
			t.Errorf("with a certificate of %v, Append() lives %v, want %v", tc.after, got, tc.want)
		}
	}
}

// liar is a signer whose answers a test chooses.
type liar struct {
	delegation.Signer
	sign func(string, []byte) ([]byte, [][]byte, error)
}

func (l liar) Sign(t string, p []byte) ([]byte, [][]byte, error) { return l.sign(t, p) }

func TestAppendRefusals(t *testing.T) {
	s := newScene(t)
	root := s.root(s.a)
	errKey := errors.New("key is gone")
	honest := func(t string, p []byte) ([]byte, [][]byte, error) { return s.a.signer.Sign(t, p) }
	lie := func(change func(sig []byte, chain [][]byte) ([]byte, [][]byte, error)) delegation.Signer {
		return liar{s.a.signer, func(t string, p []byte) ([]byte, [][]byte, error) {
			sig, chain, _ := honest(t, p)
			return change(sig, slices.Clone(chain))
		}}
	}
	strings := func(n int) []string {
		var list []string
		for i := range n {
			id, _ := identity.NewAgentID(s.a.id.Tenant(), "n"+string(rune('a'+i)))
			list = append(list, id.String())
		}
		return list
	}
	long := exactly(capability("memory.read", append([]string{"ns"}, slices.Repeat([]string{string(slices.Repeat([]byte{'x'}, 128))}, 16)...)...))
	to := delegation.HopSpec{Delegate: s.b.id}
	for _, tc := range []struct {
		name   string
		parent *delegation.Leaf
		spec   delegation.HopSpec
		signer delegation.Signer
		want   v1.Reason
	}{
		{"no parent", nil, to, s.a.signer, unknownChain},
		{"zero parent", new(delegation.Leaf), to, s.a.signer, unknownChain},
		{"nobody", root, delegation.HopSpec{}, s.a.signer, malformed},
		{"another signer", root, to, s.c.signer, parentMismatch},
		{"itself", root, delegation.HopSpec{Delegate: s.a.id}, s.a.signer, loop},
		{"another tenant", root, delegation.HopSpec{Delegate: s.as("spiffe://" + domain + "/tenant/red/agent/b").id}, s.a.signer, tenant},
		{"more", root, delegation.HopSpec{Delegate: s.b.id, Capabilities: []*v1.Capability{capability("memory.read")}}, s.a.signer, amplified},
		{"deeper", root, delegation.HopSpec{Delegate: s.b.id, MaxDepth: 5, Capabilities: []*v1.Capability{}}, s.a.signer, tooDeep},
		{"17 delegates", root, delegation.HopSpec{Delegate: s.b.id, Delegates: strings(17)}, s.a.signer, tooLarge},
		{"no delegates", root, delegation.HopSpec{Delegate: s.b.id, Delegates: []string{}}, s.a.signer, malformed},
		{"not UTF-8", root, delegation.HopSpec{Delegate: s.b.id, Delegates: []string{"\xff"}}, s.a.signer, nonCanonical},
		{"over 2 KiB", root, delegation.HopSpec{Delegate: s.b.id, Capabilities: []*v1.Capability{long, long}}, s.a.signer, tooLarge},
		{"ended already", root, delegation.HopSpec{Delegate: s.b.id, Lifetime: -time.Minute}, s.a.signer, lifetime},
		{"ends now", root, delegation.HopSpec{Delegate: s.b.id, Lifetime: time.Nanosecond}, s.a.signer, late},
		{"signer fails", root, to, lie(func([]byte, [][]byte) ([]byte, [][]byte, error) { return nil, nil, errKey }), 0},
		{"no certificates", root, to, lie(func(sig []byte, _ [][]byte) ([]byte, [][]byte, error) { return sig, nil, nil }), malformed},
		{"short signature", root, to, lie(func(sig []byte, c [][]byte) ([]byte, [][]byte, error) { return sig[1:], c, nil }), malformed},
		{"wrong signature", root, to, lie(func(sig []byte, c [][]byte) ([]byte, [][]byte, error) { return make([]byte, 64), c, nil }), badSignature},
		{"wrong certificate", root, to, lie(func(sig []byte, c [][]byte) ([]byte, [][]byte, error) {
			return sig, [][]byte{s.c.certs[0].Raw}, nil
		}), badSigner},
		{"large certificate", root, to, lie(func(sig []byte, c [][]byte) ([]byte, [][]byte, error) {
			return sig, [][]byte{make([]byte, 2049)}, nil
		}), tooLarge},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := delegation.Append(tc.parent, tc.spec, tc.signer, s.now())
			if err == nil || c != nil || reason(err) != tc.want {
				t.Errorf("Append() = %v, %v, want %v", c, err, tc.want)
			}
			if tc.want == 0 && !errors.Is(err, errKey) {
				t.Errorf("Append() = %v, want the signer's error", err)
			}
		})
	}
	t.Run("a certificate that is in the chain", func(t *testing.T) {
		x, err := s.verifier(s.b).Verify(s.hop1().chain, s.a.peer)
		if err != nil {
			t.Fatal(err)
		}
		k := liar{Signer: s.b.signer}
		k.sign = func(typ string, p []byte) ([]byte, [][]byte, error) {
			sig, _, err := s.b.signer.Sign(typ, p)
			return sig, [][]byte{x.Chain().GetCerts()[0].GetLeaf()}, err
		}
		if _, err := delegation.Append(x, delegation.HopSpec{Delegate: s.c.id}, k, s.now()); reason(err) != malformed {
			t.Errorf("Append() = %v, want %v", err, malformed)
		}
	})
}

// TestAppendIsVerify walks random chains. Append accepts exactly what Verify accepts, with the same reason, and whatever a
// leaf reaches the root reaches.
func TestAppendIsVerify(t *testing.T) {
	s := newScene(t)
	agents := []*agent{s.a, s.b, s.c, s.d, s.e, s.as(authority), s.as("spiffe://" + domain + "/tenant/red/agent/r")}
	verifiers := make([]*delegation.Verifier, len(agents))
	for i, a := range agents {
		verifiers[i] = s.verifier(a)
	}
	rapid.Check(t, func(t *rapid.T) {
		caps := rapid.SliceOfN(drawCapability(), 1, 3).Draw(t, "root")
		root := s.root(s.a, func(p *v1.GrantPayload) {
			p.Capabilities, p.MaxDepth = caps, rapid.Uint32Range(1, 4).Draw(t, "max")
		})
		at, holder := root, s.a
		for range 4 {
			to := rapid.IntRange(0, len(agents)-1).Draw(t, "to")
			spec := drawSpec(t, at, agents[to].id)
			by := holder
			if rapid.IntRange(0, 19).Draw(t, "forge") == 0 {
				by = s.e
			}
			made, appendErr := delegation.Append(at, spec, by.signer, s.now())
			payload := marshal(s.tb, delegation.BuildHop(at, spec, by.signer, s.now()))
			raw := at.Chain()
			raw.Certs = append(raw.Certs, chainOf(by))
			raw.Hops = append(raw.Hops, &v1.SignedStatement{
				Payload: payload, Signature: s.sign(by, delegation.TypeHop, payload), CertRef: uint32(len(raw.GetCerts())),
			})
			_, verifyErr := verifiers[to].Verify(raw, by.peer)
			if reason(appendErr) != reason(verifyErr) {
				t.Fatalf("Append() = %v, Verify() = %v", appendErr, verifyErr)
			}
			if appendErr != nil {
				return
			}
			x, err := verifiers[to].Verify(made, by.peer)
			if err != nil {
				t.Fatalf("Verify(Append()) = %v", err)
			}
			checkSubset(t, root, x)
			at, holder = x, agents[to]
		}
	})
}

func drawSpec(t *rapid.T, parent *delegation.Leaf, to identity.AgentID) delegation.HopSpec {
	spec := delegation.HopSpec{Delegate: to, MaxDepth: rapid.Uint32Range(0, 5).Draw(t, "maxDepth")}
	switch rapid.IntRange(0, 3).Draw(t, "caps") {
	case 0:
		spec.Capabilities = rapid.SliceOfN(drawCapability(), 0, 2).Draw(t, "capabilities")
	case 1: // close to the parent's
		for _, c := range parent.Capabilities() {
			c.Reach = min(c.GetReach(), parent.Depth()+rapid.Uint32Range(0, 2).Draw(t, "reach"))
			if rapid.Bool().Draw(t, "longer") {
				c.Resource = append(c.Resource, "x")
			}
			spec.Capabilities = append(spec.Capabilities, c)
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "delegates") == 0 {
		spec.Delegates = rapid.SliceOfN(rapid.SampledFrom([]string{
			"spiffe://" + domain + "/tenant/blue/agent/*", "spiffe://" + domain + "/tenant/blue/agent/b", authority,
			"spiffe://" + domain + "/tenant/red/agent/*", "spiffe://" + domain + "/*",
		}), 0, 2).Draw(t, "list")
	}
	spec.Lifetime = rapid.SampledFrom([]time.Duration{0, 0, time.Minute, time.Hour, -time.Second}).Draw(t, "life")
	return spec
}

func drawCapability() *rapid.Generator[*v1.Capability] {
	return rapid.Custom(func(t *rapid.T) *v1.Capability {
		c := &v1.Capability{
			Action:   rapid.SampledFrom([]string{"p", "q"}).Draw(t, "action"),
			Resource: rapid.SliceOfN(rapid.SampledFrom([]string{"x", "y"}), 0, 2).Draw(t, "resource"),
			Subtree:  rapid.Bool().Draw(t, "subtree"), Reach: rapid.Uint32Range(0, 4).Draw(t, "reach"),
		}
		low := rapid.Int64Range(0, 2).Draw(t, "low")
		switch rapid.IntRange(0, 6).Draw(t, "rule") {
		case 0:
			c.Constraints = []*v1.Constraint{equal("k", num(low))}
		case 1:
			c.Constraints = []*v1.Constraint{oneOf("k", num(low), num(low+1))}
		case 2:
			c.Constraints = []*v1.Constraint{within("k", low, low+1)}
		case 3:
			c.Constraints = []*v1.Constraint{prefix("k", rapid.SampledFrom([]string{"s/", "s/t/"}).Draw(t, "prefix"))}
		}
		return c
	})
}

// checkSubset asks root for everything in a small universe that the leaf allows.
func checkSubset(t *rapid.T, root, leaf *delegation.Leaf) {
	paths := [][]string{nil}
	for n := 0; len(paths[n]) < 3; n++ {
		for _, s := range []string{"x", "y"} {
			paths = append(paths, append(slices.Clone(paths[n]), s))
		}
	}
	facts := []*v1.Value{num(0), num(1), num(2), num(3), word("s/t/u"), word("s/u"), word("st"), flag(true), nil}
	for _, action := range []string{"p", "q"} {
		for _, path := range paths {
			for _, v := range facts {
				in := delegation.Intent{Action: action, Resource: path, Facts: []delegation.Fact{{Key: "k", Value: v}}}
				if v == nil {
					in.Facts = nil
				}
				if leaf.Allows(in) && !root.Allows(in) {
					t.Fatalf("the leaf allows %v, the root does not", in)
				}
			}
		}
	}
	if leaf.Depth() > root.MaxDepth() || leaf.Expires().After(root.Expires()) || leaf.NotBefore().Before(root.NotBefore()) {
		t.Fatalf("the leaf goes on deeper or longer than the root")
	}
}

// TestAppendKeepsNothing: the parent shares no memory with what Append returns.
func TestAppendKeepsNothing(t *testing.T) {
	s := newScene(t)
	c := s.hop1().chain
	x, err := s.verifier(s.b).Verify(c, s.a.peer)
	if err != nil {
		t.Fatal(err)
	}
	before := x.Chain()
	made, err := delegation.Append(x, delegation.HopSpec{Delegate: s.c.id}, s.b.signer, s.now())
	if err != nil {
		t.Fatal(err)
	}
	for _, chain := range []*v1.DelegationChain{c, made} {
		chain.Grant.Payload[3] ^= 1
		chain.Hops[0].Signature[0] ^= 1
		chain.Certs[0].Leaf[0] ^= 1
	}
	x.Capabilities()[0].Action = "everything"
	x.Principal().Subject = "eve"
	if !proto.Equal(x.Chain(), before) || x.Capabilities()[0].GetAction() != "memory.read" || x.Principal().GetSubject() != "ada" {
		t.Error("the leaf has changed")
	}
}
