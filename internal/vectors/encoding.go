package vectors

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// encodings is row 37: what the strict wire profile refuses. Statements are signed over the bytes as they are, so that nothing but
// the encoding is at fault.
func encodings(w *world) *File {
	g := newGroup(w, "encoding", algMixed)
	g.allow(1, "control", "one hop", g.hop1())
	g.bytesOfHop()
	g.eachField()
	g.bytesOfGrant()
	g.frameBytes()
	g.inside()
	g.texts()
	g.values()
	return g.f
}

// rawHop is hop1 with the payload of the hop changed before it is signed.
func (s *scene) rawHop(change func([]byte) []byte) show {
	b := s.chain(s.agent("a"))
	payload := s.marshal(b.next(s.agent("b")))
	return show{chain: b.raw(s.agent("b"), change(payload)).c, by: s.agent("a"), self: s.agent("b")}
}

// rawGrant is a grant alone with its payload changed before it is signed, presented by the authority.
func (s *scene) rawGrant(change func([]byte) []byte) show {
	p := s.grantPayload(s.agent("a"))
	return show{chain: s.under(p, change(s.marshal(p)), s.agent("a")).c, by: s.authority(), self: s.agent("a")}
}

// Raw fields.
func varint(num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
}

func block(num protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
}

// over64 is a varint of ten bytes that does not fit into 64 bits. Its lowest 64 are 2^64-1.
func over64() []byte { return append(slices.Repeat([]byte{0xff}, 9), 3) }

// field is one field as encoded.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	bytes []byte // tag and value
}

func fieldsOf(payload []byte) []field {
	var out []field
	for len(payload) > 0 {
		num, typ, n := protowire.ConsumeField(payload)
		if n < 0 {
			return out
		}
		out = append(out, field{num, typ, payload[:n]})
		payload = payload[n:]
	}
	return out
}

func join(fields []field) []byte {
	var out []byte
	for _, f := range fields {
		out = append(out, f.bytes...)
	}
	return out
}

// replace puts other bytes in the place of the first field of a number.
func replace(num protowire.Number, with []byte) func([]byte) []byte {
	return func(payload []byte) []byte {
		fields := fieldsOf(payload)
		for i := range fields {
			if fields[i].num == num {
				fields[i].bytes = with
				break
			}
		}
		return join(fields)
	}
}

