package delegation_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// scene is a world with five agents; b and d sign with P-256, the others with Ed25519.
type scene struct {
	*world
	a, b, c, d, e *agent
}

func newScene(tb testing.TB) *scene {
	tb.Helper()
	w := newWorld(tb)
	return &scene{
		world: w, a: w.agent("a"), b: w.agent("b", withKey(p256Key())), c: w.agent("c"), d: w.agent("d", withKey(p256Key())),
		e: w.agent("e"),
	}
}

// presented is a chain, who presents it, and to whom.
type presented struct {
	chain    *v1.DelegationChain
	by, self *agent
}

// hop1 is a chain with one hop from a to b that change has touched; hop2 adds an honest hop before it.
func (s *scene) hop1(change ...func(*v1.HopPayload)) presented {
	return presented{s.chain(s.a).to(s.b, change...).c, s.a, s.b}
}

func (s *scene) hop2(change ...func(*v1.HopPayload)) presented {
	return presented{s.chain(s.a).to(s.b).to(s.c, change...).c, s.b, s.c}
}

func (s *scene) grant1(change ...func(*v1.GrantPayload)) presented {
	return presented{s.chain(s.a, change...).to(s.b).c, s.a, s.b}
}

// carrying is hop1 under a grant with one capability.
func (s *scene) carrying(parent, child *v1.Capability) presented {
	b := s.chain(s.a, func(p *v1.GrantPayload) { p.Capabilities = []*v1.Capability{parent} })
	return presented{b.to(s.b, func(p *v1.HopPayload) { p.Capabilities = []*v1.Capability{child} }).c, s.a, s.b}
}

type row struct {
	row   int
	name  string
	build func(*scene) presented
	want  v1.Reason
}

func TestConformance(t *testing.T) {
	rows := slices.Concat(shapeRows(), scopeRows(), lifeRows(), depthRows(), linkRows(), signerRows(), signatureRows(),
		wireRows(), tenantRows(), frameRows())
	for _, tc := range rows {
		t.Run(fmt.Sprintf("%02d %s", tc.row, tc.name), func(t *testing.T) {
			s := newScene(t)
			p := tc.build(s)
			v := s.verifier(p.self)
			for _, look := range []string{"cold", "again"} {
				x, err := v.Verify(p.chain, p.by.peer)
				if got := reason(err); got != tc.want || (x == nil) == (tc.want == 0) {
					t.Fatalf("%s: Verify() = %v, want %v", look, err, tc.want)
				}
				if err != nil && strings.Contains(strings.NewReplacer(p.by.id.String(), "", p.self.id.String(), "").Replace(err.Error()), "spiffe:") {
					t.Fatalf("%s: %q quotes what nobody verified", look, err)
				}
				if err != nil && x != nil {
					t.Fatalf("%s: a leaf beside the refusal %v", look, err)
				}
			}
			if links, _ := v.Cached(); tc.want != 0 && links != 0 {
				t.Errorf("a refused chain left %d prefixes in the cache", links)
			}
		})
	}
}

func shapeRows() []row {
	return []row{
		{1, "one hop", func(s *scene) presented { return s.hop1() }, 0},
		{1, "two hops", func(s *scene) presented { return s.hop2() }, 0},
		{1, "four hops, depth is the maximum, expiry is the parent's", func(s *scene) presented {
			return presented{s.chain(s.a).to(s.b).to(s.c).to(s.d).to(s.e, func(p *v1.HopPayload) { p.Delegates = nil }).c, s.d, s.e}
		}, 0},
		{1, "eight hops", func(s *scene) presented {
			b := s.chain(s.a, func(p *v1.GrantPayload) {
				p.MaxDepth = 8
				p.Capabilities[0].Reach, p.Capabilities[1].Reach = 8, 8
			})
			for i := range 7 {
				b.to(s.agent(fmt.Sprintf("n%d", i)))
			}
			by := b.last
			return presented{b.to(s.b).c, by, s.b}
		}, 0},
		{1, "without capabilities", func(s *scene) presented {
			return s.hop1(func(p *v1.HopPayload) { p.Capabilities = nil })
		}, 0},
		{1, "a grant from the authority itself", func(s *scene) presented {
			return presented{s.chain(s.a).c, s.as(authority), s.a}
		}, 0},
		{1, "to a service named exactly", func(s *scene) presented {
			auth := s.as(authority)
			return presented{s.chain(s.a).to(auth).c, s.a, auth}
		}, 0},
		{1, "from a service in the tenant of the grant", func(s *scene) presented {
			auth := s.as(authority)
			return presented{s.chain(auth).to(s.b).c, auth, s.b}
		}, 0},
	}
}

