package interceptors_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
)

const (
	proved    = "/mesh.v1.ProofService/Proved"
	receipted = "/mesh.v1.ProofService/Receipted"
	both      = "/mesh.v1.ProofService/Both"

	proofRequired = v1.Reason_REASON_PROOF_REQUIRED
	proofBinding  = v1.Reason_REASON_PROOF_BINDING
	replayed      = v1.Reason_REASON_REPLAYED
	notOffered    = v1.Reason_REASON_EXTENSION_UNKNOWN
)

// proofScene is a scene whose writer serves ProofService as well.
func proofScene(t *testing.T, change ...func(*interceptors.Config)) *scene {
	t.Helper()
	methods := meshMethods(t)
	if err := methods.AddService(meshpb.File_mesh_v1_mesh_proto.Services().ByName("ProofService")); err != nil {
		t.Fatal(err)
	}
	return newScene(t, append([]func(*interceptors.Config){func(c *interceptors.Config) { c.Methods = methods }}, change...)...)
}

func (s *scene) signer(id identity.AgentID) delegation.Signer {
	s.t.Helper()
	svid, err := s.Identity(id).GetX509SVID()
	if err != nil {
		s.t.Fatal(err)
	}
	k, err := delegation.NewSigner(svid)
	if err != nil {
		s.t.Fatal(err)
	}
	return k
}

// open returns the OPEN frame of a call of method, without a proof.
func (s *scene) open(method string) *v1.Envelope {
	s.t.Helper()
	payload, err := proto.Marshal(&meshpb.UnaryRequest{Resource: []string{"mesh"}})
	if err != nil {
		s.t.Fatal(err)
	}
	sum := sha256.Sum256(payload)
	e := s.Envelope(s.relay, method, "mesh.call")
	e.Kind, e.HalfClose, e.Payload, e.PayloadType, e.Recipient = v1.FrameKind_FRAME_KIND_OPEN, true, payload, "mesh.v1.UnaryRequest", s.writer.String()
	e.Chain, e.Intent.ArgumentsDigest = s.chain, sum[:]
	return e
}

// prove adds relay's proof, or replaces it.
func (s *scene) prove(e *v1.Envelope) *v1.Envelope {
	s.t.Helper()
	chain := e.GetChain()
	if chain == nil {
		chain = s.chain
	}
	p, err := delegation.NewInvocation(chain, e, s.signer(s.relay), s.Now())
	if err != nil {
		s.t.Fatal(err)
	}
	e.Proof = p
	return e
}

// carry serves e as Deliver does.
func (s *scene) carry(e *v1.Envelope) error { return s.carryOn(s.session, e, succeed) }

func (s *scene) carryOn(session *interceptors.Session, e *v1.Envelope, h handler) (err error) {
	ctx, in, err := s.end.Open(context.Background(), &interceptors.Call{Session: session, Procedure: e.GetMethod(), Transport: interceptors.TransportDeliver}, nil)
	defer in.Close(&err)
	if err != nil {
		return err
	}
	if err = in.CheckCarried(e); err != nil {
		return err
	}
	req := new(meshpb.UnaryRequest)
	if err = proto.Unmarshal(e.GetPayload(), req); err != nil {
		return interceptors.Refuse(v1.Reason_REASON_MALFORMED, err)
	}
	if _, err = in.AdmitCarried(ctx, e, req); err != nil {
		return err
	}
	err = interceptors.ErrUnfinished
	resp, err := h(ctx)
	if err == nil {
		err = in.Emit(resp)
	}
	if err == nil {
		_, err = in.SignReceipt()
	}
	return err
}

