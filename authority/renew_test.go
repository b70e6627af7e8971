package authority_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/authority"
	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
)

const carol = "spiffe://dev.example/tenant/acme/agent/carol"

// office is an authority with a clock, and agents that hold its grants.
type office struct {
	*authority.Authority
	t      *testing.T
	log    *records
	offset atomic.Int64
}

func newOffice(t *testing.T, change ...func(*authority.Config)) *office {
	t.Helper()
	o := &office{t: t}
	o.Authority, o.log = world(t, append([]func(*authority.Config){func(c *authority.Config) {
		c.PeerFrom, c.Now, c.SVIDLifetime = peerFrom, o.now, authority.MaxSVIDLifetime
	}}, change...)...)
	if _, err := o.RegisterAgent(t.Context(), newAgent(carol)); err != nil {
		t.Fatal(err)
	}
	o.allow("read", "memory.read")
	o.allow("write", "memory.write")
	return o
}

// peerFrom stands for the enforcement core: the context says who calls.
func (o *office) now() time.Time { return time.Now().Add(time.Duration(o.offset.Load())) }

func (o *office) advance(d time.Duration) { o.offset.Add(int64(d)) }

func (o *office) allow(id, action string) {
	o.t.Helper()
	if _, err := o.EditTable(o.t.Context(), []*v1.CapabilityRow{row(id, "acme", action, true, "notes")}, nil); err != nil {
		o.t.Fatal(err)
	}
}

// grant is for alice, to read and write notes.
func (o *office) grant(change ...func(*rpcv1.IssueGrantRequest)) *v1.DelegationChain {
	o.t.Helper()
	r := &rpcv1.IssueGrantRequest{
		Delegate: alice, Principal: "alice@dev.example", Purpose: "quarterly report", TaskId: "task-1",
		Capabilities: []*v1.Capability{
			{Action: "memory.read", Resource: []string{"notes"}, Subtree: true, Reach: 4},
			{Action: "memory.write", Resource: []string{"notes"}, Subtree: true, Reach: 4},
		},
	}
	for _, f := range change {
		f(r)
	}
	out, err := o.IssueGrant(o.t.Context(), r)
	if err != nil {
		o.t.Fatal(err)
	}
	return &v1.DelegationChain{Grant: out.GetGrant()}
}

// hop adds the hop from the last delegate of c, who is from, to the next.
func (o *office) hop(c *v1.DelegationChain, from, to string, spec delegation.HopSpec) *v1.DelegationChain {
	o.t.Helper()
	return o.hopOf(o, c, from, to, spec)
}

// hopOf is hop with an SVID of issuer.
func (o *office) hopOf(issuer *office, c *v1.DelegationChain, from, to string, spec delegation.HopSpec) *v1.DelegationChain {
	o.t.Helper()
	src, err := issuer.Source(agentID(o.t, from))
	if err != nil {
		o.t.Fatal(err)
	}
	svid, err := src.GetX509SVID()
	if err != nil {
		o.t.Fatal(err)
	}
	signer, err := delegation.NewSigner(svid)
	if err != nil {
		o.t.Fatal(err)
	}
	v, err := delegation.NewVerifier(delegation.Config{
		Self: agentID(o.t, from), Keys: o.Keys(), Bundles: src, BundleGeneration: func() uint64 { return 0 }, Now: o.now,
	})
	if err != nil {
		o.t.Fatal(err)
	}
	var leaf *delegation.Leaf
	if len(c.GetHops()) == 0 {
		leaf, err = v.VerifyGrant(c.GetGrant())
	} else {
		var last v1.HopPayload
		_ = proto.Unmarshal(c.GetHops()[len(c.GetHops())-1].GetPayload(), &last)
		id := agentID(o.t, last.GetIssuer())
		leaf, err = v.Verify(c, identity.Peer{ID: id.ID(), Agent: id, Tenant: id.Tenant()})
	}
	if err != nil {
		o.t.Fatal(err)
	}
	spec.Delegate = agentID(o.t, to)
	out, err := delegation.Append(leaf, spec, signer, o.now())
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}

// given is alice's grant handed on to bob.
func (o *office) given() *v1.DelegationChain {
	return o.hop(o.grant(), alice, bob, delegation.HopSpec{})
}

