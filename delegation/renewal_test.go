package delegation_test

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// renewer is a scene with the verifier of its authority.
type renewer struct {
	*scene
	v *delegation.Verifier
}

func newRenewer(tb testing.TB, change ...func(*delegation.Config)) *renewer {
	tb.Helper()
	s := newScene(tb)
	return &renewer{s, s.verifier(s.as(authority), change...)}
}

// held is the chain of b as its holder shows it to the authority.
func (r *renewer) held(b *builder) *delegation.Leaf {
	r.tb.Helper()
	x, err := r.v.VerifyHeld(b.c, b.last.peer)
	if err != nil {
		r.tb.Fatal(err)
	}
	return x
}

// renew is the whole of what the authority does, and the beginning of the chain that goes on.
func (r *renewer) renew(b *builder) (*builder, *v1.GrantPayload) {
	r.tb.Helper()
	p, err := delegation.NewRenewal(r.held(b), 0, r.now())
	if err != nil {
		r.tb.Fatal(err)
	}
	g, err := delegation.NewGrant(p, r.key)
	if err != nil {
		r.tb.Fatal(err)
	}
	return r.chainFrom(g, b.last), p
}

func TestVerifyHeld(t *testing.T) {
	type shown struct {
		chain *v1.DelegationChain
		by    identity.Peer
	}
	for _, tc := range []struct {
		name  string
		build func(*renewer) shown
		want  v1.Reason
	}{
		{"a grant by its delegate", func(r *renewer) shown { return shown{r.chain(r.a).c, r.a.peer} }, 0},
		{"a chain by its last delegate", func(r *renewer) shown { return shown{r.chain(r.a).to(r.b).to(r.c).c, r.c.peer} }, 0},
		{"after its holder's SVID has rotated", func(r *renewer) shown {
			return shown{r.chain(r.a).to(r.b).c, r.agent("b", withKey(p256Key())).peer}
		}, 0},
		{"a grant by another", func(r *renewer) shown { return shown{r.chain(r.a).c, r.b.peer} }, presenter},
		{"a chain by the signer of its last hop", func(r *renewer) shown { return shown{r.chain(r.a).to(r.b).c, r.a.peer} }, presenter},
		{"a chain by a delegate in the middle", func(r *renewer) shown { return shown{r.chain(r.a).to(r.b).to(r.c).c, r.b.peer} }, presenter},
		{"a chain by a stranger", func(r *renewer) shown { return shown{r.chain(r.a).to(r.b).c, r.e.peer} }, presenter},
		{"a chain by the authority", func(r *renewer) shown { return shown{r.chain(r.a).to(r.b).c, r.as(authority).peer} }, presenter},
		{"a chain by the same name in another tenant", func(r *renewer) shown {
			return shown{r.chain(r.a).to(r.b).c, r.as("spiffe://" + domain + "/tenant/red/agent/b").peer}
		}, presenter},
		{"a chain by nobody", func(r *renewer) shown { return shown{r.chain(r.a).to(r.b).c, identity.Peer{}} }, presenter},
		{"no grant", func(*renewer) shown { return shown{nil, identity.Peer{}} }, untrusted},
		{"row 62: the certificate left to the connection", func(r *renewer) shown {
			c := r.chain(r.a).to(r.b).c
			c.Hops[0].CertRef, c.Certs = 0, nil
			return shown{c, r.b.peer}
		}, malformed},
		{"row 62: and the signer of the hop shows it", func(r *renewer) shown {
			c := r.chain(r.a).to(r.b).c
			c.Hops[0].CertRef, c.Certs = 0, nil
			return shown{c, r.a.peer}
		}, malformed},
		{"row 62: a certificate without a hop", func(r *renewer) shown {
			c := r.chain(r.a).c
			c.Certs = []*v1.CertChain{chainOf(r.a)}
			return shown{c, r.a.peer}
		}, malformed},
		{"expired", func(r *renewer) shown {
			c := r.chain(r.a).to(r.b).c
			r.move(15 * time.Minute)
			return shown{c, r.b.peer}
		}, late},
		{"forged", func(r *renewer) shown {
			c := r.chain(r.a).to(r.b).c
			c.Hops[0].Signature = r.sign(r.b, delegation.TypeHop, c.GetHops()[0].GetPayload())
			return shown{c, r.b.peer}
		}, badSignature},
		{"widened", func(r *renewer) shown {
			wide := func(p *v1.HopPayload) { p.Capabilities = append(p.Capabilities, capability("memory.delete", "ns")) }
			return shown{r.chain(r.a).to(r.b, wide).c, r.b.peer}
		}, amplified},
		{"a grant of another authority", func(r *renewer) shown {
			return shown{r.chain(r.a, func(p *v1.GrantPayload) { p.Issuer = "spiffe://evil.test/service/authority" }).c, r.a.peer}
		}, untrusted},
		{"a wholly foreign chain", func(r *renewer) shown {
			a := r.as("spiffe://evil.test/service/a")
			return shown{r.chain(a, func(p *v1.GrantPayload) {
				p.TrustDomain, p.Issuer = "evil.test", "spiffe://evil.test/service/authority"
			}).c, a.peer}
		}, foreign},
		{"a grant of this authority for another trust domain", func(r *renewer) shown {
			a := r.as("spiffe://evil.test/service/a")
			return shown{r.chain(a, func(p *v1.GrantPayload) { p.TrustDomain = "evil.test" }).c, a.peer}
		}, foreign},
		{"a history without an agent", func(r *renewer) shown {
			return shown{r.chain(r.a, func(p *v1.GrantPayload) {
				p.History = []*v1.PastActor{{Actor: "somebody", LeafId: random(32), Depth: 1}}
			}).c, r.a.peer}
		}, malformed},
		{"a history without a statement", func(r *renewer) shown {
			return shown{r.chain(r.a, func(p *v1.GrantPayload) {
				p.History = []*v1.PastActor{{Actor: r.b.id.String(), Depth: 1}}
			}).c, r.a.peer}
		}, malformed},
		{"a history of nine", func(r *renewer) shown {
			return shown{r.chain(r.a, func(p *v1.GrantPayload) {
				for range delegation.MaxHistory + 1 {
					p.History = append(p.History, &v1.PastActor{Actor: r.b.id.String(), LeafId: random(32), Depth: 1})
				}
			}).c, r.a.peer}
		}, v1.Reason_REASON_CHAIN_TOO_LARGE},
		{"a previous leaf that is no statement id", func(r *renewer) shown {
			return shown{r.chain(r.a, func(p *v1.GrantPayload) { p.PreviousLeaf = random(31) }).c, r.a.peer}
		}, malformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRenewer(t)
			s := tc.build(r)
			for _, look := range []string{"cold", "again"} {
				x, err := r.v.VerifyHeld(s.chain, s.by)
				if got := reason(err); got != tc.want || (x == nil) == (tc.want == 0) {
					t.Fatalf("%s: VerifyHeld() = %v, want %v", look, err, tc.want)
				}
			}
		})
	}
}

