package vectors

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha512"
	"fmt"
	"math/big"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// signatures is rows 26, 27 and 29 to 33, for both algorithms.
func signatures(w *world) *File {
	g := newGroup(w, "signature", algEd25519)
	for _, alg := range []string{algEd25519, algP256} {
		g := g.with(alg)
		control := g.allow(1, "control-"+alg, "one hop", g.hop1())
		if alg == algEd25519 {
			g.grants(control)
			g.grantFlips(control)
		}
		g.signers(control)
		g.reused(control)
		g.flips(control)
		g.sweeps()
	}
	g.edges25519()
	g.with(algP256).edgesP256()
	return g.f
}

// resigned is hop1 with another signature on the hop.
func (s *scene) resigned(sign func(h *v1.SignedStatement) []byte) show {
	sh := s.hop1()
	h := sh.chain.GetHops()[0]
	h.Signature = sign(h)
	return sh
}

// grants is row 30 for the root, whose algorithm is always Ed25519.
func (g *group) grants(control string) {
	grant := func(sign func(s *v1.SignedStatement) []byte) show {
		sh := g.hop1()
		sh.chain.Grant.Signature = sign(sh.chain.GetGrant())
		return sh
	}
	zero := func(*v1.SignedStatement) []byte { return make([]byte, sigBytes) }
	g.deny(30, "grant-zero", "a grant whose signature is zero", control, badSignature, grant(zero))
	g.deny(30, "grant-stripped", "a grant without a signature", control, malformed, grant(func(*v1.SignedStatement) []byte { return nil }))
	g.deny(30, "grant-short", "a grant with 63 bytes of signature", control, malformed,
		grant(func(s *v1.SignedStatement) []byte { return s.GetSignature()[:63] }))
	g.deny(30, "grant-long", "a grant with 65 bytes of signature", control, malformed,
		grant(func(s *v1.SignedStatement) []byte { return append(slices.Clone(s.GetSignature()), 0) }))
	g.deny(31, "grant-as-hop", "a grant that its key has signed as a hop", control, badSignature,
		grant(func(s *v1.SignedStatement) []byte { return g.sign(g.grant, encoding(typeHop, s.GetPayload())) }))
}

// signers is rows 26 and 27.
func (g *group) signers(control string) {
	certified := func(key, cert *party) show {
		sh := g.resigned(func(h *v1.SignedStatement) []byte { return g.sign(key.key, encoding(typeHop, h.GetPayload())) })
		sh.chain.Certs[0] = certsOf(cert)
		return sh
	}
	a, b, c := g.agent("a"), g.agent("b"), g.agent("c")
	g.deny(26, "neighbour-"+g.alg, "signed and certified by another agent of the tenant", control, badSigner, certified(c, c))
	g.deny(26, "neighbours-key-"+g.alg, "signed with another agent's key under the issuer's certificate", control, badSignature, certified(c, a))
	g.deny(26, "neighbours-cert-"+g.alg, "signed with the issuer's key under another agent's certificate", control, badSigner, certified(a, c))
	g.deny(27, "callee-"+g.alg, "signed and certified by the callee", control, badSigner, certified(b, b))
	auth := g.authority()
	g.deny(27, "service-"+g.alg, "signed and certified by the authority as a service", control, badSigner, certified(auth, auth))
	g.deny(26, "newer-key-"+g.alg, "signed with the issuer's newer key under its older certificate", control, badSignature,
		certified(g.rotated("a"), a))
	g.allow(26, "newer-cert-"+g.alg, "signed with the issuer's newer key under its newer certificate", certified(g.rotated("a"), g.rotated("a")))
}

