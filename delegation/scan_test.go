package delegation_test

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// messages are all that are scanned.
func messages() []proto.Message {
	return []proto.Message{
		&v1.GrantPayload{}, &v1.HopPayload{}, &v1.InvocationPayload{}, &v1.ReceiptPayload{}, &v1.Principal{}, &v1.Value{},
		&v1.ValueSet{}, &v1.Range{}, &v1.Constraint{}, &v1.Capability{}, &v1.PastActor{}, &v1.Origin{}, &v1.CertChain{},
		&v1.SignedStatement{}, &v1.DelegationChain{}, &v1.InvocationProof{},
	}
}

// TestTables holds the scanner's tables against the generated descriptors.
func TestTables(t *testing.T) {
	tables := delegation.Tables()
	if len(tables) != len(messages()) {
		t.Errorf("%d tables for %d messages", len(tables), len(messages()))
	}
	for _, m := range messages() {
		d := m.ProtoReflect().Descriptor()
		rows := tables[string(d.Name())].Rows()
		if len(rows) != d.Fields().Len() {
			t.Errorf("%s: %d rows for %d fields", d.Name(), len(rows), d.Fields().Len())
		}
		if n := d.Oneofs().Len() - synthetic(d); n > 1 {
			t.Errorf("%s: %d oneofs, the scanner knows one", d.Name(), n)
		}
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			want := delegation.Row{Kind: kindOf(f), Explicit: f.HasPresence(), Repeated: f.IsList(), Bounded: true}
			if f.Message() != nil {
				want.Sub, want.Explicit = string(f.Message().Name()), false
			}
			got := rows[int(f.Number())]
			if got != want {
				t.Errorf("%s: row %+v, want %+v", f.FullName(), got, want)
			}
		}
	}
}

// A number that no field can have is no field that a later version knows: where unknown fields have a code of their own, it is not that.
func TestScanFieldNumbers(t *testing.T) {
	for _, name := range []string{"Constraint", "Value", "Range"} {
		unknown := v1.Reason_REASON_CHAIN_UNKNOWN_CONSTRAINT
		if name == "Range" {
			unknown = v1.Reason_REASON_CHAIN_NON_CANONICAL
		}
		for num, want := range map[uint64]v1.Reason{
			0: v1.Reason_REASON_CHAIN_NON_CANONICAL, 9: unknown, 1<<29 - 1: unknown, 1 << 29: v1.Reason_REASON_CHAIN_NON_CANONICAL,
			1<<31 - 1: v1.Reason_REASON_CHAIN_NON_CANONICAL, 1 << 31: v1.Reason_REASON_CHAIN_NON_CANONICAL, 1<<61 - 1: v1.Reason_REASON_CHAIN_NON_CANONICAL,
		} {
			if got := delegation.Tables()[name].Scan(append(protowire.AppendVarint(nil, num<<3), 1)); got != want {
				t.Errorf("%s: field %d: %v, want %v", name, num, got, want)
			}
		}
	}
}

func synthetic(d protoreflect.MessageDescriptor) int {
	n := 0
	for i := range d.Oneofs().Len() {
		if d.Oneofs().Get(i).IsSynthetic() {
			n++
		}
	}
	return n
}

func kindOf(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.Int64Kind, protoreflect.Uint64Kind:
		return "varint"
	default:
		return f.Kind().String()
	}
}

