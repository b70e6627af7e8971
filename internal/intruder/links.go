package intruder

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// hops are changes of the hop, in the order of their names.
func hops(spoils map[string]func(*v1.HopPayload)) []named {
	var out []named
	for _, name := range slices.Sorted(maps.Keys(spoils)) {
		out = append(out, named{name: name, spoil: spoil{hop: spoils[name]}})
	}
	return out
}

// chains are changes of the whole chain, in the order of their names.
func chains(spoils map[string]func(*v1.DelegationChain)) []named {
	var out []named
	for _, name := range slices.Sorted(maps.Keys(spoils)) {
		out = append(out, named{name: name, spoil: spoil{chain: spoils[name]}})
	}
	return out
}

// neighbour is an agent of the own tenant that need not exist.
func (s *siege) neighbour() string {
	return fmt.Sprintf("spiffe://%s/tenant/%s/agent/%s", s.cfg.Self.TrustDomain().Name(), s.cfg.Self.Tenant().Name(), otherName(s.cfg.Self.Name()))
}

func linkViolations() []violation {
	invalid := []string{"CHAIN_INVALID"}
	return []violation{
		{
			Violation: Violation{
				Name: "removed-hop", Row: 20, Want: invalid, Causes: []string{"CHAIN_PARENT_MISMATCH"},
				What: "takes a hop out of the middle of the chain",
			},
			shots: func(s *siege) ([]shot, error) {
				two, err := s.twoHops()
				if err != nil {
					return nil, err
				}
				return s.each(named{name: "the first of two", spoil: spoil{chain: func(c *v1.DelegationChain) { c.Hops = two[1:] }}})
			},
		},
		{
			Violation: Violation{
				Name: "removed-root", Row: 21, Want: invalid, Causes: []string{"CHAIN_UNTRUSTED_ROOT", "CHAIN_NON_CANONICAL", "CHAIN_MALFORMED"},
				What: "leaves the grant out, or puts its own hop in the place of it",
			},
			shots: func(s *siege) ([]shot, error) {
				return s.each(chains(map[string]func(*v1.DelegationChain){
					"no grant": func(c *v1.DelegationChain) { c.Grant = nil },
					"a hop as the root": func(c *v1.DelegationChain) {
						c.Grant = &v1.SignedStatement{Payload: c.GetHops()[0].GetPayload(), Signature: c.GetHops()[0].GetSignature()}
					},
				})...)
			},
		},
		{
			Violation: Violation{
				Name: "swapped-hops", Row: 23, Want: invalid, Causes: []string{"CHAIN_PARENT_MISMATCH"},
				What: "changes the order of two hops",
			},
			shots: func(s *siege) ([]shot, error) {
				two, err := s.twoHops()
				if err != nil {
					return nil, err
				}
				return s.each(named{name: "swapped", spoil: spoil{chain: func(c *v1.DelegationChain) {
					c.Hops = []*v1.SignedStatement{two[1], two[0]}
				}}})
			},
		},
		{
			Violation: Violation{
				Name: "spliced-tail", Row: 24, Want: invalid, Causes: []string{"CHAIN_PARENT_MISMATCH"},
				What: "hangs a hop that was made for another chain, or in another's name, under this grant",
			},
			shots: splicedTail,
		},
		{
			Violation: Violation{
				Name: "loop", Row: 59, Want: invalid, Causes: []string{"CHAIN_LOOP"},
				What: "lets the chain come back to an agent that is in it already",
			},
			shots: loop,
		},
	}
}

// twoHops are an honest hop to the neighbour and one from there to the target, for want of the neighbour's key signed with the own.
func (s *siege) twoHops() ([]*v1.SignedStatement, error) {
	first, err := s.forge(s.at.Grant, func(h *v1.HopPayload) {
		h.Delegate, h.MaxDepth, h.Delegates = s.neighbour(), s.grant.GetMaxDepth(), s.grant.GetDelegates()
	})
	if err != nil {
		return nil, err
	}
	second, err := s.below(first.GetHops()[0], func(h *v1.HopPayload) { h.Issuer = s.neighbour() })
	if err != nil {
		return nil, err
	}
	return []*v1.SignedStatement{first.GetHops()[0], second}, nil
}

// below is a hop to the target under another hop.
func (s *siege) below(parent *v1.SignedStatement, change func(*v1.HopPayload)) (*v1.SignedStatement, error) {
	c, err := s.forge(s.at.Grant, func(h *v1.HopPayload) {
		id := delegation.StatementID(delegation.TypeHop, parent.GetPayload())
		h.ParentId = id[:]
		h.Depth++
		h.MaxDepth = max(h.GetDepth(), s.grant.GetMaxDepth())
		h.Delegates = s.grant.GetDelegates()
		change(h)
	})
	if err != nil {
		return nil, err
	}
	return c.GetHops()[0], nil
}

func splicedTail(s *siege) ([]shot, error) {
	other := proto.CloneOf(s.grant)
	other.ChainId, other.StatementNonce = random(nonceBytes), random(nonceBytes)
	raw, err := proto.Marshal(other)
	if err != nil {
		return nil, err
	}
	id := delegation.StatementID(delegation.TypeGrant, raw)
	return s.each(hops(map[string]func(*v1.HopPayload){
		"the hop of another chain":   func(h *v1.HopPayload) { h.ParentId, h.ChainId = id[:], other.GetChainId() },
		"the parent of another hop":  func(h *v1.HopPayload) { h.ParentId = random(len(id)) },
		"the id of another chain":    func(h *v1.HopPayload) { h.ChainId = random(nonceBytes) },
		"another issuer than signer": func(h *v1.HopPayload) { h.Issuer = s.neighbour() },
	})...)
}

