package runtime_test

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	"github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1/safeconductrpcv1connect"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/policy/conduct"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// withEdge gives an agent an edge on loopback.
func withEdge(c *runtime.Config) { c.Edge = "127.0.0.1:0" }

// edgeExchange is a Connect client over HTTP/2 without a runtime, over mTLS as from.
func edgeExchange(t *testing.T, from, to *runtime.Agent) safeconductrpcv1connect.ExchangeServiceClient {
	t.Helper()
	tr := &http.Transport{TLSClientConfig: identity.ClientTLS(from.Source(), to.ID()), ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	return safeconductrpcv1connect.NewExchangeServiceClient(&http.Client{Transport: tr, Timeout: patience}, "https://"+to.EdgeAddr())
}

// A stream's handler would otherwise do work, and send headers, for whoever can connect.
func TestNoStreamHandlerRunsBeforeAdmission(t *testing.T) {
	s := newScene(t)
	ran := make(chan struct{}, 1)
	s.node.bidi = func(stream grpc.BidiStreamingServer[meshpb.BidiRequest, meshpb.BidiResponse]) error {
		ran <- struct{}{}
		_ = stream.SendHeader(metadata.Pairs("x-secret", canary))
		return nil
	}
	s.node.up = func(grpc.ClientStreamingServer[meshpb.ClientStreamRequest, meshpb.ClientStreamResponse]) error {
		ran <- struct{}{}
		return nil
	}
	stranger := s.Agent("stranger", agenttest.Tenant("globex"))
	client := meshpb.NewMeshServiceClient(s.raw(stranger, s.writer))
	wantUnreached := func(what string, md metadata.MD, err error) {
		t.Helper()
		if got := reasonIn(err); got != v1.Reason_REASON_NO_ENVELOPE {
			t.Errorf("%s: %v, want NO_ENVELOPE", what, err)
		}
		if len(md.Get("x-secret")) != 0 {
			t.Errorf("%s: the peer got the header %v", what, md)
		}
		select {
		case <-ran:
			t.Errorf("%s: the handler ran", what)
		default:
		}
	}
	for what, end := range map[string]func(grpc.ClientStream) error{
		"half closed at once":           func(c grpc.ClientStream) error { return c.CloseSend() },
		"a message without an envelope": func(c grpc.ClientStream) error { return c.SendMsg(&meshpb.BidiRequest{Resource: mesh()}) },
	} {
		bidi, err := client.Bidi(ctx0(t))
		if err == nil {
			err = end(bidi)
		}
		if err != nil {
			t.Fatal(err)
		}
		md, _ := bidi.Header()
		_, err = bidi.Recv()
		wantUnreached("bidi, "+what, md, err)
	}
	up, err := client.ClientStream(ctx0(t))
	if err != nil {
		t.Fatal(err)
	}
	_, err = up.CloseAndRecv()
	wantUnreached("client stream", nil, err)
	s.wantPairs(s.writer)
}

// A handler's context ends with the chain, also where the caller set no deadline; what it sends later is refused.
func TestStreamEndsWithItsChain(t *testing.T) {
	s := newScene(t)
	step, sent := make(chan struct{}), make(chan error, 1)
	s.node.down = func(_ *meshpb.ServerStreamRequest, stream grpc.ServerStreamingServer[meshpb.ServerStreamResponse]) error {
		end, ok := stream.Context().Deadline()
		if !ok || time.Until(end) > 20*time.Second {
			return errors.New("the handler may outlive its chain")
		}
		if err := stream.Send(&meshpb.ServerStreamResponse{Text: "early"}); err != nil {
			return err
		}
		<-step
		err := stream.Send(&meshpb.ServerStreamResponse{Text: "late"})
		sent <- err
		return err
	}
	stream, err := s.client.ServerStream(s.grant(agenttest.Life(20*time.Second)), &meshpb.ServerStreamRequest{Resource: mesh()})
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := stream.Recv(); err != nil || resp.GetText() != "early" {
		t.Fatalf("the first reply: %v, %v", resp, err)
	}
	s.Advance(40 * time.Minute)
	close(step)
	if err := receive(t, "the handler's second message", sent); err == nil {
		t.Error("a reply left 40 minutes after the end of the chain")
	}
	_, err = stream.Recv()
	wantReason(t, err, v1.Reason_REASON_CHAIN_EXPIRED)
}

func TestStreamEndsWithItsPeer(t *testing.T) {
	s := newScene(t)
	step := make(chan struct{})
	s.node.down = func(_ *meshpb.ServerStreamRequest, stream grpc.ServerStreamingServer[meshpb.ServerStreamResponse]) error {
		<-step
		return stream.Send(&meshpb.ServerStreamResponse{Text: "late"})
	}
	stream, err := s.client.ServerStream(s.grant(), &meshpb.ServerStreamRequest{Resource: mesh()})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream's intent", func() bool {
		return len(s.calls(s.writer, meshpb.MeshService_ServerStream_FullMethodName, v1.EventDirection_EVENT_DIRECTION_INBOUND)) == 1
	})
	s.SetState(s.relay, identity.StateSuspended)
	close(step)
	_, err = stream.Recv()
	wantReason(t, err, v1.Reason_REASON_AGENT_STATE)
}

