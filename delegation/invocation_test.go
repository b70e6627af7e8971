package delegation_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

const (
	binding    = v1.Reason_REASON_PROOF_BINDING
	testMethod = "/mesh.v1.MeshService/Unary"
)

// invoked is one message that b sends to c with a proof, as c receives it.
type invoked struct {
	*scene
	v     *delegation.Verifier
	p     presented
	leaf  *delegation.Leaf
	proof *v1.InvocationProof
	facts delegation.EnvelopeFacts
}

func (s *scene) invoke(change ...func(*delegation.Config)) *invoked {
	s.tb.Helper()
	p := s.hop2()
	in := &invoked{scene: s, v: s.verifier(p.self, change...), p: p}
	in.facts = delegation.EnvelopeFacts{Peer: p.by.peer, Method: testMethod, Envelope: typical()}
	in.facts.Envelope.DeadlineUnixMs = s.now().Add(30 * time.Second).UnixMilli()
	in.leaf = in.verify(p)
	in.proof = in.prove(p.chain, in.facts.Envelope, p.by)
	return in
}

func (in *invoked) verify(p presented) *delegation.Leaf {
	in.tb.Helper()
	x, err := in.v.Verify(p.chain, p.by.peer)
	if err != nil {
		in.tb.Fatal(err)
	}
	return x
}

func (in *invoked) prove(c *v1.DelegationChain, e *v1.Envelope, by *agent) *v1.InvocationProof {
	in.tb.Helper()
	proof, err := delegation.NewInvocation(c, e, by.signer, in.now())
	if err != nil {
		in.tb.Fatal(err)
	}
	return proof
}

// signed makes the proof again with what change made of its payload, signed by `by`, who is certified as he is.
func (in *invoked) signed(by *agent, payloadType string, change ...func(*v1.InvocationPayload)) {
	in.tb.Helper()
	m := new(v1.InvocationPayload)
	if err := proto.Unmarshal(in.proof.GetStatement().GetPayload(), m); err != nil {
		in.tb.Fatal(err)
	}
	for _, f := range change {
		f(m)
	}
	in.raw(by, payloadType, marshal(in.tb, m))
}

func (in *invoked) raw(by *agent, payloadType string, payload []byte) {
	in.tb.Helper()
	in.proof = &v1.InvocationProof{
		Statement: &v1.SignedStatement{Payload: payload, Signature: in.sign(by, payloadType, payload), CertRef: 1}, Certs: []*v1.CertChain{chainOf(by)},
	}
}

func (in *invoked) check() (delegation.Invocation, error) {
	return in.v.VerifyInvocation(in.leaf, in.proof, in.facts)
}

type proofCase struct {
	name  string
	build func(*invoked)
	want  v1.Reason
}

// claims changes what is signed.
func claims(change func(*v1.InvocationPayload)) func(*invoked) {
	return func(in *invoked) { in.signed(in.p.by, delegation.TypeInvocation, change) }
}

// after changes the envelope after it was signed: row 63.
func after(change func(*v1.Envelope)) func(*invoked) {
	return func(in *invoked) { change(in.facts.Envelope) }
}