// TestProofIsRequired has row 22 of the wire matrix: what needs a proof and has none, or a false one.
func TestProofIsRequired(t *testing.T) {
	stored := func(s *scene) *v1.Envelope {
		e := s.open(proved)
		e.Delivery = v1.Delivery_DELIVERY_STORED
		return e
	}
	for _, tc := range []struct {
		name string
		e    func(*scene) *v1.Envelope
		want v1.Reason
	}{
		{"with a proof", func(s *scene) *v1.Envelope { return s.prove(s.open(proved)) }, 0},
		{"a proof that nobody asked for", func(s *scene) *v1.Envelope { return s.prove(s.open(unary)) }, 0},
		{"without a proof", func(s *scene) *v1.Envelope { return s.open(proved) }, proofRequired},
		{"an empty proof", func(s *scene) *v1.Envelope {
			e := s.open(proved)
			e.Proof = &v1.InvocationProof{}
			return e
		}, v1.Reason_REASON_CHAIN_MALFORMED},
		{"an empty proof that nobody asked for", func(s *scene) *v1.Envelope {
			e := s.open(unary)
			e.Proof = &v1.InvocationProof{}
			return e
		}, v1.Reason_REASON_CHAIN_MALFORMED},
		{"stored without a proof", stored, proofRequired},
		{"stored, of a method that asks for none", func(s *scene) *v1.Envelope {
			e := stored(s)
			e.Method = unary
			return e
		}, proofRequired},
		{"stored with a proof for a live message", func(s *scene) *v1.Envelope {
			e := s.prove(s.open(proved))
			e.Delivery = v1.Delivery_DELIVERY_STORED
			return e
		}, proofBinding},
		{"stored with its proof", func(s *scene) *v1.Envelope { return s.prove(stored(s)) }, notOffered},
		{"stored by reference", func(s *scene) *v1.Envelope {
			leaf := s.Leaf(t, s.chain, s.relay, s.writer)
			link := leaf.Link()
			e := s.prove(stored(s))
			e.Chain, e.ChainRef = nil, link[:]
			return e
		}, v1.Reason_REASON_MALFORMED},
		{"a proof over another payload", func(s *scene) *v1.Envelope {
			e := s.prove(s.open(proved))
			e.Payload, _ = proto.Marshal(&meshpb.UnaryRequest{Resource: []string{"mesh"}, Amount: 1})
			sum := sha256.Sum256(e.GetPayload())
			e.Intent.ArgumentsDigest = sum[:]
			return e
		}, proofBinding},
		{"a proof of another leaf", func(s *scene) *v1.Envelope {
			e := s.prove(s.open(proved))
			e.Chain = s.newChain()
			return e
		}, proofBinding},
		{"a proof for another method", func(s *scene) *v1.Envelope {
			e := s.prove(s.open(both))
			e.Method = proved
			return e
		}, proofBinding},
		{"a proof by another agent", func(s *scene) *v1.Envelope {
			e := s.prove(s.open(proved))
			other := s.Agent("acme", "other")
			sig, certs, err := s.signer(other).Sign(delegation.TypeInvocation, e.GetProof().GetStatement().GetPayload())
			if err != nil {
				t.Fatal(err)
			}
			e.Proof.Statement.Signature, e.Proof.Certs[0].Leaf = sig, certs[0]
			return e
		}, v1.Reason_REASON_CHAIN_BAD_SIGNER},
		{"a broken signature", func(s *scene) *v1.Envelope {
			e := s.prove(s.open(proved))
			e.Proof.Statement.Signature[40] ^= 1
			return e
		}, v1.Reason_REASON_CHAIN_BAD_SIGNATURE},
		{"a minute later", func(s *scene) *v1.Envelope {
			e := s.open(proved)
			e.DeadlineUnixMs = s.Now().Add(2 * time.Minute).UnixMilli()
			s.prove(e)
			s.Advance(time.Minute)
			return e
		}, v1.Reason_REASON_CHAIN_TIME},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := proofScene(t)
			wantReason(t, tc.name, s.carry(tc.e(s)), tc.want)
			intent, _ := s.pair()
			switch jti := intent.GetInvocationJti(); {
			case tc.want == 0 && len(jti) != 16, tc.want != 0 && len(jti) != 0 && tc.want != notOffered:
				t.Errorf("the intent record has jti %x after %s", jti, tc.want)
			}
		})
	}
}