// bytesOfHop is the profile applied to the bytes of a hop.
func (g *group) bytesOfHop() {
	add := func(b []byte) func([]byte) []byte { return func(p []byte) []byte { return append(p, b...) } }
	first := func(b ...byte) func([]byte) []byte {
		return func(p []byte) []byte { return append(slices.Clone(b), p[2:]...) }
	}
	for _, tc := range []struct {
		name, title string
		do          func([]byte) []byte
		code        string
	}{
		{"unknown-17", "field 17, which nobody knows", add(varint(17, 1)), nonCanonical},
		{"unknown-high", "field 2^29-1, which nobody knows", add(varint(1<<29-1, 1)), nonCanonical},
		{"unknown-too-high", "field 2^29, which is no field number", add([]byte{0x80, 0x80, 0x80, 0x80, 0x10, 0x01}), nonCanonical},
		{"field-zero", "field number 0", add([]byte{0, 1}), nonCanonical},
		{"field-zero-first", "field number 0 in front", func(p []byte) []byte { return append([]byte{0, 1}, p...) }, nonCanonical},
		{"duplicate-version", "the version twice", func(p []byte) []byte { return append(slices.Clone(p[:2]), p...) }, nonCanonical},
		{"tag-not-minimal", "a tag of two bytes where one does", first(0x88, 0x00, 0x01), nonCanonical},
		{"value-not-minimal", "a value of two bytes where one does", first(0x08, 0x81, 0x00), nonCanonical},
		{"value-not-minimal-10", "a value of ten bytes where one does", first(0x08, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00), nonCanonical},
		{"length-not-minimal", "a length of two bytes where one does", func(p []byte) []byte {
			return slices.Concat(p[:3], []byte{0x90, 0x00}, p[4:])
		}, nonCanonical},
		{"value-11-bytes", "a value of eleven bytes", first(0x08, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01), nonCanonical},
		{"value-over-64-bits", "a value over 64 bits", first(0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02), nonCanonical},
		{"version-over-32-bits", "a version of 2^32+1, which some decoders truncate to 1", replace(1, varint(1, 1<<32+1)), nonCanonical},
		{"default-version", "the version as zero on the wire", first(0x08, 0x00), nonCanonical},
		{"wrong-type-fixed32", "the version as fixed32", first(0x0d, 1, 0, 0, 0), nonCanonical},
		{"wrong-type-fixed64", "the version as fixed64", first(0x09, 1, 0, 0, 0, 0, 0, 0, 0), nonCanonical},
		{"wrong-type-bytes", "the version as bytes", first(0x0a, 0x01, 0x01), nonCanonical},
		{"group", "the version as a group", first(0x0b, 0x0c), nonCanonical},
		{"end-group", "the end of a group", first(0x0c), nonCanonical},
		{"wire-type-6", "wire type 6", first(0x0e), nonCanonical},
		{"wire-type-7", "wire type 7", first(0x0f), nonCanonical},
		{"depth-as-packed", "the depth as a packed list", replace(3, block(3, []byte{1})), nonCanonical},
		{"empty", "no bytes at all", func([]byte) []byte { return nil }, malformed},
		{"truncated", "the last byte missing", func(p []byte) []byte { return p[:len(p)-1] }, nonCanonical},
		{"truncated-tag", "half a tag at the end", add([]byte{0x80}), nonCanonical},
		{"truncated-value", "a tag without a value at the end", add([]byte{0x80, 0x01}), nonCanonical},
		{"length-over-end", "a length beyond the end", add([]byte{0x82, 0x01, 0x7f}), nonCanonical},
		{"length-huge", "a length of 2^64-1", add([]byte{0x82, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}), nonCanonical},
		{"length-2-63", "a length of 2^63", add([]byte{0x82, 0x01, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01}), nonCanonical},
		{"version-2", "version 2", replace(1, varint(1, 2)), badVersion},
		{"version-missing", "no version", replace(1, nil), badVersion},
		{"critical", "a critical extension", add(block(16, []byte("x"))), badVersion},
		{"critical-empty", "a critical extension without a name", add(block(16, nil)), badVersion},
		{"version-2-unknown-field", "version 2 with a field that version 1 does not know", func(p []byte) []byte {
			return append(replace(1, varint(1, 2))(p), varint(17, 1)...)
		}, nonCanonical},
	} {
		g.deny(37, "hop-"+tc.name, tc.title, "encoding/control", tc.code, g.rawHop(tc.do))
	}
}

// eachField leaves out, doubles, resizes and moves every field of a hop.
func (g *group) eachField() {
	missing := map[protowire.Number]string{
		2: malformed, 3: tooDeep, 4: parentMismatch, 5: malformed, 6: malformed, 7: badTenant, 9: malformed, 10: tooDeep, 11: badLife,
		12: badLife, 13: badLife, 14: malformed, 15: malformed,
	}
	var fields []field
	g.rawHop(func(p []byte) []byte { fields = fieldsOf(p); return p })
	for i, f := range fields {
		if i > 0 && fields[i-1].num == f.num {
			continue
		}
		change := func(do func(all []field) []field) show {
			return g.rawHop(func(p []byte) []byte { return join(do(fieldsOf(p))) })
		}
		if code := missing[f.num]; code != "" {
			g.deny(37, fmt.Sprintf("hop-missing-%02d", f.num), fmt.Sprintf("field %d left out", f.num), "encoding/control", code,
				change(func(all []field) []field {
					return slices.DeleteFunc(all, func(x field) bool { return x.num == f.num })
				}))
		}
		repeated := f.num == 8 || f.num == 9 || f.num == 16
		if !repeated && f.num > 1 {
			g.deny(37, fmt.Sprintf("hop-twice-%02d", f.num), fmt.Sprintf("field %d twice", f.num), "encoding/control", nonCanonical,
				change(func(all []field) []field { return slices.Insert(all, i, all[i]) }))
		}
		if i > 0 {
			g.deny(37, fmt.Sprintf("hop-moved-%02d", f.num), fmt.Sprintf("field %d in front", f.num), "encoding/control", nonCanonical,
				change(func(all []field) []field { return append([]field{all[i]}, slices.Delete(slices.Clone(all), i, i+1)...) }))
		}
		empty := varint(f.num, 0)
		if f.typ == protowire.BytesType {
			empty = block(f.num, nil)
		}
		if !repeated && f.num > 1 {
			g.deny(37, fmt.Sprintf("hop-default-%02d", f.num), fmt.Sprintf("field %d with its default value on the wire", f.num), "encoding/control",
				nonCanonical, g.rawHop(replace(f.num, empty)))
		}
	}
	for _, num := range []protowire.Number{2, 4, 14, 15} {
		for _, by := range []int{-1, 1} {
			size := 16 + by
			if num == 4 || num == 15 {
				size = 32 + by
			}
			g.deny(37, fmt.Sprintf("hop-size-%02d-%d", num, size), fmt.Sprintf("field %d of %d bytes", num, size), "encoding/control", malformed,
				g.rawHop(replace(num, block(num, slices.Repeat([]byte{7}, size)))))
		}
	}
}

