package vectors

import (
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// scene is the agents of one trust domain, who sign with the algorithm of the scene.
type scene struct {
	*world

	alg string
}

// agent returns an agent of tenant blue. Of a mixed scene, every second letter signs with ECDSA.
func (s *scene) agent(name string) *party {
	alg := s.alg
	if alg == algMixed {
		alg = algEd25519
		if name[len(name)-1]%2 == 0 {
			alg = algP256
		}
	}
	return s.party(name, agentID(name), alg)
}

// authority is the authority as a peer.
func (s *scene) authority() *party { return s.party("authority", authorityID, algEd25519) }

// names returns the agents of a chain with n hops: the delegate of the grant first.
func (s *scene) line(n int) []*party {
	var all []*party
	for i := range n + 1 {
		all = append(all, s.agent(string(rune('a'+i))))
	}
	return all
}

// capability is action on a subtree, as deep as grants of the vectors allow.
func capability(action string, resource ...string) *v1.Capability {
	return &v1.Capability{Action: action, Resource: resource, Subtree: true, Reach: 4}
}

func exactly(c *v1.Capability) *v1.Capability {
	c.Subtree = false
	return c
}

func constrained(c *v1.Capability, constraints ...*v1.Constraint) *v1.Capability {
	c.Constraints = constraints
	return c
}

// grantPayload is what grants of the vectors start from.
func (s *scene) grantPayload(to *party) *v1.GrantPayload {
	return &v1.GrantPayload{
		Version: 1, ChainId: seed("chain")[:16], Issuer: authorityID, KeyId: s.baseTrust().GrantKeys[0].KeyID, TrustDomain: domain,
		Tenant: "blue", Principal: &v1.Principal{Type: v1.Principal_TYPE_USER, Subject: "ada", Issuer: "https://login.acme.test"},
		Delegate: to.id, Capabilities: []*v1.Capability{capability("memory.read", "ns"), exactly(capability("memory.write", "ns", "a"))},
		Delegates: []string{"spiffe://" + domain + "/tenant/blue/agent/*", authorityID}, MaxDepth: 4,
		IssuedAtMs: startMs, NotBeforeMs: startMs, ExpiresAtMs: startMs + grantLifeMs, LineageStartMs: startMs,
		PurposeDigest: digest([]byte(purpose)), TaskId: "task-1", PolicyEpoch: 7, StatementNonce: seed("nonce 0")[:16],
	}
}

// builder makes chains that need not be valid: it signs what it is told to.
type builder struct {
	s        *scene
	c        *v1.DelegationChain
	last     *party
	parentID []byte
	payload  *v1.HopPayload // what the next hop inherits
}

// chain starts with a grant to first.
func (s *scene) chain(first *party, change ...func(*v1.GrantPayload)) *builder {
	p := s.grantPayload(first)
	for _, f := range change {
		f(p)
	}
	return s.under(p, s.marshal(p), first)
}

// under starts with exactly this grant; p says what hops inherit.
func (s *scene) under(p *v1.GrantPayload, payload []byte, first *party) *builder {
	g := &v1.SignedStatement{Payload: payload, Signature: s.sign(s.grant, encoding(typeGrant, payload))}
	return &builder{
		s: s, c: &v1.DelegationChain{Grant: g}, last: first, parentID: statementID(typeGrant, payload),
		payload: &v1.HopPayload{
			Version: 1, ChainId: p.GetChainId(), Depth: p.GetDepthUsed(), Tenant: p.GetTenant(), Capabilities: p.GetCapabilities(),
			Delegates: p.GetDelegates(), MaxDepth: p.GetMaxDepth(), IssuedAtMs: p.GetIssuedAtMs(), NotBeforeMs: p.GetNotBeforeMs(),
			ExpiresAtMs: p.GetExpiresAtMs(), PurposeDigest: p.GetPurposeDigest(),
		},
	}
}

// to adds the hop from the last delegate to next.
func (b *builder) to(next *party, change ...func(*v1.HopPayload)) *builder {
	p := b.next(next)
	for _, f := range change {
		f(p)
	}
	b.payload = p
	return b.raw(next, b.s.marshal(p))
}

// next is the hop that to signs, unchanged.
func (b *builder) next(next *party) *v1.HopPayload {
	p := proto.CloneOf(b.payload)
	for _, c := range p.GetCapabilities() {
		c.Reach = min(c.GetReach(), p.GetMaxDepth())
	}
	p.Depth++
	p.ParentId, p.Issuer, p.Delegate = b.parentID, b.last.id, next.id
	p.StatementNonce = seed("nonce " + strconv.Itoa(len(b.c.GetHops())+1))[:16]
	return p
}

// raw adds a hop of exactly these bytes.
func (b *builder) raw(next *party, payload []byte) *builder {
	b.c.Certs = append(b.c.Certs, certsOf(b.last))
	b.c.Hops = append(b.c.Hops, &v1.SignedStatement{
		Payload: payload, Signature: b.s.sign(b.last.key, encoding(typeHop, payload)),
		CertRef: uint32(len(b.c.GetCerts())), //nolint:gosec // G115: a few certificates.
	})
	b.parentID, b.last = statementID(typeHop, payload), next
	return b
}

func certsOf(p *party) *v1.CertChain {
	return &v1.CertChain{Leaf: p.leaf, Intermediates: p.intermediates}
}

func (s *scene) marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		s.fail(fmt.Errorf("encoding: %w", err))
	}
	return b
}

// leaf says what a verifier must find in the chain.
func (s *scene) leaf(c *v1.DelegationChain, presenter *party) *Leaf {
	g := new(v1.GrantPayload)
	if err := proto.Unmarshal(c.GetGrant().GetPayload(), g); err != nil {
		s.fail(fmt.Errorf("reading a grant: %w", err))
	}
	x := &Leaf{
		StatementID: statementID(typeGrant, c.GetGrant().GetPayload()), ChainID: g.GetChainId(), Issuer: g.GetIssuer(),
		Delegate: g.GetDelegate(), Depth: g.GetDepthUsed(), ExpiresMs: g.GetExpiresAtMs(),
		Link: digest(append([]byte("safeconduct/link/v1\x00"),
			signed(c.GetGrant().GetPayload(), c.GetGrant().GetSignature(), digest(s.spki(s.grant.Public())))...)),
	}
	for _, h := range c.GetHops() {
		p := new(v1.HopPayload)
		if err := proto.Unmarshal(h.GetPayload(), p); err != nil {
			s.fail(fmt.Errorf("reading a hop: %w", err))
		}
		der := presenter.leaf
		if ref := h.GetCertRef(); ref > 0 {
			der = c.GetCerts()[ref-1].GetLeaf()
		}
		x.StatementID, x.Issuer, x.Delegate = statementID(typeHop, h.GetPayload()), p.GetIssuer(), p.GetDelegate()
		x.Depth, x.ExpiresMs = p.GetDepth(), p.GetExpiresAtMs()
		x.Link = digest(append(x.Link, signed(h.GetPayload(), h.GetSignature(), digest(der))...))
	}
	return x
}