// TestProofOnGuardedRoutes: an envelope beside a typed request binds no payload, so a proof in it proves too little.
func TestProofOnGuardedRoutes(t *testing.T) {
	guarded := func(s *scene, e *v1.Envelope) (err error) {
		c := &interceptors.Call{Session: s.session, Procedure: e.GetMethod(), Transport: interceptors.TransportGRPC}
		return s.serve(context.Background(), c, request(e), succeed)
	}
	beside := func(s *scene, method string) *v1.Envelope {
		e := s.Envelope(s.relay, method, "mesh.call")
		e.Chain = s.chain
		return e
	}
	for _, tc := range []struct {
		name string
		e    func(*scene) *v1.Envelope
		want v1.Reason
	}{
		{"asked for and missing", func(s *scene) *v1.Envelope { return beside(s, proved) }, proofRequired},
		{"asked for and there", func(s *scene) *v1.Envelope { return s.prove(beside(s, proved)) }, proofRequired},
		{"a receipt has no place", func(s *scene) *v1.Envelope { return beside(s, receipted) }, notOffered},
		{"stored", func(s *scene) *v1.Envelope {
			e := beside(s, unary)
			e.Delivery = v1.Delivery_DELIVERY_STORED
			return s.prove(e)
		}, proofRequired},
		{"not asked for and there", func(s *scene) *v1.Envelope { return s.prove(beside(s, unary)) }, 0},
		{"not asked for and false", func(s *scene) *v1.Envelope {
			e := s.prove(beside(s, unary))
			e.Id = bytes.Repeat([]byte{9}, 16)
			return e
		}, proofBinding},
	} {
		s := proofScene(t)
		wantReason(t, tc.name, guarded(s, tc.e(s)), tc.want)
	}
	s := proofScene(t)
	e := s.prove(beside(s, open))
	e.Chain, e.Intent.Action = nil, ""
	wantReason(t, "on an open method", s.serve(context.Background(), &interceptors.Call{Session: s.session, Procedure: open}, &meshpb.OpenRequest{Envelope: e}, succeed),
		v1.Reason_REASON_MALFORMED)
}

