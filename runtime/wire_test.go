package runtime_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// bytesCodec sends bytes as they are.
type bytesCodec struct{ encoding.CodecV2 }

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, _ := v.([]byte)
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (bytesCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

func TestBadInputIsRefusedAndTheProcessGoesOn(t *testing.T) {
	s := newScene(t)
	good := func(change func(*v1.Envelope)) []byte {
		env := s.envelope(s.ctx)
		change(env)
		raw, err := proto.Marshal(env)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	keep := func(*v1.Envelope) {}
	tests := []struct {
		name   string
		raw    []byte
		ctx    func(context.Context) context.Context
		code   codes.Code
		reason v1.Reason // 0: grpc itself refuses, before there is a call
	}{
		{"nothing", nil, nil, codes.Unimplemented, v1.Reason_REASON_UNKNOWN_METHOD},
		{"malformed protobuf", []byte("\xff\xff\xff\xff"), nil, codes.Internal, 0},
		{"a truncated envelope", good(keep)[:200], nil, codes.Internal, 0},
		{"oversize", make([]byte, interceptors.MaxEnvelope+1), nil, codes.ResourceExhausted, 0},
		{"wrong frame kind", good(func(e *v1.Envelope) { e.Kind = v1.FrameKind_FRAME_KIND_RESULT }), nil, codes.InvalidArgument, v1.Reason_REASON_MALFORMED},
		{"a frame of a session", good(func(e *v1.Envelope) { e.Kind, e.Call, e.HalfClose = v1.FrameKind_FRAME_KIND_MESSAGE, 3, false }), nil, codes.InvalidArgument, v1.Reason_REASON_MALFORMED},
		{"no payload type", good(func(e *v1.Envelope) { e.PayloadType = "" }), nil, codes.InvalidArgument, v1.Reason_REASON_MALFORMED},
		{"payload that does not decode", good(func(e *v1.Envelope) {
			e.Payload = []byte("\xff\xff")
		}), nil, codes.InvalidArgument, v1.Reason_REASON_DIGEST_MISMATCH},
		{"another payload", good(func(e *v1.Envelope) { e.Payload = append(e.Payload, 8, 1) }), nil, codes.InvalidArgument, v1.Reason_REASON_DIGEST_MISMATCH},
		{"payload over the limit", good(func(e *v1.Envelope) { e.Payload = make([]byte, interceptors.MaxPayload+1) }), nil, codes.InvalidArgument, v1.Reason_REASON_MALFORMED},
		{"no id", good(func(e *v1.Envelope) { e.Id = nil }), nil, codes.InvalidArgument, v1.Reason_REASON_MALFORMED},
		{"no chain", good(func(e *v1.Envelope) { e.Chain = nil }), nil, codes.InvalidArgument, v1.Reason_REASON_MALFORMED},
		{"no deadline", good(func(e *v1.Envelope) { e.DeadlineUnixMs = 0 }), nil, codes.InvalidArgument, v1.Reason_REASON_MALFORMED},
		{"deadline far ahead", good(func(e *v1.Envelope) { e.DeadlineUnixMs += 3_600_000 }), nil, codes.InvalidArgument, v1.Reason_REASON_MALFORMED},
		{"another recipient", good(func(e *v1.Envelope) { e.Recipient = s.relay.ID().String() }), nil, codes.PermissionDenied, v1.Reason_REASON_AUDIENCE_MISMATCH},
		{"another tenant", good(func(e *v1.Envelope) { e.Tenant = "globex" }), nil, codes.PermissionDenied, v1.Reason_REASON_TENANT_MISMATCH},
		{"a method of 1 MB", good(func(e *v1.Envelope) { e.Method = "/" + strings.Repeat("m", 1<<20) }), nil, codes.Unimplemented, v1.Reason_REASON_UNKNOWN_METHOD},
		{"1 MB of metadata pairs", good(func(e *v1.Envelope) {
			for range 5000 {
				e.Metadata = append(e.Metadata, &v1.Pair{Key: "k", Value: make([]byte, 200)})
			}
		}), nil, codes.InvalidArgument, v1.Reason_REASON_MALFORMED},
		{"1 MB of headers", good(keep), func(ctx context.Context) context.Context {
			return metadata.AppendToOutgoingContext(ctx, "x-big", strings.Repeat("v", 1<<20))
		}, codes.Internal, 0},
	}
	cc := s.raw(s.relay, s.writer)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx := within(t, t.Context())
			if tt.ctx != nil {
				ctx = tt.ctx(ctx)
			}
			err := cc.Invoke(ctx, rpcv1.ExchangeService_Deliver_FullMethodName, tt.raw, nil, grpc.ForceCodecV2(bytesCodec{}))
			wantCode(t, err, tt.code)
			if got := reasonIn(err); got != tt.reason {
				t.Errorf("reason %s (%v), want %s", got, err, tt.reason)
			}
			if err := cc.Invoke(ctx0(t), rpcv1.ExchangeService_Deliver_FullMethodName, good(keep), nil, grpc.ForceCodecV2(bytesCodec{})); err != nil {
				t.Errorf("a valid call afterwards: %v", err)
			}
		})
	}
	s.wantPairs(s.writer)
	refused := 0
	for _, ev := range s.Records(s.writer) {
		if ev.GetKind() == v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED {
			refused++
		}
	}
	if refused < 3 {
		t.Errorf("%d records of what grpc refused itself, want at least 3", refused)
	}
}