func proofBindingCases() []proofCase {
	return []proofCase{
		{"honest", func(*invoked) {}, 0},
		{"63 label", after(func(e *v1.Envelope) { e.Control.Integrity = 4 }), binding},
		{"63 label left out", after(func(e *v1.Envelope) { e.Control = nil }), binding},
		{"63 reference", after(func(e *v1.Envelope) { e.Context[0].Ref.Version++ }), binding},
		{"63 reference added", after(func(e *v1.Envelope) { e.Context = append(e.Context, &v1.ContextRef{}) }), binding},
		{"63 data label", after(func(e *v1.Envelope) { e.Data[0].Label.Integrity = 4 }), binding},
		{"63 method", func(in *invoked) { in.facts.Method += "s" }, binding},
		{"63 method of the envelope", after(func(e *v1.Envelope) { e.Method += "s" }), binding},
		{"63 payload", after(func(e *v1.Envelope) { e.Payload = []byte("other") }), binding},
		{"63 payload with its digest", after(func(e *v1.Envelope) {
			sum := sha256.Sum256([]byte("other"))
			e.Payload, e.Intent.ArgumentsDigest = []byte("other"), sum[:]
		}), binding},
		{"63 deadline", after(func(e *v1.Envelope) { e.DeadlineUnixMs++ }), binding},
		{"63 id, for a second use", after(func(e *v1.Envelope) { e.Id = random(16) }), binding},
		{"63 purpose", after(func(e *v1.Envelope) { e.Intent.Purpose += "x" }), binding},
		{"63 delivery", after(func(e *v1.Envelope) { e.Delivery = v1.Delivery_DELIVERY_STORED }), binding},
		{"a field without a digest", after(func(e *v1.Envelope) { e.NoPayload = true }), binding},
		{"no envelope", func(in *invoked) { in.facts.Envelope = nil }, binding},
		{"trace and metadata, which are not bound", after(func(e *v1.Envelope) {
			e.Trace, e.Metadata = &v1.TraceContext{Flags: 1}, []*v1.Pair{{Key: "k"}}
		}), 0},
		{"another leaf", claims(func(m *v1.InvocationPayload) { m.LeafId = random(32) }), binding},
		{"no leaf", claims(func(m *v1.InvocationPayload) { m.LeafId = nil }), binding},
		{"a leaf of the same agents, made before", func(in *invoked) {
			in.proof = in.prove(in.hop2().chain, in.facts.Envelope, in.p.by)
		}, binding},
		{"the hop before the last", func(in *invoked) {
			c := proto.CloneOf(in.p.chain)
			c.Hops = c.GetHops()[:1]
			in.proof = in.prove(c, in.facts.Envelope, in.a)
		}, binding},
		{"another caller", claims(func(m *v1.InvocationPayload) { m.Caller = m.GetCallee() }), binding},
		{"another callee", claims(func(m *v1.InvocationPayload) { m.Callee = m.GetCaller() }), binding},
		{"the callee's name with a slash", claims(func(m *v1.InvocationPayload) { m.Callee += "/" }), binding},
		{"another method", claims(func(m *v1.InvocationPayload) { m.Method = "/mesh.v1.MeshService/Foreign" }), binding},
		{"another envelope", claims(func(m *v1.InvocationPayload) { m.EnvelopeDigest = random(32) }), binding},
		{"no digest", claims(func(m *v1.InvocationPayload) { m.EnvelopeDigest = nil }), binding},
	}
}

func proofShapeCases() []proofCase {
	return []proofCase{
		{"no proof", func(in *invoked) { in.proof = nil }, malformed},
		{"empty", func(in *invoked) { in.proof = &v1.InvocationProof{} }, malformed},
		{"version 2", claims(func(m *v1.InvocationPayload) { m.Version = 2 }), badVersion},
		{"no jti", claims(func(m *v1.InvocationPayload) { m.Jti = nil }), malformed},
		{"jti of 15 bytes", claims(func(m *v1.InvocationPayload) { m.Jti = random(15) }), malformed},
		{"no method", func(in *invoked) {
			in.signed(in.p.by, delegation.TypeInvocation, func(m *v1.InvocationPayload) { m.Method = "" })
			in.facts.Method = ""
		}, malformed},
		{"unknown field in the payload", func(in *invoked) {
			payload := protowire.AppendVarint(protowire.AppendTag(in.proof.GetStatement().GetPayload(), 10, protowire.VarintType), 1)
			in.raw(in.p.by, delegation.TypeInvocation, payload)
		}, nonCanonical},
		{"payload twice, the last wins", func(in *invoked) {
			payload := in.proof.GetStatement().GetPayload()
			in.raw(in.p.by, delegation.TypeInvocation, append(bytes.Clone(payload), payload...))
		}, nonCanonical},
		{"a hop as payload", func(in *invoked) {
			in.raw(in.p.by, delegation.TypeInvocation, in.p.chain.GetHops()[1].GetPayload())
		}, malformed},
		{"unknown field beside the statement", func(in *invoked) {
			in.proof.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 1))
		}, nonCanonical},
		{"payload over 1 KiB", func(in *invoked) { in.raw(in.p.by, delegation.TypeInvocation, make([]byte, 1025)) }, tooLarge},
		{"proof over 4 KiB", func(in *invoked) {
			in.proof.Certs[0].Intermediates = [][]byte{make([]byte, 1900), make([]byte, 1900)}
		}, tooLarge},
		{"certificate over 2 KiB", func(in *invoked) { in.proof.Certs[0].Leaf = make([]byte, 2049) }, tooLarge},
		{"two certificates", func(in *invoked) { in.proof.Certs = append(in.proof.Certs, in.proof.Certs[0]) }, tooLarge},
		{"signature of 63 bytes", func(in *invoked) { in.proof.Statement.Signature = in.proof.Statement.Signature[:63] }, malformed},
		{"62 unreferenced certificate", func(in *invoked) { in.proof.Statement.CertRef = 0 }, malformed},
		{"62 reference to nothing", func(in *invoked) { in.proof.Certs = nil }, malformed},
		{"62 reference 2", func(in *invoked) { in.proof.Statement.CertRef = 2 }, malformed},
		{"reference 0 on the signer's own connection", func(in *invoked) { in.bare() }, 0},
		{"62 reference 0 without a connection", func(in *invoked) {
			in.bare()
			in.facts.Peer = identity.Peer{}
		}, malformed},
		{"62 reference 0, stored", func(in *invoked) {
			in.stored()
			in.bare()
		}, malformed},
		{"reference 0 on the connection of another", func(in *invoked) {
			in.bare()
			in.facts.Peer = in.a.peer
		}, badSigner},
		{"reference 0 on a newer connection of the signer", func(in *invoked) {
			in.bare()
			in.facts.Peer = in.agent("b").peer
		}, badSignature},
	}
}

