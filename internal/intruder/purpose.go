package intruder

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func purposeViolations() []violation {
	return []violation{
		{
			Violation: Violation{
				Name: "weak-chain", Row: 40, Want: []string{"SCOPE"}, Causes: []string{"CHAIN_INTERSECTION"},
				What: "asks, with its own rights, for more than its chain carries",
			},
			shots: func(s *siege) ([]shot, error) {
				return s.each(named{name: "a chain without capabilities", spoil: spoil{hop: func(h *v1.HopPayload) { h.Capabilities = nil }}})
			},
		},
		{
			Violation: Violation{
				Name: "other-purpose", Row: 40, Want: []string{"SCOPE"}, Causes: []string{"CHAIN_PURPOSE"},
				What: "spends the chain on another task than it was given for",
			},
			shots: func(s *siege) ([]shot, error) {
				return s.each(
					named{name: "in the intent", spoil: spoil{envelope: func(e *v1.Envelope) { e.Intent.Purpose += ", and my own" }}},
					named{name: "no purpose", spoil: spoil{envelope: func(e *v1.Envelope) { e.Intent.Purpose = "" }}},
					named{name: "in the hop", spoil: spoil{hop: func(h *v1.HopPayload) { h.PurposeDigest = random(len(h.GetPurposeDigest())) }}},
				)
			},
		},
		{
			Violation: Violation{
				Name: "on-behalf-of-header", Row: 40, Want: []string{"MALFORMED"}, Causes: []string{"MALFORMED"},
				What: "brings a header that says for whom it acts, and no chain",
			},
			run: onBehalfOf,
		},
		{
			Violation: Violation{
				Name: "unmet-constraint", Row: 64, Want: []string{"SCOPE"}, Causes: []string{"CHAIN_CONSTRAINT_UNMET"},
				What: "brings a chain whose constraint the request does not meet, or cannot",
			},
			shots: unmetConstraint,
		},
	}
}

func onBehalfOf(ctx context.Context, s *siege, cc *grpc.ClientConn) ([]Step, string, error) {
	want := []string{"MALFORMED"}
	env := s.carry(nil)
	s.prove(env, nil)
	raw, err := proto.Marshal(env)
	if err != nil {
		return nil, "", err
	}
	deliverWith := func(headers ...string) answer {
		return s.paced(ctx, want, func(ctx context.Context) error { return deliverTo(withHeaders(ctx, headers...), cc, raw) })
	}
	return []Step{
		step("on-behalf-of", deliverWith("on-behalf-of", "alice", "x-forwarded-user", "alice"), want),
		step("bearer token", deliverWith("authorization", "Bearer "+forgedJWT(s)), want),
	}, "", nil
}

// unmetConstraint adds constraints to the hop, which every hop may: on a key that no method declares, and on each key that this
// one does.
func unmetConstraint(s *siege) ([]shot, error) {
	keys := []string{"zz_undeclared"}
	for _, f := range s.method.Intent.GetFacts() {
		granted := func(c *v1.Constraint) bool { return c.GetKey() == f.GetKey() } // replacing it would be another violation
		if !slices.ContainsFunc(s.held.GetConstraints(), granted) {
			keys = append(keys, f.GetKey())
		}
	}
	var spoils []named
	for _, key := range keys {
		never := &v1.Constraint{Key: key, Rule: &v1.Constraint_Eq{Eq: &v1.Value{Kind: &v1.Value_Text{Text: "never, said the intruder"}}}}
		spoils = append(spoils, named{name: "on " + key, spoil: spoil{hop: constraining(func(list []*v1.Constraint) []*v1.Constraint {
			list = append(slices.Clone(list), never)
			slices.SortFunc(list, func(a, b *v1.Constraint) int { return strings.Compare(a.GetKey(), b.GetKey()) })
			return list
		})}})
	}
	return s.each(spoils...)
}
