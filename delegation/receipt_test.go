package delegation_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// receipted is a receipt of b for a message of a.
type receipted struct {
	*scene
	r         delegation.Receipt
	statement *v1.SignedStatement
	certs     *v1.CertChain
	leaf      *x509.Certificate
	at        time.Time
}

func (s *scene) receipt() *receipted {
	s.tb.Helper()
	r := &receipted{scene: s, leaf: s.b.certs[0], at: s.now(), r: delegation.Receipt{
		ChainID: [16]byte(random(16)), LeafID: [32]byte(random(32)), EnvelopeID: [16]byte(random(16)), InvocationJTI: random(16), Caller: s.a.id, Callee: s.b.id,
		Decision: v1.ReceiptPayload_DECISION_ALLOW, DecisionID: [16]byte(random(16)), IssuedAt: s.now(),
		Audit: &v1.AuditReceipt{LogId: random(16), Seq: 7, LeafHash: random(32), BootId: random(16)},
	}}
	var err error
	if r.statement, r.certs, err = delegation.NewReceipt(r.r, s.b.signer); err != nil {
		s.tb.Fatal(err)
	}
	return r
}

// again makes the receipt again with what change made of its payload.
func (r *receipted) again(by *agent, payloadType string, change ...func(*v1.ReceiptPayload)) {
	r.tb.Helper()
	m := new(v1.ReceiptPayload)
	if err := proto.Unmarshal(r.statement.GetPayload(), m); err != nil {
		r.tb.Fatal(err)
	}
	for _, f := range change {
		f(m)
	}
	r.raw(by, payloadType, marshal(r.tb, m))
}

func (r *receipted) raw(by *agent, payloadType string, payload []byte) {
	r.statement = &v1.SignedStatement{Payload: payload, Signature: r.sign(by, payloadType, payload)}
}

// under presents the receipt with the certificates of a.
func (r *receipted) under(a *agent) { r.leaf, r.certs = a.certs[0], chainOf(a) }

type receiptCase struct {
	name  string
	build func(*receipted)
	want  v1.Reason
}

func receiptCases() []receiptCase {
	says := func(change func(*v1.ReceiptPayload)) func(*receipted) {
		return func(r *receipted) { r.again(r.b, delegation.TypeReceipt, change) }
	}
	as := func(kind string) func(*receipted) { return func(r *receipted) { r.again(r.b, kind) } }
	return []receiptCase{
		{"honest", func(*receipted) {}, 0},
		{"without a proof", says(func(m *v1.ReceiptPayload) { m.InvocationJti = nil }), 0},
		{"a denial", says(func(m *v1.ReceiptPayload) { m.Decision = v1.ReceiptPayload_DECISION_DENY }), 0},
		{"none", func(r *receipted) { r.statement = nil }, malformed},
		{"version 2", says(func(m *v1.ReceiptPayload) { m.Version = 2 }), badVersion},
		{"no chain", says(func(m *v1.ReceiptPayload) { m.ChainId = nil }), malformed},
		{"no leaf", says(func(m *v1.ReceiptPayload) { m.LeafId = nil }), malformed},
		{"no envelope", says(func(m *v1.ReceiptPayload) { m.EnvelopeId = nil }), malformed},
		{"no decision id", says(func(m *v1.ReceiptPayload) { m.DecisionId = nil }), malformed},
		{"no log", says(func(m *v1.ReceiptPayload) { m.AuditLogId = nil }), malformed},
		{"no record", says(func(m *v1.ReceiptPayload) { m.AuditLeafHash = nil }), malformed},
		{"no boot", says(func(m *v1.ReceiptPayload) { m.AuditBootId = nil }), malformed},
		{"no decision", says(func(m *v1.ReceiptPayload) { m.Decision = 0 }), malformed},
		{"an unknown decision", says(func(m *v1.ReceiptPayload) { m.Decision = 4 }), nonCanonical},
		{"no time", says(func(m *v1.ReceiptPayload) { m.IssuedAtMs = 0 }), malformed},
		{"negative time", says(func(m *v1.ReceiptPayload) { m.IssuedAtMs = -1 }), malformed},
		{"time after 2100", says(func(m *v1.ReceiptPayload) { m.IssuedAtMs = 4102444800000 }), malformed},
		{"no caller", says(func(m *v1.ReceiptPayload) { m.Caller = "" }), malformed},
		{"a caller that is no agent", says(func(m *v1.ReceiptPayload) { m.Caller = "spiffe://acme.test/tenant/blue" }), malformed},
		{"no callee", says(func(m *v1.ReceiptPayload) { m.Callee = "" }), malformed},
		{"a certificate reference", func(r *receipted) { r.statement.CertRef = 1 }, malformed},
		{"signature of 65 bytes", func(r *receipted) { r.statement.Signature = append(r.statement.Signature, 0) }, malformed},
		{"payload over 2 KiB", func(r *receipted) { r.statement.Payload = make([]byte, 2049) }, tooLarge},
		{"unknown field", func(r *receipted) {
			r.raw(r.b, delegation.TypeReceipt, protowire.AppendVarint(protowire.AppendTag(r.statement.GetPayload(), 15, protowire.VarintType), 1))
		}, nonCanonical},
		{"31 signed as an invocation", as(delegation.TypeInvocation), badSignature},
		{"31 signed as a hop", as(delegation.TypeHop), badSignature},
		{"bare payload", func(r *receipted) { r.statement.Signature = r.signBytes(r.b, r.statement.GetPayload()) }, badSignature},
		{"zero signature", func(r *receipted) { r.statement.Signature = make([]byte, 64) }, badSignature},
		{"another key under the callee's certificate", func(r *receipted) { r.again(r.c, delegation.TypeReceipt) }, badSignature},
		{"another callee than the certificate's", says(func(m *v1.ReceiptPayload) { m.Callee = m.GetCaller() }), badSigner},
		{"the certificate of another agent", func(r *receipted) {
			r.again(r.c, delegation.TypeReceipt)
			r.under(r.c)
		}, badSigner},
		{"the callee's next certificate", func(r *receipted) { r.under(r.agent("b")) }, badSignature},
		{"a key that signs no statements", func(r *receipted) { r.under(r.loose(r.b.id, withKey(p384Key()))) }, badSigner},
		{"no certificate of an agent", func(r *receipted) { r.under(r.loose(r.b.id, withCert(func(c *x509.Certificate) { c.IsCA = true }))) }, badSigner},
		{"issued before the certificate", says(func(m *v1.ReceiptPayload) { m.IssuedAtMs -= 61_000 }), lifetime},
		{"issued after the certificate", says(func(m *v1.ReceiptPayload) { m.IssuedAtMs += 3_601_000 }), lifetime},
	}
}

