package interceptors_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
)

const (
	malformed = v1.Reason_REASON_MALFORMED
	extension = v1.Reason_REASON_EXTENSION_UNKNOWN
)

func text(n int) string { return strings.Repeat("x", n) }

func repeat[T any](n int, v T) []T { return slices.Repeat([]T{v}, n) }

// refOf returns a context reference of exactly n bytes.
func refOf(n int) *v1.ContextRef {
	r := &v1.ContextRef{GrantDsse: make([]byte, n-20)}
	for proto.Size(r) < n {
		r.GrantDsse = append(r.GrantDsse, 0)
	}
	return r
}

func pairs(n, size int) (out []*v1.Pair) {
	for i := range n {
		out = append(out, &v1.Pair{Key: fmt.Sprintf("%02d", i), Value: make([]byte, size-2)})
	}
	return out
}

// Each bound of the envelope: at the limit the call passes, one above it is refused, and no signature was looked at.
func TestEnvelopeBounds(t *testing.T) {
	tests := []struct {
		name     string
		atLimit  func(*v1.Envelope)
		oneAbove func(*v1.Envelope)
		want     v1.Reason
	}{
		{"id", func(*v1.Envelope) {}, func(e *v1.Envelope) { e.Id = make([]byte, 17) }, malformed},
		{"id short", nil, func(e *v1.Envelope) { e.Id = make([]byte, 15) }, malformed},
		{"no id", nil, func(e *v1.Envelope) { e.Id = nil }, malformed},
		{"method", nil, func(e *v1.Envelope) { e.Method = text(257) }, malformed},
		{"payload type", func(e *v1.Envelope) { e.PayloadType = text(256) }, func(e *v1.Envelope) { e.PayloadType = text(257) }, malformed},
		{"conversation", func(e *v1.Envelope) { e.Conversation = make([]byte, 16) }, func(e *v1.Envelope) { e.Conversation = make([]byte, 17) }, malformed},
		{"conversation short", nil, func(e *v1.Envelope) { e.Conversation = make([]byte, 1) }, malformed},
		{"causation", func(e *v1.Envelope) { e.Causation = make([]byte, 16) }, func(e *v1.Envelope) { e.Causation = make([]byte, 15) }, malformed},
		{"action", nil, func(e *v1.Envelope) { e.Intent.Action = text(65) }, malformed},
		{"purpose", nil, func(e *v1.Envelope) { e.Intent.Purpose = text(129) }, malformed},
		{"purpose with a newline", nil, func(e *v1.Envelope) { e.Intent.Purpose = "a\nb" }, malformed},
		{"purpose with DEL", nil, func(e *v1.Envelope) { e.Intent.Purpose = "a\x7f" }, malformed},
		{"purpose with a C1 control", nil, func(e *v1.Envelope) { e.Intent.Purpose = "a\u009b31m" }, malformed},
		{"purpose of a megabyte", nil, func(e *v1.Envelope) { e.Intent.Purpose = text(1 << 20) }, malformed},
		{"resource", nil, func(e *v1.Envelope) { e.Intent.Resource = repeat(18, "x") }, malformed},
		{"resource segment", nil, func(e *v1.Envelope) { e.Intent.Resource = []string{"mesh", text(129)} }, malformed},
		{"resource dots", nil, func(e *v1.Envelope) { e.Intent.Resource = []string{"mesh", ".."} }, malformed},
		{"tenant", nil, func(e *v1.Envelope) { e.Tenant = text(65) }, malformed},
		{"tenant with a control", nil, func(e *v1.Envelope) { e.Tenant = "acme\x00" }, malformed},
		{"recipient", nil, func(e *v1.Envelope) { e.Recipient = text(513) }, malformed},
		{"recipient with a control", nil, func(e *v1.Envelope) { e.Recipient = "\x1b[2J" }, malformed},
		{"chain reference", nil, func(e *v1.Envelope) { e.Chain, e.ChainRef = nil, make([]byte, 33) }, malformed},
		{"chain reference short", nil, func(e *v1.Envelope) { e.Chain, e.ChainRef = nil, make([]byte, 31) }, malformed},
		{"chain and reference", nil, func(e *v1.Envelope) { e.ChainRef = make([]byte, 32) }, malformed},
		{"neither chain nor reference", nil, func(e *v1.Envelope) { e.Chain = nil }, malformed},
		{"chain", nil, func(e *v1.Envelope) {
			e.Chain = proto.CloneOf(e.GetChain())
			e.Chain.Certs[0].Intermediates = repeat(17, make([]byte, 1<<10))
		}, malformed},
		{"hops", nil, func(e *v1.Envelope) {
			e.Chain = proto.CloneOf(e.GetChain())
			e.Chain.Hops = repeat(9, e.Chain.Hops[0])
		}, v1.Reason_REASON_CHAIN_TOO_LARGE},
		{"context references", func(e *v1.Envelope) { e.Context = repeat(32, refOf(64)) }, func(e *v1.Envelope) { e.Context = repeat(33, refOf(64)) }, malformed},
		{"context reference", func(e *v1.Envelope) { e.Context = repeat(1, refOf(8<<10)) }, func(e *v1.Envelope) { e.Context = repeat(1, refOf(8<<10+1)) }, malformed},
		{"data labels", func(e *v1.Envelope) { e.Data = repeat(32, &v1.DataLabel{}) }, func(e *v1.Envelope) { e.Data = repeat(33, &v1.DataLabel{}) }, malformed},
		{"idempotency key", nil, func(e *v1.Envelope) { e.IdempotencyKey = text(65) }, malformed},
		{"idempotency key at all", nil, func(e *v1.Envelope) { e.IdempotencyKey = "k" }, extension},
		{"timeout", func(e *v1.Envelope) { e.TimeoutMs = 24 * 3600 * 1000 }, func(e *v1.Envelope) { e.TimeoutMs = 24*3600*1000 + 1 }, malformed},
		{
			"trace", func(e *v1.Envelope) {
				e.Trace = &v1.TraceContext{TraceId: make([]byte, 16), SpanId: make([]byte, 8), State: text(256)}
			},
			func(e *v1.Envelope) {
				e.Trace = &v1.TraceContext{TraceId: make([]byte, 16), SpanId: make([]byte, 8), State: text(257)}
			}, malformed,
		},
		{"trace id", nil, func(e *v1.Envelope) { e.Trace = &v1.TraceContext{TraceId: make([]byte, 15), SpanId: make([]byte, 8)} }, malformed},
		{"span id", nil, func(e *v1.Envelope) { e.Trace = &v1.TraceContext{TraceId: make([]byte, 16), SpanId: make([]byte, 9)} }, malformed},
		{"metadata pairs", func(e *v1.Envelope) { e.Metadata = pairs(16, 3) }, func(e *v1.Envelope) { e.Metadata = pairs(17, 3) }, malformed},
		{"metadata bytes", func(e *v1.Envelope) { e.Metadata = pairs(16, 64) }, func(e *v1.Envelope) { e.Metadata = append(pairs(15, 64), pairs(1, 65)...) }, malformed},
		{"critical", func(e *v1.Envelope) { e.Critical = []uint32{6, 7, 9, 11, 13, 15, 17, 30} }, func(e *v1.Envelope) { e.Critical = []uint32{1, 6, 7, 9, 11, 13, 15, 17, 30} }, extension},
		{"critical that this version lacks", nil, func(e *v1.Envelope) { e.Critical = []uint32{33} }, extension},
		{"critical of a later version", nil, func(e *v1.Envelope) { e.Critical = []uint32{1000} }, extension},
		{"sequence", nil, func(e *v1.Envelope) { e.Seq = 1 }, malformed},
		{"status", nil, func(e *v1.Envelope) { e.Status = []byte{1} }, malformed},
		{"credit", nil, func(e *v1.Envelope) { e.Credit = 1 }, malformed},
		{"hello", nil, func(e *v1.Envelope) { e.Hello = &v1.Hello{} }, malformed},
		{"goaway", nil, func(e *v1.Envelope) { e.Goaway = &v1.GoAway{} }, malformed},
		{"the callee's receipt", nil, func(e *v1.Envelope) { e.Receipt = &v1.SignedStatement{} }, malformed},
		{"the callee's position", nil, func(e *v1.Envelope) { e.Audit = &v1.AuditReceipt{} }, malformed},
		{"stored delivery", nil, func(e *v1.Envelope) { e.Delivery = v1.Delivery_DELIVERY_STORED }, v1.Reason_REASON_PROOF_REQUIRED},
		{"delivery of a later version", nil, func(e *v1.Envelope) { e.Delivery = 7 }, extension},
		{"proof", nil, func(e *v1.Envelope) {
			e.Proof = &v1.InvocationProof{Statement: &v1.SignedStatement{Payload: make([]byte, 4<<10)}}
		}, malformed},
		{"endorsements", nil, func(e *v1.Envelope) { e.Endorsements = repeat(1, &v1.SignedStatement{}) }, extension},
		{"payload beside the request", nil, func(e *v1.Envelope) { e.Payload = []byte{1} }, malformed},
		{"digest beside the request", nil, func(e *v1.Envelope) { e.Intent.ArgumentsDigest = make([]byte, 32) }, malformed},
		{"no deadline", nil, func(e *v1.Envelope) { e.DeadlineUnixMs = 0 }, malformed},
		{"negative deadline", nil, func(e *v1.Envelope) { e.DeadlineUnixMs = -1 }, malformed},
		{"deadline of the year 292 million", nil, func(e *v1.Envelope) { e.DeadlineUnixMs = 1<<63 - 1 }, malformed},
		{"no intent", nil, func(e *v1.Envelope) { e.Intent = nil }, v1.Reason_REASON_INTENT_MISMATCH},
		{"unknown field", func(e *v1.Envelope) {
			e.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 900, protowire.VarintType), 1))
		}, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			if tt.atLimit != nil {
				e := s.envelope()
				tt.atLimit(e)
				if err := s.send(e); err != nil {
					t.Errorf("at the limit: %v", err)
				}
			}
			if tt.oneAbove == nil {
				return
			}
			e := s.envelope()
			e.Chain = s.newChain() // nothing of it is in a cache
			before := s.Signatures()
			tt.oneAbove(e)
			wantReason(t, "one above", s.send(e), tt.want)
			if n := s.Signatures() - before; n != 0 && tt.want != v1.Reason_REASON_INTENT_MISMATCH {
				t.Errorf("%d signatures were looked at", n)
			}
			if err := s.send(s.envelope()); err != nil {
				t.Errorf("the session after a refusal: %v", err)
			}
		})
	}
}