func (o *office) ask(by string, r *rpcv1.RenewGrantRequest) (*v1.SignedStatement, error) {
	ctx := o.t.Context()
	if by != "" {
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("test-peer", by))
	}
	out, err := o.AuthorityServer().RenewGrant(ctx, r)
	return out.GetGrant(), err
}

func (o *office) renew(by string, c *v1.DelegationChain) *v1.DelegationChain {
	o.t.Helper()
	g, err := o.ask(by, &rpcv1.RenewGrantRequest{Chain: c})
	if err != nil {
		o.t.Fatal(err)
	}
	return &v1.DelegationChain{Grant: g}
}

func payloadOf(t *testing.T, g *v1.SignedStatement) *v1.GrantPayload {
	t.Helper()
	p := &v1.GrantPayload{}
	if err := proto.Unmarshal(g.GetPayload(), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRenewGrant(t *testing.T) {
	o := newOffice(t)
	chain := o.given()
	first := payloadOf(t, chain.GetGrant())
	previous := delegation.StatementID(delegation.TypeHop, chain.GetHops()[0].GetPayload())
	o.advance(10 * time.Minute)
	g := o.renew(bob, chain).GetGrant()
	p := payloadOf(t, g)
	switch {
	case string(p.GetChainId()) != string(first.GetChainId()) || string(p.GetPreviousLeaf()) != string(previous[:]):
		t.Errorf("chain %x after %x, want %x after %x", p.GetChainId(), p.GetPreviousLeaf(), first.GetChainId(), previous)
	case p.GetDelegate() != bob || p.GetDepthUsed() != 1 || p.GetMaxDepth() != first.GetMaxDepth() || len(p.GetHistory()) != 1 || p.GetHistory()[0].GetActor() != alice:
		t.Errorf("renewed for %s at depth %d of %d, history %v", p.GetDelegate(), p.GetDepthUsed(), p.GetMaxDepth(), p.GetHistory())
	case p.GetLineageStartMs() != first.GetIssuedAtMs() || p.GetExpiresAtMs()-p.GetIssuedAtMs() != (15*time.Minute).Milliseconds():
		t.Errorf("lineage since %d, lives %d ms", p.GetLineageStartMs(), p.GetExpiresAtMs()-p.GetIssuedAtMs())
	case p.GetTenant() != "acme" || p.GetTaskId() != "task-1" || !proto.Equal(p.GetPrincipal(), first.GetPrincipal()) || string(p.GetPurposeDigest()) != string(first.GetPurposeDigest()):
		t.Errorf("renewal is for %v", p)
	case p.GetPolicyEpoch() != 2 || len(p.GetCapabilities()) != 2:
		t.Errorf("policy %d, capabilities %v", p.GetPolicyEpoch(), p.GetCapabilities())
	}
	id := delegation.StatementID(delegation.TypeGrant, g.GetPayload())
	events := o.log.allowed(v1.EventKind_EVENT_KIND_GRANT_RENEWED)
	if len(events) != 1 {
		t.Fatalf("%d renewals recorded", len(events))
	}
	e := events[0]
	links := e.GetChain()
	if string(e.GetChainId()) != string(p.GetChainId()) || e.GetPeer().GetSpiffeId() != bob || e.GetActor().GetSpiffeId() != self ||
		e.GetOrigin().GetSubject() != "alice@dev.example" || e.GetDepth() != 1 || e.GetTransport() != "grpc" || len(links) != 2 ||
		!slices.Equal(links[0].GetStatementId(), previous[:]) || !slices.Equal(links[1].GetStatementId(), id[:]) {
		t.Errorf("recorded %v", e)
	}
	// Asking twice is no error: it gives a second grant of the same chain.
	again := payloadOf(t, o.renew(bob, chain).GetGrant())
	if string(again.GetChainId()) != string(p.GetChainId()) || string(again.GetStatementNonce()) == string(p.GetStatementNonce()) {
		t.Errorf("renewed again: %v", again)
	}
	// The renewal goes on: bob hands it to carol, who renews in her turn.
	next := o.hop(&v1.DelegationChain{Grant: g}, bob, carol, delegation.HopSpec{})
	if p := payloadOf(t, o.renew(carol, next).GetGrant()); p.GetDepthUsed() != 2 || len(p.GetHistory()) != 2 || p.GetHistory()[1].GetActor() != bob {
		t.Errorf("carol's renewal: depth %d, history %v", p.GetDepthUsed(), p.GetHistory())
	}
}

// A renewal cannot ask for more: the request has no place for a wish.
func TestRenewalHasNoWish(t *testing.T) {
	fields := (&rpcv1.RenewGrantRequest{}).ProtoReflect().Descriptor().Fields()
	var names []string
	for i := range fields.Len() {
		names = append(names, string(fields.Get(i).Name()))
	}
	if want := []string{"chain", "lifetime_ms", "envelope"}; !slices.Equal(names, want) {
		t.Errorf("RenewGrantRequest has %v, want %v", names, want)
	}
}

func TestRenewGrantRefusals(t *testing.T) {
	type request struct {
		by    string
		chain *v1.DelegationChain
		life  int64
	}
	suspend := func(o *office, id string) {
		if err := o.SetState(agentID(o.t, id), v1.AgentState_AGENT_STATE_SUSPENDED); err != nil {
			o.t.Fatal(err)
		}
	}
	const (
		presenter = v1.Reason_REASON_CHAIN_PRESENTER
		revoked   = v1.Reason_REASON_CHAIN_HANDLE_REVOKED
		invalid   = v1.Reason_REASON_MALFORMED
	)
	for _, tt := range []struct {
		name string
		make func(o *office) request
		want v1.Reason
		wire string
	}{
		{"by nobody", func(o *office) request { return request{"", o.given(), 0} }, v1.Reason_REASON_WORKLOAD_UNATTESTED, "PEER_UNVERIFIED"},
		{"by an agent that is not registered", func(o *office) request {
			return request{"spiffe://dev.example/tenant/acme/agent/eve", o.given(), 0}
		}, v1.Reason_REASON_WORKLOAD_UNATTESTED, "PEER_UNVERIFIED"},
		{"by an agent that is suspended", func(o *office) request {
			c := o.given()
			suspend(o, bob)
			return request{bob, c, 0}
		}, v1.Reason_REASON_WORKLOAD_UNATTESTED, "PEER_UNVERIFIED"},
		{"by who gave it", func(o *office) request { return request{alice, o.given(), 0} }, presenter, "PRESENTER_MISMATCH"},
		{"by a stranger", func(o *office) request { return request{carol, o.given(), 0} }, presenter, "PRESENTER_MISMATCH"},
		{"by an agent of another tenant", func(o *office) request { return request{mallory, o.given(), 0} }, presenter, "PRESENTER_MISMATCH"},
		{"somebody's grant", func(o *office) request { return request{bob, o.grant(), 0} }, presenter, "PRESENTER_MISMATCH"},
		{"by a service", func(o *office) request {
			c := o.hop(o.grant(), alice, memory, delegation.HopSpec{})
			return request{memory, c, 0}
		}, invalid, "MALFORMED"},
		{"no chain", func(*office) request { return request{bob, nil, 0} }, v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT, "CHAIN_INVALID"},
		{"a certificate left to the connection", func(o *office) request {
			c := o.given()
			c.Hops[0].CertRef, c.Certs = 0, nil
			return request{bob, c, 0}
		}, v1.Reason_REASON_CHAIN_MALFORMED, "CHAIN_INVALID"},
		{"too large", func(o *office) request {
			c := o.given()
			c.Hops[0].Payload = make([]byte, delegation.MaxPayloadBytes+1)
			return request{bob, c, 0}
		}, v1.Reason_REASON_CHAIN_TOO_LARGE, "CHAIN_INVALID"},
		{"a negative life", func(o *office) request { return request{bob, o.given(), -1} }, invalid, "MALFORMED"},
		{"a life over 15 minutes", func(o *office) request { return request{bob, o.given(), 900_001} }, invalid, "MALFORMED"},
		{"expired", func(o *office) request {
			c := o.given()
			o.advance(15 * time.Minute)
			return request{bob, c, 0}
		}, v1.Reason_REASON_CHAIN_TIME, "CHAIN_EXPIRED"},
		{"given for a minute", func(o *office) request {
			return request{bob, o.hop(o.grant(), alice, bob, delegation.HopSpec{Lifetime: time.Minute}), 0}
		}, v1.Reason_REASON_CHAIN_LIFETIME, "CHAIN_EXPIRED"},
		{"the giver is suspended", func(o *office) request {
			c := o.given()
			suspend(o, alice)
			return request{bob, c, 0}
		}, revoked, "CHAIN_REVOKED"},
		{"the giver is suspended since a renewal", func(o *office) request {
			c := o.renew(bob, o.given())
			suspend(o, alice)
			return request{bob, c, 0}
		}, revoked, "CHAIN_REVOKED"},
		{"a chain of another authority", func(o *office) request {
			return request{bob, newOffice(o.t).given(), 0}
		}, v1.Reason_REASON_CHAIN_KEY, "CHAIN_INVALID"},
		{"nothing of it is allowed any longer", func(o *office) request {
			c := o.given()
			if _, err := o.EditTable(o.t.Context(), nil, []string{"read", "write"}); err != nil {
				o.t.Fatal(err)
			}
			return request{bob, c, 0}
		}, v1.Reason_REASON_GRANT_OUTSIDE_CEILING, "SCOPE"},
		{"nothing of it may travel any further", func(o *office) request {
			c := o.grant(func(r *rpcv1.IssueGrantRequest) { r.MaxDepth = 1 })
			return request{bob, o.hop(c, alice, bob, delegation.HopSpec{}), 0}
		}, v1.Reason_REASON_CHAIN_NOT_DELEGABLE, "CHAIN_INVALID"},
		{"the log takes nothing", func(o *office) request {
			c := o.given()
			o.log.stop(true)
			return request{bob, c, 0}
		}, v1.Reason_REASON_AUDIT_UNAVAILABLE, "AUDIT_UNAVAILABLE"},
		{"the authority is closed", func(o *office) request {
			c := o.given()
			if err := o.Close(); err != nil {
				o.t.Fatal(err)
			}
			return request{bob, c, 0}
		}, v1.Reason_REASON_SESSION_DRAINING, "SESSION_DRAINING"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t)
			r := tt.make(o)
			before := len(o.log.allowed(v1.EventKind_EVENT_KIND_GRANT_RENEWED))
			g, err := o.ask(r.by, &rpcv1.RenewGrantRequest{Chain: r.chain, LifetimeMs: r.life})
			var d *interceptors.Denial
			if g != nil || !errors.As(err, &d) || d.Reason != tt.want || d.WireName() != tt.wire {
				t.Fatalf("RenewGrant() = %v, %v, want %s and on the wire %s", g, err, tt.want, tt.wire)
			}
			if strings.Contains(d.Message(), "spiffe") || strings.Contains(d.Message(), "renew") {
				t.Errorf("the peer reads %q", d.Message())
			}
			if after := len(o.log.allowed(v1.EventKind_EVENT_KIND_GRANT_RENEWED)); after != before {
				t.Errorf("%d renewals recorded beside a refusal", after-before)
			}
		})
	}
}