// bytesOfGrant is the profile applied to the bytes of a grant, and what a grant must have.
func (g *group) bytesOfGrant() {
	control := g.allow(37, "grant-control", "a grant alone, presented by the authority", g.rawGrant(func(p []byte) []byte { return p }))
	add := func(b []byte) func([]byte) []byte { return func(p []byte) []byte { return append(p, b...) } }
	behind := func(num protowire.Number, b []byte) func([]byte) []byte {
		return func(p []byte) []byte {
			fields := fieldsOf(p)
			at := slices.IndexFunc(fields, func(f field) bool { return f.num > num })
			if at < 0 {
				at = len(fields)
			}
			return join(slices.Insert(fields, at, field{num: num, bytes: b}))
		}
	}
	actor, leaf := block(1, []byte(agentID("x"))), block(2, seed("past leaf"))
	for _, tc := range []struct {
		name, title string
		do          func([]byte) []byte
		code        string
	}{
		{"unknown-25", "field 25, which nobody knows", add(varint(25, 1)), nonCanonical},
		{"version-2", "version 2", replace(1, varint(1, 2)), badVersion},
		{"version-missing", "no version", replace(1, nil), badVersion},
		{"critical", "a critical extension", add(block(24, []byte("x"))), badVersion},
		{"chain-id-missing", "no chain id", replace(2, nil), malformed},
		{"chain-id-15", "a chain id of 15 bytes", replace(2, block(2, make([]byte, 15))), malformed},
		{"issuer-missing", "no issuer", replace(3, nil), malformed},
		{"issuer-domain", "a trust domain as issuer", replace(3, block(3, []byte("spiffe://acme.test"))), malformed},
		{"trust-domain-missing", "no trust domain", replace(5, nil), malformed},
		{"trust-domain-upper", "a trust domain in upper case", replace(5, block(5, []byte("ACME.test"))), malformed},
		{"trust-domain-path", "a trust domain with a path", replace(5, block(5, []byte("acme.test/x"))), malformed},
		{"tenant-missing", "no tenant", replace(6, nil), malformed},
		{"tenant-slash", "a tenant with a slash", replace(6, block(6, []byte("blue/x"))), malformed},
		{"tenant-upper", "a tenant in upper case", replace(6, block(6, []byte("Blue"))), malformed},
		{"tenant-64", "a tenant of 64 letters", replace(6, block(6, []byte(strings.Repeat("b", 64)))), malformed},
		{"principal-missing", "no principal", replace(7, nil), malformed},
		{"principal-empty", "an empty principal", replace(7, block(7, nil)), malformed},
		{"principal-no-type", "a principal without a type", replace(7, block(7, slices.Concat(block(2, []byte("ada")), block(3, []byte("x"))))), malformed},
		{"principal-no-subject", "a principal without a subject", replace(7, block(7, slices.Concat(varint(1, 1), block(3, []byte("x"))))), malformed},
		{"principal-no-issuer", "a principal without an issuer", replace(7, block(7, slices.Concat(varint(1, 1), block(2, []byte("ada"))))), malformed},
		{"principal-type-4", "a principal of type 4", replace(7, block(7, slices.Concat(varint(1, 4), block(2, []byte("ada")), block(3, []byte("x"))))), nonCanonical},
		{"principal-unknown", "a principal with field 4", replace(7, block(7, slices.Concat(varint(1, 1), block(2, []byte("ada")), block(3, []byte("x")), varint(4, 1)))), nonCanonical},
		{"principal-twice", "the principal twice, which decoders merge", func(p []byte) []byte {
			fields := fieldsOf(p)
			at := slices.IndexFunc(fields, func(f field) bool { return f.num == 7 })
			return join(slices.Insert(fields, at, field{bytes: block(7, nil)}))
		}, nonCanonical},
		{"delegate-missing", "no delegate", replace(8, nil), malformed},
		{"purpose-missing", "no purpose digest", replace(17, nil), malformed},
		{"purpose-31", "a purpose digest of 31 bytes", replace(17, block(17, make([]byte, 31))), malformed},
		{"nonce-missing", "no nonce", replace(20, nil), malformed},
		{"previous-31", "a previous leaf of 31 bytes", behind(21, block(21, make([]byte, 31))), malformed},
		{"history-unknown", "a past actor with field 4", behind(22, block(22, slices.Concat(actor, leaf, varint(4, 1)))), nonCanonical},
		{"history-leaf-31", "a past actor with a leaf id of 31 bytes", behind(22, block(22, slices.Concat(actor, block(2, make([]byte, 31))))), malformed},
		{"history-no-leaf", "a past actor without a leaf id", behind(22, block(22, actor)), malformed},
		{"history-no-actor", "a past actor without a name", behind(22, block(22, leaf)), malformed},
		{"history-actor", "a past actor of no known shape", behind(22, block(22, slices.Concat(block(1, []byte("spiffe://acme.test")), leaf))), malformed},
		{"origin-unknown", "an origin with field 7", behind(23, block(23, varint(7, 1))), nonCanonical},
		{"origin-empty", "an empty origin: a grant of a border", behind(23, block(23, nil)), badTenant},
	} {
		g.deny(37, "grant-"+tc.name, tc.title, control, tc.code, g.rawGrant(tc.do))
	}
	for _, tc := range []struct {
		num   protowire.Number
		title string
		bytes []byte
		code  string
	}{
		{12, "a used depth of zero", varint(12, 0), nonCanonical},
		{19, "a policy epoch of zero", varint(19, 0), nonCanonical},
		{18, "an empty task", block(18, nil), nonCanonical},
		{21, "a previous leaf of no bytes", block(21, nil), nonCanonical},
		{7, "a principal of type zero", block(7, slices.Concat(varint(1, 0), block(2, []byte("ada")), block(3, []byte("x")))), nonCanonical},
		{22, "a past actor at depth zero", block(22, slices.Concat(actor, leaf, varint(3, 0))), nonCanonical},
		{24, "an empty name of a critical extension", block(24, nil), badVersion},
	} {
		with := func(p []byte) []byte {
			return behind(tc.num, tc.bytes)(join(slices.DeleteFunc(fieldsOf(p), func(f field) bool { return f.num == tc.num })))
		}
		g.deny(37, fmt.Sprintf("grant-zero-%02d", tc.num), tc.title+" on the wire", control, tc.code, g.rawGrant(with))
	}
	g.deny(37, "grant-epoch-over-64-bits", "a policy epoch over 64 bits", control, nonCanonical,
		g.rawGrant(replace(19, slices.Concat([]byte{0x98, 0x01}, over64()))))
	g.allow(37, "grant-principal-service", "a principal of type SERVICE", g.grant1(func(p *v1.GrantPayload) { p.Principal.Type = v1.Principal_TYPE_SERVICE }))
	g.allow(37, "grant-policy-epoch", "a policy epoch of 2^64-1: ten bytes of varint", g.grant1(func(p *v1.GrantPayload) { p.PolicyEpoch = 1<<64 - 1 }))
}