// bare leaves the certificate to the connection.
func (in *invoked) bare() { in.proof.Statement.CertRef, in.proof.Certs = 0, nil }

// stored makes the message a stored one, proof and all.
func (in *invoked) stored() {
	in.facts.Envelope.Delivery = v1.Delivery_DELIVERY_STORED
	in.proof = in.prove(in.p.chain, in.facts.Envelope, in.p.by)
}

func proofTimeCases() []proofCase {
	life := func(iat, exp time.Duration) func(*invoked) {
		return func(in *invoked) {
			in.signed(in.p.by, delegation.TypeInvocation, func(m *v1.InvocationPayload) {
				m.IssuedAtMs, m.ExpiresAtMs = in.now().Add(iat).UnixMilli(), in.now().Add(exp).UnixMilli()
			})
		}
	}
	moved := func(d time.Duration) func(*invoked) { return func(in *invoked) { in.move(d) } }
	return []proofCase{
		{"60 s", life(0, 60*time.Second), 0},
		{"60 s and a millisecond", life(0, 60001*time.Millisecond), lifetime},
		{"52 begins in 29 s", life(29*time.Second, 60*time.Second), 0},
		{"52 begins in 31 s", life(31*time.Second, 60*time.Second), late},
		{"ends as it begins", life(time.Second, time.Second), lifetime},
		{"ends before it begins", life(time.Second, 0), lifetime},
		{"over by a millisecond, no skew", life(-30*time.Second, 0), late},
		{"a millisecond left", life(-30*time.Second, time.Millisecond), 0},
		{"an honest one after a minute", moved(time.Minute), late},
		{"an honest one just before", moved(time.Minute - time.Millisecond), 0},
		{"no times", claims(func(m *v1.InvocationPayload) { m.IssuedAtMs, m.ExpiresAtMs = 0, 0 }), lifetime},
		{"negative", claims(func(m *v1.InvocationPayload) { m.IssuedAtMs = -1 }), lifetime},
		{"overflow", claims(func(m *v1.InvocationPayload) { m.IssuedAtMs, m.ExpiresAtMs = 1, 1<<63-1 }), lifetime},
		{"begins after the year 2100", claims(func(m *v1.InvocationPayload) { m.IssuedAtMs, m.ExpiresAtMs = 4102444800000, 4102444800001 }), lifetime},
		{"stored, until the chain ends", func(in *invoked) { in.stored() }, 0},
		{"stored, after a minute", func(in *invoked) { in.stored(); in.move(10 * time.Minute) }, 0},
		{"stored, beyond the chain", func(in *invoked) {
			in.stored()
			in.signed(in.p.by, delegation.TypeInvocation, func(m *v1.InvocationPayload) { m.ExpiresAtMs = in.leaf.Expires().UnixMilli() + 1 })
		}, lifetime},
		{"stored, at the end of the chain", func(in *invoked) { in.stored(); in.move(15 * time.Minute) }, late},
		{"the clock stepped back", func(in *invoked) { in.move(-6 * time.Second) }, late},
	}
}