// reused is rows 30 to 32.
func (g *group) reused(control string) {
	key := g.agent("a").key
	over := func(message func(payload []byte) []byte) show {
		return g.resigned(func(h *v1.SignedStatement) []byte { return g.sign(key, message(h.GetPayload())) })
	}
	for _, tc := range []struct {
		row         int
		name, title string
		message     func(payload []byte) []byte
	}{
		{31, "grant-type", "made for a grant", func(p []byte) []byte { return encoding(typeGrant, p) }},
		{31, "receipt-type", "made for a receipt", func(p []byte) []byte { return encoding(typeReceipt, p) }},
		{31, "invocation-type", "made for an invocation", func(p []byte) []byte { return encoding(typeInvocation, p) }},
		{31, "type-in-upper-case", "made for the type in another case", func(p []byte) []byte {
			return encoding("Application/vnd.safeconduct.hop.v1+proto", p)
		}},
		{31, "no-type", "made for an empty type", func(p []byte) []byte { return encoding("", p) }},
		{31, "bare", "made over the bare payload", func(p []byte) []byte { return p }},
		{31, "bare-digest", "made over the digest of what is signed", func(p []byte) []byte { return digest(encoding(typeHop, p)) }},
		{31, "padded-length", "made over lengths with leading zeros", func(p []byte) []byte {
			return append([]byte("DSSEv1 0"+strconv.Itoa(len(typeHop))+" "+typeHop+" 0"+strconv.Itoa(len(p))+" "), p...)
		}},
		{31, "other-dsse", "made over DSSEv2", func(p []byte) []byte { return append([]byte("DSSEv2"), encoding(typeHop, p)[6:]...) }},
		{32, "tls-client", "made for the client's TLS 1.3 CertificateVerify", func([]byte) []byte { return tls13("client") }},
		{32, "tls-server", "made for the server's TLS 1.3 CertificateVerify", func([]byte) []byte { return tls13("server") }},
	} {
		g.deny(tc.row, tc.name+"-"+g.alg, "a signature "+tc.title, control, badSignature, over(tc.message))
	}
	resized := func(f func(sig []byte) []byte) show {
		return g.resigned(func(h *v1.SignedStatement) []byte { return f(slices.Clone(h.GetSignature())) })
	}
	g.deny(30, "stripped-"+g.alg, "no signature", control, malformed, resized(func([]byte) []byte { return nil }))
	g.deny(30, "short-"+g.alg, "63 bytes of signature", control, malformed, resized(func(b []byte) []byte { return b[:63] }))
	g.deny(30, "long-"+g.alg, "65 bytes of signature", control, malformed, resized(func(b []byte) []byte { return append(b, 0) }))
	g.deny(30, "half-"+g.alg, "32 bytes of signature", control, malformed, resized(func(b []byte) []byte { return b[:32] }))
	g.deny(30, "zero-"+g.alg, "a signature of zeros", control, badSignature, resized(func([]byte) []byte { return make([]byte, sigBytes) }))
	g.deny(30, "ones-"+g.alg, "a signature of ones", control, badSignature, resized(func([]byte) []byte {
		return slices.Repeat([]byte{0xff}, sigBytes)
	}))
	g.deny(30, "halves-swapped-"+g.alg, "the halves of the signature swapped", control, badSignature, resized(func(b []byte) []byte {
		return append(b[32:], b[:32]...)
	}))
	g.deny(30, "first-half-zero-"+g.alg, "the first half zero", control, badSignature, resized(func(b []byte) []byte {
		clear(b[:32])
		return b
	}))
	g.deny(30, "second-half-zero-"+g.alg, "the second half zero", control, badSignature, resized(func(b []byte) []byte {
		clear(b[32:])
		return b
	}))
	other := g.hop1(func(p *v1.HopPayload) { p.StatementNonce = seed("nonce other")[:16] }).chain.GetHops()[0].GetSignature()
	g.deny(30, "of-another-hop-"+g.alg, "the signature of another hop by the same agent", control, badSignature,
		resized(func([]byte) []byte { return other }))
}

// tls13 is what a TLS 1.3 peer signs (RFC 8446 section 4.4.3).
func tls13(side string) []byte {
	out := slices.Repeat([]byte{' '}, 64)
	out = append(out, "TLS 1.3, "+side+" CertificateVerify\x00"...)
	return append(out, seed("transcript")...)
}

