package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	"github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1/safeconductrpcv1connect"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// proofNode serves ProofService.
type proofNode struct {
	meshpb.UnimplementedProofServiceServer
	ran   atomic.Int64
	reply func() (*meshpb.UnaryResponse, error)
}

func (n *proofNode) serve() (*meshpb.UnaryResponse, error) {
	n.ran.Add(1)
	if n.reply != nil {
		return n.reply()
	}
	return &meshpb.UnaryResponse{Text: "done"}, nil
}

func (n *proofNode) Proved(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
	return n.serve()
}

func (n *proofNode) Receipted(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
	return n.serve()
}

func (n *proofNode) Both(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
	return n.serve()
}

// proofScene is a scene whose writer serves ProofService too.
type proofScene struct {
	*scene
	proofs meshpb.ProofServiceClient
	served *proofNode
}

func newProofScene(t *testing.T, options ...agenttest.AgentOption) *proofScene {
	t.Helper()
	s := &proofScene{scene: prepareScene(t, options...), served: new(proofNode)}
	meshpb.RegisterProofServiceServer(s.writer, s.served)
	s.start()
	s.proofs = meshpb.NewProofServiceClient(s.Dial(s.relay, s.writer))
	return s
}

func meshRequest() *meshpb.UnaryRequest { return &meshpb.UnaryRequest{Resource: mesh()} }

// prepared returns what relay would send for a call of Proved.
func (s *proofScene) prepared() *v1.Envelope {
	s.t.Helper()
	env, err := s.Dial(s.relay, s.writer).Prepare(s.ctx, meshpb.ProofService_Proved_FullMethodName, meshRequest())
	if err != nil {
		s.t.Fatal(err)
	}
	return env
}

// only returns the one pair of records of method in the log of a.
func (s *proofScene) only(a *runtime.Agent, method string, d v1.EventDirection) (intent, outcome *v1.AuditEvent) {
	s.t.Helper()
	calls := s.calls(a, method, d)
	for _, evs := range calls {
		if len(calls) == 1 && len(evs) == 2 {
			return evs[0], evs[1]
		}
	}
	s.t.Fatalf("%d calls of %s in the log of %s, want one pair", len(calls), method, a.ID().Name())
	return nil, nil
}

const (
	inbound  = v1.EventDirection_EVENT_DIRECTION_INBOUND
	outbound = v1.EventDirection_EVENT_DIRECTION_OUTBOUND
)

func TestProofIsAddedWhereTheMethodAsksForIt(t *testing.T) {
	s := newProofScene(t)
	if _, err := s.proofs.Proved(s.ctx, meshRequest()); err != nil {
		t.Fatal(err)
	}
	sent, _ := s.only(s.relay, meshpb.ProofService_Proved_FullMethodName, outbound)
	taken, _ := s.only(s.writer, meshpb.ProofService_Proved_FullMethodName, inbound)
	if len(sent.GetInvocationJti()) != 16 || !bytes.Equal(sent.GetInvocationJti(), taken.GetInvocationJti()) {
		t.Errorf("jti %x in the caller's intent, %x in the callee's", sent.GetInvocationJti(), taken.GetInvocationJti())
	}
	s.mustCall(s.ctx)
	if _, err := s.call(s.ctx, runtime.WithProof()); err != nil {
		t.Errorf("WithProof on a method that asks for none: %v", err)
	}
	with := 0
	for _, evs := range s.calls(s.writer, meshpb.MeshService_Unary_FullMethodName, inbound) {
		if len(evs[0].GetInvocationJti()) == 16 {
			with++
		}
	}
	if with != 1 {
		t.Errorf("%d of two calls had a proof, want the one that was asked to", with)
	}
	_, err := s.client.Open(s.ctx, &meshpb.OpenRequest{}, runtime.WithProof())
	wantCode(t, err, codes.InvalidArgument)
	_, err = s.client.Bidi(s.ctx, runtime.WithProof())
	wantCode(t, err, codes.Unimplemented)
	_, err = s.client.Bidi(s.ctx, runtime.Receipt(new(runtime.SignedReceipt)))
	wantCode(t, err, codes.Unimplemented)
	s.wantPairs(s.relay, s.writer)
}

