package intruder

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// How many bits are flipped in each part of a chain. A whole chain has some 10,000; the tests of the verifier flip them all.
const (
	flipsInPayload   = 16
	flipsInSignature = 4
	flipsInCert      = 8
)

func bitFlips(s *siege) ([]shot, error) {
	var spoils []named
	for _, part := range []struct {
		name  string
		flips int
		of    func(*v1.DelegationChain) *[]byte
	}{
		{"grant signature", flipsInSignature, func(c *v1.DelegationChain) *[]byte { return &c.GetGrant().Signature }},
		{"hop", flipsInPayload, func(c *v1.DelegationChain) *[]byte { return &c.GetHops()[0].Payload }},
		{"hop signature", flipsInSignature, func(c *v1.DelegationChain) *[]byte { return &c.GetHops()[0].Signature }},
		{"certificate", flipsInCert, func(c *v1.DelegationChain) *[]byte { return &c.GetCerts()[0].Leaf }},
	} {
		for i := range part.flips {
			spoils = append(spoils, named{name: fmt.Sprintf("%s %d of %d", part.name, i+1, part.flips), spoil: spoil{
				chain: func(c *v1.DelegationChain) {
					c.Grant = proto.CloneOf(c.GetGrant())
					b := part.of(c)
					*b = flip(*b, i, part.flips)
				},
			}})
		}
	}
	shots, err := s.each(spoils...)
	if err != nil {
		return nil, err
	}
	more, err := s.flippedGrants()
	return append(shots, more...), err
}

// flippedGrants are grants with one bit flipped, each with a hop that was made for it.
func (s *siege) flippedGrants() ([]shot, error) {
	var spoils []named
	for i := range flipsInPayload {
		grant := proto.CloneOf(s.at.Grant)
		grant.Payload = flip(grant.GetPayload(), i, flipsInPayload)
		chain, err := s.forge(s.at.Grant, func(h *v1.HopPayload) {
			id := delegation.StatementID(delegation.TypeGrant, grant.GetPayload())
			h.ParentId = id[:]
		})
		if err != nil {
			return nil, err
		}
		chain.Grant = grant
		spoils = append(spoils, named{name: fmt.Sprintf("grant %d of %d", i+1, flipsInPayload), spoil: spoil{
			chain: func(c *v1.DelegationChain) { proto.Reset(c); proto.Merge(c, chain) },
		}})
	}
	return s.each(spoils...)
}

// flip inverts a random bit of a random byte in the i-th of n equal parts of b.
func flip(b []byte, i, n int) []byte {
	b = bytes.Clone(b)
	from, to := len(b)*i/n, len(b)*(i+1)/n
	r := random(2)
	at := from + int(r[0])%max(to-from, 1)
	b[at] ^= 1 << (r[1] % 8)
	return b
}

func encodingViolations() []violation {
	return []violation{
		{
			Violation: Violation{
				Name: "bombs", Row: 19, Want: []string{"CHAIN_INVALID"}, Causes: []string{"CHAIN_TOO_LARGE", "CHAIN_NON_CANONICAL", "MALFORMED"},
				What: "sends too much of everything: hops, bytes, nesting, capabilities, certificates",
			},
			shots: bombs,
		},
		{
			Violation: Violation{
				Name: "non-canonical", Row: 37, Want: []string{"CHAIN_INVALID"},
				Causes: []string{"CHAIN_NON_CANONICAL", "CHAIN_MALFORMED", "CHAIN_VERSION", "CHAIN_PARENT_MISMATCH"},
				What:   "signs encodings that another decoder could read as something else",
			},
			shots: nonCanonical,
		},
	}
}

func bombs(s *siege) ([]shot, error) {
	filler := &v1.SignedStatement{Payload: []byte("hop"), Signature: make([]byte, signatureBytes), CertRef: 1}
	hop := func(change func(*v1.HopPayload)) spoil { return spoil{hop: change} }
	chain := func(change func(*v1.DelegationChain)) spoil { return spoil{chain: change} }
	over := []string{"MALFORMED"} // refused as an envelope, before it is looked at as a chain
	return s.each(
		named{"10,000 hops", chain(func(c *v1.DelegationChain) { c.Hops = slices.Repeat([]*v1.SignedStatement{filler}, 10_000) }), over},
		named{"9 hops", chain(func(c *v1.DelegationChain) { c.Hops = slices.Repeat([]*v1.SignedStatement{filler}, 9) }), nil},
		named{"9 certificates", chain(func(c *v1.DelegationChain) {
			c.Certs = slices.Repeat([]*v1.CertChain{{Leaf: []byte("certificate")}}, 9)
		}), nil},
		named{"16 KiB and a byte", chain(func(c *v1.DelegationChain) { pad(c, 16<<10+1) }), over},
		named{"a hop of 64 KiB", chain(func(c *v1.DelegationChain) { c.Hops[0].Payload = make([]byte, 64<<10) }), over},
		named{"a hop of 2 KiB and a byte", chain(func(c *v1.DelegationChain) { c.Hops[0].Payload = make([]byte, 2<<10+1) }), nil},
		named{"nested messages", spoil{payload: func([]byte) []byte { return nested(500) }}, nil},
		named{"33 capabilities", hop(func(h *v1.HopPayload) { h.Capabilities = slices.Repeat([]*v1.Capability{{Action: "a"}}, 33) }), nil},
		named{"9 constraints", hop(func(h *v1.HopPayload) {
			for i := range 9 {
				c := &v1.Constraint{Key: fmt.Sprintf("k%d", i), Rule: &v1.Constraint_Prefix{Prefix: "x/"}}
				h.Capabilities[0].Constraints = append(h.Capabilities[0].Constraints, c)
			}
		}), nil},
		named{"18 segments", hop(func(h *v1.HopPayload) { h.Capabilities[0].Resource = slices.Repeat([]string{"a"}, 18) }), nil},
		named{"a segment of 129 bytes", hop(func(h *v1.HopPayload) {
			h.Capabilities[0].Resource = []string{string(bytes.Repeat([]byte{'a'}, 129))}
		}), nil},
		named{"a name of 257 bytes", hop(func(h *v1.HopPayload) { h.Tenant = string(bytes.Repeat([]byte{'a'}, 257)) }), nil},
	)
}

