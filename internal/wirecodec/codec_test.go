package wirecodec_test

import (
	"bytes"
	"testing"
	"unicode/utf8"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/wirecodec"
)

// full is an Envelope with every field set that a request, a reply or a frame of a session has.
func full() *v1.Envelope {
	label := &v1.Label{
		Integrity: v1.Integrity_INTEGRITY_ATTESTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL,
		Readers: []string{"a", "b"}, Tags: []string{"t"}, Sources: []string{"s"}, SourcesTruncated: true,
	}
	id := bytes.Repeat([]byte{7}, 16)
	st := &v1.SignedStatement{Payload: []byte("payload"), Signature: bytes.Repeat([]byte{1}, 64), CertRef: 1}
	return &v1.Envelope{
		Kind: v1.FrameKind_FRAME_KIND_OPEN, Call: 1 << 40, Seq: 3, HalfClose: true, Payload: bytes.Repeat([]byte("p"), 1<<10), Id: id,
		Method: "/mesh.v1.MeshService/Unary", PayloadType: "mesh.v1.UnaryRequest",
		Intent:   &v1.Intent{Action: "mesh.call", Resource: []string{"mesh", "below"}, Purpose: "tests", ArgumentsDigest: id},
		ChainRef: bytes.Repeat([]byte{9}, 32),
		Chain: &v1.DelegationChain{
			Grant: st, Hops: []*v1.SignedStatement{st, st}, Certs: []*v1.CertChain{{Leaf: []byte("leaf"), Intermediates: [][]byte{[]byte("ca"), {}}}},
		},
		Context: []*v1.ContextRef{{
			Store: "spiffe://mesh.example/service/memory", Tenant: "acme", Commitment: id, Size: 9, GrantDsse: []byte("dsse"), MediaType: "text/plain", Label: label,
			Ref: &v1.KeyRef{Ns: &v1.Path{Labels: []string{"shared"}}, Key: []byte("k"), Version: 2},
		}},
		Control: label, Data: []*v1.DataLabel{{Ref: 1, Field: "text", Label: label}}, DeadlineUnixMs: -1, TimeoutMs: 1 << 31, Tenant: "acme",
		Conversation: id, Causation: id, IdempotencyKey: "k", Recipient: "spiffe://mesh.example/tenant/acme/agent/writer",
		Delivery: v1.Delivery_DELIVERY_STORED, Proof: &v1.InvocationProof{Statement: proto.CloneOf(st), Certs: []*v1.CertChain{{Leaf: id}}},
		Trace: &v1.TraceContext{TraceId: id, SpanId: id[:8], Flags: 1, State: "a=b"}, Status: []byte("status"), Credit: 5,
		Metadata: []*v1.Pair{{Key: "k", Value: []byte("v")}}, Audit: &v1.AuditReceipt{LogId: id, Seq: 4, LeafHash: id, BootId: id}, Receipt: st,
		Critical: []uint32{5, 300}, Hello: &v1.Hello{Protocol: 1, Session: id, Features: []string{"f"}, Software: "s"}, Goaway: &v1.GoAway{LastCall: 1, Reason: 2},
		NoPayload: true, CallerAudit: &v1.AuditReceipt{Seq: 1}, Endorsements: []*v1.SignedStatement{st},
	}
}

func TestBothCodecsWriteTheSameMessage(t *testing.T) {
	c := wirecodec.New()
	for name, env := range map[string]*v1.Envelope{"empty": {}, "full": full(), "large": {Payload: make([]byte, 1<<20)}} {
		data, err := c.Marshal(env)
		if err != nil {
			t.Fatal(err)
		}
		if data.Len() != proto.Size(env) {
			t.Errorf("%s: %d bytes, want %d", name, data.Len(), proto.Size(env))
		}
		var std, fast v1.Envelope
		if err := proto.Unmarshal(data.Materialize(), &std); err != nil || !proto.Equal(&std, env) {
			t.Errorf("%s: the standard codec reads %v, error %v", name, &std, err)
		}
		if err := c.Unmarshal(data, &fast); err != nil || !proto.Equal(&fast, env) {
			t.Errorf("%s: read back as %v, error %v", name, &fast, err)
		}
		data.Free()
	}
}