// TestProofPassesOnceByEveryWay is row 45 over TLS: gRPC on two connections, Connect and gRPC-Web, a hundred at once.
func TestProofPassesOnceByEveryWay(t *testing.T) {
	s := newProofScene(t, agenttest.Config(withEdge), agenttest.Config(roomy))
	first, second := s.exchange(s.relay, s.writer), s.exchange(s.relay, s.writer)
	edge, asJSON, asWeb := s.edge(), s.edge(connect.WithProtoJSON()), s.edge(connect.WithGRPCWeb())
	ways := map[string]func(*v1.Envelope) error{
		"same connection": func(e *v1.Envelope) error { _, err := first.Deliver(ctx0(t), e); return err },
		"new connection":  func(e *v1.Envelope) error { _, err := second.Deliver(ctx0(t), e); return err },
		"connect": func(e *v1.Envelope) error {
			_, err := edge.Deliver(ctx0(t), e)
			return err
		},
		"HTTP and JSON": func(e *v1.Envelope) error {
			_, err := asJSON.Deliver(ctx0(t), e)
			return err
		},
		"gRPC-Web": func(e *v1.Envelope) error {
			_, err := asWeb.Deliver(ctx0(t), e)
			return err
		},
	}
	for name, again := range ways {
		ran := s.served.ran.Load()
		e := s.prepared()
		if err := ways["same connection"](e); err != nil {
			t.Fatalf("the first: %v", err)
		}
		if got := wireReason(again(e)); got != v1.Reason_REASON_REPLAYED {
			t.Errorf("%s: %s, want REPLAYED", name, got)
		}
		ran++
		if name == "same connection" {
			continue
		}
		e = s.prepared()
		if err := again(e); err != nil { // the digest does not depend on the encoding
			t.Errorf("first by %s: %v", name, err)
		}
		if got := wireReason(ways["same connection"](e)); got != v1.Reason_REASON_REPLAYED {
			t.Errorf("after %s: %s, want REPLAYED", name, got)
		}
		if n := s.served.ran.Load() - ran; n != 1 {
			t.Errorf("%s: the handler ran %d times", name, n)
		}
	}
	ran, e := s.served.ran.Load(), s.prepared()
	var passed, replayed atomic.Int64
	var wg sync.WaitGroup
	for i := range 100 {
		send := ways[[]string{"same connection", "new connection", "connect"}[i%3]]
		wg.Go(func() {
			switch err := send(proto.CloneOf(e)); {
			case err == nil:
				passed.Add(1)
			case wireReason(err) == v1.Reason_REASON_REPLAYED:
				replayed.Add(1)
			default:
				t.Errorf("a copy: %v", err)
			}
		})
	}
	wg.Wait()
	if passed.Load() != 1 || replayed.Load() != 99 || s.served.ran.Load()-ran != 1 {
		t.Errorf("%d passed, %d replayed, the handler ran %d times", passed.Load(), replayed.Load(), s.served.ran.Load()-ran)
	}
}

// edge is a Connect client without a runtime, as relay.
func (s *proofScene) edge(opts ...connect.ClientOption) safeconductrpcv1connect.ExchangeServiceClient {
	s.t.Helper()
	tr := &http.Transport{TLSClientConfig: identity.ClientTLS(s.relay.Source(), s.writer.ID()), ForceAttemptHTTP2: true}
	s.t.Cleanup(tr.CloseIdleConnections)
	return safeconductrpcv1connect.NewExchangeServiceClient(&http.Client{Transport: tr, Timeout: patience}, "https://"+s.writer.EdgeAddr(), opts...)
}

// wireReason is the reason in an error of either transport.
func wireReason(err error) v1.Reason {
	if r := edgeReason(err); r != 0 {
		return r
	}
	return reasonIn(err)
}

