package delegation_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	flags "flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

var update = flags.Bool("update", false, "write the vectors of the envelope digest again")

// order is the transcript as the specification lists it: paths from Envelope.
var order = []string{
	"id", "conversation", "causation", "tenant", "intent.action", "intent.resource", "intent.purpose", "intent.arguments_digest", "context", "control", "data",
	"deadline_unix_ms", "timeout_ms", "delivery", "critical", "idempotency_key", "method", "payload_type", "payload",
}

// elsewhere is every field of Envelope that is not in the transcript, and why it need not be.
var elsewhere = map[string]string{
	"chain": "bound by leaf_id", "chain_ref": "bound by leaf_id", "recipient": "bound by callee", "proof": "is the proof",
	"kind": "frame", "call": "frame", "seq": "frame", "half_close": "frame", "credit": "frame", "status": "frame", "hello": "frame", "goaway": "frame",
	"trace": "correlation only", "metadata": "never trusted", "audit": "of a reply", "receipt": "of a reply, signed itself", "caller_audit": "never authority",
	"no_payload": uncovered, "endorsements": uncovered,
}

// uncovered marks what has a meaning: there is no digest of an envelope that sets it.
const uncovered = "uncovered"

// frame writes one value as the specification says, from descriptors: it shares nothing with what it is compared with.
func frame(fd protoreflect.FieldDescriptor, v protoreflect.Value, set bool) []byte {
	framed := func(b []byte) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }
	if fd.IsList() {
		out := binary.BigEndian.AppendUint32(nil, uint32(v.List().Len()))
		for i := range v.List().Len() {
			out = append(out, frameOne(fd, v.List().Get(i), true, framed)...)
		}
		return out
	}
	return frameOne(fd, v, set, framed)
}

func frameOne(fd protoreflect.FieldDescriptor, v protoreflect.Value, set bool, framed func([]byte) []byte) []byte {
	number := func(n uint64) []byte { return framed(binary.BigEndian.AppendUint64(nil, n)) }
	switch fd.Kind() {
	case protoreflect.MessageKind:
		var body []byte
		if set {
			body = frameMessage(v.Message())
		}
		return framed(body)
	case protoreflect.BytesKind:
		return framed(v.Bytes())
	case protoreflect.StringKind:
		return framed([]byte(v.String()))
	case protoreflect.EnumKind:
		return number(uint64(int64(v.Enum())))
	case protoreflect.BoolKind:
		if v.Bool() {
			return number(1)
		}
		return number(0)
	case protoreflect.Int64Kind:
		return number(uint64(v.Int()))
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		return number(v.Uint())
	default:
		panic(fmt.Sprintf("the specification does not frame a %s", fd.Kind()))
	}
}

func frameMessage(m protoreflect.Message) []byte {
	var out []byte
	fields, last := m.Descriptor().Fields(), protoreflect.FieldNumber(0)
	for range fields.Len() {
		next := protoreflect.FieldDescriptor(nil)
		for i := range fields.Len() {
			if fd := fields.Get(i); fd.Number() > last && (next == nil || fd.Number() < next.Number()) {
				next = fd
			}
		}
		last = next.Number()
		out = append(out, frame(next, m.Get(next), m.Has(next))...)
	}
	return out
}

// specified is the transcript of e by the specification.
func specified(e *v1.Envelope) []byte {
	out := []byte("safeconduct/envelope/v1\x00")
	for _, path := range order {
		m := e.ProtoReflect()
		parent, name, nested := strings.Cut(path, ".")
		if nested {
			m = m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(parent))).Message()
		} else {
			name = parent
		}
		fd := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		v := m.Get(fd)
		if path == "payload" {
			sum := sha256.Sum256(v.Bytes())
			v = protoreflect.ValueOfBytes(sum[:])
		}
		out = append(out, frame(fd, v, m.Has(fd))...)
	}
	return out
}

// fill sets every field of m, also inside messages; lists get two elements.
func fill(m protoreflect.Message, seed *byte, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.ContainingOneof() != nil && m.WhichOneof(fd.ContainingOneof()) != nil || depth > 6 {
			continue
		}
		if !fd.IsList() {
			m.Set(fd, some(m.NewField(fd), fd, seed, depth))
			continue
		}
		list := m.Mutable(fd).List()
		for range 2 {
			var zero protoreflect.Value
			if fd.Kind() == protoreflect.MessageKind {
				zero = list.NewElement()
			}
			list.Append(some(zero, fd, seed, depth))
		}
	}
}