func TestNothingOfTheLastMessageOrOfTheBufferStays(t *testing.T) {
	raw, err := proto.Marshal(full())
	if err != nil {
		t.Fatal(err)
	}
	c, env := wirecodec.New(), full()
	env.Seq, env.Payload = 77, []byte("of the last call, and longer than what comes")
	for name, data := range map[string]mem.BufferSlice{
		"one buffer":  {mem.SliceBuffer(raw)},
		"two buffers": {mem.SliceBuffer(bytes.Clone(raw[:100])), mem.SliceBuffer(bytes.Clone(raw[100:]))},
		"none":        nil,
	} {
		want := &v1.Envelope{}
		if name != "none" {
			want = full()
		}
		if err := c.Unmarshal(data, env); err != nil {
			t.Fatal(err)
		}
		for _, b := range data {
			clear(b.ReadOnlyData()) // as if grpc used the buffer again
		}
		if !proto.Equal(env, want) {
			t.Errorf("%s: %v", name, env)
		}
		copy(raw, must(proto.Marshal(full())))
	}
}

// A small message is decoded in place. Appending to one part of it must not change another.
func TestBytesDoNotReachIntoEachOther(t *testing.T) {
	raw := must(proto.Marshal(full()))
	var env v1.Envelope
	if err := wirecodec.New().Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, &env); err != nil {
		t.Fatal(err)
	}
	found := 0
	var walk func(m protoreflect.Message)
	walk = func(m protoreflect.Message) {
		m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			each := func(v protoreflect.Value) {
				switch {
				case fd.Message() != nil:
					walk(v.Message())
				case fd.Kind() == protoreflect.BytesKind:
					found++
					if b := v.Bytes(); cap(b) != len(b) {
						t.Errorf("%s has room for %d bytes more", fd.FullName(), cap(b)-len(b))
					}
				}
			}
			if !fd.IsList() {
				each(v)
				return true
			}
			for i := range v.List().Len() {
				each(v.List().Get(i))
			}
			return true
		})
	}
	walk(env.ProtoReflect())
	if found < 30 {
		t.Errorf("%d bytes fields found", found)
	}
}

func TestFrameIsUsedAgain(t *testing.T) {
	c, sent := wirecodec.New(), 0
	f := &wirecodec.Frame{Sent: func(f *wirecodec.Frame) { sent++; f.Reset() }}
	f.Envelope.Payload, f.Envelope.Method = append(f.Buffer, "payload"...), "/m"
	data, err := c.Marshal(f)
	if err != nil || sent != 1 || f.Envelope.GetMethod() != "" {
		t.Fatalf("marshal: error %v, %d times sent, left %v", err, sent, &f.Envelope)
	}
	var into wirecodec.Frame
	if err := c.Unmarshal(data, &into); err != nil || string(into.Envelope.GetPayload()) != "payload" || into.Envelope.GetMethod() != "/m" {
		t.Fatalf("unmarshal: %v, error %v", &into.Envelope, err)
	}
	first := &into.Buffer[0]
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer("\x2a\x03new")}, &into); err != nil || string(into.Envelope.GetPayload()) != "new" || into.Envelope.GetMethod() != "" {
		t.Fatalf("the next message: %v, error %v", &into.Envelope, err)
	}
	if &into.Envelope.GetPayload()[0] != first {
		t.Error("the buffer is not used again")
	}
	if err := c.Unmarshal(nil, &into); err != nil || len(into.Envelope.GetPayload()) != 0 {
		t.Errorf("an empty message has payload %q, error %v", into.Envelope.GetPayload(), err)
	}
	if got := wirecodec.Keep(make([]byte, 1<<20)); got != nil {
		t.Errorf("a buffer of %d bytes is kept", cap(got))
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestOtherMessagesKeepTheStandardCodec(t *testing.T) {
	c := wirecodec.New()
	if c.Name() != "proto" {
		t.Errorf("name %q", c.Name())
	}
	in := &healthpb.HealthCheckRequest{Service: "mesh"}
	data, err := c.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out healthpb.HealthCheckRequest
	if err := c.Unmarshal(data, &out); err != nil || out.GetService() != "mesh" {
		t.Errorf("read back %v, error %v", &out, err)
	}
	if _, err := c.Marshal(&healthpb.HealthCheckRequest{Service: "\xff"}); err == nil {
		t.Error("a string that is not UTF-8 is written")
	}
	if _, err := c.Marshal("no message"); err == nil {
		t.Error("a string is no message")
	}
	if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer("\x0a\x01\xff")}, &out); err == nil {
		t.Error("a string that is not UTF-8 is read")
	}
}

