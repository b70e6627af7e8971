package intruder

import (
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
	"github.com/safeconduct/safeconduct/policy"
)

// spoil is one change that makes a valid message a violation. Its fields are applied in their order.
type spoil struct {
	hop      func(*v1.HopPayload)      // before it is signed
	payload  func([]byte) []byte       // of the hop, before it is signed
	chain    func(*v1.DelegationChain) // afterwards
	envelope func(*v1.Envelope)
	proven   func(*v1.Envelope)  // after the proof, where the method demands one
	grant    *v1.SignedStatement // instead of the own one
}

// ownWords is the label of what the attacker says: the receiver caps it by registration. It is never better than the method asks
// for, and at least attested, because that is what most methods ask for.
func ownWords(self identity.AgentID, floor v1.Integrity) *v1.Label {
	l := policy.OwnWords(v1.Integrity_INTEGRITY_TRUSTED, "agent:"+self.Name()).Proto()
	l.Integrity = max(l.GetIntegrity(), floor)
	return l
}

// shotOf is a message that sp has spoilt.
func (s *siege) shotOf(name string, sp spoil, want ...string) (shot, error) {
	env, err := s.envelopeOf(sp)
	if err != nil {
		return shot{}, err
	}
	raw, err := proto.Marshal(env)
	return shot{name: name, raw: raw, want: want}, err
}

// envelopeOf is a whole valid envelope with payload, that sp has spoilt.
func (s *siege) envelopeOf(sp spoil) (*v1.Envelope, error) {
	chain, err := s.chainOf(sp)
	if err != nil {
		return nil, err
	}
	env := s.carry(chain)
	if sp.envelope != nil {
		sp.envelope(env)
	}
	s.prove(env, env.GetChain())
	if sp.proven != nil {
		sp.proven(env)
	}
	return env, nil
}

// prove adds an invocation proof where the method demands one.
func (s *siege) prove(env *v1.Envelope, chain *v1.DelegationChain) {
	if !s.method.Intent.GetRequireProof() {
		return
	}
	proof, err := s.proofOf(env, chain, nil)
	if err != nil { // the message breaks a rule that is held before its proof is read, if it has one
		proof, err = s.honestProof()
	}
	if err == nil {
		env.Proof = proof
	}
}

// chainOf is a chain of one hop, that sp has spoilt.
func (s *siege) chainOf(sp spoil) (*v1.DelegationChain, error) {
	grant := s.at.Grant
	if sp.grant != nil {
		grant = sp.grant
	}
	var spoils []func(*v1.HopPayload)
	if sp.hop != nil {
		spoils = append(spoils, sp.hop)
	}
	chain, err := s.forge(grant, spoils...)
	if err == nil && sp.payload != nil {
		chain, err = s.seal(grant, sp.payload(chain.GetHops()[0].GetPayload()))
	}
	if err != nil {
		return nil, err
	}
	if sp.chain != nil {
		sp.chain(chain)
	}
	return chain, nil
}

// carry is a valid Envelope for Deliver, with a new id.
func (s *siege) carry(chain *v1.DelegationChain) *v1.Envelope {
	env := s.guard(chain)
	sum := sha256.Sum256(s.payload)
	env.Kind, env.HalfClose = v1.FrameKind_FRAME_KIND_OPEN, true
	env.Payload, env.PayloadType = s.payload, string(s.method.Input.FullName())
	env.Intent.ArgumentsDigest = sum[:]
	return env
}

// guard is a valid Envelope to travel beside a typed request, with a new id.
func (s *siege) guard(chain *v1.DelegationChain) *v1.Envelope {
	tenant := s.cfg.Self.Tenant().Name()
	return &v1.Envelope{
		Id: random(nonceBytes), Method: s.path, Chain: chain, Control: proto.CloneOf(s.label),
		Intent:         &v1.Intent{Action: s.method.Intent.GetAction(), Resource: s.resource, Purpose: s.at.Purpose},
		DeadlineUnixMs: s.at.Now().Add(envelopeLife).UnixMilli(), Tenant: tenant, Recipient: s.cfg.Target.String(),
	}
}

// control makes the valid call.
func (s *siege) control(ctx context.Context, cc *grpc.ClientConn) answer {
	a, _ := s.admit(ctx, cc)
	return a
}

// admit makes the valid call and returns its bytes.
func (s *siege) admit(ctx context.Context, cc *grpc.ClientConn) (answer, []byte) {
	sh, err := s.shotOf("control", spoil{})
	if err != nil {
		return answerOf(status.Error(codes.FailedPrecondition, err.Error())), nil
	}
	return s.deliver(ctx, cc, sh.raw, nil), sh.raw
}

// deliver sends one marshalled Envelope at the pace of the run.
func (s *siege) deliver(ctx context.Context, cc *grpc.ClientConn, raw []byte, want []string) answer {
	return s.paced(ctx, want, func(ctx context.Context) error { return deliverTo(ctx, cc, raw) })
}

// typed makes the call as guarded gRPC, with env in the metadata or none, and more metadata.
func (s *siege) typed(ctx context.Context, cc *grpc.ClientConn, env *v1.Envelope, want []string, more ...string) answer {
	if env != nil {
		raw, err := proto.Marshal(env)
		if err != nil {
			return answerOf(status.Error(codes.FailedPrecondition, err.Error()))
		}
		more = append(more, enforcegrpc.EnvelopeKey, string(raw))
	}
	return s.paced(ctx, want, func(ctx context.Context) error {
		var reply []byte
		return cc.Invoke(metadata.AppendToOutgoingContext(ctx, more...), s.path, s.payload, &reply, grpc.ForceCodec(bytesCodec{}))
	})
}

// paced makes one call, not sooner than the pause after the one before. When a budget refuses it that is not what was wanted, and
// says when to come back, it does, once.
func (s *siege) paced(ctx context.Context, want []string, call func(context.Context) error) answer {
	for again := false; ; again = true {
		if err := s.wait(ctx, pause-time.Since(s.last)); err != nil {
			return answerOf(status.FromContextError(err).Err())
		}
		if s.calls++; s.calls > MaxCalls {
			return answerOf(status.Error(codes.FailedPrecondition, errTooManyCalls.Error()))
		}
		err := s.timed(ctx, call)
		s.last = time.Now()
		a := answerOf(err)
		after := retryAfter(err)
		if again || a.got != "RATE" || after <= 0 || after > maxRetryAfter || len(want) == 1 && want[0] == "RATE" {
			return a
		}
		if err := s.wait(ctx, after); err != nil {
			return a
		}
	}
}

func (s *siege) timed(ctx context.Context, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.at.Timeout)
	defer cancel()
	return call(ctx)
}

func (s *siege) wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// retryAfter is what a refusal says about when to come back.
func retryAfter(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if info, isInfo := d.(*errdetails.RetryInfo); isInfo {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// each makes a shot of every named spoil.
func (s *siege) each(spoils ...named) ([]shot, error) {
	shots := make([]shot, 0, len(spoils))
	for _, sp := range spoils {
		sh, err := s.shotOf(sp.name, sp.spoil, sp.want...)
		if err != nil {
			return nil, errors.Join(errors.New(sp.name), err)
		}
		shots = append(shots, sh)
	}
	return shots, nil
}

type named struct {
	name string
	spoil
	want []string
}