// TestTamperedProofsAreRefused has rows 62 and 63 over TLS: what a raw client of relay's makes of a message that relay's runtime
// has signed.
func TestTamperedProofsAreRefused(t *testing.T) {
	s := newProofScene(t)
	raw := s.exchange(s.relay, s.writer)
	const mismatch, invalid = v1.Reason_REASON_PRESENTER_MISMATCH, v1.Reason_REASON_CHAIN_INVALID
	for _, tc := range []struct {
		name string
		make func(*v1.Envelope)
		want v1.Reason
	}{
		{"untouched", func(*v1.Envelope) {}, 0},
		{"without", func(e *v1.Envelope) { e.Proof = nil }, v1.Reason_REASON_PROOF_REQUIRED},
		{"label", func(e *v1.Envelope) { e.Control.Integrity = v1.Integrity_INTEGRITY_SYSTEM }, mismatch},
		{"deadline", func(e *v1.Envelope) { e.DeadlineUnixMs += 1000 }, mismatch},
		{"timeout", func(e *v1.Envelope) { e.TimeoutMs++ }, mismatch},
		{"context", func(e *v1.Envelope) { e.Context = []*v1.ContextRef{{Store: "x"}} }, mismatch},
		{"causation", func(e *v1.Envelope) { e.Causation = make([]byte, 16) }, mismatch},
		{"conversation", func(e *v1.Envelope) { e.Conversation = make([]byte, 16) }, mismatch},
		{"reference 0 of an unused certificate", func(e *v1.Envelope) { e.Proof.Statement.CertRef = 0 }, invalid},
		{"certificate left to the connection", func(e *v1.Envelope) { e.Proof.Statement.CertRef, e.Proof.Certs = 0, nil }, 0},
		{"another signature", func(e *v1.Envelope) { e.Proof.Statement.Signature = make([]byte, 64) }, invalid},
		{"the hop's signature", func(e *v1.Envelope) {
			hops := e.GetChain().GetHops()
			e.Proof.Statement.Signature = hops[len(hops)-1].GetSignature()
		}, invalid},
		{"stored, after signing", func(e *v1.Envelope) { e.Delivery = v1.Delivery_DELIVERY_STORED }, mismatch},
		{"trace, which may change", func(e *v1.Envelope) {
			e.Trace = &v1.TraceContext{TraceId: bytes.Repeat([]byte{1}, 16), SpanId: bytes.Repeat([]byte{1}, 8)}
		}, 0},
	} {
		ran := s.served.ran.Load()
		e := s.prepared()
		tc.make(e)
		_, err := raw.Deliver(ctx0(t), e)
		if got := wireReason(err); got != tc.want || (err == nil) != (tc.want == 0) {
			t.Errorf("%s: %v, want %s", tc.name, err, tc.want)
		}
		if n := s.served.ran.Load() - ran; (n != 0) != (tc.want == 0) {
			t.Errorf("%s: the handler ran %d times", tc.name, n)
		}
	}
	s.wantPairs(s.writer)
}

// TestStolenProof: a proof is good at its callee, from its caller, and nowhere else.
func TestStolenProof(t *testing.T) {
	s := newProofScene(t)
	thief := s.Agent("thief")
	s.Allow(thief, s.writer, "mesh.call", "mesh")
	_, err := s.exchange(thief, s.writer).Deliver(ctx0(t), s.prepared())
	if got := wireReason(err); got != v1.Reason_REASON_PRESENTER_MISMATCH {
		t.Errorf("presented by another agent: %v", err)
	}
	other := s.Agent("other")
	meshpb.RegisterProofServiceServer(other, s.served)
	s.Serve(other)
	s.Allow(s.relay, other, "mesh.call", "mesh")
	e := s.prepared()
	e.Recipient = other.ID().String()
	_, err = s.exchange(s.relay, other).Deliver(ctx0(t), e)
	if got := wireReason(err); got != v1.Reason_REASON_AUDIENCE_MISMATCH {
		t.Errorf("presented to another agent: %v", err)
	}
	own, err := s.Dial(s.relay, other).Prepare(s.ctx, meshpb.ProofService_Proved_FullMethodName, meshRequest())
	if err != nil {
		t.Fatal(err)
	}
	own.Proof = s.prepared().GetProof()
	_, err = s.exchange(s.relay, other).Deliver(ctx0(t), own)
	if got := wireReason(err); got != v1.Reason_REASON_PRESENTER_MISMATCH {
		t.Errorf("the proof for one callee in a message for another: %v", err)
	}
	if n := s.served.ran.Load(); n != 0 {
		t.Errorf("the handler ran %d times", n)
	}
}