// full has every field of every payload set, at values that differ from the defaults.
func full() map[string]proto.Message {
	value := func(n int64) *v1.Value { return num(n) }
	who := &v1.Principal{Type: v1.Principal_TYPE_SELF, Subject: "s", Issuer: "i"}
	caps := []*v1.Capability{constrained(
		capability("a", "x", "é"), equal("a", flag(false)), oneOf("b", value(-1), value(0)), within("c", -5, 0), prefix("d", "p/"),
	)}
	return map[string]proto.Message{
		"GrantPayload": &v1.GrantPayload{
			Version: 1, ChainId: random(16), Issuer: "i", KeyId: "k", TrustDomain: "t", Tenant: "t", Principal: who, Delegate: "d",
			Capabilities: caps, Delegates: []string{"a", "b"}, MaxDepth: 4, DepthUsed: 1, IssuedAtMs: 1, NotBeforeMs: -1,
			ExpiresAtMs: 3, LineageStartMs: 4, PurposeDigest: random(32), TaskId: "t", PolicyEpoch: 1 << 63,
			StatementNonce: random(16), PreviousLeaf: random(32), History: []*v1.PastActor{{Actor: "a", LeafId: random(32), Depth: 1}},
			Origin: &v1.Origin{
				TrustDomain: "t", Tenant: "t", BridgeId: "b", ForeignLeafId: random(32), ForeignPrincipal: who, ForeignActor: "a",
			},
			Critical: []string{"c"},
		},
		"HopPayload": &v1.HopPayload{
			Version: 1, ChainId: random(16), Depth: 1, ParentId: random(32), Issuer: "i", Delegate: "d", Tenant: "t",
			Capabilities: caps, Delegates: []string{"a"}, MaxDepth: 1, IssuedAtMs: 1, NotBeforeMs: 1, ExpiresAtMs: 1,
			StatementNonce: random(16), PurposeDigest: random(32), Critical: []string{"c"},
		},
		"InvocationPayload": &v1.InvocationPayload{
			Version: 1, LeafId: random(32), Caller: "a", Callee: "b", Method: "/p.S/M", EnvelopeDigest: random(32), Jti: random(16),
			IssuedAtMs: 1, ExpiresAtMs: 2,
		},
		"ReceiptPayload": &v1.ReceiptPayload{
			Version: 1, ChainId: random(16), LeafId: random(32), EnvelopeId: random(16), InvocationJti: random(16), Caller: "a",
			Callee: "b", Decision: v1.ReceiptPayload_DECISION_STEP_UP, DecisionId: random(16), AuditLogId: random(16), AuditSeq: 1,
			AuditLeafHash: random(32), IssuedAtMs: 1, AuditBootId: random(16),
		},
		"InvocationProof": &v1.InvocationProof{
			Statement: &v1.SignedStatement{Payload: []byte{1}, Signature: random(64), CertRef: 1},
			Certs:     []*v1.CertChain{{Leaf: []byte{1}, Intermediates: [][]byte{{1}, {2}}}},
		},
	}
}

// TestStandardSerializer: what the Go serializer makes of every valid message is accepted, and no prefix of it is read wrongly.
func TestStandardSerializer(t *testing.T) {
	for name, m := range full() {
		table := delegation.Tables()[name]
		b := marshal(t, m)
		if got := table.Scan(b); got != 0 {
			t.Errorf("Scan(%s) = %v, want none", name, got)
		}
		if n := testing.AllocsPerRun(10, func() { table.Scan(b) }); n != 0 {
			t.Errorf("Scan(%s) allocates %v times", name, n)
		}
		// A field twice in a row is refused, whatever the field.
		for rest, at := b, 0; len(rest) > 0; {
			num, typ, n := protowire.ConsumeTag(rest)
			size := n + protowire.ConsumeFieldValue(num, typ, rest[n:])
			field := rest[:size]
			rest, at = rest[size:], at+size
			again := slices.Concat(b[:at], field, b[at:])
			row := table.Rows()[int(num)]
			if got := table.Scan(again); (got == 0) != row.Repeated && got != tooLarge {
				t.Errorf("Scan(%s with field %d twice) = %v", name, num, got)
			}
		}
	}
}