// What the cache knows is held against whoever shows it.
func TestVerifyHeldWarm(t *testing.T) {
	r := newRenewer(t)
	b := r.chain(r.a).to(r.b)
	r.held(b)
	if _, err := r.v.VerifyHeld(b.c, r.a.peer); reason(err) != presenter {
		t.Errorf("VerifyHeld(known chain, another agent) = %v, want %v", err, presenter)
	}
	if _, err := r.v.Verify(b.c, r.a.peer); reason(err) != audience {
		t.Errorf("Verify(known chain that is not for the authority) = %v, want %v", err, audience)
	}
}

// A leaf that was shown for renewal is authority for no message, of whoever.
func TestHeldLeafIsNoAuthority(t *testing.T) {
	r := newRenewer(t)
	x := r.held(r.chain(r.a).to(r.b))
	for _, p := range []identity.Peer{r.a.peer, r.b.peer} {
		if err := r.v.Recheck(x, p, readIntent()); err == nil {
			t.Errorf("Recheck(held leaf, %s) = nil, want a refusal", p.Agent)
		}
	}
	if _, err := delegation.Append(x, delegation.HopSpec{Delegate: r.c.id}, r.as(authority).signer, r.now()); reason(err) != parentMismatch {
		t.Errorf("Append(held leaf, by the authority) = %v, want %v", err, parentMismatch)
	}
}