// frameBytes is the profile applied to the frame around the statements.
func (g *group) frameBytes() {
	whole := g.marshal(g.hop1().chain)
	change := func(f func(parts []field) []byte) show {
		sh := g.hop1()
		sh.bytes = f(fieldsOf(slices.Clone(whole)))
		return sh
	}
	// Inside is the frame with one part rebuilt from its fields: 0 is the grant, 1 the hop, 2 the certificate.
	inside := func(at int, f func(parts []field) []byte) show {
		return change(func(parts []field) []byte {
			_, _, tag := protowire.ConsumeTag(parts[at].bytes)
			body, _ := protowire.ConsumeBytes(parts[at].bytes[tag:])
			parts[at].bytes = block(parts[at].num, f(fieldsOf(body)))
			return join(parts)
		})
	}
	for _, tc := range []struct {
		name, title string
		sh          show
		code        string
	}{
		{"unknown", "field 4 of the chain", change(func(p []field) []byte { return append(join(p), varint(4, 1)...) }), nonCanonical},
		{"unknown-15", "field 15 of the chain", change(func(p []field) []byte { return append(join(p), varint(15, 1)...) }), nonCanonical},
		{"order", "certificates before hops", change(func(p []field) []byte { return join([]field{p[0], p[2], p[1]}) }), nonCanonical},
		{"hop-first", "the hop before the grant", change(func(p []field) []byte { return join([]field{p[1], p[0], p[2]}) }), nonCanonical},
		{"grant-twice", "the grant twice, which decoders merge", change(func(p []field) []byte { return join([]field{p[0], p[0], p[1], p[2]}) }), nonCanonical},
		{"trailing", "a zero byte behind the chain", change(func(p []field) []byte { return append(join(p), 0) }), nonCanonical},
		{"truncated", "the last byte missing", change(func(p []field) []byte { b := join(p); return b[:len(b)-1] }), nonCanonical},
		{"grant-as-varint", "the grant as a number", change(func(p []field) []byte { p[0].bytes = varint(1, 1); return join(p) }), nonCanonical},
		{"statement-unknown", "field 4 of a hop", inside(1, func(p []field) []byte { return append(join(p), varint(4, 1)...) }), nonCanonical},
		{"statement-order", "the signature before the payload", inside(1, func(p []field) []byte { return join([]field{p[1], p[0], p[2]}) }), nonCanonical},
		{"payload-twice", "the payload of a hop twice", inside(1, func(p []field) []byte { return join([]field{p[0], p[0], p[1], p[2]}) }), nonCanonical},
		{"payload-missing", "a hop without a payload", inside(1, func(p []field) []byte { return join(p[1:]) }), malformed},
		{"payload-empty", "a hop with an empty payload on the wire", inside(1, func(p []field) []byte { p[0].bytes = block(1, nil); return join(p) }), nonCanonical},
		{"signature-empty", "a hop with an empty signature on the wire", inside(1, func(p []field) []byte { p[1].bytes = block(2, nil); return join(p) }), nonCanonical},
		{"reference-zero", "a certificate reference of zero on the wire", inside(1, func(p []field) []byte { p[2].bytes = varint(3, 0); return join(p) }), nonCanonical},
		{"reference-not-minimal", "a certificate reference of two bytes where one does", inside(1, func(p []field) []byte {
			p[2].bytes = []byte{0x18, 0x81, 0x00}
			return join(p)
		}), nonCanonical},
		{"reference-over-32-bits", "a certificate reference of 2^32+1", inside(1, func(p []field) []byte {
			p[2].bytes = varint(3, 1<<32+1)
			return join(p)
		}), nonCanonical},
		{"grant-unknown", "field 4 of the grant", inside(0, func(p []field) []byte { return append(join(p), varint(4, 1)...) }), nonCanonical},
		{"cert-unknown", "field 3 of a certificate", inside(2, func(p []field) []byte { return append(join(p), varint(3, 1)...) }), nonCanonical},
		{"leaf-twice", "the leaf of a certificate twice", inside(2, func(p []field) []byte { return join([]field{p[0], p[0]}) }), nonCanonical},
		{"cert-empty", "a certificate of no bytes", inside(2, func([]field) []byte { return nil }), malformed},
		{"leaf-empty", "an empty leaf on the wire", inside(2, func([]field) []byte { return block(1, nil) }), nonCanonical},
	} {
		g.deny(37, "frame-"+tc.name, tc.title, "encoding/control", tc.code, tc.sh)
	}
}