// TestProofSurvivesRotation is row 53 over TLS: the caller's SVID is replaced between signing and use, on an old and on a new
// connection; and its calls go on.
func TestProofSurvivesRotation(t *testing.T) {
	s := newProofScene(t)
	old := s.exchange(s.relay, s.writer)
	if _, err := old.Deliver(ctx0(t), s.prepared()); err != nil {
		t.Fatal(err)
	}
	first, second := s.prepared(), s.prepared()
	s.relay.Source().(*meshtest.Source).Rotate()
	if _, err := old.Deliver(ctx0(t), first); err != nil {
		t.Errorf("an old proof on the old connection: %v", err)
	}
	fresh := s.exchange(s.relay, s.writer)
	if _, err := fresh.Deliver(ctx0(t), second); err != nil {
		t.Errorf("an old proof on a new connection: %v", err)
	}
	if _, err := old.Deliver(ctx0(t), s.prepared()); err != nil {
		t.Errorf("a new proof on the old connection: %v", err)
	}
	if _, err := s.proofs.Proved(s.ctx, meshRequest()); err != nil {
		t.Errorf("the runtime's own call: %v", err)
	}
	late := s.prepared()
	s.Advance(20 * time.Second)
	if _, err := fresh.Deliver(ctx0(t), late); err != nil {
		t.Errorf("a proof of 20 s: %v", err)
	}
	late = s.prepared()
	late.DeadlineUnixMs += 60_000
	s.Advance(61 * time.Second)
	if _, err := fresh.Deliver(ctx0(t), late); err == nil {
		t.Error("a proof of 61 s passes")
	}
}

// TestReceiptReachesTheCaller: the receipt is what both logs hold, and verifies offline.
func TestReceiptReachesTheCaller(t *testing.T) {
	for _, tc := range []struct {
		method string
		call   func(*proofScene, ...grpc.CallOption) error
		proof  bool
	}{
		{meshpb.ProofService_Receipted_FullMethodName, func(s *proofScene, o ...grpc.CallOption) error {
			_, err := s.proofs.Receipted(s.ctx, meshRequest(), o...)
			return err
		}, false},
		{meshpb.ProofService_Both_FullMethodName, func(s *proofScene, o ...grpc.CallOption) error {
			_, err := s.proofs.Both(s.ctx, meshRequest(), o...)
			return err
		}, true},
	} {
		s := newProofScene(t)
		var r runtime.SignedReceipt
		if err := tc.call(s, runtime.Receipt(&r)); err != nil {
			t.Fatalf("%s: %v", tc.method, err)
		}
		sent, ended := s.only(s.relay, tc.method, outbound)
		taken, answered := s.only(s.writer, tc.method, inbound)
		for who, ev := range map[string]*v1.AuditEvent{"caller": ended, "callee": answered} {
			if !proto.Equal(ev.GetSignedReceipt(), r.Statement) || !bytes.Equal(ev.GetReceiptCert().GetLeaf(), r.Certs.GetLeaf()) {
				t.Errorf("%s: the outcome record of the %s holds another receipt", tc.method, who)
			}
			got, err := delegation.VerifyStoredReceipt(ev.GetSignedReceipt(), ev.GetReceiptCert(), s.writer.Source(), time.Now())
			if err != nil || got.DecisionID != [16]byte(taken.GetDecisionId()) {
				t.Errorf("%s: offline, from the log of the %s: %v", tc.method, who, err)
			}
		}
		if r.Callee != s.writer.ID() || r.Caller != s.relay.ID() || !bytes.Equal(r.EnvelopeID[:], sent.GetEnvelopeId()) || (len(r.InvocationJTI) == 16) != tc.proof ||
			!bytes.Equal(r.InvocationJTI, taken.GetInvocationJti()) || !proto.Equal(r.Audit, ended.GetPeerReceipt()) {
			t.Errorf("%s: receipt %+v", tc.method, r.Receipt)
		}
		s.wantPairs(s.relay, s.writer)
	}
}