// TestReceipt has row 31 for receipts, and what a caller refuses of them; the offline verifier refuses the same.
func TestReceipt(t *testing.T) {
	for _, tc := range receiptCases() {
		t.Run(tc.name, func(t *testing.T) {
			r := newScene(t).receipt()
			tc.build(r)
			got, err := delegation.VerifyReceipt(r.statement, r.leaf)
			if reason(err) != tc.want || (got.Decision == 0) == (tc.want == 0) {
				t.Errorf("VerifyReceipt() = %v, %v, want %v", got, err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "spiffe:") {
				t.Errorf("%q quotes what nobody verified", err)
			}
			if _, err := delegation.VerifyStoredReceipt(r.statement, r.certs, r.bundles, r.at); reason(err) != tc.want {
				t.Errorf("VerifyStoredReceipt() = %v, want %v", err, tc.want)
			}
		})
	}
}

func TestReceiptSaysWhatWasSigned(t *testing.T) {
	r := newScene(t).receipt()
	got, err := delegation.VerifyReceipt(r.statement, r.leaf)
	if diff := cmp.Diff(r.r, got, protocmp.Transform(), cmp.Comparer(func(a, b identity.AgentID) bool { return a == b })); err != nil || diff != "" {
		t.Errorf("VerifyReceipt() = %v, differs from what was signed:\n%s", err, diff)
	}
	for i := range r.statement.GetPayload() {
		dup := proto.CloneOf(r.statement)
		dup.Payload[i] ^= 0x10
		if _, err := delegation.VerifyReceipt(dup, r.leaf); err == nil {
			t.Errorf("byte %d may be changed", i)
		}
	}
}

// TestStoredReceipt is what the offline verifier looks at beside the signature: certificates as of the time of the record.
func TestStoredReceipt(t *testing.T) {
	for _, tc := range []receiptCase{
		{"after the certificate has expired, as of then", func(r *receipted) { r.move(48 * time.Hour) }, 0},
		{"as of a time at which it had expired", func(r *receipted) { r.at = r.at.Add(2 * time.Hour) }, svidReason},
		{"another CA", func(r *receipted) {
			td := spiffeid.RequireTrustDomainFromString(domain)
			r.bundles.Add(x509bundle.FromX509Authorities(td, []*x509.Certificate{newCA(r.tb, nil).cert}))
		}, svidReason},
		{"no bundle", func(r *receipted) { r.bundles.Remove(spiffeid.RequireTrustDomainFromString(domain)) }, foreign},
		{"no certificate", func(r *receipted) { r.certs = nil }, malformed},
		{"a certificate over a bound", func(r *receipted) { r.certs = &v1.CertChain{Leaf: make([]byte, 2049)} }, tooLarge},
		{"a certificate that does not parse", func(r *receipted) { r.certs = &v1.CertChain{Leaf: []byte("x")} }, badSigner},
		{"an intermediate that does not parse", func(r *receipted) { r.certs.Intermediates = [][]byte{[]byte("x")} }, badSigner},
		{"under an intermediate", func(r *receipted) {
			mid := newCA(r.tb, r.ca)
			b := r.agent("b", issuedBy(mid, mid.cert))
			r.again(b, delegation.TypeReceipt)
			r.under(b)
		}, 0},
	} {
		r := newScene(t).receipt()
		tc.build(r)
		if _, err := delegation.VerifyStoredReceipt(r.statement, r.certs, r.bundles, r.at); reason(err) != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestNewReceiptRefuses(t *testing.T) {
	s := newScene(t)
	r := s.receipt().r
	with := func(change func(*delegation.Receipt)) delegation.Receipt {
		dup := r
		change(&dup)
		return dup
	}
	for _, tc := range []struct {
		name string
		r    delegation.Receipt
		k    delegation.Signer
		want v1.Reason
	}{
		{"another's", r, s.a.signer, badSigner},
		{"no decision", with(func(r *delegation.Receipt) { r.Decision = 0 }), s.b.signer, malformed},
		{"no audit position", with(func(r *delegation.Receipt) { r.Audit = nil }), s.b.signer, malformed},
		{"no caller", with(func(r *delegation.Receipt) { r.Caller = identity.AgentID{} }), s.b.signer, malformed},
		{"jti of 15 bytes", with(func(r *delegation.Receipt) { r.InvocationJTI = random(15) }), s.b.signer, malformed},
		{"no certificates", r, &fixedSigner{s.b.signer, make([]byte, 64), nil, nil}, malformed},
		{"a signature of 63 bytes", r, &fixedSigner{s.b.signer, make([]byte, 63), [][]byte{{1}}, nil}, malformed},
		{"a signer that fails", r, &fixedSigner{s.b.signer, nil, nil, errors.New("no key")}, 0},
	} {
		if got, certs, err := delegation.NewReceipt(tc.r, tc.k); err == nil || reason(err) != tc.want || got != nil || certs != nil {
			t.Errorf("%s: NewReceipt() = %v, %v, %v, want %v", tc.name, got, certs, err, tc.want)
		}
	}
}

// TestStatementsDoNotStandForEachOther is row 31 crosswise: a payload signed as each type, verified as each other.
func TestStatementsDoNotStandForEachOther(t *testing.T) {
	s := newScene(t)
	in, r := s.invoke(), s.receipt()
	payloads := map[string][]byte{
		delegation.TypeHop: in.p.chain.GetHops()[1].GetPayload(), delegation.TypeInvocation: in.proof.GetStatement().GetPayload(),
		delegation.TypeReceipt: r.statement.GetPayload(),
	}
	ids := map[[32]byte]string{}
	for kind, payload := range payloads {
		for as := range payloads {
			id := delegation.StatementID(as, payload)
			if before, twice := ids[id]; twice {
				t.Errorf("%s and %s have one id", before, kind)
			}
			ids[id] = fmt.Sprintf("%s as %s", kind, as)
		}
		if kind != delegation.TypeInvocation {
			in.raw(in.b, delegation.TypeInvocation, payload)
			if _, err := in.check(); err == nil {
				t.Errorf("%s passes as an invocation", kind)
			}
		}
		if kind != delegation.TypeReceipt {
			r.raw(r.b, delegation.TypeReceipt, payload)
			if _, err := delegation.VerifyReceipt(r.statement, r.leaf); err == nil {
				t.Errorf("%s passes as a receipt", kind)
			}
		}
		if kind != delegation.TypeHop {
			p := s.hop2()
			p.chain.Hops[1].Payload, p.chain.Hops[1].Signature = payload, s.sign(s.b, delegation.TypeHop, payload)
			if _, err := in.v.Verify(p.chain, p.by.peer); err == nil {
				t.Errorf("%s passes as a hop", kind)
			}
		}
	}
	if bytes.Equal(payloads[delegation.TypeHop], payloads[delegation.TypeReceipt]) {
		t.Fatal("the payloads are one")
	}
}

func BenchmarkNewReceipt(b *testing.B) {
	r := newScene(b).receipt()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := delegation.NewReceipt(r.r, r.b.signer); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyReceipt(b *testing.B) {
	r := newScene(b).receipt()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := delegation.VerifyReceipt(r.statement, r.leaf); err != nil {
			b.Fatal(err)
		}
	}
}

func p384Key() crypto.Signer {
	key, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	return key
}