// nested is a message in a message, depth times over.
func nested(depth int) []byte {
	var b []byte
	for range depth {
		b = protowire.AppendBytes(protowire.AppendTag(nil, 8, protowire.BytesType), b)
	}
	return b
}

// pad fills the chain with bytes of a certificate up to exactly n bytes.
func pad(c *v1.DelegationChain, n int) {
	for _, cert := range c.GetCerts() {
		for range 4 { // the tags and lengths around it grow with it
			cert.Leaf = append(cert.Leaf, make([]byte, max(n-proto.Size(c), 0))...)
			if over := proto.Size(c) - n; over > 0 {
				cert.Leaf = cert.Leaf[:len(cert.Leaf)-over]
			}
		}
	}
}

// nonCanonical signs each encoding properly: only its form is wrong. The first field is the version, which is 1, and then comes the
// chain id of 16 bytes.
func nonCanonical(s *siege) ([]shot, error) {
	payload := func(change func([]byte) []byte) spoil { return spoil{payload: change} }
	insert := func(prefix ...byte) func(cut int) spoil {
		return func(cut int) spoil {
			return payload(func(b []byte) []byte { return append(slices.Clone(prefix), b[cut:]...) })
		}
	}
	unknown := []byte{0x78, 1}
	shots, err := s.each(
		named{"unknown field", payload(func(b []byte) []byte {
			return protowire.AppendVarint(protowire.AppendTag(b, 17, protowire.VarintType), 1)
		}), nil},
		named{"field number zero", payload(func(b []byte) []byte { return append(b, 0, 1) }), nil},
		named{"singular field twice", insert(0x08, 1)(0), nil},
		named{"long tag", insert(0x88, 0)(1), nil},
		named{"long value", insert(0x08, 0x81, 0)(2), nil},
		named{"long length", insert(0x08, 1, 0x12, 0x90, 0)(4), nil},
		named{"out of order", payload(func(b []byte) []byte { return append(slices.Clone(b[2:]), b[:2]...) }), nil},
		named{"wrong wire type", insert(0x0d, 1, 0, 0, 0)(2), nil},
		named{"group", insert(0x0b, 0x0c)(2), nil},
		named{"default value", insert(0x08, 0)(2), nil},
		named{"truncated", payload(func(b []byte) []byte { return b[:len(b)-1] }), nil},
		named{"invalid UTF-8", payload(func(b []byte) []byte {
			return bytes.Replace(b, []byte(s.cfg.Self.String()), invalidUTF8(s.cfg.Self.String()), 1)
		}), nil},
		named{"version 2", spoil{hop: func(h *v1.HopPayload) { h.Version = 2 }}, nil},
		named{"critical extension", spoil{hop: func(h *v1.HopPayload) { h.Critical = []string{"x"} }}, nil},
		named{"short nonce", spoil{hop: func(h *v1.HopPayload) { h.StatementNonce = random(nonceBytes - 1) }}, nil},
		named{"pattern over everything", spoil{hop: func(h *v1.HopPayload) { h.Delegates = []string{"*"} }}, nil},
		named{"wildcard action", spoil{hop: func(h *v1.HopPayload) { h.Capabilities[0].Action = "*" }}, nil},
		named{"unknown field of the chain", spoil{chain: func(c *v1.DelegationChain) { c.ProtoReflect().SetUnknown(unknown) }}, nil},
		named{"unknown field of the hop's frame", spoil{chain: func(c *v1.DelegationChain) {
			c.Hops[0].ProtoReflect().SetUnknown(unknown)
		}}, nil},
		named{"unknown field of a certificate", spoil{chain: func(c *v1.DelegationChain) {
			c.Certs[0].ProtoReflect().SetUnknown(unknown)
		}}, nil},
	)
	return shots, err
}

// invalidUTF8 has the length of s.
func invalidUTF8(s string) []byte {
	b := []byte(s)
	b[len(b)-1] = 0xff
	return b
}

// forgedJWT is a token of the form that edges take, which nobody signed.
func forgedJWT(s *siege) string {
	enc := base64.RawURLEncoding.EncodeToString
	claims := fmt.Sprintf(`{"iss":"spiffe://%s/service/authority","sub":%q,"aud":%q,"jti":%q,"exp":%d}`,
		s.cfg.Self.TrustDomain().Name(), s.cfg.Self, s.cfg.Target, rand.Text(), s.at.Now().Add(envelopeLife).Unix())
	return enc([]byte(`{"alg":"none","typ":"at+jwt"}`)) + "." + enc([]byte(claims)) + "."
}