func TestColdRenewalsAreChargedToTheHolder(t *testing.T) {
	var charged []identity.AgentID
	signatures := 0
	r := newRenewer(t, func(c *delegation.Config) {
		c.Limits.Allow = func(peer identity.AgentID, n int) bool {
			charged = append(charged, peer)
			signatures += n
			return len(charged) < 2
		}
	})
	r.held(r.chain(r.a).to(r.b))
	if signatures != 3 || charged[0] != r.b.id {
		t.Errorf("%d signatures charged to %v, want 3 to b", signatures, charged)
	}
	if _, err := r.v.VerifyHeld(r.chain(r.a).to(r.b).c, r.b.peer); reason(err) != v1.Reason_REASON_CHAIN_COLD_LIMIT {
		t.Errorf("VerifyHeld(over the limit) = %v, want the cold limit", err)
	}
}

func TestRenewalContinuesTheChain(t *testing.T) {
	r := newRenewer(t)
	old := r.chain(r.a, func(p *v1.GrantPayload) {
		p.Capabilities = append(p.Capabilities, &v1.Capability{Action: "mine"}, &v1.Capability{Action: "once", Reach: 1})
	}).to(r.b, func(p *v1.HopPayload) {
		p.Capabilities = []*v1.Capability{capability("memory.read", "ns", "a"), {Action: "once", Reach: 1}}
		p.MaxDepth, p.Capabilities[0].Reach = 3, 3
	})
	before := r.held(old)
	r.move(10 * time.Minute)
	next, p := r.renew(old)

	id, leaf := before.ChainID(), before.ID()
	if !slices.Equal(p.GetChainId(), id[:]) || !slices.Equal(p.GetPreviousLeaf(), leaf[:]) {
		t.Errorf("chain %x after %x, want %x after %x", p.GetChainId(), p.GetPreviousLeaf(), id, leaf)
	}
	if p.GetDepthUsed() != 1 || p.GetMaxDepth() != 3 || p.GetDelegate() != r.b.id.String() || p.GetTaskId() != "task-1" {
		t.Errorf("renewal %v, want b at depth 1 of 3 for task-1", p)
	}
	if p.GetLineageStartMs() != start.UnixMilli() || p.GetIssuedAtMs() != r.now().UnixMilli() || p.GetExpiresAtMs() != r.now().Add(15*time.Minute).UnixMilli() {
		t.Errorf("lineage from %d, life %d to %d, want %d, now and 15 minutes", p.GetLineageStartMs(), p.GetIssuedAtMs(), p.GetExpiresAtMs(), start.UnixMilli())
	}
	want := []*v1.PastActor{{Actor: r.a.id.String(), LeafId: leaf[:], Depth: 1}}
	if !slices.EqualFunc(p.GetHistory(), want, func(a, b *v1.PastActor) bool { return proto.Equal(a, b) }) {
		t.Errorf("history %v, want %v", p.GetHistory(), want)
	}
	if caps := p.GetCapabilities(); len(caps) != 1 || !delegation.Covers(before.Capabilities()[0], caps[0]) {
		t.Errorf("capabilities %v, want the one that may travel on", caps)
	}

	// Everybody goes on from it, with the shorter chain, after the first one is over.
	r.move(10 * time.Minute)
	root, err := r.verifier(r.b).VerifyGrant(next.c.GetGrant())
	if err != nil {
		t.Fatal(err)
	}
	c, err := delegation.Append(root, delegation.HopSpec{Delegate: r.c.id}, r.b.signer, r.now())
	if err != nil {
		t.Fatal(err)
	}
	v := r.verifier(r.c)
	x, err := v.Verify(c, r.b.peer)
	if err != nil {
		t.Fatal(err)
	}
	in := readIntent()
	in.Resource = []string{"ns", "a", "b"}
	if err := v.Recheck(x, r.b.peer, in); err != nil {
		t.Error(err)
	}
	if x.Depth() != 2 || x.MaxDepth() != 3 || len(c.GetHops()) != 1 || x.Principal().GetSubject() != "ada" || x.ChainID() != id || x.PurposeDigest() != before.PurposeDigest() {
		t.Errorf("leaf at depth %d of %d over %d hops for %v", x.Depth(), x.MaxDepth(), len(c.GetHops()), x.Principal())
	}
	if got, want := x.Members(), []identity.AgentID{r.a.id, r.b.id, r.c.id}; !slices.Equal(got, want) {
		t.Errorf("Members() = %v, want %v", got, want)
	}
	// The old chain does not live on with it.
	if _, err := r.v.VerifyHeld(old.c, r.b.peer); reason(err) != late {
		t.Errorf("VerifyHeld(the chain before) = %v, want %v", err, late)
	}
	// What others hold of the lineage they cannot use.
	if _, err := r.verifier(r.c).VerifyGrant(next.c.GetGrant()); reason(err) != audience {
		t.Errorf("VerifyGrant(b's renewal, by c) = %v, want %v", err, audience)
	}
	if _, err := r.verifier(r.c).Verify(next.c, r.b.peer); reason(err) != presenter {
		t.Errorf("Verify(b's renewal without a hop) = %v, want %v", err, presenter)
	}
	stolen := r.chainFrom(next.c.GetGrant(), r.d).to(r.c)
	if _, err := r.verifier(r.c).Verify(stolen.c, r.d.peer); reason(err) != parentMismatch {
		t.Errorf("Verify(a hop that d signs on b's renewal) = %v, want %v", err, parentMismatch)
	}
}