// The reply of a method without authority is as foreign as any other.
func TestOpenReplyTaints(t *testing.T) {
	s := newScene(t)
	ctx := s.grant()
	wantIntegrity(t, ctx, attested)
	if _, err := s.client.Open(ctx, &meshpb.OpenRequest{}); err != nil {
		t.Fatal(err)
	}
	wantIntegrity(t, ctx, untrusted)
	_, err := s.call(ctx)
	wantReason(t, err, v1.Reason_REASON_INTEGRITY_TOO_LOW)
}

// The text of an error travels without a label, so a handler that has read untrusted content has none.
func TestTaintedHandlerHasNoErrorText(t *testing.T) {
	for name, fail := range map[string]error{
		"public error": interceptors.Public(interceptors.CodeNotFound, "%s", canary),
		"wrapped":      fmt.Errorf("handler: %w", interceptors.Public(interceptors.CodeNotFound, "%s", canary)),
		"status":       status.Error(codes.NotFound, canary),
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			taint := true
			s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
				if taint {
					runtime.Taint(ctx, policy.Label{})
				}
				return nil, fail
			}
			_, err := s.call(s.grant())
			wantCode(t, err, codes.NotFound)
			if strings.Contains(status.Convert(err).Message(), canary) {
				t.Errorf("the text of a tainted handler left: %v", err)
			}
			taint = false
			_, err = s.call(s.grant())
			wantCode(t, err, codes.NotFound)
			if !strings.Contains(status.Convert(err).Message(), canary) {
				t.Errorf("the text of an attested handler is held back: %v", err)
			}
		})
	}
}

// An error of the carrier's own library is not the author's: its text stays here, and both sides agree on the code.
func TestConnectErrorOfAHandlerStaysHere(t *testing.T) {
	s := newScene(t, agenttest.Config(withEdge))
	s.node.unary = func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		return nil, connect.NewError(connect.CodeNotFound, errors.New(canary))
	}
	_, err := edgeExchange(t, s.relay, s.writer).Deliver(ctx0(t), s.envelope(s.ctx))
	if err == nil || connect.CodeOf(err) != connect.CodeInternal || strings.Contains(err.Error(), canary) {
		t.Errorf("over the edge: %v, want INTERNAL without a text", err)
	}
	_, err = s.call(s.grant())
	wantCode(t, err, codes.Internal)
	for _, evs := range s.calls(s.writer, meshpb.MeshService_Unary_FullMethodName, v1.EventDirection_EVENT_DIRECTION_INBOUND) {
		if code := evs[1].GetOutcome().GetCode(); code != uint32(codes.Internal) {
			t.Errorf("recorded code %d, the peer saw %d", code, codes.Internal)
		}
	}
}