// flipped is the second bit of a byte of a field's value, flipped without signing again, and what it is refused for.
type flipped struct {
	field int
	last  bool // the last byte of the value, else the first
	code  string
}

// flips is row 29 for one byte of each field. Sweeps flip every bit.
func (g *group) flips(control string) {
	hop := []flipped{
		{1, false, badVersion},
		{2, false, parentMismatch},
		{2, true, parentMismatch},
		{3, false, tooDeep},
		{4, false, parentMismatch},
		{4, true, parentMismatch},
		{5, false, malformed},
		{5, true, parentMismatch},
		{6, false, malformed},
		{6, true, malformed},
		{7, false, badTenant},
		{7, true, badTenant},
		{8, false, nonCanonical},
		{8, true, amplified},
		{9, false, malformed},
		{9, true, malformed},
		{10, false, tooDeep},
		{11, false, badSignature},
		{12, false, badSignature},
		{13, false, badLife},
		{14, false, badSignature},
		{14, true, badSignature},
		{15, false, badPurpose},
		{15, true, badPurpose},
	}
	for _, f := range hop {
		sh := g.hop1()
		h := sh.chain.GetHops()[0]
		h.Payload = flip(h.GetPayload(), f)
		g.flip("hop", f, control, sh)
	}
}

// grantFlips is row 29 for the root. Below a hop, the parent id notices first; a grant that its issuer presents has nothing below it.
func (g *group) grantFlips(control string) {
	bare := show{chain: g.chain(g.agent("a")).c, by: g.authority(), self: g.agent("a")}
	root := g.allow(29, "grant-control", "a grant alone, presented by the authority", bare)
	for _, f := range []flipped{
		{1, false, badVersion},
		{2, false, badSignature},
		{2, true, badSignature},
		{3, false, malformed},
		{3, true, malformed},
		{4, false, badKey},
		{4, true, badKey},
		{5, false, badTenant},
		{6, false, malformed},
		{6, true, badTenant},
		{7, false, nonCanonical},
		{7, true, badSignature},
		{8, false, malformed},
		{8, true, notAudience},
		{9, false, nonCanonical},
		{9, true, badSignature},
		{10, false, malformed},
		{11, false, badSignature},
		{13, false, badSignature},
		{14, false, badSignature},
		{15, false, badLife},
		{16, false, badLife},
		{17, false, badSignature},
		{17, true, badSignature},
		{18, false, badSignature},
		{19, false, badSignature},
		{20, false, badSignature},
		{20, true, badSignature},
	} {
		sh := show{chain: g.chain(g.agent("a")).c, by: g.authority(), self: g.agent("a")}
		sh.chain.Grant.Payload = flip(sh.chain.GetGrant().GetPayload(), f)
		g.flip("grant", f, root, sh)
	}
	sh := g.hop1()
	sh.chain.Grant.Payload = flip(sh.chain.GetGrant().GetPayload(), flipped{20, true, ""})
	g.deny(29, "flip-grant-below-hop", "a bit of the grant's nonce flipped below a hop", control, parentMismatch, sh)
}

func (g *group) flip(of string, f flipped, control string, sh show) {
	end, name := "first", fmt.Sprintf("flip-%s-%02d-first-%s", of, f.field, g.alg)
	if f.last {
		end, name = "last", fmt.Sprintf("flip-%s-%02d-last-%s", of, f.field, g.alg)
	}
	g.deny(29, name, fmt.Sprintf("a bit of the %s byte of field %d of the %s flipped", end, f.field, of), control, f.code, sh)
}

// flip flips bit 1 of one byte of the first value of a field.
func flip(payload []byte, f flipped) []byte {
	out := slices.Clone(payload)
	for at := 0; at < len(out); {
		num, typ, tag := protowire.ConsumeTag(out[at:])
		n := protowire.ConsumeFieldValue(num, typ, out[at+tag:])
		if int(num) == f.field {
			first := at + tag
			if typ == protowire.BytesType {
				_, size := protowire.ConsumeVarint(out[first:])
				first += size
			}
			if f.last {
				first = at + tag + n - 1
			}
			out[first] ^= 2
			return out
		}
		at += tag + n
	}
	return out
}