func scopeRows() []row {
	read := func(path ...string) *v1.Capability { return capability("memory.read", path...) }
	one := func(path ...string) *v1.Capability { return exactly(read(path...)) }
	add := func(c *v1.Capability) func(*scene) presented {
		return func(s *scene) presented {
			return s.hop2(func(p *v1.HopPayload) { p.Capabilities = append(p.Capabilities, c) })
		}
	}
	carry := func(parent, child *v1.Capability) func(*scene) presented {
		return func(s *scene) presented { return s.carrying(parent, child) }
	}
	rows := []row{
		{2, "another action", add(capability("memory.delete", "ns")), amplified},
		{2, "action in another case", add(capability("memory.Read", "ns")), amplified},
		{2, "union of two", func(s *scene) presented {
			b := s.chain(s.a, func(p *v1.GrantPayload) { p.Capabilities = []*v1.Capability{one("ns"), read("ns")} })
			return presented{b.to(s.b, func(p *v1.HopPayload) { p.Capabilities = []*v1.Capability{read()} }).c, s.a, s.b}
		}, amplified},
		{2, "more delegates", func(s *scene) presented {
			return s.hop1(func(p *v1.HopPayload) { p.Delegates = append(p.Delegates, "spiffe://"+domain+"/service/other") })
		}, amplified},
		{2, "delegates of another tenant", func(s *scene) presented {
			return s.hop1(func(p *v1.HopPayload) { p.Delegates = []string{"spiffe://" + domain + "/tenant/red/agent/*"} })
		}, amplified},
		{3, "exact to subtree", carry(one("ns", "a"), read("ns", "a")), amplified},
		{3, "exact to star segment", carry(one("ns", "a"), one("ns", "*")), amplified},
		{3, "exact to the subtree above", carry(one("ns", "a"), read("ns")), amplified},
		{3, "subtree to itself as exact", carry(read("ns"), one("ns")), amplified},
		{3, "subtree to the subtree above", carry(read("ns", "a"), read("ns")), amplified},
		{4, "longer segment", carry(read("ns", "a"), read("ns", "ab")), amplified},
		{4, "joined segment", carry(read("ns", "a"), one("ns", "a/b")), amplified},
		{5, "dot dot", carry(read("ns", "a"), one("ns", "a", "..", "b")), malformed},
		{5, "dot", carry(read("ns", "a"), one("ns", "a", ".")), malformed},
		{5, "empty segment", carry(read("ns", "a"), one("ns", "", "a")), malformed},
		{5, "control character", carry(read("ns", "a"), one("ns", "a", "b\x00")), nonCanonical},
		{5, "percent encoding", carry(read("ns", "a"), one("ns", "%61", "b")), amplified},
		{5, "upper case", carry(read("ns", "a"), one("NS", "a", "b")), amplified},
		{5, "decomposed letter", carry(read("ns", "\u00e9"), one("ns", "e\u0301", "b")), amplified},
		{5, "full width letter", carry(read("ns", "a"), one("ns", "\uff41", "b")), amplified},
		{6, "wider range", carry(constrained(read(), within("n", 0, 10)), constrained(read(), within("n", 0, 11))), loosened},
		{6, "larger set", carry(constrained(read(), oneOf("n", num(1), num(2))), constrained(read(), oneOf("n", num(1), num(3)))), loosened},
		{7, "dropped", carry(constrained(read(), within("n", 0, 10)), read()), loosened},
		{7, "dropped and another added", carry(constrained(read(), within("n", 0, 10)), constrained(read(), within("m", 0, 10))), loosened},
		{8, "unknown rule", func(s *scene) presented { return s.unknownRule() }, unknown},
		{8, "no rule", carry(read(), constrained(read(), &v1.Constraint{Key: "n"})), unknown},
		{8, "no kind of value", carry(read(), constrained(read(), equal("n", &v1.Value{}))), unknown},
		{9, "reach of the grant only", carry(&v1.Capability{Action: "a"}, &v1.Capability{Action: "a"}), notDelegable},
		{9, "one hop too far", func(s *scene) presented {
			b := s.chain(s.a, func(p *v1.GrantPayload) { p.Capabilities = []*v1.Capability{{Action: "x", Reach: 1}} })
			return presented{b.to(s.b).to(s.c).c, s.b, s.c}
		}, notDelegable},
		{9, "reach raised", carry(&v1.Capability{Action: "a", Reach: 1}, &v1.Capability{Action: "a", Reach: 2}), amplified},
		{9, "reach below the maximum depth only", func(s *scene) presented {
			return s.hop1(func(p *v1.HopPayload) { p.MaxDepth = 3; p.Capabilities[0].Reach = 4 })
		}, amplified},
		{10, "delegate not in the list", func(s *scene) presented {
			b := s.chain(s.a, func(p *v1.GrantPayload) { p.Delegates = []string{s.c.id.String()} })
			return presented{b.to(s.b, func(p *v1.HopPayload) { p.Delegates = []string{s.c.id.String()} }).c, s.a, s.b}
		}, notDelegable},
		{10, "service behind a tenant pattern", func(s *scene) presented {
			auth := s.as(authority)
			b := s.chain(s.a, func(p *v1.GrantPayload) { p.Delegates = p.Delegates[:1] })
			return presented{b.to(auth, func(p *v1.HopPayload) { p.Delegates = p.Delegates[:1] }).c, s.a, auth}
		}, notDelegable},
		{10, "no delegates at all", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.Delegates = nil })
		}, malformed},
	}
	return rows
}