// A grant of its own does not wash off what a handler has read.
func TestActInAHandlerInheritsItsLabel(t *testing.T) {
	s := newScene(t)
	type labels struct{ before, after policy.Label }
	got := make(chan labels, 1)
	taint := false
	s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		if taint {
			runtime.Taint(ctx, policy.Label{})
		}
		grant, purpose := s.Grant("bob@acme.example", s.writer)
		own, err := s.writer.Act(ctx, grant, purpose)
		got <- labels{runtime.Label(ctx), runtime.Label(own)}
		return &meshpb.UnaryResponse{}, err
	}
	s.mustCall(s.grant())
	if l := receive(t, "the labels", got); l.after.Integrity != attested {
		t.Errorf("in a handler that has read nothing: %s after %s", l.after, l.before)
	}
	taint = true
	s.mustCall(s.grant())
	if l := receive(t, "the labels", got); l.after.Integrity != untrusted {
		t.Errorf("in a handler that has read untrusted content: %s after %s", l.after, l.before)
	}
}

// The stream that is declared and not built costs its peer what any call costs, and leaves what any refusal leaves.
func TestExchangeIsLimitedAndRecorded(t *testing.T) {
	const burst, calls = 5, 15
	for _, over := range []string{"grpc", "edge"} {
		t.Run(over, func(t *testing.T) {
			s := newScene(t, agenttest.Config(withEdge), agenttest.Config(func(c *runtime.Config) {
				c.AgentBudget = conduct.Budget{Rate: 1e-9, Burst: burst, InFlight: 4}
			}))
			exchange := func() v1.Reason {
				stream, err := s.exchange(s.relay, s.writer).Exchange(ctx0(t))
				if err != nil {
					t.Fatal(err)
				}
				_, err = stream.Recv()
				return reasonIn(err)
			}
			if over == "edge" {
				client := edgeExchange(t, s.relay, s.writer)
				exchange = func() v1.Reason {
					stream, err := client.Exchange(ctx0(t))
					if err != nil {
						return edgeReason(err)
					}
					_ = stream.Send(&v1.Envelope{})
					_, err = stream.Receive()
					return edgeReason(err)
				}
			}
			got := map[v1.Reason]int{}
			for range calls {
				got[exchange()]++
			}
			if got[v1.Reason_REASON_UNKNOWN_METHOD] != burst || got[v1.Reason_REASON_RATE] != calls-burst {
				t.Errorf("reasons %v, want %d UNKNOWN_METHOD and then RATE", got, burst)
			}
			recorded := s.calls(s.writer, rpcv1.ExchangeService_Exchange_FullMethodName, v1.EventDirection_EVENT_DIRECTION_INBOUND)
			if len(recorded) != calls {
				t.Errorf("%d of %d calls are recorded", len(recorded), calls)
			}
			s.wantPairs(s.writer)
		})
	}
}

// edgeReason is reasonIn for an error of Connect.
func edgeReason(err error) v1.Reason {
	var ce *connect.Error
	if !errors.As(err, &ce) {
		return 0
	}
	for _, d := range ce.Details() {
		m, err := d.Value()
		if info, ok := m.(interface{ GetReason() string }); ok && err == nil {
			return v1.Reason(v1.Reason_value["REASON_"+info.GetReason()])
		}
	}
	return 0
}

// Chains that nobody has seen cost signatures, and those have a limit of their own.
func TestColdChainsAreLimited(t *testing.T) {
	ahead := time.Now().Add(5 * time.Second) // grants are of the World's time, which moves on
	s := newScene(t, agenttest.Config(roomy), agenttest.Config(func(c *runtime.Config) { c.Now = func() time.Time { return ahead } }))
	warm := s.grant()
	s.mustCall(warm)
	refused := error(nil)
	for range conduct.DefaultCold.Burst {
		if _, refused = s.call(s.grant()); refused != nil {
			break
		}
	}
	wantReason(t, refused, v1.Reason_REASON_RATE)
	s.mustCall(warm) // a chain that was verified costs no signature
	found := false
	for _, ev := range s.Records(s.writer) {
		found = found || ev.GetReason() == v1.Reason_REASON_CHAIN_COLD_LIMIT
	}
	if !found {
		t.Error("no record names CHAIN_COLD_LIMIT")
	}
}

