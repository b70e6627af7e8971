package intruder

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	// maxFlood chains are sent at most; the first RATE ends the flood. Each costs the receiver about 5 signatures, of which the
	// default budget has 400 at once and 200 a second.
	maxFlood = 600
	// volleySize chains are sent before the answers are looked at.
	volleySize = 50
	// floodRate is how many chains a second must have been sent to say that nothing limits them.
	floodRate = 100
)

func floodViolations() []violation {
	return []violation{
		{
			Violation: Violation{
				Name: "credential-stuffing", Want: []string{"CHAIN_INVALID", "CHAIN_UNKNOWN", "NO_ENVELOPE"},
				Causes: []string{
					"CHAIN_NON_CANONICAL", "CHAIN_MALFORMED", "CHAIN_BAD_SIGNATURE", "CHAIN_UNKNOWN", "NO_ENVELOPE", "CHAIN_KEY",
				},
				What: "tries random chains, grants, references and bearer tokens, a bounded number of them",
			},
			run: stuff,
		},
		{
			Violation: Violation{
				Name: "cold-flood", Row: 61, Want: []string{"RATE"}, Causes: []string{"CHAIN_COLD_LIMIT", "RATE"},
				What: "makes the receiver verify fresh chains as fast as it can, until it is told to stop",
			},
			run: coldFlood,
		},
	}
}

func stuff(ctx context.Context, s *siege, cc *grpc.ClientConn) ([]Step, string, error) {
	guesses := []func() (string, string, func(context.Context, []string) answer, error){
		func() (string, string, func(context.Context, []string) answer, error) {
			raw, err := s.guess(func(e *v1.Envelope) { e.Chain = randomChain() })
			return "random chain", "CHAIN_INVALID", s.delivery(cc, raw), err
		},
		func() (string, string, func(context.Context, []string) answer, error) {
			sh, err := s.regrant("", func(g *v1.GrantPayload) {
				g.ChainId, g.StatementNonce = random(nonceBytes), random(nonceBytes)
			}, func([]byte) []byte { return random(signatureBytes) })
			return "forged grant", "CHAIN_INVALID", s.delivery(cc, sh.raw), err
		},
		func() (string, string, func(context.Context, []string) answer, error) {
			raw, err := s.guess(func(e *v1.Envelope) { e.Chain, e.ChainRef = nil, random(32) })
			return "random reference", "CHAIN_UNKNOWN", s.delivery(cc, raw), err
		},
		func() (string, string, func(context.Context, []string) answer, error) {
			return "bearer token", "NO_ENVELOPE", func(ctx context.Context, want []string) answer {
				return s.typed(ctx, cc, nil, want, "authorization", "Bearer "+forgedJWT(s))
			}, nil
		},
	}
	var steps []Step
	for i := range s.at.Stuffing {
		name, reason, send, err := guesses[i%len(guesses)]()
		if err != nil {
			return steps, "", err
		}
		want := []string{reason}
		a := send(ctx, want)
		steps = append(steps, step(fmt.Sprintf("%d: %s", i+1, name), a, want))
		if silentAnswer(a) || ctx.Err() != nil {
			break
		}
	}
	return steps, "", nil
}

func (s *siege) delivery(cc *grpc.ClientConn, raw []byte) func(context.Context, []string) answer {
	return func(ctx context.Context, want []string) answer { return s.deliver(ctx, cc, raw, want) }
}

func (s *siege) guess(change func(*v1.Envelope)) ([]byte, error) {
	env := s.carry(nil)
	change(env)
	s.prove(env, env.GetChain())
	return proto.Marshal(env)
}

// randomChain has the form of a chain and nothing in it.
func randomChain() *v1.DelegationChain {
	statement := func(ref uint32) *v1.SignedStatement {
		return &v1.SignedStatement{Payload: random(300), Signature: random(signatureBytes), CertRef: ref}
	}
	return &v1.DelegationChain{
		Grant: statement(0), Hops: []*v1.SignedStatement{statement(1)}, Certs: []*v1.CertChain{{Leaf: random(500)}},
	}
}

// coldFlood sends chains that no cache knows. None of them is valid, so that the method itself is not called: what they cost the
// receiver is signatures.
func coldFlood(ctx context.Context, s *siege, cc *grpc.ClientConn) ([]Step, string, error) {
	want := []string{"RATE"}
	began := time.Now()
	sent := 0
	for ; sent < maxFlood && s.calls+volleySize <= MaxCalls; sent += volleySize {
		raws := make([][]byte, volleySize)
		for i := range raws {
			var err error
			if raws[i], err = s.coldChain(); err != nil {
				return nil, "", err
			}
		}
		answers := s.volley(ctx, volleySize, func(ctx context.Context, i int) answer { return deliver(ctx, cc, raws[i]) })
		if i := slices.IndexFunc(answers, func(a answer) bool { return a.got == "RATE" }); i >= 0 {
			st := step(fmt.Sprintf("chain %d", sent+i+1), answers[i], want)
			return []Step{st}, "", nil
		}
		for i, a := range answers {
			if a.admitted() || a.got != "CHAIN_INVALID" {
				return []Step{step(fmt.Sprintf("chain %d", sent+i+1), a, want)}, "", nil
			}
		}
	}
	took := time.Since(began)
	st := Step{Name: fmt.Sprintf("%d chains in %v", sent, took.Round(time.Millisecond)), Want: want, Got: "CHAIN_INVALID", Verdict: VerdictInconclusive}
	if float64(sent)/took.Seconds() < floodRate {
		return []Step{st}, "too slow to reach a limit", nil
	}
	st.Verdict = VerdictAdmitted
	return []Step{st}, "each was verified, and nothing limited them", nil
}

// coldChain hangs an honest hop, with certificates that nobody has seen, below a grant that nobody signed.
func (s *siege) coldChain() ([]byte, error) {
	sh, err := s.regrant("", func(g *v1.GrantPayload) { g.StatementNonce = random(nonceBytes) }, func([]byte) []byte { return random(signatureBytes) })
	if err != nil {
		return nil, err
	}
	var env v1.Envelope
	if err := proto.Unmarshal(sh.raw, &env); err != nil {
		return nil, err
	}
	env.GetChain().GetCerts()[0].Intermediates = [][]byte{random(64), random(64)}
	return proto.Marshal(&env)
}