func ctx0(t *testing.T) context.Context { return within(t, t.Context()) }

// reasonIn returns the reason in a status that came over a connection without a runtime.
func reasonIn(err error) v1.Reason {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(interface{ GetReason() string }); ok {
			return v1.Reason(v1.Reason_value["REASON_"+info.GetReason()])
		}
	}
	return 0
}

// What one process admitted is refused by the next one of the same identity: the replay set is rebuilt from the audit log.
func TestReplayAfterRestartIsRefused(t *testing.T) {
	s := prepareScene(t)
	tp := &tape{}
	s.Tap(tp.see)
	s.start()
	s.mustCall(s.ctx)
	s.Revoke("mesh.call")
	_, err := s.call(s.grant()) // under a chain of its own, which is sent in full
	wantReason(t, err, v1.Reason_REASON_POLICY)
	s.Allow(s.relay, s.writer, "mesh.call", "mesh")
	sent := tp.requests(meshpb.MeshService_Unary_FullMethodName)
	admitted, denied := sent[0], sent[1]
	_, err = s.exchange(s.relay, s.writer).Deliver(ctx0(t), admitted)
	wantReplayed(t, err)
	s.again()
	x := s.exchange(s.relay, s.writer)
	_, err = x.Deliver(ctx0(t), admitted)
	wantReplayed(t, err)
	// What was denied burnt nothing, and may come again once it is permitted; then it is spent too.
	if _, err := x.Deliver(ctx0(t), denied); err != nil {
		t.Errorf("a message that was denied before: %v", err)
	}
	_, err = x.Deliver(ctx0(t), denied)
	wantReplayed(t, err)
	s.wantPairs(s.writer)
}

func wantReplayed(t *testing.T, err error) {
	t.Helper()
	if got := reasonIn(err); got != v1.Reason_REASON_REPLAYED {
		t.Errorf("replayed bytes: %v, want REPLAYED", err)
	}
}

func TestStolenEnvelopeIsRefused(t *testing.T) {
	s := newScene(t)
	thief := s.Agent("thief")
	_, err := s.exchange(thief, s.writer).Deliver(ctx0(t), s.envelope(s.ctx))
	if got := reasonIn(err); got != v1.Reason_REASON_PRESENTER_MISMATCH {
		t.Errorf("another agent's envelope: %v, want PRESENTER_MISMATCH", err)
	}
}