// some returns a value for fd that differs from the ones before it.
func some(v protoreflect.Value, fd protoreflect.FieldDescriptor, seed *byte, depth int) protoreflect.Value {
	*seed++
	switch fd.Kind() {
	case protoreflect.MessageKind:
		fill(v.Message(), seed, depth+1)
		return v
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{'b', *seed})
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("s%d", *seed))
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(fd.Enum().Values().Get(fd.Enum().Values().Len() - 1).Number())
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(*seed))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(*seed))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(*seed))
	default:
		panic(fd.FullName())
	}
}

// digestible is an envelope with every field that has a digest.
func digestible() *v1.Envelope {
	e, seed := new(v1.Envelope), byte(0)
	fill(e.ProtoReflect(), &seed, 0)
	for name, why := range elsewhere {
		if why == uncovered {
			e.ProtoReflect().Clear(e.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(name)))
		}
	}
	return e
}

// alter calls try after each change of one value at or below fd, which it takes back.
func alter(m protoreflect.Message, fd protoreflect.FieldDescriptor, path string, try func(string)) {
	old := m.Get(fd)
	switch {
	case !m.Has(fd):
	case fd.IsList():
		list := m.Mutable(fd).List()
		for i := range list.Len() {
			at := fmt.Sprintf("%s[%d]", path, i)
			if fd.Kind() == protoreflect.MessageKind {
				below(list.Get(i).Message(), at, try)
				continue
			}
			was := list.Get(i)
			list.Set(i, other(was, fd))
			try(at)
			list.Set(i, was)
		}
		all := copyList(list)
		list.Truncate(list.Len() - 1)
		try(path + " shorter")
		list.Truncate(0)
		list.Append(all[1])
		list.Append(all[0])
		try(path + " swapped")
		list.Append(all[0])
		try(path + " longer")
		list.Truncate(0)
		try(path + " empty")
		for _, v := range all {
			list.Append(v)
		}
	case fd.Kind() == protoreflect.MessageKind:
		below(old.Message(), path, try)
		m.Clear(fd)
		try(path + " absent")
		m.Set(fd, old)
	default:
		m.Set(fd, other(old, fd))
		try(path)
		if fd.Kind() != protoreflect.BoolKind { // the other one is zero
			m.Clear(fd)
			try(path + " zero")
		}
		m.Set(fd, old)
	}
}

func below(m protoreflect.Message, path string, try func(string)) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if fd := fields.Get(i); m.Has(fd) || fd.ContainingOneof() == nil {
			alter(m, fd, path+"."+string(fd.Name()), try)
		}
	}
}

func copyList(l protoreflect.List) []protoreflect.Value {
	out := make([]protoreflect.Value, l.Len())
	for i := range out {
		out[i] = l.Get(i)
	}
	return out
}

func other(v protoreflect.Value, fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(append(bytes.Clone(v.Bytes()), 0))
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(v.String() + "x")
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(v.Enum() + 100)
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(!v.Bool())
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(-v.Int())
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(v.Uint()) + 1<<31)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(v.Uint() + 1<<63)
	default:
		panic(fd.FullName())
	}
}

func digest(t testing.TB, e *v1.Envelope) [32]byte {
	t.Helper()
	sum, err := delegation.EnvelopeDigest(e)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestEveryFieldIsInTheDigest fails for a field of Envelope, or of a message in it, that is neither covered nor listed above: a new
// field needs a new version of the transcript, or a reason.
func TestEveryFieldIsInTheDigest(t *testing.T) {
	covered := map[string]bool{}
	for _, path := range order {
		top, _, _ := strings.Cut(path, ".")
		covered[top] = true
	}
	e := digestible()
	want := digest(t, e)
	seen := map[[32]byte]string{want: "unchanged"}
	fields := e.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		name := string(fd.Name())
		why, listed := elsewhere[name]
		switch {
		case covered[name] == listed:
			t.Errorf("field %s is to be either in the digest or listed with a reason", name)
		case why == uncovered:
			dup, seed := proto.CloneOf(e), byte(0)
			one := dynamicpb.NewMessage(e.ProtoReflect().Descriptor())
			fill(one, &seed, 0)
			full := new(v1.Envelope)
			raw, _ := proto.Marshal(one)
			_ = proto.Unmarshal(raw, full)
			dup.ProtoReflect().Set(fd, full.ProtoReflect().Get(fd))
			if _, err := delegation.EnvelopeDigest(dup); !errors.Is(err, delegation.ErrUncovered) {
				t.Errorf("EnvelopeDigest(with %s) = %v, want ErrUncovered", name, err)
			}
		case listed:
			alter(e.ProtoReflect(), fd, name, func(what string) {
				if digest(t, e) != want {
					t.Errorf("%s changes the digest, and is listed as %q", what, why)
				}
			})
		default:
			alter(e.ProtoReflect(), fd, name, func(what string) {
				got := digest(t, e)
				if before, twice := seen[got]; twice {
					t.Errorf("%s has the digest of %s", what, before)
				}
				seen[got] = what
			})
		}
	}
	if digest(t, e) != want {
		t.Fatal("the envelope was not restored")
	}
	if len(seen) < 80 {
		t.Errorf("%d changes tried, want every value of every message", len(seen))
	}
}