// What a callee says of its record goes into the caller's log, if it has the shape of a receipt and nothing else.
func TestHostileReceiptIsDropped(t *testing.T) {
	sound := &v1.AuditReceipt{LogId: make([]byte, 16), BootId: make([]byte, 16), Seq: 7, LeafHash: make([]byte, 32)}
	spoil := func(f func(*v1.AuditReceipt)) *v1.AuditReceipt {
		r := proto.CloneOf(sound)
		f(r)
		return r
	}
	tests := []struct {
		name    string
		receipt *v1.AuditReceipt
		kept    bool
	}{
		{"sound", sound, true},
		{"none", nil, false},
		{"empty", &v1.AuditReceipt{}, false},
		{"a log id of 64 KiB", spoil(func(r *v1.AuditReceipt) { r.LogId = make([]byte, 64<<10) }), false},
		{"a boot id too long", spoil(func(r *v1.AuditReceipt) { r.BootId = make([]byte, 17) }), false},
		{"a leaf too short", spoil(func(r *v1.AuditReceipt) { r.LeafHash = make([]byte, 31) }), false},
		{"unknown fields", spoil(func(r *v1.AuditReceipt) {
			r.ProtoReflect().SetUnknown(append([]byte{0xfa, 0x3e, 100}, make([]byte, 100)...)) // field 1007, 100 bytes
		}), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, s := newForgetful(t, 0)
			f.reply = &v1.Envelope{Kind: v1.FrameKind_FRAME_KIND_RESULT, PayloadType: "mesh.v1.UnaryResponse", Audit: tt.receipt}
			if _, err := s.call(s.ctx); err != nil {
				t.Fatalf("the call: %v", err)
			}
			s.wantPairs(s.relay)
			calls := s.calls(s.relay, meshpb.MeshService_Unary_FullMethodName, v1.EventDirection_EVENT_DIRECTION_OUTBOUND)
			if len(calls) != 1 {
				t.Fatalf("%d calls recorded", len(calls))
			}
			for _, evs := range calls {
				got := evs[1].GetPeerReceipt()
				if tt.kept && !proto.Equal(got, sound) || !tt.kept && got != nil {
					t.Errorf("the caller's log keeps the receipt %v", got)
				}
			}
		})
	}
}

func TestReferencesOfARepliesKeepTheirBounds(t *testing.T) {
	for name, refs := range map[string][]*v1.ContextRef{
		"too many":         make([]*v1.ContextRef, 33),
		"too long":         {{Store: strings.Repeat("x", 9<<10)}},
		"an unknown label": {{Label: &v1.Label{Integrity: 99}}},
	} {
		t.Run(name, func(t *testing.T) {
			for i, r := range refs {
				if r == nil {
					refs[i] = &v1.ContextRef{Size: 1}
				}
			}
			f, s := newForgetful(t, 0)
			f.reply = &v1.Envelope{Kind: v1.FrameKind_FRAME_KIND_RESULT, PayloadType: "mesh.v1.UnaryResponse", Context: refs}
			var got []*v1.ContextRef
			_, err := s.call(s.ctx, runtime.Opaque(&got))
			wantCode(t, err, codes.Internal)
			if len(got) != 0 {
				t.Errorf("the caller was given %d references", len(got))
			}
			s.wantPairs(s.relay)
		})
	}
}