// What the capability table has lost since is lost by the renewal; what it has gained is not gained.
func TestRenewalIsHeldAgainstTheTable(t *testing.T) {
	o := newOffice(t)
	chain := o.hop(o.grant(func(r *rpcv1.IssueGrantRequest) { r.MaxDepth = 3 }), alice, bob, delegation.HopSpec{})
	if _, err := o.EditTable(t.Context(), []*v1.CapabilityRow{row("more", "acme", "memory.delete", true, "notes")}, []string{"write"}); err != nil {
		t.Fatal(err)
	}
	p := payloadOf(t, o.renew(bob, chain).GetGrant())
	if caps := p.GetCapabilities(); len(caps) != 1 || caps[0].GetAction() != "memory.read" || p.GetPolicyEpoch() != 3 {
		t.Errorf("renewed under table %d: %v, want memory.read alone", p.GetPolicyEpoch(), caps)
	}
}

func TestRenewalEndsWithTheLineage(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit time.Duration
		want  time.Duration
	}{{"by default", 0, 8 * time.Hour}, {"an hour", time.Hour, time.Hour}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			o := newOffice(t, func(c *authority.Config) { c.Lineage = tt.limit })
			c := o.grant()
			begin := payloadOf(t, c.GetGrant()).GetIssuedAtMs()
			var end int64
			for range 100 {
				o.advance(14 * time.Minute)
				g, err := o.ask(alice, &rpcv1.RenewGrantRequest{Chain: c})
				var d *interceptors.Denial
				if errors.As(err, &d) && (d.Reason == v1.Reason_REASON_CHAIN_LIFETIME || d.Reason == v1.Reason_REASON_CHAIN_TIME) {
					if got := time.Duration(end-begin) * time.Millisecond; got != tt.want {
						t.Errorf("the lineage lasted %v, want %v", got, tt.want)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				c = &v1.DelegationChain{Grant: g}
				end = payloadOf(t, g).GetExpiresAtMs()
			}
			t.Error("the lineage does not end")
		})
	}
}