// TestProofOfAStream: later messages ride on the first one's proof, whatever envelope they carry.
func TestProofOfAStream(t *testing.T) {
	for _, tc := range []struct {
		name  string
		later func(*scene, *v1.Envelope) *v1.Envelope
		plain bool // the first message has no proof
		want  v1.Reason
	}{
		{"the same envelope", func(_ *scene, e *v1.Envelope) *v1.Envelope { return e }, false, 0},
		{"an equal envelope", func(_ *scene, e *v1.Envelope) *v1.Envelope { return proto.CloneOf(e) }, false, 0},
		{"another trace", func(_ *scene, e *v1.Envelope) *v1.Envelope {
			e = proto.CloneOf(e)
			e.Trace = &v1.TraceContext{TraceId: make([]byte, 16), SpanId: make([]byte, 8)}
			return e
		}, false, 0},
		{"a better label", func(_ *scene, e *v1.Envelope) *v1.Envelope {
			e = proto.CloneOf(e)
			e.Control.Integrity = v1.Integrity_INTEGRITY_TRUSTED
			return e
		}, false, proofBinding},
		{"without the proof", func(_ *scene, e *v1.Envelope) *v1.Envelope {
			e = proto.CloneOf(e)
			e.Proof = nil
			return e
		}, false, proofBinding},
		{"another proof", func(s *scene, e *v1.Envelope) *v1.Envelope { return s.prove(proto.CloneOf(e)) }, false, proofBinding},
		{"another signature of the same proof", func(s *scene, e *v1.Envelope) *v1.Envelope {
			e = proto.CloneOf(e)
			sig, _, err := s.signer(s.relay).Sign(delegation.TypeInvocation, e.GetProof().GetStatement().GetPayload())
			if err != nil {
				t.Fatal(err)
			}
			e.Proof.Statement.Signature = sig
			return e
		}, false, proofBinding},
		{"another payload under the signature", func(_ *scene, e *v1.Envelope) *v1.Envelope {
			e = proto.CloneOf(e)
			e.Proof.Statement.Payload[20]++
			return e
		}, false, proofBinding},
		{"a proof that the first lacks", func(s *scene, e *v1.Envelope) *v1.Envelope { return s.prove(proto.CloneOf(e)) }, true, proofBinding},
		{"an empty proof that the first lacks", func(_ *scene, e *v1.Envelope) *v1.Envelope {
			e = proto.CloneOf(e)
			e.Proof = &v1.InvocationProof{}
			return e
		}, true, proofBinding},
		{"a field without a digest", func(_ *scene, e *v1.Envelope) *v1.Envelope {
			e = proto.CloneOf(e)
			e.NoPayload = true
			return e
		}, false, proofBinding},
		{"no proof at all", func(_ *scene, e *v1.Envelope) *v1.Envelope { return proto.CloneOf(e) }, true, 0},
	} {
		s := proofScene(t)
		const bidi = "/mesh.v1.MeshService/Bidi"
		first := s.Envelope(s.relay, bidi, "mesh.call")
		first.Chain = s.chain
		if !tc.plain {
			s.prove(first)
		}
		ctx, in, err := s.end.Open(context.Background(), &interceptors.Call{Session: s.session, Procedure: bidi, Transport: interceptors.TransportGRPC}, nil)
		if err != nil {
			t.Fatal(err)
		}
		req := func(e *v1.Envelope) *meshpb.BidiRequest {
			return &meshpb.BidiRequest{Resource: []string{"mesh"}, Envelope: e}
		}
		if _, err = in.Admit(ctx, req(first)); err != nil {
			t.Fatalf("%s: the first message: %v", tc.name, err)
		}
		before := s.Signatures()
		_, err = in.Admit(ctx, req(tc.later(s, first)))
		wantReason(t, tc.name, err, tc.want)
		if n := s.Signatures() - before; n != 0 {
			t.Errorf("%s: a later message cost %d signatures", tc.name, n)
		}
		in.Close(&err)
	}
}

// TestProofIsSpentOnce is row 45: a proof passes once, whatever carries it the second time. The restart is the store's.
func TestProofIsSpentOnce(t *testing.T) {
	s := proofScene(t)
	e := s.prove(s.open(proved))
	wantReason(t, "the first", s.carry(e), 0)
	wantReason(t, "on the same connection", s.carry(proto.CloneOf(e)), replayed)
	wantReason(t, "on a new connection", s.carryOn(s.Session(t, s.end, s.relay), proto.CloneOf(e), succeed), replayed)
	frames := proto.CloneOf(e)
	frames.Trace = &v1.TraceContext{TraceId: make([]byte, 16), SpanId: make([]byte, 8)}
	wantReason(t, "with another trace", s.carry(frames), replayed)
	link := s.Leaf(t, s.chain, s.relay, s.writer).Link()
	byRef := proto.CloneOf(e)
	byRef.Chain, byRef.ChainRef = nil, link[:]
	wantReason(t, "by reference", s.carry(byRef), replayed)
	other := proto.CloneOf(e)
	other.Id = bytes.Repeat([]byte{7}, 16)
	wantReason(t, "under another id", s.carry(other), proofBinding)
	wantReason(t, "another proof of the same message", s.carry(s.prove(proto.CloneOf(e))), replayed)
	wantReason(t, "another message", s.carry(s.prove(s.open(proved))), 0)
}

// TestJTIIsSpentOnce: a signer that uses one jti for two messages is caught by the jti alone.
func TestJTIIsSpentOnce(t *testing.T) {
	s := proofScene(t)
	first := s.prove(s.open(proved))
	jti := delegation.ClaimedJTI(first.GetProof())
	second := s.withJTI(s.open(proved), jti)
	wantReason(t, "the first", s.carry(first), 0)
	before := s.Signatures()
	wantReason(t, "the second", s.carry(second), replayed)
	if n := s.Signatures() - before; n != 0 {
		t.Errorf("a jti that was seen cost %d signatures", n)
	}
	wantReason(t, "the second by another way", s.carryOn(s.Session(t, s.end, s.relay), second, succeed), replayed)
	wantReason(t, "its message with a fresh proof", s.carry(s.prove(second)), 0)
}