// Bounds that the chain must share, and resources that the request must have too.
func TestIntentBounds(t *testing.T) {
	s := newScene(t)
	e := s.envelope()
	e.Intent.Purpose = text(128)
	e.Chain = s.newChain(meshtest.Purpose(text(128)))
	if err := s.send(e); err != nil {
		t.Errorf("a purpose of 128 bytes: %v", err)
	}
	e = s.envelope()
	e.Intent.Purpose = "another purpose"
	wantReason(t, "another purpose than the chain's", s.send(e), v1.Reason_REASON_CHAIN_PURPOSE)

	deep := append([]string{"mesh"}, repeat(16, text(128))...)
	e = s.envelope()
	e.Intent.Resource = deep
	if err := s.serve(context.Background(), s.call(), &meshpb.UnaryRequest{Resource: deep, Envelope: e}, succeed); err != nil {
		t.Errorf("a resource of 17 segments of 128 bytes: %v", err)
	}
	e = s.envelope()
	e.Intent.Resource = []string{"mesh", "a"}
	wantReason(t, "a claim of another resource than the request's", s.send(e), v1.Reason_REASON_INTENT_MISMATCH)
	for name, resource := range map[string][]string{"18 segments": append(deep, "x"), "none": nil, "dots": {"mesh", ".."}} {
		err := s.serve(context.Background(), s.call(), &meshpb.UnaryRequest{Resource: resource, Envelope: s.envelope()}, succeed)
		if got := reason(t, err); got == 0 {
			t.Errorf("a request for a resource of %s is admitted", name)
		}
	}
}