// edgeClient is an HTTP client without a runtime, over mTLS as from.
func edgeClient(t *testing.T, from, to *runtime.Agent) *http.Client {
	t.Helper()
	cfg := identity.ClientTLS(from.Source(), to.ID())
	cfg.NextProtos = []string{"http/1.1"}
	tr := &http.Transport{TLSClientConfig: cfg}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

func TestEdgeDeliversJSONOverHTTP(t *testing.T) {
	s := newScene(t, agenttest.Config(func(c *runtime.Config) { c.Edge = "127.0.0.1:0" }))
	post := func(client *http.Client, env *v1.Envelope) (int, []byte) {
		raw, err := protojson.Marshal(env)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(ctx0(t), http.MethodPost, "https://"+s.writer.EdgeAddr()+rpcv1.ExchangeService_Deliver_FullMethodName, bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() // read to its end
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body
	}
	env := s.envelope(s.ctx)
	client := edgeClient(t, s.relay, s.writer)
	code, body := post(client, env)
	var res v1.Envelope
	var reply meshpb.UnaryResponse
	if code != http.StatusOK || protojson.Unmarshal(body, &res) != nil || proto.Unmarshal(res.GetPayload(), &reply) != nil || reply.GetText() != "done" {
		t.Errorf("status %d, body %s", code, body)
	}
	code, body = post(client, env)
	var refusal struct {
		Code    string
		Details []struct{ Type, Value string }
	}
	if err := json.Unmarshal(body, &refusal); err != nil || code != http.StatusConflict || refusal.Code != "already_exists" || len(refusal.Details) != 1 {
		t.Errorf("the same envelope again: status %d, body %s", code, body)
	}
	s.node.unary = func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		return nil, status.Error(codes.NotFound, "no such note")
	}
	if code, body = post(client, s.envelope(s.ctx)); code != http.StatusNotFound || !strings.Contains(string(body), "no such note") {
		t.Errorf("an author's status over the edge: status %d, body %s", code, body)
	}
	bare := edgeClient(t, s.relay, s.writer)
	bare.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{}, nil
	}
	if resp, err := bare.Get("https://" + s.writer.EdgeAddr() + "/"); err == nil {
		_ = resp.Body.Close()
		t.Error("the edge answered a client without an SVID")
	}
	s.wantPairs(s.writer)
}

func TestReplyBytesAreOnlyReadAsWhatTheyAre(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reply *v1.Envelope
		code  codes.Code
	}{
		{"another frame", &v1.Envelope{Kind: v1.FrameKind_FRAME_KIND_OPEN}, codes.Internal},
		{"another type", &v1.Envelope{Kind: v1.FrameKind_FRAME_KIND_RESULT, PayloadType: "mesh.v1.OpenResponse"}, codes.Internal},
		{"bytes that do not decode", &v1.Envelope{Kind: v1.FrameKind_FRAME_KIND_RESULT, PayloadType: "mesh.v1.UnaryResponse", Payload: []byte("\xff")}, codes.Internal},
		{"text that is not UTF-8", &v1.Envelope{
			Kind: v1.FrameKind_FRAME_KIND_RESULT, PayloadType: "mesh.v1.UnaryResponse", Context: []*v1.ContextRef{{MediaType: "\xff"}},
		}, codes.Internal},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, s := newForgetful(t, 0)
			f.reply = tt.reply
			_, err := s.call(s.ctx)
			wantCode(t, err, tt.code)
			s.wantPairs(s.relay)
		})
	}
}

// The words of a refusal are the runtime's own: a callee cannot say anything to its caller by refusing.
func TestRefusalHasNoWordsOfItsSender(t *testing.T) {
	f, s := newForgetful(t, 0)
	st := status.New(codes.PermissionDenied, canary)
	with, err := st.WithDetails(errorInfo(v1.Reason_REASON_POLICY))
	if err != nil {
		t.Fatal(err)
	}
	f.fail = with.Err()
	_, err = s.call(s.ctx)
	r := refusalOf(t, err)
	if r.Reason != v1.Reason_REASON_POLICY || strings.Contains(status.Convert(err).Message(), canary) || strings.Contains(err.Error(), canary) {
		t.Errorf("refusal %v with text %q", err, status.Convert(err).Message())
	}
	wantIntegrity(t, s.ctx, attested)
}

func TestTapShowsStreams(t *testing.T) {
	s := prepareScene(t)
	tp := &tape{}
	s.Tap(tp.see)
	s.start()
	stream, err := s.client.ServerStream(s.ctx, &meshpb.ServerStreamRequest{Resource: mesh(), Behave: canary})
	if _, err := down(t, stream, err); err != nil {
		t.Fatal(err)
	}
	tp.mu.Lock()
	defer tp.mu.Unlock()
	if !slices.ContainsFunc(tp.messages, func(m agenttest.Message) bool { return !m.Reply && bytes.Contains(m.Raw, []byte(canary)) }) {
		t.Errorf("the request of a stream is not among %d messages", len(tp.messages))
	}
}