func loop(s *siege) ([]shot, error) {
	first, err := s.forge(s.at.Grant, func(h *v1.HopPayload) {
		h.Delegate, h.MaxDepth, h.Delegates = s.cfg.Self.String(), s.grant.GetMaxDepth(), s.grant.GetDelegates()
	})
	if err != nil {
		return nil, err
	}
	second, err := s.below(first.GetHops()[0], func(*v1.HopPayload) {})
	if err != nil {
		return nil, err
	}
	return s.each(
		named{name: "to itself", spoil: spoil{hop: func(h *v1.HopPayload) { h.Delegate = s.cfg.Self.String() }}},
		named{name: "over itself to the target", spoil: spoil{chain: func(c *v1.DelegationChain) {
			c.Hops = []*v1.SignedStatement{first.GetHops()[0], second}
		}}},
	)
}

func rootViolations() []violation {
	invalid := []string{"CHAIN_INVALID"}
	return []violation{
		{
			Violation: Violation{
				Name: "forged-authority", Row: 25, Want: invalid,
				Causes: []string{"CHAIN_UNTRUSTED_ROOT", "CHAIN_KEY", "CHAIN_BAD_SIGNATURE"},
				What:   "makes a grant of the same chain id by an authority of its own",
			},
			shots: forgedAuthority,
		},
		{
			Violation: Violation{
				Name: "altered-grant", Row: 29, Want: invalid, Causes: []string{"CHAIN_BAD_SIGNATURE"},
				What: "writes more into the grant than the authority signed",
			},
			shots: alteredGrant,
		},
		{
			Violation: Violation{
				Name: "self-as-user", Row: 57, Want: []string{"SCOPE"}, Causes: []string{"CHAIN_PRINCIPAL"},
				What: "uses what was granted to a person on a chain of its own accord",
			},
			lacks: func(*siege) string {
				return "needs a grant that the authority issued to the agent itself, which no command issues"
			},
		},
	}
}

// regrant is the own grant, changed, signed by sign or with the old signature, and an honest hop below it.
func (s *siege) regrant(name string, change func(*v1.GrantPayload), sign func([]byte) []byte) (shot, error) {
	g := proto.CloneOf(s.grant)
	change(g)
	raw, err := proto.Marshal(g)
	if err != nil {
		return shot{}, err
	}
	statement := &v1.SignedStatement{Payload: raw, Signature: s.at.Grant.GetSignature()}
	if sign != nil {
		statement.Signature = sign(raw)
	}
	return s.shotOf(name, spoil{grant: statement})
}

// rogueKey is an authority of the attacker's own.
func rogueKey() (func(raw []byte) []byte, string, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, "", fmt.Errorf("making a key: %w", err)
	}
	id, err := delegation.KeyID(pub)
	return func(raw []byte) []byte { return ed25519.Sign(key, delegation.PAE(delegation.TypeGrant, raw)) }, id, err
}

func forgedAuthority(s *siege) ([]shot, error) {
	sign, keyID, err := rogueKey()
	if err != nil {
		return nil, err
	}
	td := s.cfg.Self.TrustDomain().Name()
	var shots []shot
	for _, t := range []struct {
		name   string
		change func(*v1.GrantPayload)
	}{
		{"of another trust domain", func(g *v1.GrantPayload) { g.Issuer, g.KeyId = "spiffe://intruder.example/service/authority", keyID }},
		{"another service", func(g *v1.GrantPayload) { g.Issuer, g.KeyId = "spiffe://"+td+"/service/intruder", keyID }},
		{"an agent called authority", func(g *v1.GrantPayload) {
			g.Issuer, g.KeyId = "spiffe://"+td+"/tenant/"+s.cfg.Self.Tenant().Name()+"/agent/authority", keyID
		}},
		{"itself", func(g *v1.GrantPayload) { g.Issuer, g.KeyId = s.cfg.Self.String(), keyID }},
		{"another key of the authority", func(g *v1.GrantPayload) { g.KeyId = keyID }},
		{"another key under the id of the authority's", func(g *v1.GrantPayload) { g.StatementNonce = random(nonceBytes) }},
	} {
		sh, err := s.regrant(t.name, t.change, sign)
		if err != nil {
			return nil, err
		}
		shots = append(shots, sh)
	}
	return shots, nil
}

func alteredGrant(s *siege) ([]shot, error) {
	var shots []shot
	for _, t := range []struct {
		name   string
		change func(*v1.GrantPayload)
	}{
		{"one more capability", func(g *v1.GrantPayload) {
			g.Capabilities = append(g.Capabilities, &v1.Capability{Action: "admin", Subtree: true, Reach: g.GetMaxDepth()})
		}},
		{"another principal", func(g *v1.GrantPayload) { g.Principal.Subject += ".admin" }},
		{"of its own accord", func(g *v1.GrantPayload) {
			g.Principal = &v1.Principal{Type: v1.Principal_TYPE_SELF, Subject: s.cfg.Self.String(), Issuer: g.GetIssuer()}
		}},
		{"more delegates", func(g *v1.GrantPayload) { g.Delegates = append(g.Delegates, s.neighbour()) }},
		{"another task", func(g *v1.GrantPayload) { g.TaskId += "x" }},
		{"issued later", func(g *v1.GrantPayload) { g.IssuedAtMs++; g.ExpiresAtMs++ }},
	} {
		sh, err := s.regrant(t.name, t.change, nil)
		if err != nil {
			return nil, err
		}
		shots = append(shots, sh)
	}
	return shots, nil
}