// TestTranscriptIsAsSpecified compares with the slow way from descriptors, for envelopes with and without each value.
func TestTranscriptIsAsSpecified(t *testing.T) {
	e := digestible()
	check := func(what string) {
		t.Helper()
		if got, want := delegation.Transcript(e), specified(e); !bytes.Equal(got, want) {
			t.Errorf("%s: transcript\n%x, want\n%x", what, got, want)
		}
	}
	check("full")
	fields := e.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		alter(e.ProtoReflect(), fields.Get(i), string(fields.Get(i).Name()), check)
	}
	e = new(v1.Envelope)
	check("empty")
	e = &v1.Envelope{Control: new(v1.Label), Context: []*v1.ContextRef{{Ref: &v1.KeyRef{Ns: new(v1.Path)}}, {Ref: new(v1.KeyRef)}, {}}, Data: []*v1.DataLabel{{}}}
	check("empty messages")
	e = &v1.Envelope{DeadlineUnixMs: -1, Delivery: -1, Payload: bytes.Repeat([]byte{7}, 5000), Context: []*v1.ContextRef{{GrantDsse: make([]byte, 4096)}}}
	check("negative and long")
}

// TestDigestTellsApart has pairs that a careless framing takes for one.
func TestDigestTellsApart(t *testing.T) {
	label := func(l *v1.Label) *v1.Envelope { return &v1.Envelope{Control: l} }
	refs := func(r ...*v1.ContextRef) *v1.Envelope { return &v1.Envelope{Context: r} }
	resource := func(s ...string) *v1.Envelope { return &v1.Envelope{Intent: &v1.Intent{Resource: s}} }
	for _, tc := range []struct {
		name string
		a, b *v1.Envelope
	}{
		{"absent and empty label", label(nil), label(&v1.Label{})},
		{"absent and empty namespace", refs(&v1.ContextRef{Ref: &v1.KeyRef{}}), refs(&v1.ContextRef{Ref: &v1.KeyRef{Ns: &v1.Path{}}})},
		{"absent and empty reference", refs(&v1.ContextRef{}), refs(&v1.ContextRef{Ref: &v1.KeyRef{}})},
		{"one segment and two", resource("ab"), resource("a", "b")},
		{"no segment and an empty one", resource(), resource("")},
		{"bytes moved between fields", &v1.Envelope{Id: []byte("ab")}, &v1.Envelope{Id: []byte("a"), Conversation: []byte("b")}},
		{"action and purpose", &v1.Envelope{Intent: &v1.Intent{Action: "a"}}, &v1.Envelope{Intent: &v1.Intent{Purpose: "a"}}},
		{"reader and tag", label(&v1.Label{Readers: []string{"a"}}), label(&v1.Label{Tags: []string{"a"}})},
		{"method and type", &v1.Envelope{Method: "a"}, &v1.Envelope{PayloadType: "a"}},
		{"payload and its digest", &v1.Envelope{}, &v1.Envelope{Payload: func() []byte { s := sha256.Sum256(nil); return s[:] }()}},
	} {
		if digest(t, tc.a) == digest(t, tc.b) {
			t.Errorf("%s: one digest", tc.name)
		}
	}
	if digest(t, &v1.Envelope{}) != digest(t, &v1.Envelope{Intent: &v1.Intent{}}) {
		t.Error("an absent intent is not as an empty one")
	}
}