func TestDeadlineBounds(t *testing.T) {
	tests := []struct {
		name  string
		ahead time.Duration
		want  v1.Reason
	}{
		{"passed by less than the skew", -29 * time.Second, 0},
		{"passed by more than the skew", -31 * time.Second, v1.Reason_REASON_DEADLINE},
		{"five minutes ahead", 5 * time.Minute, 0},
		{"five minutes and more than the skew ahead", 5*time.Minute + 31*time.Second, malformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			e := s.envelope()
			e.DeadlineUnixMs = s.Now().Add(tt.ahead).UnixMilli()
			wantReason(t, "the call", s.send(e), tt.want)
		})
	}
}

func TestEnvelopeInMetadata(t *testing.T) {
	s := newScene(t)
	meta := func(size int) []byte {
		e := s.Envelope(s.relay, foreign, "mesh.foreign")
		leaf, err := s.end.Present(t.Context(), s.call(), s.chain)
		if err != nil {
			t.Fatal(err)
		}
		link := leaf.Link()
		e.ChainRef = link[:]
		if size > 0 {
			e.Context = repeat(1, refOf(size-proto.Size(e)-8))
			for proto.Size(e) < size {
				e.Context[0].GrantDsse = append(e.Context[0].GrantDsse, 0)
			}
		}
		raw, err := proto.Marshal(e)
		if err != nil || size > 0 && len(raw) != size {
			t.Fatalf("envelope of %d bytes, want %d: %v", len(raw), size, err)
		}
		return raw
	}
	send := func(raw []byte) error {
		c := s.call()
		c.Procedure, c.Metadata = foreign, raw
		return s.serve(context.Background(), c, &meshpb.ForeignRequest{}, succeed)
	}
	if small := meta(0); len(small) > 200 {
		t.Errorf("a small envelope has %d bytes", len(small))
	}
	wantReason(t, "a small envelope", send(meta(0)), 0)
	wantReason(t, "4096 bytes", send(meta(4096)), 0)
	wantReason(t, "4097 bytes", send(meta(4097)), v1.Reason_REASON_LIMIT)
	wantReason(t, "no envelope", send(nil), v1.Reason_REASON_NO_ENVELOPE)
	err := send([]byte{0xff})
	wantReason(t, "garbage", err, malformed)
	wantCause(t, "garbage", err, "envelope in metadata")
	other := s.Enforcer(t, s.writer, meshMethods(t))
	raw := meta(0)
	s.session = s.Session(t, other, s.relay)
	s.end = other
	wantReason(t, "a reference of another connection", send(raw), v1.Reason_REASON_CHAIN_UNKNOWN)

	e := s.envelope()
	same, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	c := s.call()
	c.Metadata = same
	wantReason(t, "the same envelope twice", s.serve(context.Background(), c, request(e), succeed), 0)
	c.Metadata = same
	err = s.serve(context.Background(), c, request(s.envelope()), succeed)
	wantReason(t, "two different envelopes", err, malformed)
	wantCause(t, "two different envelopes", err, "two different envelopes")
}