// inside is the profile applied to messages inside a hop.
func (g *group) inside() {
	// The hop carries one capability of these bytes under a grant of everything on action x.
	carry := func(capability []byte) show {
		b := g.chain(g.agent("a"), func(p *v1.GrantPayload) { p.Capabilities = []*v1.Capability{{Action: "x", Subtree: true, Reach: 4}} })
		p := b.next(g.agent("b"))
		p.Capabilities = nil
		fields := fieldsOf(g.marshal(p))
		at := slices.IndexFunc(fields, func(f field) bool { return f.num > 8 })
		payload := join(slices.Insert(fields, at, field{num: 8, bytes: block(8, capability)}))
		return show{chain: b.raw(g.agent("b"), payload).c, by: g.agent("a"), self: g.agent("b")}
	}
	head, tail := block(1, []byte("x")), varint(5, 4)
	rule := func(rule []byte) []byte {
		return slices.Concat(head, varint(3, 1), block(4, slices.Concat(block(1, []byte("n")), rule)), tail)
	}
	one := g.allow(37, "capability", "a capability with a constraint", carry(rule(block(2, varint(2, 1)))))
	minimum, maximum := varint(1, 1), varint(2, 2)
	negative := varint(1, 1<<64-5)
	for _, tc := range []struct {
		name, title string
		capability  []byte
		code        string
	}{
		{"capability-unknown", "field 6 of a capability", slices.Concat(head, varint(3, 1), tail, varint(6, 1)), nonCanonical},
		{"capability-empty", "a capability of no bytes", nil, malformed},
		{"action-twice", "the action twice", slices.Concat(head, head, varint(3, 1), tail), nonCanonical},
		{"action-empty", "an empty action on the wire", slices.Concat(block(1, nil), varint(3, 1), tail), nonCanonical},
		{"segment-empty", "an empty segment: elements of lists may be empty on the wire", slices.Concat(head, block(2, nil), varint(3, 1), tail), malformed},
		{"segments-apart", "segments that are not contiguous", slices.Concat(head, block(2, []byte("a")), varint(3, 1), block(2, []byte("b")), tail), nonCanonical},
		{"subtree-2", "a flag of 2", slices.Concat(head, varint(3, 2), tail), nonCanonical},
		{"subtree-zero", "a flag of 0 on the wire", slices.Concat(head, varint(3, 0), tail), nonCanonical},
		{"subtree-not-minimal", "a flag of two bytes", slices.Concat(head, []byte{0x18, 0x81, 0x00}, tail), nonCanonical},
		{"reach-zero", "a reach of zero on the wire", slices.Concat(head, varint(3, 1), varint(5, 0)), nonCanonical},
		{"reach-over-32-bits", "a reach of 2^32+1", slices.Concat(head, varint(3, 1), varint(5, 1<<32+1)), nonCanonical},
		{"two-rules", "two rules in one constraint", rule(slices.Concat(block(2, varint(2, 1)), block(5, []byte("a/")))), nonCanonical},
		{"same-rule-twice", "one rule twice", rule(slices.Concat(block(2, varint(2, 1)), block(2, varint(2, 1)))), nonCanonical},
		{"rule-unknown", "a rule that nobody knows", rule(varint(6, 1)), unknownRule},
		{"rule-known-and-unknown", "a known rule and one that nobody knows", rule(slices.Concat(block(2, varint(2, 1)), varint(6, 1))), unknownRule},
		{"key-twice", "the key of a constraint twice", rule(block(1, []byte("n"))), nonCanonical},
		{"value-empty", "a value without a kind", rule(block(2, nil)), unknownRule},
		{"value-two-kinds", "a value of two kinds", rule(block(2, slices.Concat(block(1, []byte("a")), varint(2, 1)))), nonCanonical},
		{"value-unknown", "a value of a kind that nobody knows", rule(block(2, varint(4, 1))), unknownRule},
		{"value-wrong-type", "a number as fixed64", rule(block(2, []byte{0x11, 1, 0, 0, 0, 0, 0, 0, 0})), nonCanonical},
		{"flag-2", "a flag value of 2", rule(block(2, varint(3, 2))), nonCanonical},
		{"negative-short", "-5 as five bytes", rule(block(2, []byte{0x10, 0xfb, 0xff, 0xff, 0xff, 0x1f})), Allow},
		{"number-not-minimal", "a number of two bytes where one does", rule(block(2, []byte{0x10, 0x81, 0x00})), nonCanonical},
		{"set-unknown", "a set with field 2", rule(block(3, slices.Concat(block(1, varint(2, 1)), varint(2, 1)))), nonCanonical},
		{"range-unknown", "a range with field 3", rule(block(4, slices.Concat(minimum, maximum, varint(3, 1)))), nonCanonical},
		{"range-order", "a range with its maximum first", rule(block(4, slices.Concat(maximum, minimum))), nonCanonical},
		{"range-twice", "a range with its minimum twice", rule(block(4, slices.Concat(minimum, minimum))), nonCanonical},
		{"constraint-tag-zero", "field number 0 in a constraint", rule([]byte{0, 1}), nonCanonical},
		{"constraint-tag-2-29", "field 2^29 in a constraint, which is no field number", rule([]byte{0x80, 0x80, 0x80, 0x80, 0x10, 1}), nonCanonical},
		{"constraint-tag-highest", "field 2^29-1 in a constraint, which nobody knows", rule(varint(1<<29-1, 1)), unknownRule},
		{"constraint-tag-cut", "half a tag in a constraint", rule([]byte{0x80}), nonCanonical},
		{"value-tag-zero", "field number 0 in a value", rule(block(2, []byte{0, 1})), nonCanonical},
		{"value-tag-2-29", "field 2^29 in a value, which is no field number", rule(block(2, []byte{0x80, 0x80, 0x80, 0x80, 0x10, 1})), nonCanonical},
		{"value-tag-2-31", "field 2^31 in a value", rule(block(2, []byte{0x80, 0x80, 0x80, 0x80, 0x40, 1})), nonCanonical},
		{"value-tag-not-minimal", "a tag of two bytes where one does, in a value", rule(block(2, []byte{0xa0, 0x00, 1})), nonCanonical},
		{"number-over-64-bits", "a number over 64 bits", rule(block(2, slices.Concat([]byte{0x10}, over64()))), nonCanonical},
		{"number-11-bytes", "a number of eleven bytes", rule(block(2, slices.Concat([]byte{0x10}, slices.Repeat([]byte{0xff}, 10), []byte{1}))), nonCanonical},
		{"length-over-64-bits", "a length over 64 bits", rule(slices.Concat([]byte{0x12}, over64())), nonCanonical},
		{"number-twice", "a number twice in a value", rule(block(2, slices.Concat(varint(2, 1), varint(2, 1)))), nonCanonical},
		{"text-twice", "a text twice in a value", rule(block(2, slices.Concat(block(1, nil), block(1, nil)))), nonCanonical},
		{"flag-twice", "a flag twice in a value", rule(block(2, slices.Concat(varint(3, 0), varint(3, 0)))), nonCanonical},
		{"value-wrong-type-unknown", "a value of a kind that nobody knows, as a group", rule(block(2, []byte{0x23, 0x24})), unknownRule},
		{"two-kinds-wrong-type", "a second kind of a value, as fixed64", rule(block(2, slices.Concat(varint(2, 1), []byte{0x19, 1, 0, 0, 0, 0, 0, 0, 0}))), nonCanonical},
		{"flag-not-minimal", "a flag value of two bytes", rule(block(2, []byte{0x18, 0x80, 0x00})), nonCanonical},
		{"range-negative", "a range from -5", rule(block(4, slices.Concat(negative, maximum))), Allow},
	} {
		if tc.code == Allow {
			g.allow(37, tc.name, tc.title, carry(tc.capability))
			continue
		}
		g.deny(37, tc.name, tc.title, one, tc.code, carry(tc.capability))
	}
}