// TestReceiptSurvivesRotation: the callee's SVID is replaced under a connection; receipts on it are signed with the one that the
// caller has seen, by gRPC and Connect.
func TestReceiptSurvivesRotation(t *testing.T) {
	s := newProofScene(t, agenttest.Config(withEdge))
	var before, after runtime.SignedReceipt
	if _, err := s.proofs.Receipted(s.ctx, meshRequest(), runtime.Receipt(&before)); err != nil {
		t.Fatal(err)
	}
	edge := edgeExchange(t, s.relay, s.writer)
	deliver := func() (*v1.Envelope, error) {
		env, err := s.Dial(s.relay, s.writer).Prepare(s.ctx, meshpb.ProofService_Receipted_FullMethodName, meshRequest())
		if err != nil {
			t.Fatal(err)
		}
		return edge.Deliver(ctx0(t), env)
	}
	svid, err := s.writer.Source().GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		res, err := deliver()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := delegation.VerifyReceipt(res.GetReceipt(), svid.Certificates[0]); err != nil {
			t.Errorf("over connect, under the certificate of its connection: %v", err)
		}
		s.writer.Source().(*meshtest.Source).Rotate()
	}
	if _, err := s.proofs.Receipted(s.ctx, meshRequest(), runtime.Receipt(&after)); err != nil {
		t.Fatalf("after the rotation, on the old connection: %v", err)
	}
	if !bytes.Equal(before.Certs.GetLeaf(), after.Certs.GetLeaf()) {
		t.Error("the receipts of one connection are under two certificates")
	}
	if _, err := meshpb.NewProofServiceClient(s.freshConn()).Receipted(s.ctx, meshRequest(), runtime.Receipt(&after)); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(before.Certs.GetLeaf(), after.Certs.GetLeaf()) {
		t.Error("a new connection has the old certificate")
	}
}

// freshConn is relay's connection to writer after the process of relay was replaced.
func (s *proofScene) freshConn() *runtime.Conn {
	s.t.Helper()
	s.relay = s.Restart(s.relay)
	s.ctx = s.grant()
	return s.Dial(s.relay, s.writer)
}

func TestFailedCallsHaveNoReceipt(t *testing.T) {
	s := newProofScene(t)
	s.served.reply = func() (*meshpb.UnaryResponse, error) { return nil, status.Error(codes.NotFound, "nothing here") }
	var r runtime.SignedReceipt
	_, err := s.proofs.Receipted(s.ctx, meshRequest(), runtime.Receipt(&r))
	wantCode(t, err, codes.NotFound)
	if r.Statement != nil || errors.Is(err, runtime.ErrReceipt) {
		t.Errorf("a status has a receipt: %v, %v", r.Statement, err)
	}
	_, err = s.call(s.ctx, runtime.Receipt(&r))
	wantCode(t, err, codes.InvalidArgument) // the method declares none
}

// notary answers Deliver as a callee that signs what a test tells it to.
type notary struct {
	rpcv1.UnimplementedExchangeServiceServer
	s      *scene
	change func(*delegation.Receipt)
	seal   func(*v1.Envelope)
	by     identity.Source
	last   []byte // payload of the last hop
}

func (n *notary) Deliver(_ context.Context, env *v1.Envelope) (*v1.Envelope, error) {
	if c := env.GetChain(); c != nil { // a later call has a reference to it
		n.last = c.GetHops()[len(c.GetHops())-1].GetPayload()
	}
	last := n.last
	var hop v1.HopPayload
	if err := proto.Unmarshal(last, &hop); err != nil {
		return nil, err
	}
	r := delegation.Receipt{
		ChainID: [16]byte(hop.GetChainId()), LeafID: delegation.StatementID(delegation.TypeHop, last), EnvelopeID: [16]byte(env.GetId()),
		InvocationJTI: delegation.ClaimedJTI(env.GetProof()), Caller: n.s.relay.ID(), Callee: n.by.(*meshtest.Source).ID(), Decision: v1.ReceiptPayload_DECISION_ALLOW,
		DecisionID: [16]byte{1}, IssuedAt: n.s.Now(), Audit: &v1.AuditReceipt{LogId: make([]byte, 16), Seq: 3, LeafHash: make([]byte, 32), BootId: make([]byte, 16)},
	}
	res := &v1.Envelope{Kind: v1.FrameKind_FRAME_KIND_RESULT, PayloadType: "mesh.v1.UnaryResponse", Audit: proto.CloneOf(r.Audit)}
	res.Payload, _ = proto.Marshal(&meshpb.UnaryResponse{Text: canary})
	if n.change != nil {
		n.change(&r)
	}
	svid, err := n.by.GetX509SVID()
	if err != nil {
		return nil, err
	}
	k, err := delegation.NewSigner(svid)
	if err != nil {
		return nil, err
	}
	if res.Receipt, _, err = delegation.NewReceipt(r, k); err != nil {
		return nil, err
	}
	if n.seal != nil {
		n.seal(res)
	}
	return res, nil
}