func TestCarriedEnvelope(t *testing.T) {
	s := newScene(t)
	payload := func(n int) []byte {
		req := &meshpb.UnaryRequest{Resource: []string{"mesh"}, Behave: text(n - 11)}
		raw, err := proto.Marshal(req)
		for err == nil && len(raw) < n {
			req.Behave += "x"
			raw, err = proto.Marshal(req)
		}
		if err != nil || len(raw) != n {
			t.Fatalf("payload of %d bytes, want %d: %v", len(raw), n, err)
		}
		return raw
	}
	carried := func(raw []byte) *v1.Envelope {
		e := s.envelope()
		sum := sha256.Sum256(raw)
		e.Kind, e.HalfClose, e.Payload, e.PayloadType = v1.FrameKind_FRAME_KIND_OPEN, true, raw, "mesh.v1.UnaryRequest"
		e.Recipient, e.Intent.ArgumentsDigest = s.writer.String(), sum[:]
		return e
	}
	tests := []struct {
		name   string
		size   int
		change func(*v1.Envelope)
		want   v1.Reason
	}{
		{"small", 64, func(*v1.Envelope) {}, 0},
		{"one mebibyte", interceptors.MaxPayload, func(*v1.Envelope) {}, 0},
		{"one mebibyte and a byte", interceptors.MaxPayload + 1, func(*v1.Envelope) {}, malformed},
		{"kind 0", 64, func(e *v1.Envelope) { e.Kind = 0 }, malformed},
		{"kind of a later version", 64, func(e *v1.Envelope) { e.Kind = 99 }, malformed},
		{"kind MESSAGE", 64, func(e *v1.Envelope) { e.Kind = v1.FrameKind_FRAME_KIND_MESSAGE }, malformed},
		{"call id", 64, func(e *v1.Envelope) { e.Call = 1 }, malformed},
		{"not half closed", 64, func(e *v1.Envelope) { e.HalfClose = false }, malformed},
		{"no payload yet", 64, func(e *v1.Envelope) { e.NoPayload = true }, malformed},
		{"payload type", 64, func(e *v1.Envelope) { e.PayloadType = "mesh.v1.BidiRequest" }, malformed},
		{"no payload type", 64, func(e *v1.Envelope) { e.PayloadType = "" }, malformed},
		{"no recipient", 64, func(e *v1.Envelope) { e.Recipient = "" }, malformed},
		{"another recipient", 64, func(e *v1.Envelope) { e.Recipient = s.relay.String() }, v1.Reason_REASON_CHAIN_AUDIENCE},
		{"no digest", 64, func(e *v1.Envelope) { e.Intent.ArgumentsDigest = nil }, v1.Reason_REASON_DIGEST_MISMATCH},
		{"payload changed", 64, func(e *v1.Envelope) { e.Payload = bytes.Clone(e.Payload); e.Payload[63] = 'y' }, v1.Reason_REASON_DIGEST_MISMATCH},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.t = t
			e := carried(payload(tt.size))
			tt.change(e)
			run := func() (err error) {
				ctx, in, err := s.end.Open(t.Context(), s.call(), nil)
				defer in.Close(&err)
				if err != nil {
					return err
				}
				var req meshpb.UnaryRequest
				if err := in.CheckCarried(e); err != nil {
					return err
				}
				if err := proto.Unmarshal(e.GetPayload(), &req); err != nil {
					return err
				}
				_, err = in.AdmitCarried(ctx, e, &req)
				return err
			}
			wantReason(t, "the call", run(), tt.want)
		})
	}
	t.Run("an envelope inside the payload", func(t *testing.T) {
		e := carried(payload(64))
		ctx, in := s.opened(s.call())
		_, err := in.AdmitCarried(ctx, e, request(s.envelope()))
		wantReason(t, "the call", err, malformed)
	})
}