// unknownRule is a hop whose constraint uses rule 6, which no build knows.
func (s *scene) unknownRule() presented {
	b := s.chain(s.a)
	p := proto.CloneOf(b.payload)
	p.Depth, p.ParentId, p.Issuer, p.Delegate, p.StatementNonce = 1, b.parentID[:], s.a.id.String(), s.b.id.String(), random(16)
	p.Capabilities = []*v1.Capability{constrained(capability("memory.read", "ns"), &v1.Constraint{Key: "n"})}
	c := p.GetCapabilities()[0].GetConstraints()[0]
	c.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 6, protowire.BytesType), []byte("x")))
	return presented{b.raw(s.b, marshal(s.tb, p)).c, s.a, s.b}
}

func lifeRows() []row {
	hop := func(change func(*v1.HopPayload)) func(*scene) presented {
		return func(s *scene) presented { return s.hop1(change) }
	}
	grant := func(change func(*v1.GrantPayload)) func(*scene) presented {
		return func(s *scene) presented { return s.grant1(change) }
	}
	far := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	return []row{
		{11, "expires after the parent", hop(func(p *v1.HopPayload) { p.ExpiresAtMs++ }), lifetime},
		{12, "begins before the parent", hop(func(p *v1.HopPayload) { p.NotBeforeMs-- }), lifetime},
		{13, "outlives the certificate", func(s *scene) presented {
			s.a = s.agent("a", life(-time.Minute, 5*time.Minute))
			return s.hop1()
		}, lifetime},
		{13, "ends with the certificate", func(s *scene) presented {
			s.a = s.agent("a", life(-time.Minute, 5*time.Minute))
			return s.hop1(func(p *v1.HopPayload) { p.ExpiresAtMs = s.a.peer.NotAfter.UnixMilli() })
		}, 0},
		{14, "overflow", hop(func(p *v1.HopPayload) { p.ExpiresAtMs = 1<<63 - 1 }), lifetime},
		{14, "negative", hop(func(p *v1.HopPayload) { p.NotBeforeMs = -1 }), lifetime},
		{14, "zero", hop(func(p *v1.HopPayload) { p.ExpiresAtMs = 0 }), lifetime},
		{14, "zero issue time", hop(func(p *v1.HopPayload) { p.IssuedAtMs = 0 }), lifetime},
		{14, "far future", grant(func(p *v1.GrantPayload) { p.ExpiresAtMs = far }), lifetime},
		{14, "ends before it begins", hop(func(p *v1.HopPayload) { p.NotBeforeMs = p.GetExpiresAtMs() + 1 }), lifetime},
		{14, "issued after it ends", hop(func(p *v1.HopPayload) { p.IssuedAtMs = p.GetExpiresAtMs() + 1 }), lifetime},
		{14, "grant over 15 minutes", grant(func(p *v1.GrantPayload) { p.ExpiresAtMs++ }), lifetime},
		{14, "lineage missing", grant(func(p *v1.GrantPayload) { p.LineageStartMs = 0 }), lifetime},
		{14, "lineage after the grant", grant(func(p *v1.GrantPayload) { p.LineageStartMs = p.GetIssuedAtMs() + 1 }), lifetime},
		{14, "lineage of 8 hours", grant(func(p *v1.GrantPayload) { p.LineageStartMs -= 8 * 3600_000 }), 0},
		{14, "lineage over 8 hours", grant(func(p *v1.GrantPayload) { p.LineageStartMs -= 8*3600_000 + 1 }), lifetime},
		{52, "grant 29 s ahead", grant(func(p *v1.GrantPayload) { p.IssuedAtMs += 29_000; p.NotBeforeMs += 29_000 }), 0},
		{52, "grant 31 s ahead", grant(func(p *v1.GrantPayload) { p.IssuedAtMs += 31_000; p.NotBeforeMs += 31_000 }), late},
		{52, "grant issued 31 s ahead", grant(func(p *v1.GrantPayload) { p.IssuedAtMs += 31_000 }), late},
		{52, "hop 29 s ahead", hop(func(p *v1.HopPayload) { p.IssuedAtMs += 29_000; p.NotBeforeMs += 29_000 }), 0},
		{52, "hop begins 31 s ahead", hop(func(p *v1.HopPayload) { p.NotBeforeMs += 31_000 }), late},
		{52, "hop issued 31 s ahead", hop(func(p *v1.HopPayload) { p.IssuedAtMs += 31_000 }), late},
		{52, "middle hop issued 31 s ahead", func(s *scene) presented {
			ahead := func(p *v1.HopPayload) { p.IssuedAtMs += 31_000 }
			back := func(p *v1.HopPayload) { p.IssuedAtMs -= 31_000 }
			return presented{s.chain(s.a).to(s.b, ahead).to(s.c, back).c, s.b, s.c}
		}, late},
		{52, "10 minutes ahead", hop(func(p *v1.HopPayload) { p.NotBeforeMs += 600_000 }), late},
		{52, "expires now", hop(func(p *v1.HopPayload) { p.ExpiresAtMs = start.UnixMilli() }), late},
		{52, "expires in a millisecond", hop(func(p *v1.HopPayload) { p.ExpiresAtMs = start.UnixMilli() + 1 }), 0},
	}
}