func proofSignatureCases() []proofCase {
	const forGrant, forHop, forReceipt = delegation.TypeGrant, delegation.TypeHop, delegation.TypeReceipt
	as := func(kind string) func(*invoked) {
		return func(in *invoked) { in.signed(in.p.by, kind) }
	}
	certified := func(opts ...svidOption) func(*invoked) {
		return func(in *invoked) { in.signed(in.loose(in.p.by.id, opts...), delegation.TypeInvocation) }
	}
	return []proofCase{
		{"31 signature for a grant", as(forGrant), badSignature},
		{"31 signature for a hop", as(forHop), badSignature},
		{"31 signature for a receipt", as(forReceipt), badSignature},
		{"31 signature of the hop itself", func(in *invoked) {
			in.proof.Statement.Signature = in.p.chain.GetHops()[1].GetSignature()
		}, badSignature},
		{"32 a TLS transcript", func(in *invoked) {
			content := append(bytes.Repeat([]byte{' '}, 64), "TLS 1.3, client CertificateVerify\x00"...)
			in.proof.Statement.Signature = in.signBytes(in.p.by, append(content, random(32)...))
		}, badSignature},
		{"bare payload", func(in *invoked) {
			in.proof.Statement.Signature = in.signBytes(in.p.by, in.proof.GetStatement().GetPayload())
		}, badSignature},
		{"30 zero", func(in *invoked) { in.proof.Statement.Signature = make([]byte, 64) }, badSignature},
		{"33 twin", func(in *invoked) { in.proof.Statement.Signature = twin(in.proof.Statement.Signature) }, 0},
		{"26 another agent", func(in *invoked) { in.signed(in.c, delegation.TypeInvocation) }, badSigner},
		{"26 another agent of the chain", func(in *invoked) { in.signed(in.a, delegation.TypeInvocation) }, badSigner},
		{"26 another key under the signer's certificate", func(in *invoked) {
			in.signed(in.c, delegation.TypeInvocation)
			in.proof.Certs[0] = chainOf(in.p.by)
		}, badSignature},
		{"28 a CA as leaf", certified(withCert(func(c *x509.Certificate) { c.IsCA = true })), badSigner},
		{"a certificate that does not parse", func(in *invoked) { in.proof.Certs[0].Leaf = []byte("certificate") }, badSigner},
		{"an intermediate that does not parse", func(in *invoked) {
			in.proof.Certs[0] = chainOf(in.agent("b")) // not cached
			in.proof.Certs[0].Intermediates = [][]byte{[]byte("certificate")}
		}, svidReason},
		{"a certificate of nobody's CA", func(in *invoked) { certified(issuedBy(newCA(in.tb, nil)))(in) }, svidReason},
		{"53 a certificate that has expired", certified(life(-time.Minute, -time.Second)), svidReason},
		{"a certificate that is not valid yet", certified(life(time.Second, time.Hour)), svidReason},
		{"a certificate that ends before the proof", certified(life(-time.Minute, 59*time.Second)), lifetime},
		{"53 rotated before signing", func(in *invoked) {
			in.proof = in.prove(in.p.chain, in.facts.Envelope, in.agent("b"))
		}, 0},
		{"53 rotated between signing and use", func(in *invoked) { in.facts.Peer = in.agent("b").peer }, 0},
		{"under an intermediate", func(in *invoked) {
			mid := newCA(in.tb, in.ca)
			in.proof = in.prove(in.p.chain, in.facts.Envelope, in.agent("b", issuedBy(mid, mid.cert)))
		}, 0},
		{"53 the CA is gone", func(in *invoked) {
			td := spiffeid.RequireTrustDomainFromString(domain)
			in.bundles.Add(x509bundle.FromX509Authorities(td, []*x509.Certificate{newCA(in.tb, nil).cert}))
			in.bundle.Add(1)
		}, svidReason},
		{"53 no bundle", func(in *invoked) {
			in.bundles.Remove(spiffeid.RequireTrustDomainFromString(domain))
			in.bundle.Add(1)
		}, foreign},
	}
}