// withJTI proves e under a jti of the test's choice.
func (s *scene) withJTI(e *v1.Envelope, jti []byte) *v1.Envelope {
	s.t.Helper()
	s.prove(e)
	var m v1.InvocationPayload
	if err := proto.Unmarshal(e.GetProof().GetStatement().GetPayload(), &m); err != nil {
		s.t.Fatal(err)
	}
	m.Jti = jti
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&m)
	if err != nil {
		s.t.Fatal(err)
	}
	sig, _, err := s.signer(s.relay).Sign(delegation.TypeInvocation, payload)
	if err != nil {
		s.t.Fatal(err)
	}
	e.Proof.Statement.Payload, e.Proof.Statement.Signature = payload, sig
	return e
}

// TestOneOfAHundredProofsIsAdmitted: a hundred different messages under one jti at once, over ten connections.
func TestOneOfAHundredProofsIsAdmitted(t *testing.T) {
	s := proofScene(t, func(c *interceptors.Config) { c.AgentBudget.InFlight = 1000 })
	jti := bytes.Repeat([]byte{5}, 16)
	wantReason(t, "a call before", s.carry(s.prove(s.open(proved))), 0) // the chain is known
	var list []*v1.Envelope
	for range 100 {
		list = append(list, s.withJTI(s.open(proved), jti))
	}
	var ran, admitted, refused atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range list {
		session := s.session
		if i%10 == 0 {
			session = s.Session(t, s.end, s.relay)
		}
		wg.Go(func() {
			<-start
			err := s.carryOn(session, list[i], func(context.Context) (proto.Message, error) {
				ran.Add(1)
				return &meshpb.UnaryResponse{}, nil
			})
			switch reason(t, err) {
			case 0:
				admitted.Add(1)
			case replayed:
				refused.Add(1)
			default:
				t.Errorf("a copy: %v", err)
			}
		})
	}
	close(start)
	wg.Wait()
	if ran.Load() != 1 || admitted.Load() != 1 || refused.Load() != 99 {
		t.Errorf("%d ran, %d admitted, %d refused, want 1, 1 and 99", ran.Load(), admitted.Load(), refused.Load())
	}
}

// TestRefusedMessageSpendsNoProof: what fails before the last check may be sent again with the same proof.
func TestRefusedMessageSpendsNoProof(t *testing.T) {
	s := proofScene(t)
	e := s.prove(s.open(proved))
	rows := s.Table.Proto().GetRows()
	s.Table.RemoveRow(rows[0].GetId())
	s.Table.RemoveRow(rows[1].GetId())
	if got := reason(t, s.carry(e)); got == 0 || got == replayed {
		t.Fatalf("without a row of the table: %s", got)
	}
	s.Table.Allow("acme", meshtest.DefaultClass, "mesh.call", []string{"mesh"}, false, s.writer.String())
	wantReason(t, "once the policy permits", s.carry(e), 0)
	wantReason(t, "once more", s.carry(e), replayed)
}

// brokenStore is a replay store that cannot say.
type brokenStore struct {
	delegation.ReplayStore
	seen, insert error
}

func (b brokenStore) Seen([32]byte) (bool, error) { return false, b.seen }

func (b brokenStore) Insert(context.Context, string, [32]byte, time.Time) (bool, error) {
	return b.insert == nil, b.insert
}

// TestProofWithoutAStore: what the store cannot tell is refused, and only for messages that have a proof.
func TestProofWithoutAStore(t *testing.T) {
	for name, store := range map[string]brokenStore{"seen": {seen: errors.New("disk")}, "insert": {insert: errors.New("disk")}} {
		s := proofScene(t, func(c *interceptors.Config) { c.Replay = store })
		wantReason(t, name+": with a proof", s.carry(s.prove(s.open(proved))), v1.Reason_REASON_AUDIT_UNAVAILABLE)
		wantReason(t, name+": without", s.carry(s.open(unary)), 0)
	}
}