// FuzzEnvelope feeds any bytes as the envelope of a method that needs a chain: nothing panics and nothing is admitted.
func FuzzEnvelope(f *testing.F) {
	for _, e := range []*v1.Envelope{
		{},
		{Id: make([]byte, 16), Method: unary, Tenant: "acme", Intent: &v1.Intent{Action: "mesh.call", Purpose: meshtest.DefaultPurpose}},
		{
			Id: make([]byte, 16), Method: unary, Tenant: "acme", DeadlineUnixMs: time.Now().Add(time.Minute).UnixMilli(),
			Intent: &v1.Intent{Action: "mesh.call"}, ChainRef: make([]byte, 32), Control: &v1.Label{Integrity: 2, AnyReader: true},
		},
		{
			Id: make([]byte, 16), Method: unary, Tenant: "acme", DeadlineUnixMs: time.Now().Add(time.Minute).UnixMilli(),
			Chain: &v1.DelegationChain{Grant: &v1.SignedStatement{Payload: []byte{8, 1}, Signature: make([]byte, 64)}, Hops: repeat(2, &v1.SignedStatement{})},
		},
	} {
		raw, err := proto.Marshal(e)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	w := meshtest.New(f)
	relay, writer := w.Agent("acme", "relay"), w.Agent("acme", "writer")
	end := w.Enforcer(f, writer, meshMethods(f), func(c *interceptors.Config) {
		c.AgentBudget.Rate, c.AgentBudget.Burst = 1e9, 1e9
		c.TenantBudget = c.AgentBudget
	})
	session := w.Session(f, end, relay)
	f.Fuzz(func(t *testing.T, raw []byte) {
		defer end.Log.Reset()
		var env v1.Envelope
		inField := proto.Unmarshal(raw, &env) == nil
		for _, meta := range [][]byte{nil, raw} {
			c := &interceptors.Call{Session: session, Procedure: unary, Transport: interceptors.TransportGRPC, Metadata: meta}
			ctx, in, err := end.Open(t.Context(), c, nil)
			if err != nil {
				t.Fatal(err)
			}
			req := &meshpb.UnaryRequest{Resource: []string{"mesh"}}
			if meta == nil && inField {
				req.Envelope = &env
			}
			admitted, err := in.Admit(ctx, req)
			var d *interceptors.Denial
			if err == nil || admitted.Valid() || !errors.As(err, &d) {
				t.Fatalf("Admit(%x) = %v, %v", raw, admitted, err)
			}
			if d.Wire() == v1.Reason_REASON_INTERNAL {
				t.Errorf("Admit(%x) = %v: a panic or an unmapped reason", raw, d)
			}
			if _, ok := interceptors.PermitFrom(ctx); ok {
				t.Error("a refused message left a Permit")
			}
			in.Close(&err)
		}
	})
}