func depthRows() []row {
	return []row{
		{15, "deeper than the maximum", func(s *scene) presented {
			return presented{s.chain(s.a, func(p *v1.GrantPayload) { p.MaxDepth = 1 }).to(s.b).to(s.c).c, s.b, s.c}
		}, tooDeep},
		{15, "maximum over the hard cap", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.MaxDepth = 9 })
		}, tooDeep},
		{15, "grant used more than it has", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.DepthUsed = 5 })
		}, tooDeep},
		{16, "skipped", func(s *scene) presented { return s.hop1(func(p *v1.HopPayload) { p.Depth = 2 }) }, tooDeep},
		{16, "repeated", func(s *scene) presented { return s.hop2(func(p *v1.HopPayload) { p.Depth = 1 }) }, tooDeep},
		{16, "zero", func(s *scene) presented { return s.hop1(func(p *v1.HopPayload) { p.Depth = 0 }) }, tooDeep},
		{17, "maximum raised", func(s *scene) presented { return s.hop1(func(p *v1.HopPayload) { p.MaxDepth = 5 }) }, tooDeep},
		{18, "reset after renewal", func(s *scene) presented {
			b := s.chain(s.a, func(p *v1.GrantPayload) { p.DepthUsed = 2 })
			return presented{b.to(s.b, func(p *v1.HopPayload) { p.Depth = 1 }).c, s.a, s.b}
		}, tooDeep},
		{18, "goes on after renewal", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.DepthUsed = 2 })
		}, 0},
	}
}