// TestProofIsCharged: proofs cost the peer its allowance of signatures, so a flood of them is refused and others are not.
func TestProofIsCharged(t *testing.T) {
	s := proofScene(t)
	left := 2
	s.end = s.Enforcer(t, s.writer, s.end.Methods(), func(c *interceptors.Config) {
		v, err := delegation.NewVerifier(delegation.Config{
			Self: s.writer, Keys: s.Keys, Bundles: s.World, BundleGeneration: func() uint64 { return 1 }, Now: s.Now,
			Limits: delegation.Limits{Allow: func(_ identity.AgentID, n int) bool {
				left -= n
				return left >= 0
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		c.Verifier = v
	})
	s.session = s.Session(t, s.end, s.relay)
	left = 4 // grant, hop, certificate, and one proof
	wantReason(t, "the first", s.carry(s.prove(s.open(proved))), 0)
	wantReason(t, "over the limit", s.carry(s.prove(s.open(proved))), v1.Reason_REASON_CHAIN_COLD_LIMIT)
	left = 1
	wantReason(t, "later", s.carry(s.prove(s.open(proved))), 0)
	wantReason(t, "without a proof", s.carry(s.open(unary)), 0)
}

// TestReceiptOfTheEnforcer: what is signed is what the record of the call says, and the outcome record holds it.
func TestReceiptOfTheEnforcer(t *testing.T) {
	s := proofScene(t)
	s.session.SetSigner(s.signer(s.writer))
	for _, method := range []string{receipted, both} {
		s.end.Log.Reset()
		e := s.open(method)
		if method == both {
			s.prove(e)
		}
		wantReason(t, method, s.carry(e), 0)
		intent, outcome := s.pair()
		got, err := delegation.VerifyReceipt(outcome.GetSignedReceipt(), s.Peer(s.writer).Leaf)
		if err != nil || !bytes.Equal(outcome.GetReceiptCert().GetLeaf(), s.Peer(s.writer).Leaf.Raw) {
			t.Fatalf("%s: the receipt in the outcome: %v", method, err)
		}
		leaf := s.Leaf(t, s.chain, s.relay, s.writer)
		if got.ChainID != leaf.ChainID() || got.LeafID != leaf.ID() || got.EnvelopeID != [16]byte(e.GetId()) || got.Caller != s.relay || got.Callee != s.writer ||
			!bytes.Equal(got.InvocationJTI, delegation.ClaimedJTI(e.GetProof())) || got.DecisionID != [16]byte(intent.GetDecisionId()) {
			t.Errorf("%s: receipt says %+v", method, got)
		}
		if got.Decision != v1.ReceiptPayload_DECISION_ALLOW || got.Audit.GetSeq() == 0 || !bytes.Equal(intent.GetInvocationJti(), got.InvocationJTI) {
			t.Errorf("%s: receipt %v", method, got)
		}
	}
}

// TestNoReplyWithoutItsReceipt: a session whose certificate is not known, or which signs nothing, ends the call, after the method
// ran and with a record.
func TestNoReplyWithoutItsReceipt(t *testing.T) {
	s := proofScene(t)
	wantReason(t, "no signer", s.carry(s.open(receipted)), v1.Reason_REASON_OUTCOME_UNKNOWN)
	_, outcome := s.pair()
	if outcome.GetReason() != v1.Reason_REASON_OUTCOME_UNKNOWN || outcome.GetSignedReceipt() != nil {
		t.Errorf("outcome %v", outcome)
	}
	s.session.SetSigner(s.signer(s.relay))
	wantReason(t, "another's signer", s.carry(s.open(receipted)), v1.Reason_REASON_OUTCOME_UNKNOWN)
	wantReason(t, "a method that owes none", s.carry(s.open(unary)), 0)
}