// TestRenewalDoesNotResetDepth is row 18: the authority never mints it, and nobody accepts a chain that pretends it was.
func TestRenewalDoesNotResetDepth(t *testing.T) {
	r := newRenewer(t)
	deep := func(p *v1.GrantPayload) {
		p.MaxDepth = 3
		p.Capabilities[0].Reach, p.Capabilities[1].Reach = 3, 3
	}
	b := r.chain(r.a, deep)
	hops := 0
	for _, next := range []*agent{r.b, r.c, r.d} {
		var p *v1.GrantPayload
		if b, p = r.renew(b); p.GetDepthUsed() != uint32(hops) || p.GetMaxDepth() != 3 || len(p.GetHistory()) != hops {
			t.Fatalf("after %d hops a renewal has used %d of %d, history %v", hops, p.GetDepthUsed(), p.GetMaxDepth(), p.GetHistory())
		}
		by := b.last
		for depth := range uint32(4) {
			want := tooDeep
			if depth == uint32(hops)+1 {
				want = 0
			}
			claimed := r.chainFrom(b.c.GetGrant(), by).to(next, func(p *v1.HopPayload) { p.Depth = depth; p.Delegates = b.payload.GetDelegates() })
			if _, err := r.verifier(next).Verify(claimed.c, by.peer); reason(err) != want {
				t.Errorf("row 18: a hop that claims depth %d after %d: Verify() = %v, want %v", depth, hops, err, want)
			}
		}
		b.to(next)
		hops++
	}
	if _, err := delegation.NewRenewal(r.held(b), 0, r.now()); reason(err) != notDelegable {
		t.Errorf("NewRenewal(at the last depth) = %v, want %v", err, notDelegable)
	}
	// A grant that claims fewer levels than its hops need is refused where it is made and where it is used.
	p := r.grantPayload(r.a)
	p.DepthUsed, p.MaxDepth = 4, 3
	if _, err := delegation.NewGrant(p, r.key); reason(err) != tooDeep {
		t.Errorf("NewGrant(used more than it has) = %v, want %v", err, tooDeep)
	}
}

// LOOP is about the statements of one chain: an agent of the history may be called again, which costs a level of depth as any hop does.
func TestLoopEndsAtARenewal(t *testing.T) {
	r := newRenewer(t)
	b := r.chain(r.a).to(r.b)
	if _, err := r.verifier(r.a).Verify(r.chainFrom(b.c.GetGrant(), r.a).to(r.b).to(r.a).c, r.b.peer); reason(err) != loop {
		t.Errorf("back to a before the renewal = %v, want %v", err, loop)
	}
	levels := 0
	for _, next := range []*agent{r.a, r.b, r.a, r.b} {
		b, _ = r.renew(b)
		by := b.last
		if _, err := r.verifier(next).Verify(b.to(next).c, by.peer); err != nil {
			if levels != 3 || reason(err) != tooDeep {
				t.Fatalf("lap %d: %v", levels, err)
			}
			return
		}
		if levels++; levels == 3 {
			break
		}
	}
	if _, err := delegation.NewRenewal(r.held(b), 0, r.now()); reason(err) != notDelegable {
		t.Errorf("NewRenewal(after laps that used up the depth) = %v, want %v", err, notDelegable)
	}
}