// A peer that renews as fast as it can is stopped, and nobody else with it.
func TestRenewalsAreLimitedPerPeer(t *testing.T) {
	o := newOffice(t)
	own, given := o.grant(), o.given()
	limited := false
	for range 200 {
		_, err := o.ask(alice, &rpcv1.RenewGrantRequest{Chain: own})
		var d *interceptors.Denial
		if errors.As(err, &d) && d.Reason == v1.Reason_REASON_RATE && d.WireName() == "RATE" {
			limited = true
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !limited {
		t.Error("200 renewals in a row")
	}
	o.renew(bob, given)
}

func TestLineageOfTheConfigIsBounded(t *testing.T) {
	for _, lineage := range []time.Duration{-time.Second, delegation.MaxLineage + 1} {
		cfg, _ := config(t)
		cfg.Lineage = lineage
		if a, err := authority.Start(t.Context(), cfg); !errors.Is(err, authority.ErrConfig) {
			t.Errorf("Start(lineage %v) = %v, %v, want ErrConfig", lineage, a, err)
		}
	}
}

// switched is the bundle of another issuer, until it is gone.
type switched struct {
	identity.Source
	gone atomic.Bool
}

func (s *switched) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if s.gone.Load() {
		return nil, errors.New("no bundle")
	}
	return s.Source.GetX509BundleForTrustDomain(td)
}

// Where another issuer makes the SVIDs, nothing that the embedded CA signed is trusted, and nothing is kept of a bundle that is gone.
func TestChainsOfAnotherIssuerAreRenewed(t *testing.T) {
	issuer := newOffice(t)
	roots := &switched{Source: must(issuer.Source(agentID(t, self)))}
	o := newOffice(t, func(c *authority.Config) { c.Issuer = func() identity.Source { return roots } })
	embedded := o.given()
	chain := o.hopOf(issuer, o.grant(), alice, bob, delegation.HopSpec{})
	o.renew(bob, chain)
	refused := func(c *v1.DelegationChain, want v1.Reason) {
		t.Helper()
		_, err := o.ask(bob, &rpcv1.RenewGrantRequest{Chain: c})
		var d *interceptors.Denial
		if !errors.As(err, &d) || d.Reason != want {
			t.Errorf("RenewGrant() = %v, want %s", err, want)
		}
	}
	refused(embedded, v1.Reason_REASON_CHAIN_SVID)
	roots.gone.Store(true)
	refused(chain, v1.Reason_REASON_CHAIN_TRUST_DOMAIN)
	roots.gone.Store(false)
	o.renew(bob, chain)
}

// A grant key is withdrawn while a renewal is decided: whenever that is, what was signed with it does not come back under its successor.
func TestWithdrawalDuringARenewal(t *testing.T) {
	for moment := int64(1); moment <= 8; moment++ {
		var o *office
		var looks atomic.Int64 // at the clock; those of a renewal are moments at which something else can happen
		var armed atomic.Bool
		o = newOffice(t, func(c *authority.Config) {
			c.Now = func() time.Time {
				if armed.Load() && looks.Add(1) == moment {
					armed.Store(false)
					if err := o.WithdrawGrantKey(t.Context()); err != nil {
						t.Error(err)
					}
				}
				return time.Now()
			}
		})
		chain := o.given()
		o.renew(bob, chain) // known from now on, which is when least is asked
		armed.Store(true)
		g, err := o.ask(bob, &rpcv1.RenewGrantRequest{Chain: chain})
		if armed.Swap(false) {
			if moment < 3 {
				t.Fatalf("a renewal looks at the clock %d times", looks.Load())
			}
			break
		}
		if err != nil {
			continue
		}
		if _, found := o.Keys().GrantKey(self, payloadOf(t, g).GetKeyId(), time.Now()); found {
			t.Errorf("moment %d: a chain of the withdrawn key goes on under the new one", moment)
		}
	}
}