// sweeps is row 29 for every bit of grant and hop, before a verifier that knows the chain and before one that does not.
func (g *group) sweeps() {
	sh := g.hop1()
	end := len(g.marshal(&v1.DelegationChain{Grant: sh.chain.GetGrant(), Hops: sh.chain.GetHops()}))
	sweep := g.step(sh, Refuse)
	sweep.Sweep = &Sweep{From: 0, To: end}
	g.sequence(29, "every-bit-cold-"+g.alg, "every bit of grant, hop and their signatures flipped, one at a time", "", "base", sh.self, sweep)
	warm := g.step(sh, Refuse)
	warm.Sweep = &Sweep{From: len(g.marshal(&v1.DelegationChain{Grant: sh.chain.GetGrant()})), To: end}
	g.sequence(29, "every-bit-warm-"+g.alg, "every bit of the hop, after the chain was accepted", "", "base", sh.self,
		g.step(sh, Allow), warm, g.step(sh, Allow))
}

// edges25519 is what RFC 8032 refuses.
func (g *group) edges25519() {
	control := "signature/control-" + g.alg
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	little := func(n *big.Int) []byte {
		b := n.FillBytes(make([]byte, halfBytes))
		slices.Reverse(b)
		return b
	}
	with := func(r, s func(sig []byte) []byte) show {
		return g.resigned(func(h *v1.SignedStatement) []byte {
			sig := h.GetSignature()
			return slices.Concat(r(sig), s(sig))
		})
	}
	r, s := func(sig []byte) []byte { return sig[:32] }, func(sig []byte) []byte { return sig[32:] }
	raised := func(by *big.Int) func([]byte) []byte {
		return func(sig []byte) []byte {
			b := slices.Clone(sig[32:])
			slices.Reverse(b)
			return little(new(big.Int).Add(new(big.Int).SetBytes(b), by))
		}
	}
	constant := func(b []byte) func([]byte) []byte { return func([]byte) []byte { return b } }
	identity := append([]byte{1}, make([]byte, 31)...)
	nonCanonicalIdentity := append(append([]byte{0xee}, slices.Repeat([]byte{0xff}, 30)...), 0x7f)
	order8, _ := new(big.Int).SetString("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", 16)
	for _, tc := range []struct {
		name, title string
		r, s        func([]byte) []byte
	}{
		{"s-plus-order", "S plus the group order", r, raised(order)},
		{"s-zero", "S of zero", r, constant(make([]byte, 32))},
		{"s-order", "S of the group order", r, constant(little(order))},
		{"s-high-bit", "the highest bit of S set", r, func(sig []byte) []byte { b := slices.Clone(sig[32:]); b[31] |= 0x80; return b }},
		{"r-identity", "R is the identity", constant(identity), s},
		{"r-identity-s-zero", "R is the identity and S zero", constant(identity), constant(make([]byte, 32))},
		{"r-non-canonical", "R is a non-canonical encoding of the identity", constant(nonCanonicalIdentity), s},
		{"r-small-order", "R is a point of order 8", constant(order8.FillBytes(make([]byte, 32))), s},
		{"r-sign", "the sign bit of R flipped", func(sig []byte) []byte { b := slices.Clone(sig[:32]); b[31] ^= 0x80; return b }, s},
	} {
		g.deny(30, "ed25519-"+tc.name, "Ed25519: "+tc.title, control, badSignature, with(tc.r, tc.s))
	}
	key, isKey := g.agent("a").key.(ed25519.PrivateKey)
	if !isKey {
		g.fail(fmt.Errorf("the key of agent a is not Ed25519"))
		return
	}
	prehashed := g.resigned(func(h *v1.SignedStatement) []byte {
		sum := sha512.Sum512(encoding(typeHop, h.GetPayload()))
		sig, err := key.Sign(nil, sum[:], &ed25519.Options{Hash: crypto.SHA512})
		g.fail(err)
		return sig
	})
	g.deny(31, "ed25519-prehashed", "Ed25519ph instead of Ed25519", control, badSignature, prehashed)
	context := g.resigned(func(h *v1.SignedStatement) []byte {
		sig, err := key.Sign(nil, encoding(typeHop, h.GetPayload()), &ed25519.Options{Context: "x"})
		g.fail(err)
		return sig
	})
	g.deny(31, "ed25519-context", "Ed25519ctx instead of Ed25519", control, badSignature, context)
}