func TestRenewalTimes(t *testing.T) {
	minute := func(p *v1.GrantPayload) { p.ExpiresAtMs = p.GetIssuedAtMs() + 60_000 }
	second := func(p *v1.HopPayload) { p.ExpiresAtMs -= 1000 }
	for _, tc := range []struct {
		name   string
		build  func(*renewer) *builder
		ask    time.Duration
		after  time.Duration
		want   time.Duration
		reason v1.Reason
	}{
		{"all there is", func(r *renewer) *builder { return r.chain(r.a) }, 0, 0, 15 * time.Minute, 0},
		{"less", func(r *renewer) *builder { return r.chain(r.a) }, time.Minute, 0, time.Minute, 0},
		{"more than there is", func(r *renewer) *builder { return r.chain(r.a) }, time.Hour, 0, 15 * time.Minute, 0},
		{"no time", func(r *renewer) *builder { return r.chain(r.a) }, -time.Second, 0, 0, lifetime},
		{"less than a millisecond", func(r *renewer) *builder { return r.chain(r.a) }, time.Microsecond, 0, 0, lifetime},
		{"a short leash stays short", func(r *renewer) *builder { return r.chain(r.a, minute).to(r.b) }, 0, 0, time.Minute, 0},
		{"a hop that ends with its parent", func(r *renewer) *builder { return r.chain(r.a).to(r.b) }, 0, 10 * time.Minute, 15 * time.Minute, 0},
		{"a hop that was given less", func(r *renewer) *builder { return r.chain(r.a).to(r.b, second) }, 0, 0, 0, lifetime},
		{"and passed on in full", func(r *renewer) *builder { return r.chain(r.a).to(r.b, second).to(r.c) }, 0, 0, 0, lifetime},
		{"a hop that ends with its signer's certificate", func(r *renewer) *builder {
			r.a = r.agent("a", life(0, 10*time.Minute))
			return r.chain(r.a).to(r.b, func(p *v1.HopPayload) { p.ExpiresAtMs = r.now().Add(9*time.Minute + 30*time.Second).UnixMilli() })
		}, 0, 0, 15 * time.Minute, 0},
		{"a hop that ends a second earlier", func(r *renewer) *builder {
			r.a = r.agent("a", life(0, 10*time.Minute))
			return r.chain(r.a).to(r.b, func(p *v1.HopPayload) { p.ExpiresAtMs = r.now().Add(9*time.Minute + 29*time.Second).UnixMilli() })
		}, 0, 0, 0, lifetime},
		{"over", func(r *renewer) *builder { return r.chain(r.a) }, 0, 15 * time.Minute, 0, late},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRenewer(t)
			x := r.held(tc.build(r))
			p, err := delegation.NewRenewal(x, tc.ask, r.now().Add(tc.after))
			if reason(err) != tc.reason {
				t.Fatalf("NewRenewal() = %v, want %v", err, tc.reason)
			}
			if got := time.Duration(p.GetExpiresAtMs()-p.GetIssuedAtMs()) * time.Millisecond; got != tc.want {
				t.Errorf("lives %v, want %v", got, tc.want)
			}
		})
	}
	if _, err := delegation.NewRenewal(nil, 0, start); reason(err) != v1.Reason_REASON_CHAIN_UNKNOWN {
		t.Errorf("NewRenewal(nil) = %v", err)
	}
	if _, err := delegation.NewRenewal(new(delegation.Leaf), 0, start); reason(err) != v1.Reason_REASON_CHAIN_UNKNOWN {
		t.Errorf("NewRenewal(zero leaf) = %v", err)
	}
	if members := new(delegation.Leaf).Members(); members != nil {
		t.Errorf("Members() of the zero leaf = %v", members)
	}
}

// Who is given ten minutes by an agent that has five left, or whose certificate has, does not get eight hours by it.
func TestGivenLifetimeIsNotRenewed(t *testing.T) {
	for _, tc := range []struct {
		name string
		life time.Duration
		cert time.Duration // that the giver's certificate has left
		want v1.Reason
	}{
		{"nothing was said", 0, time.Hour, 0},
		{"less than there is", time.Minute, time.Hour, lifetime},
		{"as much as there is", 5 * time.Minute, time.Hour, lifetime},
		{"more than there is", 10 * time.Minute, time.Hour, lifetime},
		{"more than the certificate has", 10 * time.Minute, 3 * time.Minute, lifetime},
		{"nothing was said, and the certificate ends", 0, 3 * time.Minute, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRenewer(t)
			r.a = r.agent("a", life(0, 10*time.Minute+tc.cert))
			g := r.chain(r.a).c.GetGrant()
			r.move(10 * time.Minute)
			root, err := r.verifier(r.a).VerifyGrant(g)
			if err != nil {
				t.Fatal(err)
			}
			c, err := delegation.Append(root, delegation.HopSpec{Delegate: r.b.id, Lifetime: tc.life}, r.a.signer, r.now())
			if err != nil {
				t.Fatal(err)
			}
			x, err := r.v.VerifyHeld(c, r.b.peer)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := delegation.NewRenewal(x, 0, r.now()); reason(err) != tc.want {
				t.Errorf("NewRenewal() = %v, want %v", err, tc.want)
			}
		})
	}
}