// The generated code has no limit of nesting, so no message of an Envelope may contain itself.
func TestEnvelopeDoesNotNest(t *testing.T) {
	var walk func(d protoreflect.MessageDescriptor, above []protoreflect.FullName)
	walk = func(d protoreflect.MessageDescriptor, above []protoreflect.FullName) {
		for _, a := range above {
			if a == d.FullName() {
				t.Fatalf("%s contains itself, through %v", a, above)
			}
		}
		for i := range d.Fields().Len() {
			if m := d.Fields().Get(i).Message(); m != nil {
				walk(m, append(above, d.FullName()))
			}
		}
	}
	walk((&v1.Envelope{}).ProtoReflect().Descriptor(), nil)
}

// FuzzCodecsAgree holds the generated code against the standard codec. They may differ in four ways, all named in the comment of New or
// stricter: strings that are not UTF-8; varints and field numbers that are cut off; a known field of another wire type, which the
// standard codec keeps as unknown and the generated code refuses.
func FuzzCodecsAgree(f *testing.F) {
	raw := must(proto.Marshal(full()))
	f.Add(raw)
	f.Add(must(proto.Marshal(&v1.Envelope{Payload: []byte("p"), ChainRef: bytes.Repeat([]byte{1}, 32)})))
	f.Add(append(bytes.Clone(raw), raw...)) // every message merged with itself
	f.Add([]byte("\xc2\x3e\x01\x01"))       // unknown field
	f.Add([]byte("\x2b\x08\x01\x2c"))       // a group in place of bytes
	f.Add([]byte("\x3a\x01\xff"))
	f.Add([]byte("\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	c := wirecodec.New()
	f.Fuzz(func(t *testing.T, raw []byte) {
		var std, fast v1.Envelope
		stdErr := proto.Unmarshal(raw, &std)
		fastErr := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, &fast)
		d := std.ProtoReflect().Descriptor()
		switch {
		case stdErr == nil && fastErr == nil:
			data, err := c.Marshal(&fast)
			if err != nil || data.Len() != proto.Size(&fast) {
				t.Fatalf("marshals to %d bytes, want %d, error %v", data.Len(), proto.Size(&fast), err)
			}
			var again v1.Envelope
			// Through the standard codec, which writes the tags of unknown fields anew.
			if err := proto.Unmarshal(data.Materialize(), &again); err != nil || !proto.Equal(&again, &std) {
				t.Errorf("two messages from one, error %v:\n%v\n%v", err, &std, &again)
			}
		case stdErr == nil:
			if !otherType(std.ProtoReflect()) {
				t.Errorf("refused: %v", fastErr)
			}
		case fastErr == nil:
			if wellFormed(d, raw) {
				t.Errorf("taken, while the standard codec says: %v", stdErr)
			}
		}
	})
}

// otherType reports whether an unknown field of m or below has the number of a known one.
func otherType(m protoreflect.Message) bool {
	for raw := m.GetUnknown(); len(raw) > 0; {
		num, _, n := protowire.ConsumeField(raw)
		if n < 0 || m.Descriptor().Fields().ByNumber(num) != nil {
			return true
		}
		raw = raw[n:]
	}
	found := false
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil:
		case fd.IsList():
			for i := range v.List().Len() {
				found = found || otherType(v.List().Get(i).Message())
			}
		default:
			found = found || otherType(v.Message())
		}
		return !found
	})
	return found
}