func newNotary(t *testing.T) (*notary, *proofScene) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scene{World: agenttest.New(t), t: t}
	s.relay = s.Agent("relay", agenttest.Config(func(c *runtime.Config) { c.Trust = elsewhere{c.Trust, l.Addr().String()} }))
	s.writer = s.Agent("writer")
	n := &notary{s: s, by: s.writer.Source()}
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(identity.ServerTLS(s.writer.Source()))))
	rpcv1.RegisterExchangeServiceServer(server, n)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-ended })
	s.ctx = s.grant()
	return n, &proofScene{scene: s, proofs: meshpb.NewProofServiceClient(s.Dial(s.relay, s.writer))}
}

// TestFalseReceiptsAreRefused: a callee answers with a receipt that is missing, of something else, or by somebody else. The reply
// is withheld.
func TestFalseReceiptsAreRefused(t *testing.T) {
	says := func(change func(*delegation.Receipt)) func(*notary) { return func(n *notary) { n.change = change } }
	seals := func(seal func(*v1.Envelope)) func(*notary) { return func(n *notary) { n.seal = seal } }
	for _, tc := range []struct {
		name  string
		build func(*notary)
		ok    bool
	}{
		{"honest", func(*notary) {}, true},
		{"none", seals(func(e *v1.Envelope) { e.Receipt = nil }), false},
		{"empty", seals(func(e *v1.Envelope) { e.Receipt = &v1.SignedStatement{} }), false},
		{"a broken signature", seals(func(e *v1.Envelope) { e.Receipt.Signature[3] ^= 1 }), false},
		{"a changed payload", seals(func(e *v1.Envelope) { e.Receipt.Payload[3] ^= 1 }), false},
		{"a certificate reference", seals(func(e *v1.Envelope) { e.Receipt.CertRef = 1 }), false},
		{"another record than the reply names", seals(func(e *v1.Envelope) { e.Audit.Seq++ }), false},
		{"no record in the reply", seals(func(e *v1.Envelope) { e.Audit = nil }), false},
		{"another message", says(func(r *delegation.Receipt) { r.EnvelopeID[0]++ }), false},
		{"another chain", says(func(r *delegation.Receipt) { r.ChainID[0]++ }), false},
		{"another leaf", says(func(r *delegation.Receipt) { r.LeafID[0]++ }), false},
		{"another caller", says(func(r *delegation.Receipt) { r.Caller = r.Callee }), false},
		{"no proof", says(func(r *delegation.Receipt) { r.InvocationJTI = nil }), false},
		{"another proof", says(func(r *delegation.Receipt) { r.InvocationJTI = bytes.Repeat([]byte{1}, 16) }), false},
		{"a denial", says(func(r *delegation.Receipt) { r.Decision = v1.ReceiptPayload_DECISION_DENY }), false},
		{"29 s old", says(func(r *delegation.Receipt) { r.IssuedAt = r.IssuedAt.Add(-29 * time.Second) }), true},
		{"31 s old", says(func(r *delegation.Receipt) { r.IssuedAt = r.IssuedAt.Add(-31 * time.Second) }), false},
		{"31 s ahead", says(func(r *delegation.Receipt) { r.IssuedAt = r.IssuedAt.Add(32 * time.Second) }), false},
		{"by another agent", func(n *notary) { n.by = n.s.Agent("other").Source() }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n, s := newNotary(t)
			tc.build(n)
			var r runtime.SignedReceipt
			resp, err := s.proofs.Both(s.ctx, meshRequest(), runtime.Receipt(&r))
			_, outcome := s.only(s.relay, meshpb.ProofService_Both_FullMethodName, outbound)
			if tc.ok {
				if err != nil || resp.GetText() != canary || r.Statement == nil || outcome.GetSignedReceipt() == nil {
					t.Errorf("the call: %v, receipt %v", err, r.Statement)
				}
				return
			}
			refusal := refusalOf(t, err)
			if !errors.Is(err, runtime.ErrReceipt) || refusal.Reason != v1.Reason_REASON_OUTCOME_UNKNOWN || status.Code(err) != codes.Unavailable {
				t.Errorf("error %v, want ErrReceipt and OUTCOME_UNKNOWN", err)
			}
			if resp.GetText() != "" || r.Statement != nil || outcome.GetSignedReceipt() != nil {
				t.Error("the reply or the receipt reaches the caller")
			}
			if outcome.GetReason() != v1.Reason_REASON_OUTCOME_UNKNOWN || !bytes.Equal(outcome.GetDecisionId(), refusal.DecisionID) ||
				!strings.Contains(outcome.GetCause(), "receipt") || interceptors.CodeOf(err) != interceptors.CodeUnavailable {
				t.Errorf("outcome record %s, %q", outcome.GetReason(), outcome.GetCause())
			}
		})
	}
}