// A lineage of eight hours by default and 24 at most ends where the authority renews and at every endpoint.
func TestRenewalEndsWithTheLineage(t *testing.T) {
	for _, tc := range []struct {
		name  string
		limit time.Duration
		want  time.Duration
	}{
		{"default", 0, 8 * time.Hour},
		{"an hour", time.Hour, time.Hour},
		{"the most", delegation.MaxLineage, 24 * time.Hour},
	} {
		t.Run(tc.name, func(t *testing.T) {
			limit := func(c *delegation.Config) { c.Limits.Lineage = tc.limit }
			r := newRenewer(t, limit)
			b := r.chain(r.a)
			var end int64
			renewals := 0
			for {
				r.move(10 * time.Minute)
				x, err := r.v.VerifyHeld(b.c, r.a.peer)
				if err == nil {
					_, err = delegation.NewRenewal(x, 0, r.now())
				}
				if err != nil {
					if got := reason(err); got != lifetime && got != late {
						t.Fatalf("after %d renewals: %v, want the end of the lineage", renewals, err)
					}
					break
				}
				var p *v1.GrantPayload
				b, p = r.renew(b)
				end = p.GetExpiresAtMs()
				renewals++
				if p.GetLineageStartMs() != start.UnixMilli() || len(p.GetHistory()) != 0 || p.GetDepthUsed() != 0 {
					t.Fatalf("renewal %d is %v", renewals, p)
				}
			}
			if got := time.UnixMilli(end).Sub(start); got != tc.want {
				t.Errorf("%d renewals last %v, want %v", renewals, got, tc.want)
			}
			// An authority that goes on all the same is refused at the endpoints.
			p := r.grantPayload(r.a)
			p.LineageStartMs = p.GetIssuedAtMs() - tc.want.Milliseconds() - 1
			g := r.signGrant(marshal(t, p))
			v := r.verifier(r.a, limit)
			if _, err := v.VerifyGrant(g); reason(err) != lifetime {
				t.Errorf("VerifyGrant(a renewal past the lineage) = %v, want %v", err, lifetime)
			}
		})
	}
}

// What was revoked before a renewal is revoked after it.
func TestRenewalDoesNotOutliveARevocation(t *testing.T) {
	for _, tc := range []struct {
		name   string
		handle func(r *renewer, old, renewed *delegation.Leaf) [32]byte
		want   v1.Reason
	}{
		{"the chain", func(_ *renewer, old, _ *delegation.Leaf) [32]byte { return delegation.ChainHandle(old.ChainID()) }, gone},
		{"the agent that gave it", func(r *renewer, _, _ *delegation.Leaf) [32]byte { return delegation.AgentHandle(r.a.id) }, gone},
		{"the statement that it renews", func(_ *renewer, old, _ *delegation.Leaf) [32]byte { return old.ID() }, gone},
		{"the principal", func(_ *renewer, old, _ *delegation.Leaf) [32]byte { return delegation.PrincipalHandle(old.Principal()) }, gone},
		{"the renewal", func(_ *renewer, _, x *delegation.Leaf) [32]byte { return x.ID() }, gone},
		{"somebody else", func(r *renewer, _, _ *delegation.Leaf) [32]byte { return delegation.AgentHandle(r.e.id) }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			list := &revoked{}
			r := newRenewer(t, func(c *delegation.Config) { c.Revoked = list })
			b := r.chain(r.a).to(r.b)
			old := r.held(b)
			next, _ := r.renew(b)
			list.revoke(tc.handle(r, old, r.held(next)))
			if _, err := r.v.VerifyHeld(next.c, r.b.peer); reason(err) != tc.want {
				t.Errorf("renewing again after it was revoked = %v, want %v", err, tc.want)
			}
			v := r.verifier(r.c, func(c *delegation.Config) { c.Revoked = list })
			if _, err := v.Verify(next.to(r.c).c, r.b.peer); reason(err) != tc.want {
				t.Errorf("Verify() at the next callee = %v, want %v", err, tc.want)
			}
		})
	}
}