func TestDigestIsFree(t *testing.T) {
	e := typical()
	if n := testing.AllocsPerRun(100, func() { _, _ = delegation.EnvelopeDigest(e) }); n != 0 {
		t.Errorf("EnvelopeDigest allocates %v times, want none", n)
	}
}

// typical is an envelope as agents send it.
func typical() *v1.Envelope {
	label := &v1.Label{Integrity: 2, Confidentiality: 2, AnyReader: true, Sources: []string{"spiffe://acme.test/tenant/blue/agent/a"}}
	sum := sha256.Sum256([]byte("payload"))
	return &v1.Envelope{
		Kind: v1.FrameKind_FRAME_KIND_OPEN, HalfClose: true, Id: bytes.Repeat([]byte{1}, 16), Method: "/mesh.v1.MeshService/Unary", PayloadType: "mesh.v1.UnaryRequest",
		Intent:  &v1.Intent{Action: "mesh.call", Resource: []string{"ns", "a"}, Purpose: purpose, ArgumentsDigest: sum[:]},
		Payload: []byte("payload"), Control: label, DeadlineUnixMs: 1772366430000, TimeoutMs: 30000, Tenant: "blue", Conversation: bytes.Repeat([]byte{2}, 16),
		Causation: bytes.Repeat([]byte{3}, 16), Recipient: "spiffe://acme.test/tenant/blue/agent/b",
		Context: []*v1.ContextRef{{
			Store: "spiffe://acme.test/service/memory", Tenant: "blue", Ref: &v1.KeyRef{Ns: &v1.Path{Labels: []string{"ns", "a"}}, Key: []byte("k"), Version: 3},
			Commitment: bytes.Repeat([]byte{4}, 32), Size: 99, MediaType: "text/plain", Label: label,
		}},
		Data: []*v1.DataLabel{{Label: label, Field: "a.b"}},
	}
}

type digestVector struct {
	Name       string `json:"name"`
	Envelope   string `json:"envelope"`   // serialized, hex
	Transcript string `json:"transcript"` // hex
	Digest     string `json:"digest"`     // SHA-256 of the transcript, hex
}

// TestDigestVectors holds the digest against a file that implementations in other languages read too: it never changes for this
// version.
func TestDigestVectors(t *testing.T) {
	path := filepath.Join("testdata", "envelope-digest-v1.json")
	if *update {
		writeVectors(t, path)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var list []digestVector
	if err := json.Unmarshal(raw, &list); err != nil || len(list) < 5 {
		t.Fatalf("%d vectors, %v", len(list), err)
	}
	for _, v := range list {
		wire, err := hex.DecodeString(v.Envelope)
		e := new(v1.Envelope)
		if err != nil || proto.Unmarshal(wire, e) != nil {
			t.Fatalf("%s: not an envelope", v.Name)
		}
		sum := digest(t, e)
		if hex.EncodeToString(sum[:]) != v.Digest || hex.EncodeToString(delegation.Transcript(e)) != v.Transcript {
			t.Errorf("%s: digest %x, want %s", v.Name, sum, v.Digest)
		}
	}
}

func writeVectors(t *testing.T, path string) {
	t.Helper()
	var list []digestVector
	for _, c := range []struct {
		name string
		e    *v1.Envelope
	}{
		{"empty", &v1.Envelope{}},
		{"typical", typical()},
		{"every field", digestible()},
		{"empty messages", &v1.Envelope{Control: &v1.Label{}, Context: []*v1.ContextRef{{}, {Ref: &v1.KeyRef{Ns: &v1.Path{}}}}, Data: []*v1.DataLabel{{}}}},
		{"stored, negative deadline, critical", &v1.Envelope{Delivery: v1.Delivery_DELIVERY_STORED, DeadlineUnixMs: -1, Critical: []uint32{23, 4294967295}}},
		{"not ASCII", &v1.Envelope{Tenant: "blü", Intent: &v1.Intent{Purpose: "Prüfung ≠ test", Resource: []string{"", "ä"}}}},
	} {
		wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.e)
		if err != nil {
			t.Fatal(err)
		}
		text := specified(c.e)
		sum := sha256.Sum256(text)
		list = append(list, digestVector{c.name, hex.EncodeToString(wire), hex.EncodeToString(text), hex.EncodeToString(sum[:])})
	}
	raw, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkEnvelopeDigest(b *testing.B) {
	e := typical()
	e.Payload = make([]byte, 1024)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := delegation.EnvelopeDigest(e); err != nil {
			b.Fatal(err)
		}
	}
}