// texts is rule 6: what a string may be.
func (g *group) texts() {
	segment := func(b []byte) show {
		grant := g.grantPayload(g.agent("a"))
		grant.Capabilities = []*v1.Capability{{Action: "x", Subtree: true, Reach: 4}}
		b2 := g.under(grant, g.marshal(grant), g.agent("a"))
		p := b2.next(g.agent("b"))
		p.Capabilities = nil
		fields := fieldsOf(g.marshal(p))
		at := slices.IndexFunc(fields, func(f field) bool { return f.num > 8 })
		body := slices.Concat(block(1, []byte("x")), block(2, b), varint(5, 4))
		payload := join(slices.Insert(fields, at, field{num: 8, bytes: block(8, body)}))
		return show{chain: b2.raw(g.agent("b"), payload).c, by: g.agent("a"), self: g.agent("b")}
	}
	control := g.allow(37, "text", "a segment of plain letters", segment([]byte("abc")))
	for _, tc := range []struct {
		name, title string
		b           []byte
		code        string
	}{
		{"continuation", "a continuation byte alone", []byte{'a', 0x80}, nonCanonical},
		{"cut", "two of three bytes of a character", []byte{0xe2, 0x82}, nonCanonical},
		{"overlong", "an overlong slash", []byte{0xc0, 0xaf}, nonCanonical},
		{"overlong-zero", "an overlong zero", []byte{0xc0, 0x80}, nonCanonical},
		{"surrogate", "half a surrogate pair", []byte{0xed, 0xa0, 0x80}, nonCanonical},
		{"surrogates", "a surrogate pair, as CESU-8 has it", []byte{0xed, 0xa0, 0xbd, 0xed, 0xb8, 0x80}, nonCanonical},
		{"over-10ffff", "U+110000", []byte{0xf4, 0x90, 0x80, 0x80}, nonCanonical},
		{"five-bytes", "a character of five bytes", []byte{0xf8, 0x88, 0x80, 0x80, 0x80}, nonCanonical},
		{"ff", "a byte of 0xff", []byte{0xff}, nonCanonical},
		{"zero", "U+0000", []byte{'a', 0}, nonCanonical},
		{"tab", "a tab", []byte("a\tb"), nonCanonical},
		{"1f", "U+001F", []byte{0x1f}, nonCanonical},
		{"7f", "U+007F", []byte{0x7f}, nonCanonical},
		{"c1", "U+0085: only the controls of ASCII are refused", []byte("\u0085"), Allow},
		{"bom", "a byte order mark", []byte("\ufeffa"), Allow},
		{"10ffff", "U+10FFFF", []byte("\U0010ffff"), Allow},
		{"fffe", "U+FFFE, a noncharacter", []byte("\ufffe"), Allow},
		{"space", "a space", []byte(" "), Allow},
	} {
		if tc.code == Allow {
			g.allow(37, "text-"+tc.name, tc.title, segment(tc.b))
			continue
		}
		g.deny(37, "text-"+tc.name, tc.title, control, tc.code, segment(tc.b))
	}
	long := slices.Repeat([]byte{0xff}, 129)
	g.deny(37, "text-long-and-not-utf8", "a segment that is too long, and no UTF-8: its length decides", control, tooLarge, segment(long))
	g.deny(37, "text-bound-and-not-utf8", "a segment of the longest length, and no UTF-8", control, nonCanonical, segment(long[1:]))
	delegates := func(last []byte) func([]byte) []byte {
		return func(p []byte) []byte {
			fields := slices.DeleteFunc(fieldsOf(p), func(f field) bool { return f.num == 9 })
			at := slices.IndexFunc(fields, func(f field) bool { return f.num > 9 })
			return join(slices.Insert(fields, at, field{num: 9, bytes: append(bytes.Repeat(block(9, []byte(authorityID)), 16), last...)}))
		}
	}
	g.deny(19, "element-over-bound-wrong-type", "a seventeenth delegate as a number: the count decides", "encoding/control", tooLarge, g.rawHop(delegates(varint(9, 1))))
	g.deny(19, "element-over-bound-cut", "a tag of a seventeenth delegate, and nothing behind it that can be read", "encoding/control", tooLarge,
		g.rawHop(delegates([]byte{0x4a, 0xff, 0xff})))
	for _, num := range []protowire.Number{5, 6, 7, 9} {
		const value = "blu\u00e9"
		g.deny(37, fmt.Sprintf("ident-%02d", num), fmt.Sprintf("a letter outside ASCII in field %d", num), "encoding/control", nonCanonical,
			g.rawHop(replace(num, block(num, []byte(value)))))
	}
}

// values are defaults that must be on the wire, since they are one of several or optional.
func (g *group) values() {
	c := func(constraints ...*v1.Constraint) *v1.Capability {
		return constrained(capability("x", "ns"), constraints...)
	}
	same := func(name, title string, rule *v1.Constraint) {
		g.allow(37, name, title, g.carrying(c(proto.CloneOf(rule)), c(rule)))
	}
	same("zero-number", "a number of zero is on the wire", equal("n", number(0)))
	same("zero-flag", "a flag of false is on the wire", equal("n", flag(false)))
	same("zero-text", "an empty text is on the wire", equal("n", text("")))
	same("zero-range", "a range of zero to zero is on the wire", within("n", n64(0), n64(0)))
	same("lowest-number", "-2^63 is ten bytes", equal("n", number(-1<<63)))
	same("highest-number", "2^63-1 is nine bytes", equal("n", number(1<<63-1)))
}