// TestInvocation has rows 31, 33, 53, 62 and 63 for proofs, and what step 18 checks beside them.
func TestInvocation(t *testing.T) {
	for group, cases := range map[string][]proofCase{
		"binding": proofBindingCases(), "shape": proofShapeCases(), "time": proofTimeCases(), "signature": proofSignatureCases(),
	} {
		for _, tc := range cases {
			t.Run(group+"/"+tc.name, func(t *testing.T) {
				in := newScene(t).invoke()
				tc.build(in)
				for _, look := range []string{"cold", "again"} {
					got, err := in.check()
					if reason(err) != tc.want || (got == delegation.Invocation{}) == (tc.want == 0) {
						t.Fatalf("%s: VerifyInvocation() = %v, %v, want %v", look, got, err, tc.want)
					}
					if err != nil && strings.Contains(err.Error(), "spiffe:") {
						t.Errorf("%q quotes what nobody verified", err)
					}
				}
			})
		}
	}
}

// TestEachByteOfAProof is row 29: no byte of payload, signature or certificate is without meaning.
func TestEachByteOfAProof(t *testing.T) {
	in := newScene(t).invoke()
	for what, b := range map[string][]byte{
		"payload": in.proof.GetStatement().GetPayload(), "signature": in.proof.GetStatement().GetSignature(), "certificate": in.proof.GetCerts()[0].GetLeaf(),
	} {
		in.proof.Certs[0].Leaf = bytes.Clone(in.proof.Certs[0].Leaf)
		if what == "certificate" {
			b = in.proof.Certs[0].Leaf
		}
		for i := range b {
			b[i] ^= 0x10
			if _, err := in.check(); err == nil {
				t.Errorf("byte %d of the %s may be changed", i, what)
			}
			b[i] ^= 0x10
		}
	}
	if _, err := in.check(); err != nil {
		t.Errorf("the proof itself: %v", err)
	}
}

func TestInvocationOfWhat(t *testing.T) {
	in := newScene(t).invoke()
	got, err := in.check()
	if err != nil {
		t.Fatal(err)
	}
	jti := delegation.ClaimedJTI(in.proof)
	if !bytes.Equal(got.JTI[:], jti) || got.Key != delegation.ReplayKey(delegation.ReplayInvocation, in.b.id, jti) || !got.Expires.Equal(in.now().Add(time.Minute)) {
		t.Errorf("VerifyInvocation() = %+v, want jti %x for a minute", got, jti)
	}
	if jti := delegation.ClaimedJTI(nil); jti != nil {
		t.Errorf("ClaimedJTI(nil) = %x", jti)
	}
	for name, x := range map[string]*delegation.Leaf{"nil": nil, "zero": {}, "of another verifier": mustVerify(t, in.verifier(in.c), in.p)} {
		if _, err := in.v.VerifyInvocation(x, in.proof, in.facts); reason(err) != unknownChain {
			t.Errorf("a leaf that is %s: %v, want %v", name, err, unknownChain)
		}
	}
}

