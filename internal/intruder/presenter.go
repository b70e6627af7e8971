package intruder

import (
	"crypto/tls"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func presenterViolations() []violation {
	return []violation{
		{
			Violation: Violation{
				Name: "dropped-hop", Row: 22, Want: []string{"PRESENTER_MISMATCH"}, Causes: []string{"CHAIN_PRESENTER"},
				What: "presents the bare grant, as if it were the authority",
			},
			shots: func(s *siege) ([]shot, error) {
				return s.each(named{name: "no hop", spoil: spoil{chain: func(c *v1.DelegationChain) { c.Hops, c.Certs = nil, nil }}})
			},
		},
		{
			Violation: Violation{
				Name: "captured-chain", Row: 41, Want: []string{"PRESENTER_MISMATCH"}, Causes: []string{"CHAIN_PRESENTER"},
				What: "presents a chain that another agent made, over its own connection",
			},
			shots: func(s *siege) ([]shot, error) {
				return s.each(named{name: "as it is", spoil: spoil{chain: func(c *v1.DelegationChain) {
					proto.Reset(c)
					proto.Merge(c, s.at.StolenChain)
				}}})
			},
			lacks: func(s *siege) string {
				if s.at.StolenChain == nil {
					return "needs a chain captured from another agent"
				}
				return ""
			},
		},
		{
			Violation: Violation{
				Name: "other-callee", Row: 42, Want: []string{"AUDIENCE_MISMATCH"}, Causes: []string{"CHAIN_AUDIENCE"},
				What: "uses a chain, or a message, that was made for another callee",
			},
			shots: func(s *siege) ([]shot, error) {
				return s.each(
					named{name: "chain for a neighbour", spoil: spoil{hop: func(h *v1.HopPayload) { h.Delegate = s.neighbour() }}},
					named{name: "message for a neighbour", spoil: spoil{envelope: func(e *v1.Envelope) { e.Recipient = s.neighbour() }}},
					named{name: "a longer name", spoil: spoil{hop: func(h *v1.HopPayload) { h.Delegate = s.cfg.Target.String() + "-2" }}},
				)
			},
		},
		{
			Violation: Violation{
				Name: "other-tenant", Row: 50, Want: []string{"TENANT_MISMATCH"}, Causes: []string{"CHAIN_TENANT", "TENANT_MISMATCH"},
				What: "claims another tenant: in the envelope, in the hop, in a grant, as the next agent",
			},
			shots: otherTenant,
		},
	}
}

func otherTenant(s *siege) ([]shot, error) {
	own := s.cfg.Self.Tenant().Name()
	other := otherName(own)
	shots, err := s.each(
		named{name: "in the envelope", spoil: spoil{envelope: func(e *v1.Envelope) { e.Tenant = other }}},
		named{name: "none in the envelope", spoil: spoil{envelope: func(e *v1.Envelope) { e.Tenant = "" }}},
		named{name: "a longer one in the envelope", spoil: spoil{envelope: func(e *v1.Envelope) { e.Tenant = own + "-2" }}},
		named{name: "in the hop", spoil: spoil{hop: func(h *v1.HopPayload) { h.Tenant = other }}},
		named{name: "as the delegate", spoil: spoil{hop: func(h *v1.HopPayload) {
			h.Delegate = "spiffe://" + s.cfg.Self.TrustDomain().Name() + "/tenant/" + other + "/agent/" + s.cfg.Target.Name()
		}}},
		named{name: "another trust domain as the delegate", spoil: spoil{hop: func(h *v1.HopPayload) {
			h.Delegate = "spiffe://intruder.example/tenant/" + own + "/agent/" + s.cfg.Target.Name()
		}}},
	)
	if err != nil {
		return nil, err
	}
	for _, t := range []struct {
		name   string
		change func(*v1.GrantPayload)
	}{
		{"in the grant", func(g *v1.GrantPayload) { g.Tenant = other }},
		{"across a border that nobody opened", func(g *v1.GrantPayload) { g.Origin = &v1.Origin{TrustDomain: "intruder.example"} }},
	} {
		sh, err := s.regrant(t.name, t.change, nil)
		if err != nil {
			return nil, err
		}
		shots = append(shots, sh)
	}
	return shots, nil
}

func frameViolations() []violation {
	return []violation{{
		Violation: Violation{
			Name: "certificate-references", Row: 62, Want: []string{"CHAIN_INVALID"},
			Causes: []string{"CHAIN_MALFORMED", "CHAIN_TOO_LARGE"},
			What:   "leaves the certificates of the chain out, adds others, or refers to none",
		},
		shots: func(s *siege) ([]shot, error) {
			rogue, err := rogueCertificate(s.cfg.Self, s.at.Now())
			if err != nil {
				return nil, err
			}
			return s.each(chains(map[string]func(*v1.DelegationChain){
				"unreferenced":             func(c *v1.DelegationChain) { c.Certs = append(c.Certs, certsOf(rogue)) },
				"reference out of range":   func(c *v1.DelegationChain) { c.Hops[0].CertRef = 2 },
				"reference far out":        func(c *v1.DelegationChain) { c.Hops[0].CertRef = 1<<32 - 1 },
				"none for a reference":     func(c *v1.DelegationChain) { c.Certs = nil },
				"reference on the grant":   func(c *v1.DelegationChain) { c.Grant = proto.CloneOf(c.GetGrant()); c.Grant.CertRef = 1 },
				"an empty leaf":            func(c *v1.DelegationChain) { c.Certs[0].Leaf = nil },
				"too many intermediates":   func(c *v1.DelegationChain) { c.Certs[0].Intermediates = [][]byte{{1}, {2}, {3}} },
				"an empty intermediate":    func(c *v1.DelegationChain) { c.Certs[0].Intermediates = [][]byte{{}} },
				"a second copy unused":     func(c *v1.DelegationChain) { c.Certs = append(c.Certs, c.Certs[0]) },
				"the connection's, unused": func(c *v1.DelegationChain) { c.Hops[0].CertRef = 0 },
			})...)
		},
	}}
}

// certsOf is a certificate as a chain carries it.
func certsOf(c *tls.Certificate) *v1.CertChain {
	return &v1.CertChain{Leaf: c.Certificate[0], Intermediates: c.Certificate[1:]}
}
