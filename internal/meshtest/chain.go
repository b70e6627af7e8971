package meshtest

import (
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// What a World uses where a test names nothing.
const (
	// Issuer signs the grants.
	Issuer = "spiffe://" + TrustDomain + "/service/authority"
	// DefaultPurpose is the purpose of grants and intents.
	DefaultPurpose = "test of the mesh"
	// DefaultDepth is the depth of grants.
	DefaultDepth = 8
	// DefaultLife is how long grants live.
	DefaultLife = 10 * time.Minute
)

// work is what options alter.
type work struct {
	grant        *v1.GrantPayload
	purpose      string
	life         time.Duration
	conversation []byte
	control      policy.Label
	floor        v1.Integrity
	depth        uint32
	decision     [16]byte
	notAfter     time.Time
	noRow        bool
}

// Option alters a grant, a chain or a Permit.
type Option func(*work)

// For names the principal; the default is the user alice.
func For(p *v1.Principal) Option { return func(k *work) { k.grant.Principal = p } }

// User is For a user of the test's identity provider.
func User(subject string) Option {
	return For(&v1.Principal{Type: v1.Principal_TYPE_USER, Subject: subject, Issuer: "https://idp." + TrustDomain})
}

// Tenant makes the grant for another tenant than its delegate's.
func Tenant(name string) Option { return func(k *work) { k.grant.Tenant = name } }

// Capabilities replaces what the grant carries.
func Capabilities(caps ...*v1.Capability) Option {
	return func(k *work) { k.grant.Capabilities = caps }
}

// Delegates replaces who may appear below; the default is every agent of the tenant and the agents of the path.
func Delegates(patterns ...string) Option { return func(k *work) { k.grant.Delegates = patterns } }

// Purpose replaces the purpose of grant and intent.
func Purpose(p string) Option { return func(k *work) { k.purpose = p } }

// Life sets how long the grant lives.
func Life(d time.Duration) Option { return func(k *work) { k.life = d } }

// MaxDepth sets the depth of the grant.
func MaxDepth(n uint32) Option { return func(k *work) { k.grant.MaxDepth = n } }

// Task names the task of the grant.
func Task(id string) Option { return func(k *work) { k.grant.TaskId = id } }

// Conversation sets the conversation of the request.
func Conversation(id []byte) Option { return func(k *work) { k.conversation = id } }

// Control sets the control label that the request claims; the default is the peer's own words, ATTESTED.
func Control(l policy.Label) Option { return func(k *work) { k.control = l } }

// MinIntegrity sets the floor of the method; the default is UNTRUSTED.
func MinIntegrity(i v1.Integrity) Option { return func(k *work) { k.floor = i } }

// MethodDepth sets the method's bound on hops; the default is 8.
func MethodDepth(n uint32) Option { return func(k *work) { k.depth = n } }

// DecisionID sets the decision id of the Permit; the default is random.
func DecisionID(id [16]byte) Option { return func(k *work) { k.decision = id } }

// NotAfter ends the Permit.
func NotAfter(t time.Time) Option { return func(k *work) { k.notAfter = t } }

// NoRow leaves the capability table as it is; otherwise Permit adds the rows that the request needs.
func NoRow() Option { return func(k *work) { k.noRow = true } }

// Capability returns the right to one action on exactly resource, as deep as any chain goes.
func Capability(action string, resource ...string) *v1.Capability {
	return &v1.Capability{Action: action, Resource: resource, Reach: DefaultDepth}
}

// Below returns the right to one action on everything strictly below resource.
func Below(action string, resource ...string) *v1.Capability {
	return &v1.Capability{Action: action, Resource: resource, Subtree: true, Reach: DefaultDepth}
}

func (w *World) work(first identity.AgentID, opts []Option) *work {
	tenant := first.Tenant().Name()
	k := &work{
		purpose: DefaultPurpose, life: DefaultLife, floor: v1.Integrity_INTEGRITY_UNTRUSTED, depth: policy.MaxDepth,
		control: policy.OwnWords(v1.Integrity_INTEGRITY_ATTESTED, "agent:"+first.Name()), decision: newID(),
		grant: &v1.GrantPayload{
			Issuer: Issuer, TrustDomain: TrustDomain, Tenant: tenant, Delegate: first.String(), MaxDepth: DefaultDepth,
			Principal: &v1.Principal{Type: v1.Principal_TYPE_USER, Subject: "alice", Issuer: "https://idp." + TrustDomain},
		},
	}
	for _, o := range opts {
		o(k)
	}
	return k
}

// Grant returns a grant of the authority for first. Without Capabilities it carries nothing that a Permit would open.
func (w *World) Grant(tb testing.TB, first identity.AgentID, opts ...Option) *v1.SignedStatement {
	tb.Helper()
	return w.grant(tb, w.work(first, opts), nil)
}

func (w *World) grant(tb testing.TB, k *work, path []identity.AgentID) *v1.SignedStatement {
	tb.Helper()
	g, now, sum := k.grant, w.Now(), sha256.Sum256([]byte(k.purpose))
	g.IssuedAtMs, g.NotBeforeMs, g.ExpiresAtMs = now.UnixMilli(), now.UnixMilli(), now.Add(k.life).UnixMilli()
	g.PurposeDigest = sum[:]
	if len(g.GetCapabilities()) == 0 {
		g.Capabilities = []*v1.Capability{Capability("none", "nothing")}
	}
	for _, c := range g.GetCapabilities() {
		c.Reach = min(c.GetReach(), g.GetMaxDepth())
	}
	if len(g.GetDelegates()) == 0 && g.GetMaxDepth() > 0 {
		g.Delegates = []string{"spiffe://" + TrustDomain + "/tenant/" + g.GetTenant() + "/agent/*"}
		for _, id := range path {
			if id.IsService() || id.Tenant().Name() != g.GetTenant() {
				g.Delegates = append(g.Delegates, id.String())
			}
		}
		slices.Sort(g.Delegates)
		g.Delegates = slices.Compact(g.Delegates)
	}
	s, err := delegation.NewGrant(g, w.Keys.Private())
	if err != nil {
		tb.Fatalf("granting to %s: %v", g.GetDelegate(), err)
	}
	return s
}

// Root returns the verified grant under which first acts.
func (w *World) Root(tb testing.TB, first identity.AgentID, opts ...Option) *delegation.Leaf {
	tb.Helper()
	return w.root(tb, w.work(first, opts), first, nil)
}

func (w *World) root(tb testing.TB, k *work, first identity.AgentID, path []identity.AgentID) *delegation.Leaf {
	tb.Helper()
	leaf, err := w.Verifier(first).VerifyGrant(w.grant(tb, k, path))
	if err != nil {
		tb.Fatalf("verifying the grant of %s: %v", first, err)
	}
	return leaf
}

// Chain returns a chain over path: a grant for the first agent, then one hop for each further one. The last is the callee, the one
// before it presents the chain.
func (w *World) Chain(tb testing.TB, path []identity.AgentID, opts ...Option) *v1.DelegationChain {
	tb.Helper()
	return w.chain(tb, w.work(path[0], opts), path)
}

func (w *World) chain(tb testing.TB, k *work, path []identity.AgentID) *v1.DelegationChain {
	tb.Helper()
	leaf := w.root(tb, k, path[0], path[1:])
	var chain *v1.DelegationChain
	for i, callee := range path[1:] {
		chain = w.Hop(tb, leaf, delegation.HopSpec{Delegate: callee})
		if i < len(path)-2 {
			leaf = w.Leaf(tb, chain, path[i], callee)
		}
	}
	return chain
}

// Hop returns the chain of leaf with one hop more, signed by leaf's delegate.
func (w *World) Hop(tb testing.TB, leaf *delegation.Leaf, spec delegation.HopSpec) *v1.DelegationChain {
	tb.Helper()
	svid, _ := w.source(leaf.Delegate()).GetX509SVID()
	signer, err := delegation.NewSigner(svid)
	if err != nil {
		tb.Fatalf("signer of %s: %v", leaf.Delegate(), err)
	}
	chain, err := delegation.Append(leaf, spec, signer, w.Now())
	if err != nil {
		tb.Fatalf("hop from %s to %s: %v", leaf.Delegate(), spec.Delegate, err)
	}
	return chain
}

// Leaf verifies a chain at self as presented by peer.
func (w *World) Leaf(tb testing.TB, chain *v1.DelegationChain, peer, self identity.AgentID) *delegation.Leaf {
	tb.Helper()
	leaf, err := w.Verifier(self).Verify(chain, w.Peer(peer))
	if err != nil {
		tb.Fatalf("verifying a chain from %s at %s: %v", peer, self, err)
	}
	return leaf
}

// Permit returns a Permit that the engine of self minted for peer: over a chain of one hop that carries action on resource and on
// everything below it, and, unless NoRow is given, with rows in the table that permit the same.
func (w *World) Permit(tb testing.TB, peer, self identity.AgentID, action string, resource []string, opts ...Option) policy.Permit {
	tb.Helper()
	p, d := w.Decide(tb, peer, self, action, resource, opts...)
	if !d.Allowed() {
		tb.Fatalf("permit for %s to do %s on %q at %s: %s: %s", peer, action, resource, self, d.Reason, d.Cause)
	}
	return p
}

// Decide is Permit for tests that want a refusal too.
func (w *World) Decide(tb testing.TB, peer, self identity.AgentID, action string, resource []string, opts ...Option) (policy.Permit, policy.Decision) {
	tb.Helper()
	caps := Capabilities(Capability(action, resource...), Below(action, resource...))
	k := w.work(peer, append([]Option{caps}, opts...))
	req := w.request(tb, k, peer, self)
	req.Action, req.Resource = action, resource
	if rec := req.Record; rec != nil && !k.noRow {
		w.allowOnce(req.Leaf.Tenant(), rec.Class, action, resource, self)
	}
	return w.Engine(self).Decide(req)
}

// Request returns a policy request of peer at self over a chain of one hop, without action and resource.
func (w *World) Request(tb testing.TB, peer, self identity.AgentID, opts ...Option) *policy.Request {
	tb.Helper()
	return w.request(tb, w.work(peer, opts), peer, self)
}

func (w *World) request(tb testing.TB, k *work, peer, self identity.AgentID) *policy.Request {
	tb.Helper()
	leaf := w.Leaf(tb, w.chain(tb, k, []identity.AgentID{peer, self}), peer, self)
	return &policy.Request{
		DecisionID: k.decision, Peer: w.Peer(peer), Record: w.Registry.Agent(peer), Generation: w.Registry.Generation(), Leaf: leaf,
		Claimed: k.control, MinIntegrity: k.floor, MaxDepth: k.depth, Conversation: k.conversation, Purpose: k.purpose, NotAfter: k.notAfter,
	}
}