// TestReceiptByTheNextCertificate: the certificate is that of the connection, not one that names the same agent.
func TestReceiptByTheNextCertificate(t *testing.T) {
	n, s := newNotary(t)
	if _, err := s.proofs.Both(s.ctx, meshRequest()); err != nil {
		t.Fatal(err)
	}
	n.by.(*meshtest.Source).Rotate()
	if _, err := s.proofs.Both(s.ctx, meshRequest()); !errors.Is(err, runtime.ErrReceipt) {
		t.Errorf("a receipt under a certificate that the connection has not shown: %v", err)
	}
}

// TestProofMethodsAreDeliveredOnly: the same methods on the server's plain gRPC routes, where an envelope binds no payload and a
// reply has no place.
func TestProofMethodsAreDeliveredOnly(t *testing.T) {
	s := newProofScene(t)
	plain := meshpb.NewProofServiceClient(s.raw(s.relay, s.writer))
	beside := func(method string) *v1.Envelope {
		env, err := s.Dial(s.relay, s.writer).Prepare(s.ctx, method, meshRequest())
		if err != nil {
			t.Fatal(err)
		}
		env.Payload, env.Intent.ArgumentsDigest = nil, nil
		return env
	}
	inside := meshRequest()
	inside.Envelope = beside(meshpb.ProofService_Proved_FullMethodName)
	_, err := plain.Proved(ctx0(t), inside)
	if got := wireReason(err); got != v1.Reason_REASON_PROOF_REQUIRED {
		t.Errorf("the envelope in the request: %v, want PROOF_REQUIRED", err)
	}
	env := beside(meshpb.ProofService_Proved_FullMethodName)
	env.Chain, env.ChainRef, env.Proof.Certs, env.Proof.Statement.CertRef = nil, make([]byte, 32), nil, 0
	raw, err := proto.Marshal(env)
	if err != nil {
		t.Fatal(err)
	}
	_, err = plain.Proved(metadata.AppendToOutgoingContext(ctx0(t), enforcegrpc.EnvelopeKey, string(raw)), meshRequest())
	if got := wireReason(err); got != v1.Reason_REASON_PROOF_REQUIRED {
		t.Errorf("the envelope in metadata: %v, want PROOF_REQUIRED", err)
	}
	inside.Envelope = beside(meshpb.ProofService_Receipted_FullMethodName)
	_, err = plain.Receipted(ctx0(t), inside)
	if got := wireReason(err); got != v1.Reason_REASON_EXTENSION_UNKNOWN {
		t.Errorf("a method that owes a receipt: %v, want EXTENSION_UNKNOWN", err)
	}
	if n := s.served.ran.Load(); n != 0 {
		t.Errorf("the handler ran %d times", n)
	}
}