// A grant so full that its history does not fit is not renewed: who has acted is never dropped to make room, because containment asks.
func TestFullGrantIsNotRenewed(t *testing.T) {
	r := newRenewer(t)
	full := func(p *v1.GrantPayload) {
		p.Capabilities = nil
		for i := 0; proto.Size(p) < delegation.MaxPayloadBytes-80; i++ {
			p.Capabilities = append(p.Capabilities, &v1.Capability{
				Action: "memory.read", Resource: []string{"a-namespace", "of-quite-a-long-name", string(rune('a' + i))}, Reach: 4,
			})
		}
	}
	b := r.chain(r.a, full).to(r.b)
	if n := len(b.c.GetGrant().GetPayload()); n > delegation.MaxPayloadBytes {
		t.Fatalf("the grant has %d bytes", n)
	}
	p, err := delegation.NewRenewal(r.held(b), 0, r.now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := delegation.NewGrant(p, r.key); reason(err) != v1.Reason_REASON_CHAIN_TOO_LARGE {
		t.Errorf("NewGrant(%d capabilities and a history) = %v, want CHAIN_TOO_LARGE", len(p.GetCapabilities()), err)
	}
	p.Capabilities = p.GetCapabilities()[3:]
	if _, err := delegation.NewGrant(p, r.key); err != nil {
		t.Errorf("NewGrant(fewer) = %v", err)
	}
}

// Over random chains a renewal carries nothing that the chain did not, and everybody on the way is in its history.
func TestRenewalIsASubsetOfItsChain(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := newRenewer(t)
		b := r.chain(r.a)
		agents := []*agent{r.b, r.c, r.d, r.e}
		hops := rapid.IntRange(0, 3).Draw(rt, "hops")
		for i := range hops {
			b.to(agents[i], func(p *v1.HopPayload) {
				p.MaxDepth -= rapid.Uint32Range(0, p.GetMaxDepth()-p.GetDepth()).Draw(rt, "depth")
				var kept []*v1.Capability
				for _, c := range p.GetCapabilities() {
					c.Reach = rapid.Uint32Range(0, min(c.GetReach(), p.GetMaxDepth())).Draw(rt, "reach")
					kept = append(kept, c)
				}
				p.Capabilities = kept
			})
		}
		x, err := r.v.VerifyHeld(b.c, b.last.peer)
		if err != nil {
			return // a capability went further than its reach
		}
		p, err := delegation.NewRenewal(x, 0, r.now())
		if err != nil {
			if reason(err) != notDelegable {
				rt.Fatalf("NewRenewal() = %v", err)
			}
			return
		}
		for _, c := range p.GetCapabilities() {
			if !slices.ContainsFunc(x.Capabilities(), func(parent *v1.Capability) bool { return delegation.Covers(parent, c) }) {
				rt.Fatalf("the renewal carries %v, the chain %v", c, x.Capabilities())
			}
		}
		if p.GetMaxDepth() > x.MaxDepth() || p.GetDepthUsed() != x.Depth() || len(p.GetHistory()) != hops || p.GetExpiresAtMs()-p.GetIssuedAtMs() > 900_000 {
			rt.Fatalf("renewal %v of a chain at depth %d of %d", p, x.Depth(), x.MaxDepth())
		}
		if _, err := delegation.NewGrant(p, r.key); err != nil {
			rt.Fatalf("NewGrant() = %v", err)
		}
	})
}

// BenchmarkRenewal is the authority's part of a renewal of three hops, less registry and audit.
func BenchmarkRenewal(b *testing.B) {
	r := newRenewer(b)
	chain := r.chain(r.a).to(r.b).to(r.c).to(r.d)
	for b.Loop() {
		x, err := r.v.VerifyHeld(chain.c, r.d.peer)
		if err != nil {
			b.Fatal(err)
		}
		p, err := delegation.NewRenewal(x, 0, r.now())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := delegation.NewGrant(p, r.key); err != nil {
			b.Fatal(err)
		}
	}
}
