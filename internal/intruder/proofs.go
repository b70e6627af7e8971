package intruder

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// longProof is more than a proof of a live message may live.
const longProof = 2 * time.Minute

func proofViolations() []violation {
	mismatch := []string{"PRESENTER_MISMATCH"}
	return []violation{
		{
			Violation: Violation{
				Name: "altered-message", Row: 63, Want: mismatch, Causes: []string{"PROOF_BINDING"},
				What: "alters a message after it was signed as a whole",
			},
			run: proved(alteredMessage),
		},
		{
			Violation: Violation{
				Name: "forged-proof", Row: 63, Want: mismatch,
				Causes: []string{
					"PROOF_BINDING", "CHAIN_LIFETIME", "CHAIN_TIME", "CHAIN_BAD_SIGNATURE", "CHAIN_SVID", "CHAIN_MALFORMED", "CHAIN_NON_CANONICAL",
				},
				What: "proves another call than it makes, at another time, or with another key",
			},
			run: proved(forgedProof),
		},
		{
			Violation: Violation{
				Name: "spent-proof", Row: 45, Want: []string{"REPLAYED"}, Causes: []string{"REPLAYED"},
				What: "signs a new message under the id of a proof that it has spent",
			},
			run: proved(spentProof),
		},
		{
			Violation: Violation{
				Name: "no-proof", Row: 63, Want: []string{"PROOF_REQUIRED"}, Causes: []string{"PROOF_REQUIRED"},
				What: "leaves the proof out that the method demands",
			},
			shots: func(s *siege) ([]shot, error) {
				return s.each(named{name: "none", spoil: spoil{proven: func(e *v1.Envelope) { e.Proof = nil }}})
			},
			lacks: func(s *siege) string {
				if !s.method.Intent.GetRequireProof() {
					return "the method demands no invocation proof"
				}
				return ""
			},
		},
	}
}

// honestProof is of a valid message.
func (s *siege) honestProof() (*v1.InvocationProof, error) {
	chain, err := s.forge(s.at.Grant)
	if err != nil {
		return nil, err
	}
	return s.proofOf(s.carry(chain), chain, nil)
}

// proofOf proves env under chain, with claims that change may spoil and a proper signature over them.
func (s *siege) proofOf(env *v1.Envelope, chain *v1.DelegationChain, change func(*v1.InvocationPayload)) (*v1.InvocationProof, error) {
	signer, err := s.signer()
	if err != nil {
		return nil, err
	}
	p, err := delegation.NewInvocation(chain, env, signer, s.at.Now())
	if err != nil || change == nil {
		return p, err
	}
	var claims v1.InvocationPayload
	if err := proto.Unmarshal(p.GetStatement().GetPayload(), &claims); err != nil {
		return nil, err
	}
	change(&claims)
	if p.Statement.Payload, err = proto.Marshal(&claims); err != nil {
		return nil, err
	}
	p.Statement.Signature, _, err = signer.Sign(delegation.TypeInvocation, p.GetStatement().GetPayload())
	return p, err
}

// provenMessage is a valid message with a proof.
func (s *siege) provenMessage() (*v1.Envelope, error) {
	env, err := s.envelopeOf(spoil{})
	if err != nil || env.GetProof() != nil {
		return env, err
	}
	env.Proof, err = s.proofOf(env, env.GetChain(), nil)
	return env, err
}

// proved delivers messages with proofs after a control that has one: every proof is verified, demanded or not.
func proved(messages func(*siege, *v1.Envelope) ([]provenShot, error)) func(context.Context, *siege, *grpc.ClientConn) ([]Step, string, error) {
	return func(ctx context.Context, s *siege, cc *grpc.ClientConn) ([]Step, string, error) {
		first, err := s.provenMessage()
		if err != nil {
			return nil, "", err
		}
		raw, err := proto.Marshal(first)
		if err != nil {
			return nil, "", err
		}
		if a := s.deliver(ctx, cc, raw, nil); !a.admitted() {
			return nil, "", fmt.Errorf("%w: a message with a proof: %s", errControl, a)
		}
		shots, err := messages(s, first)
		if err != nil {
			return nil, "", err
		}
		var steps []Step
		for _, sh := range shots {
			raw, err := proto.Marshal(sh.env)
			if err != nil {
				return steps, "", err
			}
			want := []string{sh.want}
			a := s.deliver(ctx, cc, raw, want)
			steps = append(steps, step(sh.name, a, want))
			if silentAnswer(a) {
				break
			}
		}
		return steps, "", nil
	}
}

type provenShot struct {
	name string
	env  *v1.Envelope
	want string
}