func linkRows() []row {
	return []row{
		{20, "middle hop removed", func(s *scene) presented {
			b := s.chain(s.a).to(s.b).to(s.c).to(s.d)
			b.c.Hops, b.c.Certs = slices.Delete(b.c.GetHops(), 1, 2), slices.Delete(b.c.GetCerts(), 1, 2)
			b.c.Hops[1].CertRef = 2
			return presented{b.c, s.c, s.d}
		}, parentMismatch},
		{21, "root removed", func(s *scene) presented {
			p := s.hop1()
			p.chain.Grant = nil
			return p
		}, untrusted},
		{21, "a hop in the place of the root", func(s *scene) presented {
			p := s.hop2()
			p.chain.Grant, p.chain.Hops = p.chain.GetHops()[0], p.chain.GetHops()[1:]
			p.chain.Grant.CertRef = 0
			return p
		}, nonCanonical},
		{22, "last hop dropped", func(s *scene) presented {
			p := s.hop2()
			p.chain.Hops, p.chain.Certs = p.chain.GetHops()[:1], p.chain.GetCerts()[:1]
			return p
		}, presenter},
		{22, "the only hop dropped", func(s *scene) presented {
			p := s.hop1()
			p.chain.Hops, p.chain.Certs = nil, nil
			return p
		}, presenter},
		{23, "swapped", func(s *scene) presented {
			p := s.hop2()
			h := p.chain.GetHops()
			h[0], h[1] = h[1], h[0]
			return p
		}, parentMismatch},
		{24, "spliced", func(s *scene) presented {
			head, tail := s.hop2(), s.hop2()
			head.chain.Hops[1] = tail.chain.GetHops()[1]
			return head
		}, parentMismatch},
		{24, "another chain id", func(s *scene) presented {
			return s.hop1(func(p *v1.HopPayload) { p.ChainId = random(16) })
		}, parentMismatch},
		{24, "another issuer", func(s *scene) presented {
			return s.hop1(func(p *v1.HopPayload) { p.Issuer = s.c.id.String() })
		}, parentMismatch},
		{25, "authority of another trust domain", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.Issuer = "spiffe://evil.test/service/authority" })
		}, untrusted},
		{25, "another service of this trust domain", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.Issuer = "spiffe://" + domain + "/service/other" })
		}, untrusted},
		{25, "an agent called authority", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.Issuer = "spiffe://" + domain + "/tenant/blue/agent/authority" })
		}, untrusted},
		{25, "a key that is not the authority's", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.KeyId = "00000000000000000000000000000000" })
		}, badKey},
		{25, "another key under the authority's key id", func(s *scene) presented {
			p := s.hop1()
			g := p.chain.GetGrant()
			g.Signature = s.sign(s.c, delegation.TypeGrant, g.GetPayload())
			return p
		}, badSignature},
		{59, "loop", func(s *scene) presented {
			return presented{s.chain(s.a).to(s.b).to(s.c).to(s.a).c, s.c, s.a}
		}, loop},
		{59, "to itself", func(s *scene) presented { return presented{s.chain(s.a).to(s.a).c, s.a, s.a} }, loop},
	}
}

func tenantRows() []row {
	return []row{
		{50, "hop of another tenant", func(s *scene) presented {
			return s.hop1(func(p *v1.HopPayload) { p.Tenant = "red" })
		}, tenant},
		{50, "delegate of another tenant", func(s *scene) presented {
			red := s.as("spiffe://" + domain + "/tenant/red/agent/b")
			return presented{s.chain(s.a).to(red).c, s.a, red}
		}, tenant},
		{50, "delegate of another trust domain", func(s *scene) presented {
			evil := s.as("spiffe://evil.test/tenant/blue/agent/b")
			return presented{s.chain(s.a).to(evil).c, s.a, evil}
		}, tenant},
		{50, "grant to another tenant's agent", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.Tenant = "red" })
		}, tenant},
		{50, "grant for another trust domain", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.TrustDomain = "evil.test" })
		}, tenant},
		{50, "no bridge", func(s *scene) presented {
			return s.grant1(func(p *v1.GrantPayload) { p.Origin = &v1.Origin{TrustDomain: "b.test"} })
		}, tenant},
		{50, "foreign service, wholly foreign chain", func(s *scene) presented {
			a := s.as("spiffe://evil.test/service/a")
			b := s.as("spiffe://evil.test/service/b")
			return presented{s.chain(a, func(p *v1.GrantPayload) {
				p.TrustDomain, p.Issuer = "evil.test", "spiffe://evil.test/service/authority"
				p.Delegates = []string{b.id.String()}
			}).to(b).c, a, b}
		}, badKey},
		{40, "another purpose in a hop", func(s *scene) presented {
			return s.hop1(func(p *v1.HopPayload) { p.PurposeDigest = digestOf("own task") })
		}, otherPurpose},
		{41, "stolen chain from another identity", func(s *scene) presented {
			p := s.hop1()
			p.by = s.e
			return p
		}, presenter},
		{42, "same agent, another callee", func(s *scene) presented {
			p := s.hop1()
			p.self = s.e
			return p
		}, audience},
	}
}
