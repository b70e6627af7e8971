package intruder

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	// copies of one message race, at most inFlight of them at a time: more would be refused as too many calls at once.
	copies   = 100
	inFlight = 32
	// races is on how many connections.
	races = 4
)

func replayViolations() []violation {
	want, causes := []string{"REPLAYED"}, []string{"REPLAYED"}
	return []violation{
		{
			Violation: Violation{
				Name: "replay", Row: 45, Want: want, Causes: causes,
				What: "sends an admitted message again: on its connection, on another one, as guarded gRPC",
			},
			run: replayed,
		},
		{
			Violation: Violation{
				Name: "replay-race", Row: 45, Want: want, Causes: causes,
				What: "sends a hundred copies of one message at once, of which one may pass",
			},
			run: race,
		},
		{
			Violation: Violation{
				Name: "signature-twin", Row: 33, Want: want, Causes: causes,
				What: "sends a message again with the other valid signature of its chain, which may pass once and under a new id only",
			},
			run: twinned,
			lacks: func(s *siege) string {
				if svid, err := s.cfg.Source.GetX509SVID(); err == nil {
					if _, isECDSA := svid.PrivateKey.(*ecdsa.PrivateKey); isECDSA {
						return ""
					}
				}
				return "the own key is no ECDSA key: only those have a second signature"
			},
		},
	}
}

func replayed(ctx context.Context, s *siege, cc *grpc.ClientConn) ([]Step, string, error) {
	want := []string{"REPLAYED"}
	chain, err := s.chainOf(spoil{})
	if err != nil {
		return nil, "", err
	}
	env := s.carry(chain)
	s.prove(env, chain)
	raw, err := proto.Marshal(env)
	if err != nil {
		return nil, "", err
	}
	if a := s.deliver(ctx, cc, raw, nil); !a.admitted() {
		return nil, "", fmt.Errorf("%w: the message to repeat: %s", errControl, a)
	}
	second, err := s.dial()
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = second.Close() }()
	beside := s.guard(chain)
	beside.Id = env.GetId()
	altered := s.carry(chain)
	altered.Id, altered.DeadlineUnixMs = env.GetId(), altered.GetDeadlineUnixMs()+1
	s.prove(altered, chain)
	other, err := proto.Marshal(altered)
	if err != nil {
		return nil, "", err
	}
	steps := []Step{
		step("same connection", s.deliver(ctx, cc, raw, want), want),
		step("another connection", s.deliver(ctx, second, raw, want), want),
		step("the id with another deadline", s.deliver(ctx, second, other, want), want),
	}
	if lackGuarded(s) == "" {
		steps = append(steps, step("the id as guarded gRPC", s.typed(ctx, second, beside, want), want))
	}
	return steps, "", nil
}

func race(ctx context.Context, s *siege, cc *grpc.ClientConn) ([]Step, string, error) {
	want := []string{"REPLAYED"}
	sh, err := s.shotOf("copy", spoil{})
	if err != nil {
		return nil, "", err
	}
	conns := []*grpc.ClientConn{cc}
	for len(conns) < races {
		c, err := s.dial()
		if err != nil {
			return nil, "", err
		}
		defer func() { _ = c.Close() }()
		conns = append(conns, c)
	}
	answers := s.volley(ctx, copies, func(ctx context.Context, i int) answer { return deliver(ctx, conns[i%len(conns)], sh.raw) })
	var steps []Step
	passed := 0
	for i, a := range answers {
		if a.admitted() {
			if passed++; passed == 1 {
				continue // the one that may
			}
		}
		steps = append(steps, step(fmt.Sprintf("copy %d", i+1), a, want))
	}
	if passed == 0 {
		err = fmt.Errorf("%w: no copy was admitted", errControl)
	}
	return steps, "", err
}