func alteredMessage(s *siege, first *v1.Envelope) ([]provenShot, error) {
	var shots []provenShot
	for _, t := range []struct {
		name   string
		change func(*v1.Envelope)
	}{
		{"label", func(e *v1.Envelope) { e.Control.Sources = nil }},
		{"deadline", func(e *v1.Envelope) { e.DeadlineUnixMs++ }},
		{"id", func(e *v1.Envelope) { e.Id = random(nonceBytes) }},
		{"time-out", func(e *v1.Envelope) { e.TimeoutMs++ }},
		{"conversation", func(e *v1.Envelope) { e.Conversation = random(nonceBytes) }},
		{"the proof of another message", func(e *v1.Envelope) { e.Proof = proto.CloneOf(first.GetProof()) }},
	} {
		env, err := s.provenMessage()
		if err != nil {
			return nil, err
		}
		t.change(env)
		shots = append(shots, provenShot{t.name, env, "PRESENTER_MISMATCH"})
	}
	return shots, nil
}

func forgedProof(s *siege, _ *v1.Envelope) ([]provenShot, error) {
	now := s.at.Now()
	var shots []provenShot
	for _, t := range []struct {
		name, want string
		change     func(*v1.InvocationPayload)
	}{
		{"another leaf", "PRESENTER_MISMATCH", func(p *v1.InvocationPayload) { p.LeafId = random(len(p.GetLeafId())) }},
		{"another caller", "PRESENTER_MISMATCH", func(p *v1.InvocationPayload) { p.Caller = s.neighbour() }},
		{"another callee", "PRESENTER_MISMATCH", func(p *v1.InvocationPayload) { p.Callee = s.neighbour() }},
		{"another method", "PRESENTER_MISMATCH", func(p *v1.InvocationPayload) { p.Method += "Admin" }},
		{"another message", "PRESENTER_MISMATCH", func(p *v1.InvocationPayload) { p.EnvelopeDigest = random(len(p.GetEnvelopeDigest())) }},
		{"a long life", "CHAIN_EXPIRED", func(p *v1.InvocationPayload) { p.ExpiresAtMs = p.GetIssuedAtMs() + longProof.Milliseconds() }},
		{"over", "CHAIN_EXPIRED", func(p *v1.InvocationPayload) {
			p.IssuedAtMs, p.ExpiresAtMs = now.Add(-far).UnixMilli(), now.Add(-far/2).UnixMilli()
		}},
		{"from later", "CHAIN_EXPIRED", func(p *v1.InvocationPayload) {
			p.IssuedAtMs, p.ExpiresAtMs = now.Add(far).UnixMilli(), now.Add(far+far/4).UnixMilli()
		}},
		{"no id", "CHAIN_INVALID", func(p *v1.InvocationPayload) { p.Jti = nil }},
	} {
		env, err := s.envelopeOf(spoil{})
		if err == nil {
			env.Proof = nil
			env.Proof, err = s.proofOf(env, env.GetChain(), t.change)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		shots = append(shots, provenShot{t.name, env, t.want})
	}
	keys, err := s.resignedProofs()
	return append(shots, keys...), err
}

// resignedProofs are signed by another key, under another certificate, as another type, or not at all.
func (s *siege) resignedProofs() ([]provenShot, error) {
	rogue, err := rogueCertificate(s.cfg.Self, s.at.Now())
	if err != nil {
		return nil, err
	}
	signer, err := s.signer()
	if err != nil {
		return nil, err
	}
	var shots []provenShot
	for _, t := range []struct {
		name   string
		change func(*v1.InvocationProof)
	}{
		{"another key", func(p *v1.InvocationProof) {
			p.Statement.Signature = rogueSignature(rogue, p.GetStatement().GetPayload())
		}},
		{"another key and certificate", func(p *v1.InvocationProof) {
			p.Statement.Signature = rogueSignature(rogue, p.GetStatement().GetPayload())
			p.Certs = []*v1.CertChain{certsOf(rogue)}
		}},
		{"signed as a hop", func(p *v1.InvocationProof) {
			p.Statement.Signature, _, err = signer.Sign(delegation.TypeHop, p.GetStatement().GetPayload())
		}},
		{"zero", func(p *v1.InvocationProof) { p.Statement.Signature = make([]byte, signatureBytes) }},
		{"stripped", func(p *v1.InvocationProof) { p.Statement.Signature = nil }},
	} {
		env, perr := s.provenMessage()
		if perr != nil {
			return nil, perr
		}
		if t.change(env.GetProof()); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		shots = append(shots, provenShot{t.name, env, "CHAIN_INVALID"})
	}
	return shots, nil
}

func spentProof(s *siege, first *v1.Envelope) ([]provenShot, error) {
	jti := delegation.ClaimedJTI(first.GetProof())
	env, err := s.envelopeOf(spoil{})
	if err != nil {
		return nil, err
	}
	env.Proof = nil
	if env.Proof, err = s.proofOf(env, env.GetChain(), func(p *v1.InvocationPayload) { p.Jti = jti }); err != nil {
		return nil, err
	}
	again := proto.CloneOf(first)
	return []provenShot{{"under a new message", env, "REPLAYED"}, {"the same message", again, "REPLAYED"}}, nil
}