func TestScanRefusals(t *testing.T) {
	tag := func(n protowire.Number, typ protowire.Type) []byte { return protowire.AppendTag(nil, n, typ) }
	bytesField := func(n protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(tag(n, protowire.BytesType), b)
	}
	varint := func(n protowire.Number, v uint64) []byte {
		return protowire.AppendVarint(tag(n, protowire.VarintType), v)
	}
	for _, tc := range []struct {
		name, table string
		input       []byte
		want        v1.Reason
	}{
		{"empty message", "Capability", nil, 0},
		{"uint32 over 32 bits", "Capability", varint(5, 1<<32), nonCanonical},
		{"uint32 at its maximum", "Capability", varint(5, 1<<32-1), 0},
		{"bool of 2", "Capability", varint(3, 2), nonCanonical},
		{"bool of 0", "Capability", varint(3, 0), nonCanonical},
		{"flag of 0 in a oneof", "Value", varint(3, 0), 0},
		{"flag of 2 in a oneof", "Value", varint(3, 2), nonCanonical},
		{"enum out of range", "Principal", varint(1, 4), nonCanonical},
		{"enum negative", "Principal", varint(1, 1<<64-1), nonCanonical},
		{"int64 negative", "HopPayload", varint(11, 1<<64-1), 0},
		{"11 byte varint", "HopPayload", append(tag(11, 0), slices.Repeat([]byte{0xff}, 11)...), nonCanonical},
		{"varint cut short", "HopPayload", append(tag(11, 0), 0x80), nonCanonical},
		{"tag cut short", "HopPayload", []byte{0x80}, nonCanonical},
		{"length over the end", "HopPayload", append(tag(5, 2), 9, 'a'), nonCanonical},
		{"length of 2^63", "HopPayload", append(tag(5, 2), 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1), nonCanonical},
		{"fixed32", "HopPayload", append(tag(1, protowire.Fixed32Type), 1, 2, 3, 4), nonCanonical},
		{"string as varint", "HopPayload", varint(5, 1), nonCanonical},
		{"number as bytes", "HopPayload", bytesField(1, []byte{1}), nonCanonical},
		{"packed numbers", "HopPayload", bytesField(3, []byte{1, 2}), nonCanonical},
		{"end group", "HopPayload", tag(1, protowire.EndGroupType), nonCanonical},
		{"field number over 2^29", "HopPayload", protowire.AppendVarint(nil, 1<<33), nonCanonical},
		{"two members of a oneof", "Value", append(varint(2, 1), varint(3, 1)...), nonCanonical},
		{"unknown kind of value", "Value", varint(4, 1), unknown},
		{"unknown rule", "Constraint", bytesField(6, nil), unknown},
		{"unknown field before known ones", "Constraint", append(bytesField(6, nil), bytesField(1, []byte("k"))...), unknown},
		{"empty string", "Capability", bytesField(1, nil), nonCanonical},
		{"empty text in a oneof", "Value", bytesField(1, nil), 0},
		{"empty element", "Capability", bytesField(2, nil), 0},
		{"invalid UTF-8", "Capability", bytesField(2, []byte{0xff}), nonCanonical},
		{"delete character", "Capability", bytesField(2, []byte{0x7f}), nonCanonical},
		{"line feed", "Capability", bytesField(2, []byte("a\n")), nonCanonical},
		{"C1 control is text", "Capability", bytesField(2, []byte("\u0085")), 0},
		{"identifier not ASCII", "Capability", bytesField(1, []byte("é")), nonCanonical},
		{"segment of 128", "Capability", bytesField(2, slices.Repeat([]byte{'a'}, 128)), 0},
		{"segment of 129", "Capability", bytesField(2, slices.Repeat([]byte{'a'}, 129)), tooLarge},
		{"17 segments", "Capability", slices.Repeat(bytesField(2, []byte{'a'}), 17), 0},
		{"18 segments", "Capability", slices.Repeat(bytesField(2, []byte{'a'}), 18), tooLarge},
		{"9 constraints", "Capability", slices.Repeat(bytesField(4, nil), 9), tooLarge},
		{"33 values", "ValueSet", slices.Repeat(bytesField(1, nil), 33), tooLarge},
		{"17 delegates", "HopPayload", slices.Repeat(bytesField(9, []byte{'a'}), 17), tooLarge},
		{"9 past actors", "GrantPayload", slices.Repeat(bytesField(22, nil), 9), tooLarge},
		{"9 critical names", "GrantPayload", slices.Repeat(bytesField(24, []byte{'a'}), 9), tooLarge},
		{"digest of 31", "HopPayload", bytesField(4, random(31)), malformed},
		{"elements apart", "HopPayload", slices.Concat(bytesField(8, nil), bytesField(9, []byte{'a'}), bytesField(8, nil)), nonCanonical},
		{"proof payload over 1 KiB", "InvocationProof", bytesField(1, bytesField(1, make([]byte, 1025))), tooLarge},
		{"fault in a nested message", "HopPayload", bytesField(8, bytesField(9, nil)), nonCanonical},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := delegation.Tables()[tc.table].Scan(tc.input); got != tc.want {
				t.Errorf("Scan(%x) = %v, want %v", tc.input, got, tc.want)
			}
		})
	}
	if got := delegation.Tables()["ValueSet"].ScanAt(bytesField(1, nil), 8); got != tooLarge {
		t.Errorf("ScanAt(nested 9 deep) = %v, want %v", got, tooLarge)
	}
}

// FuzzScan: what the scanner accepts has one encoding, so that nothing can hide in another one.
func FuzzScan(f *testing.F) {
	names := []string{"GrantPayload", "HopPayload", "InvocationPayload", "ReceiptPayload", "InvocationProof"}
	empty := map[string]func() proto.Message{
		"GrantPayload":      func() proto.Message { return new(v1.GrantPayload) },
		"HopPayload":        func() proto.Message { return new(v1.HopPayload) },
		"InvocationPayload": func() proto.Message { return new(v1.InvocationPayload) },
		"ReceiptPayload":    func() proto.Message { return new(v1.ReceiptPayload) },
		"InvocationProof":   func() proto.Message { return new(v1.InvocationProof) },
	}
	for i, name := range names {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(full()[name])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	tables := delegation.Tables()
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		name := names[int(which)%len(names)]
		if tables[name].Scan(b) != 0 {
			return
		}
		m := empty[name]()
		if err := proto.Unmarshal(b, m); err != nil {
			t.Fatalf("accepted %x, which does not decode: %v", b, err)
		}
		if again := marshal(t, m); !slices.Equal(again, b) {
			t.Fatalf("accepted %x, which is encoded %x", b, again)
		}
	})
}