// Whatever a handler makes of a refusal further on, its caller and its record see the same code.
func TestWrappedRefusalIsRecordedAsThePeerSeesIt(t *testing.T) {
	s := newScene(t)
	_, refusal := s.client.Unary(s.grant(), &meshpb.UnaryRequest{Resource: []string{"elsewhere"}})
	wantReason(t, refusal, v1.Reason_REASON_SCOPE)
	before := s.calls(s.writer, meshpb.MeshService_Unary_FullMethodName, v1.EventDirection_EVENT_DIRECTION_INBOUND)
	for name, fail := range map[string]error{
		"bare":           refusal,
		"wrapped":        fmt.Errorf("upstream: %w", refusal),
		"joined":         errors.Join(errors.New(canary), refusal),
		"wrapped status": fmt.Errorf("upstream: %w", status.Error(codes.AlreadyExists, canary)),
	} {
		t.Run(name, func(t *testing.T) {
			s.node.unary = func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) { return nil, fail }
			_, err := s.call(s.grant())
			if err == nil || strings.Contains(err.Error(), canary) {
				t.Errorf("the peer sees %v", err)
			}
			for id, evs := range s.calls(s.writer, meshpb.MeshService_Unary_FullMethodName, v1.EventDirection_EVENT_DIRECTION_INBOUND) {
				if before[id] == nil && evs[1].GetOutcome().GetCode() != uint32(status.Code(err)) {
					t.Errorf("recorded code %d, the peer saw %v", evs[1].GetOutcome().GetCode(), err)
				}
				before[id] = evs
			}
		})
	}
}

// preface is how a client of HTTP/2 begins: RFC 9113, section 3.4, with empty SETTINGS.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// connected returns a connection to addr, over mTLS as from, on which the client's preface is sent.
func (s *scene) connected(from, to *runtime.Agent, addr string) net.Conn {
	s.t.Helper()
	d := &tls.Dialer{Config: identity.ClientTLS(from.Source(), to.ID())}
	conn, err := d.DialContext(ctx0(s.t), "tcp", addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.WriteString(conn, preface); err != nil {
		s.t.Fatal(err)
	}
	return conn
}

// What one connection can make a server hold before a message is complete is bounded by its streams.
func TestConnectionsHaveFewStreams(t *testing.T) {
	const settings, concurrentStreams = 4, 3
	s := newScene(t, agenttest.Config(withEdge))
	for name, tt := range map[string]struct {
		addr string
		want uint32
	}{"grpc": {s.writer.Addr(), 128}, "edge": {s.writer.EdgeAddr(), 64}} {
		conn := s.connected(s.relay, s.writer, tt.addr)
		head := make([]byte, 9)
		if _, err := io.ReadFull(conn, head); err != nil || head[3] != settings {
			t.Fatalf("%s: the first frame is %x, %v", name, head, err)
		}
		body := make([]byte, int(head[1])<<8|int(head[2]))
		if _, err := io.ReadFull(conn, body); err != nil {
			t.Fatal(err)
		}
		got := uint32(1<<32 - 1)
		for ; len(body) >= 6; body = body[6:] {
			if binary.BigEndian.Uint16(body) == concurrentStreams {
				got = binary.BigEndian.Uint32(body[2:])
			}
		}
		if got > tt.want {
			t.Errorf("%s: %d streams on one connection, want at most %d", name, got, tt.want)
		}
	}
}

// A peer that is verified and not admitted is told why, and does not stay.
func TestRefusedPeerIsDisconnected(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.SetState(s.relay, identity.StateSuspended)
	_, err := s.exchange(s.relay, s.writer).Present(ctx0(t), &rpcv1.PresentRequest{})
	if got := reasonIn(err); got != v1.Reason_REASON_AGENT_STATE {
		t.Errorf("a refused peer is told %v, want AGENT_STATE", err)
	}
	_, err = io.Copy(io.Discard, s.connected(s.relay, s.writer, s.writer.Addr()))
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		t.Errorf("the connection of a refused peer is open after %v", patience)
	}
}