// edgesP256 is row 33 and the edges of r and s.
func (g *group) edgesP256() {
	control := "signature/control-" + g.alg
	n := elliptic.P256().Params().N
	with := func(f func(r, s *big.Int) (*big.Int, *big.Int)) show {
		return g.resigned(func(h *v1.SignedStatement) []byte {
			sig := h.GetSignature()
			r, s := f(new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
			return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		})
	}
	most := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
	less := new(big.Int).Sub(n, big.NewInt(1))
	for _, tc := range []struct {
		name, title string
		f           func(r, s *big.Int) (*big.Int, *big.Int)
	}{
		{"r-zero", "r of zero", func(_, s *big.Int) (*big.Int, *big.Int) { return new(big.Int), s }},
		{"s-zero", "s of zero", func(r, _ *big.Int) (*big.Int, *big.Int) { return r, new(big.Int) }},
		{"r-order", "r of the group order", func(_, s *big.Int) (*big.Int, *big.Int) { return n, s }},
		{"s-order", "s of the group order", func(r, _ *big.Int) (*big.Int, *big.Int) { return r, n }},
		{"r-most", "r of 2^256-1", func(_, s *big.Int) (*big.Int, *big.Int) { return most, s }},
		{"s-most", "s of 2^256-1", func(r, _ *big.Int) (*big.Int, *big.Int) { return r, most }},
		{"r-one-s-one", "r and s of one", func(_, _ *big.Int) (*big.Int, *big.Int) { return big.NewInt(1), big.NewInt(1) }},
		{"r-less-s-less", "r and s of the order less one", func(_, _ *big.Int) (*big.Int, *big.Int) { return less, less }},
		{"r-negated", "r replaced by the order less r", func(r, s *big.Int) (*big.Int, *big.Int) { return new(big.Int).Sub(n, r), s }},
	} {
		g.deny(30, "p256-"+tc.name, "ECDSA: "+tc.title, control, badSignature, with(tc.f))
	}
	twin := func(r, s *big.Int) (*big.Int, *big.Int) { return r, new(big.Int).Sub(n, s) }
	g.allow(33, "p256-twin", "ECDSA: the twin (r, n-s) of the control: valid, with the same statement id and another link", with(twin))
	both := with(twin)
	g.sequence(33, "p256-both-twins", "ECDSA: both twins, one after the other", "", "base", both.self,
		g.step(g.hop1(), Allow), g.step(both, Allow), g.step(g.hop1(), Allow))
	gone := g.step(both, revoked)
	gone.Revoked = []Hex{g.leaf(both.chain, both.by).StatementID}
	g.sequence(33, "p256-twin-revoked", "ECDSA: the statement of the first twin is revoked, and the second with it", "", "base", both.self,
		g.step(g.hop1(), Allow), gone)
	key, isKey := g.agent("a").key.(*ecdsa.PrivateKey)
	if !isKey {
		g.fail(fmt.Errorf("the key of agent a is not ECDSA"))
		return
	}
	wide := g.resigned(func(h *v1.SignedStatement) []byte {
		sum := sha512.Sum512(encoding(typeHop, h.GetPayload()))
		der, err := key.Sign(nil, sum[:], crypto.SHA512)
		g.fail(err)
		return g.fromDER(der)
	})
	g.deny(31, "p256-sha512", "ECDSA with SHA-512", control, badSignature, wide)
}