// mustVerify is Verify for a chain that is known to be good.
func mustVerify(t *testing.T, v *delegation.Verifier, p presented) *delegation.Leaf {
	t.Helper()
	x, err := v.Verify(p.chain, p.by.peer)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestInvocationSeen(t *testing.T) {
	in := newScene(t).invoke()
	want, lookups := errors.New("used"), in.lookups.Load()
	var asked [][32]byte
	in.facts.Seen = func(key [32]byte) error { asked = append(asked, key); return want }
	in.proof = in.prove(in.p.chain, in.facts.Envelope, in.agent("b"))
	if _, err := in.check(); !errors.Is(err, want) || in.lookups.Load() != lookups {
		t.Errorf("a proof that was seen: %v after %d looks at a bundle, want the store's error before any", err, in.lookups.Load()-lookups)
	}
	in.facts.Seen = func(key [32]byte) error { asked = append(asked, key); return nil }
	got, err := in.check()
	if err != nil || len(asked) != 2 || asked[0] != got.Key || asked[1] != got.Key {
		t.Errorf("VerifyInvocation() = %v, %v, asked for %x", got, err, asked)
	}
	in.proof.Statement.Payload[len(in.proof.Statement.Payload)-1]++
	in.facts.Envelope.DeadlineUnixMs++
	if _, err := in.check(); err == nil || len(asked) != 2 {
		t.Error("the store was asked for a proof of something else")
	}
}

// TestInvocationIsCharged: each proof is a signature, its certificate another one when it is new, and the connection's peer pays
// before.
func TestInvocationIsCharged(t *testing.T) {
	left, charged := 100, []int{}
	var payer identity.AgentID
	in := newScene(t).invoke(func(c *delegation.Config) {
		c.Limits.Allow = func(peer identity.AgentID, n int) bool {
			payer, charged = peer, append(charged, n)
			left -= n
			return left >= 0
		}
	})
	charged = nil
	for range 2 {
		if _, err := in.check(); err != nil {
			t.Fatal(err)
		}
	}
	mid := newCA(t, in.ca)
	in.proof = in.prove(in.p.chain, in.facts.Envelope, in.agent("b", issuedBy(mid, mid.cert)))
	if _, err := in.check(); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(charged) != "[1 1 3]" || payer != in.b.id {
		t.Errorf("charged %v to %s, want 1, 1 and 3 to the peer", charged, payer)
	}
	left = 0
	if _, err := in.check(); reason(err) != coldLimit {
		t.Errorf("over the limit: %v, want %v", err, coldLimit)
	}
	n := len(charged)
	in.facts.Envelope.DeadlineUnixMs++
	if _, err := in.check(); reason(err) != binding || len(charged) != n {
		t.Errorf("a proof of something else: %v, charged %d times more", err, len(charged)-n)
	}
}

// TestInvocationByARevokedCertificate: a proof may be signed under another certificate than any of its chain.
func TestInvocationByARevokedCertificate(t *testing.T) {
	set := new(revoked)
	in := newScene(t).invoke(func(c *delegation.Config) { c.Revoked = set })
	next := in.agent("b")
	in.proof = in.prove(in.p.chain, in.facts.Envelope, next)
	if _, err := in.check(); err != nil {
		t.Fatal(err)
	}
	set.revoke(sha256.Sum256(next.certs[0].Raw))
	if _, err := in.check(); reason(err) != gone {
		t.Errorf("revoked certificate: %v, want %v", err, gone)
	}
}

func TestNewInvocationRefuses(t *testing.T) {
	s := newScene(t)
	p, e := s.hop2(), typical()
	long := typical()
	long.Method = "/" + strings.Repeat("m", 256)
	bad := typical()
	bad.Method = "/\xff"
	broken := proto.CloneOf(p.chain)
	broken.Hops[1].Payload = []byte{0xff}
	sign := func(sig []byte, certs [][]byte, err error) delegation.Signer {
		return &fixedSigner{s.b.signer, sig, certs, err}
	}
	der := [][]byte{s.b.certs[0].Raw}
	for _, tc := range []struct {
		name string
		c    *v1.DelegationChain
		e    *v1.Envelope
		k    delegation.Signer
		late time.Duration
		want v1.Reason
	}{
		{"no chain", nil, e, s.b.signer, 0, unknownChain},
		{"no hop", &v1.DelegationChain{Grant: p.chain.GetGrant()}, e, s.b.signer, 0, unknownChain},
		{"a hop that does not parse", broken, e, s.b.signer, 0, nonCanonical},
		{"not the last issuer", p.chain, e, s.a.signer, 0, badSigner},
		{"the callee", p.chain, e, s.c.signer, 0, badSigner},
		{"endorsements", p.chain, &v1.Envelope{Method: testMethod, Endorsements: []*v1.SignedStatement{{}}}, s.b.signer, 0, binding},
		{"the chain is over", p.chain, e, s.b.signer, 15 * time.Minute, late},
		{"the certificate is over", p.chain, e, s.agent("b", life(-time.Minute, time.Second)).signer, time.Second, late},
		{"no method", p.chain, &v1.Envelope{}, s.b.signer, 0, malformed},
		{"a method over a bound", p.chain, long, s.b.signer, 0, tooLarge},
		{"a method that is not text", p.chain, bad, s.b.signer, 0, nonCanonical},
		{"a signature of 63 bytes", p.chain, e, sign(make([]byte, 63), der, nil), 0, malformed},
		{"no certificate", p.chain, e, sign(make([]byte, 64), nil, nil), 0, malformed},
		{"certificates over 4 KiB", p.chain, e, sign(make([]byte, 64), [][]byte{make([]byte, 2000), make([]byte, 2000), make([]byte, 2000)}, nil), 0, tooLarge},
		{"a signer that fails", p.chain, e, sign(nil, nil, errors.New("no key")), 0, 0},
	} {
		if proof, err := delegation.NewInvocation(tc.c, tc.e, tc.k, s.now().Add(tc.late)); err == nil || reason(err) != tc.want || proof != nil {
			t.Errorf("%s: NewInvocation() = %v, %v, want %v", tc.name, proof, err, tc.want)
		}
	}
}

// fixedSigner signs as it is told to.
type fixedSigner struct {
	delegation.Signer
	sig   []byte
	certs [][]byte
	err   error
}

func (f *fixedSigner) Sign(string, []byte) ([]byte, [][]byte, error) { return f.sig, f.certs, f.err }

// TestNewInvocationEndsWithItsCertificate: what NewInvocation makes, VerifyInvocation takes, to the last moment of chain and
// certificate.
func TestNewInvocationEndsWithItsCertificate(t *testing.T) {
	in := newScene(t).invoke()
	short := in.agent("b", life(-time.Minute, 20*time.Second))
	in.proof = in.prove(in.p.chain, in.facts.Envelope, short)
	got, err := in.check()
	if err != nil || !got.Expires.Equal(start.Add(20*time.Second)) {
		t.Errorf("VerifyInvocation() = %v, %v, want it to end with the certificate", got, err)
	}
	in.move(14*time.Minute + 50*time.Second)
	in.proof = in.prove(in.p.chain, in.facts.Envelope, in.b)
	if got, err = in.check(); err != nil || !got.Expires.Equal(in.leaf.Expires()) {
		t.Errorf("VerifyInvocation() = %v, %v, want it to end with the chain", got, err)
	}
}

func BenchmarkNewInvocation(b *testing.B) {
	eachKey(b, func(b *testing.B, in *invoked) {
		for b.Loop() {
			if _, err := delegation.NewInvocation(in.p.chain, in.facts.Envelope, in.p.by.signer, in.now()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkVerifyInvocation(b *testing.B) {
	eachKey(b, func(b *testing.B, in *invoked) {
		for b.Loop() {
			if _, err := in.check(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// eachKey runs f with a proof by either kind of key. The certificate is cached.
func eachKey(b *testing.B, f func(*testing.B, *invoked)) {
	b.Helper()
	for name, key := range map[string]svidOption{"Ed25519": withKey(ed25519Key()), "P256": withKey(p256Key())} {
		b.Run(name, func(b *testing.B) {
			s := newScene(b)
			s.b = s.agent("b", key)
			in := s.invoke()
			if _, err := in.check(); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			f(b, in)
		})
	}
}

// TestProofsAndHopsShareCertificates: a certificate that a proof brought first serves the hops that it signs later, whole.
func TestProofsAndHopsShareCertificates(t *testing.T) {
	in := newScene(t).invoke()
	in.b = in.agent("b")
	in.proof = in.prove(in.p.chain, in.facts.Envelope, in.b)
	if _, err := in.check(); err != nil {
		t.Fatal(err)
	}
	lookups := in.lookups.Load()
	p := in.hop2()
	chain := in.verify(p).Chain()
	if in.lookups.Load() != lookups {
		t.Error("the certificate was verified twice")
	}
	if !proto.Equal(chain, p.chain) {
		t.Errorf("Chain() = %v, want the certificates of every hop", chain)
	}
}
