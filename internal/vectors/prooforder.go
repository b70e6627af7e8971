package vectors

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

var errSize = errors.New("no certificate makes a proof of that size")

// proofOrder is proofs with two faults: the check that comes first gives the code.
func (g *group) proofOrder() {
	pay := func(f func(*v1.InvocationPayload)) func(*proven) {
		return func(p *proven) {
			before := p.payload
			p.payload = func(m *v1.InvocationPayload) {
				if before != nil {
					before(m)
				}
				f(m)
			}
		}
	}
	long := pay(func(m *v1.InvocationPayload) { m.ExpiresAtMs = startMs + 60_001 })
	over := pay(func(m *v1.InvocationPayload) { m.IssuedAtMs, m.ExpiresAtMs = startMs-60_000, startMs })
	version := pay(func(m *v1.InvocationPayload) { m.Version = 2 })
	noJTI := pay(func(m *v1.InvocationPayload) { m.Jti = nil })
	altered := func(p *proven) { p.env.Tenant = "red" }
	neighbour := func(p *proven) { p.key = g.agent("c") }
	unreferenced := func(p *proven) { p.proof = func(x *v1.InvocationProof) { x.Statement.CertRef = 0 } }
	unsigned := func(p *proven) { p.proof = func(x *v1.InvocationProof) { x.Statement.Signature = nil } }
	otherTask := func(p *proven) { p.sh.intent = readIntent(); p.sh.intent.Purpose = "own task" }
	newer := func(p *proven) { p.key = g.rotated("a") }
	shorter := func(p *proven) {
		p.key = g.party("a.shorter", agentID("a"), g.alg, lives(startMs-minuteMs, startMs+30_000))
		p.typ = typeHop
	}
	for _, tc := range []struct {
		name, title string
		code        string
		change      []func(*proven)
	}{
		{"recheck-frame", "another purpose, and a proof without a signature", badPurpose, []func(*proven){otherTask, unsigned}},
		{"recheck-binding", "another purpose, and an altered message", badPurpose, []func(*proven){otherTask, altered}},
		{"reference-scan", "a proof that does not refer to its certificate, of version 2", malformed, []func(*proven){unreferenced, version}},
		{"version-jti", "version 2, and no jti", badVersion, []func(*proven){version, noJTI}},
		{"jti-binding", "no jti, and an altered message", malformed, []func(*proven){noJTI, altered}},
		{"binding-lifetime", "an altered message, and a proof that lives too long", notBound, []func(*proven){altered, long}},
		{"lifetime-time", "a proof that lives too long, and begins too late", badLife, []func(*proven){pay(func(m *v1.InvocationPayload) {
			m.IssuedAtMs, m.ExpiresAtMs = startMs+31_000, startMs+31_000+60_001
		})}},
		{"lifetime-signer", "a proof that lives too long, by another agent", badLife, []func(*proven){long, neighbour}},
		{"outlives-signature", "a certificate that the proof outlives, and a signature of another type", badLife, []func(*proven){shorter}},
	} {
		g.proofDeny(63, "order-"+tc.name, tc.title, tc.code, tc.change...)
	}
	self := g.agent("b")
	step := func(code string, change ...func(*proven)) *Step {
		st := g.proven(change...)
		if st.Expect = code; code != Allow {
			st.Leaf = nil
		}
		return st
	}
	run := func(row int, name, title string, steps ...*Step) {
		g.sequence(row, "order-"+name+"-"+g.alg, title, "", "base", self, steps...)
	}
	kill := func(st *Step, p *party) *Step { st.Revoked = []Hex{digest(p.leaf)}; return st }
	later := step(badTime)
	later.NowMs = startMs + minuteMs
	run(45, "time-replay", "a proof that was used, and is over", step(Allow), later)
	run(45, "replay-revoked", "a proof that was used, and whose certificate was revoked since", step(Allow, newer), kill(step(replayed, newer), g.rotated("a")))
	run(45, "replay-signer", "a jti that was used, in a proof by another agent", step(Allow), step(replayed, neighbour))
	run(45, "replay-signature", "a jti that was used, in a proof that is signed as a hop", step(Allow), step(replayed, func(p *proven) { p.typ = typeHop }))
	run(60, "time-revoked", "a proof that is over, and whose certificate is revoked", step(Allow, newer), kill(step(badTime, newer, over), g.rotated("a")))
	g.sequence(60, "order-revoked-signer-"+g.alg, "a proof by another agent, whose certificate is revoked", "proof/control-"+g.alg, "base", self,
		kill(step(revoked, neighbour), g.agent("c")))
}

// proofSizes is row 19 for a proof: its bounds, and a byte less and more.
func (g *group) proofSizes() {
	payload := func(n int) func(*proven) {
		return func(p *proven) {
			p.proof = func(x *v1.InvocationProof) { x.Statement.Payload = slices.Repeat([]byte{0xff}, n) }
		}
	}
	g.proofDeny(19, "payload-1k", "a proof payload of 1024 bytes, none of which can be read", nonCanonical, payload(1024))
	g.proofDeny(19, "payload-1k-1", "the same of 1025 bytes", tooLarge, payload(1025))
	root := g.newCA("large root", ed25519Key("large root"), nil)
	const half = 1600
	large := func(label string, n int) *ca {
		return g.newCA(label, ed25519Key(label), root, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 55555, 2}, Value: make([]byte, n)}}
		})
	}
	first := large("large", half)
	whole := func(n int) func(*proven) {
		return func(p *proven) {
			p.proof = func(x *v1.InvocationProof) {
				certs := x.GetCerts()[0]
				rest := n
				for range 8 { // the lengths around it grow with it
					certs.Intermediates = [][]byte{first.cert.Raw, large("larger", rest).cert.Raw}
					if rest += n - proto.Size(x); proto.Size(x) == n || rest < 0 {
						break
					}
				}
				if proto.Size(x) != n {
					g.fail(errSize)
				}
			}
		}
	}
	g.proofAllow(19, "whole-4k-less-1", "a proof of 4095 bytes with its certificates", whole(4095))
	g.proofAllow(19, "whole-4k", "a proof of 4096 bytes with its certificates", whole(4096))
	g.proofDeny(19, "whole-4k-1", "a proof of 4097 bytes with its certificates", tooLarge, whole(4097))
}