// wellFormed reports whether raw is fields in valid encoding, down to every message of d, with text in UTF-8.
func wellFormed(d protoreflect.MessageDescriptor, raw []byte) bool {
	for len(raw) > 0 {
		num, typ, n := protowire.ConsumeField(raw)
		if n < 0 || num > protowire.MaxValidNumber {
			return false
		}
		field := raw[:n]
		raw = raw[n:]
		fd := d.Fields().ByNumber(num)
		if fd == nil || typ != protowire.BytesType {
			continue
		}
		_, _, tag := protowire.ConsumeTag(field)
		body, _ := protowire.ConsumeBytes(field[tag:])
		switch {
		case fd.Kind() == protoreflect.StringKind && !utf8.Valid(body),
			fd.Message() != nil && !wellFormed(fd.Message(), body),
			fd.IsPacked() && !varints(body):
			return false
		}
	}
	return true
}

func varints(raw []byte) bool {
	for len(raw) > 0 {
		_, n := protowire.ConsumeVarint(raw)
		if n < 0 {
			return false
		}
		raw = raw[n:]
	}
	return true
}

func BenchmarkEnvelope(b *testing.B) {
	env := full()
	env.Chain = nil
	c := wirecodec.New()
	b.Run("marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			data, err := c.Marshal(env)
			if err != nil {
				b.Fatal(err)
			}
			data.Free()
		}
	})
	b.Run("unmarshal", func(b *testing.B) {
		data := mem.BufferSlice{mem.SliceBuffer(must(proto.Marshal(env)))}
		b.ReportAllocs()
		for b.Loop() {
			if err := c.Unmarshal(data, new(v1.Envelope)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A payload that lies in memory of its own makes no other message than one that lies with the rest.
func FuzzRequestIsTheEnvelope(f *testing.F) {
	raw := must(proto.Marshal(full()))
	f.Add(raw)
	f.Add(raw[:300])
	f.Add(append(bytes.Clone(raw), raw...)) // two payloads
	f.Add([]byte("\x2a\x00"))               // an empty one
	f.Add([]byte("\x28\x01\x2a\x01p"))      // one of another type
	f.Add([]byte("\x3a\x01m\x2a\x01p\xc2\x3e\x01\x01"))
	f.Add([]byte("\x2a\x7f"))
	f.Add([]byte{}) // must not find what the buffer held before
	c := wirecodec.New()
	f.Fuzz(func(t *testing.T, raw []byte) {
		var want v1.Envelope
		var frame wirecodec.Frame
		req := wirecodec.Request{Buffer: make([]byte, 2, 8)}
		data := mem.BufferSlice{mem.SliceBuffer(bytes.Clone(raw))}
		err := c.Unmarshal(data, &want)
		errs := []error{c.Unmarshal(data, &req), c.Unmarshal(data, &frame)}
		clear(data[0].ReadOnlyData()) // as if grpc used the buffer again
		for i, got := range []*v1.Envelope{req.Envelope, &frame.Envelope} {
			if (errs[i] == nil) != (err == nil) || err == nil && !proto.Equal(got, &want) {
				t.Errorf("%d: %v, error %v, want %v, error %v", i, got, errs[i], &want, err)
			}
			if p := got.GetPayload(); err == nil && len(p) != cap(p) && len(p) > 0 && i == 0 && &p[0] != &req.Buffer[0] {
				t.Error("the payload lies elsewhere")
			}
		}
	})
}

func TestRequestIsUsedAgain(t *testing.T) {
	c, req := wirecodec.New(), wirecodec.Request{}
	receive := func(payload string) *v1.Envelope {
		data := mem.BufferSlice{mem.SliceBuffer(must(proto.Marshal(&v1.Envelope{Payload: []byte(payload), Method: "/" + payload})))}
		if err := c.Unmarshal(data, &req); err != nil || string(req.Envelope.GetPayload()) != payload {
			t.Fatalf("%q, error %v", req.Envelope.GetPayload(), err)
		}
		return req.Envelope
	}
	first := receive("a longer payload")
	at := &req.Buffer[0]
	first.Payload = nil // as its owner does
	second := receive("short")
	if &req.Buffer[0] != at {
		t.Error("the buffer is not used again")
	}
	if first.GetMethod() != "/a longer payload" || first == second {
		t.Errorf("the first Envelope became %v", first)
	}
}