// volley makes n calls, several at once, without a pause between them.
func (s *siege) volley(ctx context.Context, n int, call func(context.Context, int) answer) []answer {
	answers := make([]answer, n)
	next := make(chan int)
	var wg sync.WaitGroup
	for range inFlight {
		wg.Go(func() {
			for i := range next {
				c, cancel := context.WithTimeout(ctx, s.at.Timeout)
				answers[i] = call(c, i)
				cancel()
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	s.calls += n
	s.last = time.Now().Add(time.Duration(n) * time.Millisecond) // budgets recover
	return answers
}

func twinned(ctx context.Context, s *siege, cc *grpc.ClientConn) ([]Step, string, error) {
	want := []string{"REPLAYED"}
	first, err := s.envelopeOf(spoil{})
	if err != nil {
		return nil, "", err
	}
	second := s.carry(proto.CloneOf(first.GetChain()))
	h := second.GetChain().GetHops()[0]
	h.Signature = twin(h.GetSignature())
	s.prove(second, second.GetChain())
	crossed := func(e *v1.Envelope, chain *v1.DelegationChain) ([]byte, error) {
		e = proto.CloneOf(e)
		e.Chain = chain
		return proto.Marshal(e)
	}
	var raw [4][]byte
	for i, pair := range []struct{ e, of *v1.Envelope }{{first, first}, {second, second}, {first, second}, {second, first}} {
		if raw[i], err = crossed(pair.e, pair.of.GetChain()); err != nil {
			return nil, "", err
		}
	}
	for i, name := range []string{"the message", "the twin under a new id, which is valid"} {
		if a := s.deliver(ctx, cc, raw[i], nil); !a.admitted() {
			return nil, "", fmt.Errorf("%w: %s: %s", errControl, name, a)
		}
	}
	return []Step{
		step("the message with the twin", s.deliver(ctx, cc, raw[2], want), want),
		step("the twin with the first signature", s.deliver(ctx, cc, raw[3], want), want),
	}, "", nil
}

func referenceViolations() []violation {
	return []violation{
		{
			Violation: Violation{
				Name: "reference", Row: 60, Want: []string{"CHAIN_UNKNOWN"}, Causes: []string{"CHAIN_UNKNOWN"},
				What: "refers to a chain that was presented on another connection, or never",
			},
			run: foreignReference,
		},
		envelopeViolation("chain-and-reference", "MALFORMED", "sends a chain beside a reference, neither, or half a reference", []string{"MALFORMED"}, func(*siege) map[string]func(*v1.Envelope) {
			return map[string]func(*v1.Envelope){
				"both":    func(e *v1.Envelope) { e.ChainRef = random(32) },
				"neither": func(e *v1.Envelope) { e.Chain = nil },
				"half":    func(e *v1.Envelope) { e.Chain, e.ChainRef = nil, random(16) },
			}
		}),
	}
}

func foreignReference(ctx context.Context, s *siege, cc *grpc.ClientConn) ([]Step, string, error) {
	want := []string{"CHAIN_UNKNOWN"}
	chain, err := s.chainOf(spoil{})
	if err != nil {
		return nil, "", err
	}
	var ref []byte
	if a := s.paced(ctx, nil, func(ctx context.Context) error {
		r, err := rpcv1.NewExchangeServiceClient(cc).Present(ctx, &rpcv1.PresentRequest{Chain: chain})
		ref = r.GetChainRef()
		return err
	}); !a.admitted() {
		return nil, "", fmt.Errorf("%w: presenting a chain: %s", errControl, a)
	}
	by := func(cc *grpc.ClientConn, ref []byte, want []string) (answer, error) {
		env := s.carry(nil)
		env.ChainRef = ref
		s.prove(env, chain)
		raw, err := proto.Marshal(env)
		if err != nil {
			return answer{}, err
		}
		return s.deliver(ctx, cc, raw, want), nil
	}
	if a, err := by(cc, ref, nil); err != nil || !a.admitted() {
		return nil, "", fmt.Errorf("%w: the reference on its own connection: %s", errControl, a)
	}
	second, err := s.dial()
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = second.Close() }()
	var steps []Step
	for _, t := range []struct {
		name string
		cc   *grpc.ClientConn
		ref  []byte
	}{{"from another connection", second, ref}, {"never presented", cc, random(32)}, {"one bit off", cc, flip(ref, 0, 1)}} {
		a, err := by(t.cc, t.ref, want)
		if err != nil {
			return steps, "", err
		}
		steps = append(steps, step(t.name, a, want))
	}
	return steps, "", nil
}
