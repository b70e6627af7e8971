package vectors

import (
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Transcripts are given for the first few messages, and for short ones.
const (
	transcripts     = 3
	shortTranscript = 512
)

// meshMethod is the procedure that messages of the vectors call.
const meshMethod = "/mesh.v1.MeshService/Write"

// proofs is row 63, and rows 18, 30 to 33, 37, 45 and 52 where they concern a proof.
func proofs(w *world) *File {
	g := newGroup(w, "proof", algMixed)
	for _, alg := range []string{algEd25519, algP256} {
		g := g.with(alg)
		g.altered()
		g.claims()
		g.proofSigners()
		g.proofTimes()
		g.proofReplays()
		g.proofOrder()
	}
	g.with(algEd25519).proofSizes()
	g.shapes()
	return g.f
}

// envelope is a message with something in every field of the transcript.
func (s *scene) envelope() *Envelope {
	return &Envelope{
		ID: seed("envelope")[:16], Conversation: seed("conversation")[:16], Causation: seed("causation")[:16], Tenant: "blue",
		Intent: &EnvelopeIntent{Action: "memory.read", Resource: []string{"ns", "a"}, Purpose: purpose, ArgumentsDigest: digest([]byte("payload"))},
		Context: []*ContextRef{{
			Store: "spiffe://acme.test/service/memory", Tenant: "blue", Ref: &KeyRef{Ns: &Path{Labels: []string{"ns", "a"}}, Key: []byte("k"), Version: "3"},
			Commitment: seed("commitment"), Size: "99", MediaType: "text/plain", Label: s.someLabel(), GrantDsse: []byte("dsse"),
		}},
		Control: s.someLabel(), Data: []*DataLabel{{Ref: 0, Field: "a.b", Label: s.someLabel()}},
		Deadline: strconv.Itoa(startMs + minuteMs), Timeout: 30_000, Critical: []uint32{23}, IdempotencyKey: "once", Method: meshMethod,
		PayloadType: "mesh.v1.WriteRequest", Payload: []byte("payload"),
	}
}

func (s *scene) someLabel() *Label {
	return &Label{
		Integrity: 2, Confidentiality: 2, Readers: []string{agentID("a"), agentID("b")}, Tags: []string{"pii"}, Sources: []string{agentID("a")},
	}
}

// proven is a chain of one hop, a message under it, and the proof of the message. Each part may be changed before or after it is signed.
type proven struct {
	sh      show
	env     *Envelope // as it is received
	signed  *Envelope // what the proof is made for
	payload func(*v1.InvocationPayload)
	raw     func([]byte) []byte
	proof   func(*v1.InvocationProof)
	key     *party // who signs and is certified; nil is the last issuer
	typ     string
	method  string
}

func (g *group) proven(change ...func(*proven)) *Step {
	p := &proven{sh: g.hop1(), env: g.envelope(), signed: g.envelope(), typ: typeInvocation, method: meshMethod}
	p.sh.intent = readIntent()
	for _, f := range change {
		f(p)
	}
	return g.prove(p, Allow)
}

// prove makes the step of p.
func (g *group) prove(p *proven, code string) *Step {
	st := g.step(p.sh, Allow)
	st.Expect = code
	signer := p.key
	if signer == nil {
		signer = p.sh.by
	}
	hops := p.sh.chain.GetHops()
	last := hops[len(hops)-1]
	hop := new(v1.HopPayload)
	g.fail(proto.Unmarshal(last.GetPayload(), hop))
	m := &v1.InvocationPayload{
		Version: 1, LeafId: statementID(typeHop, last.GetPayload()), Caller: hop.GetIssuer(), Callee: hop.GetDelegate(), Method: p.method,
		EnvelopeDigest: digest(g.transcript(p.signed)), Jti: seed("jti")[:16], IssuedAtMs: startMs, ExpiresAtMs: startMs + minuteMs,
	}
	if p.payload != nil {
		p.payload(m)
	}
	payload := g.marshal(m)
	if p.raw != nil {
		payload = p.raw(payload)
	}
	proof := &v1.InvocationProof{
		Statement: &v1.SignedStatement{Payload: payload, Signature: g.sign(signer.key, encoding(p.typ, payload)), CertRef: 1},
		Certs:     []*v1.CertChain{certsOf(signer)},
	}
	if p.proof != nil {
		p.proof(proof)
	}
	st.Proof = &Proof{
		Proof: g.pieces(g.marshal(proof)), Method: p.method, Envelope: g.digested(p.env),
		Key: replayKey(replayInvocation, hop.GetIssuer(), m.GetJti()),
	}
	return st
}

// digested puts a message into the file's table.
func (g *group) digested(e *Envelope) string {
	fields, err := json.Marshal(e)
	g.fail(err)
	name := hex.EncodeToString(digest(fields)[:6])
	if g.f.Envelopes[name] != nil {
		return name
	}
	d := &Digested{Fields: e}
	if !e.NoPayload && len(e.Endorsements) == 0 {
		transcript := g.transcript(e)
		d.Digest = digest(transcript)
		if len(g.f.Envelopes) < transcripts || len(transcript) < shortTranscript {
			d.Transcript = transcript
		}
	}
	g.f.Envelopes[name] = d
	return name
}

// proofAllow and proofDeny add a vector of one step with a proof.
func (g *group) proofAllow(row int, name, title string, change ...func(*proven)) {
	g.sequence(row, name+"-"+g.alg, title, "", "base", g.agent("b"), g.proven(change...))
}

func (g *group) proofDeny(row int, name, title, code string, change ...func(*proven)) {
	st := g.proven(change...)
	st.Expect, st.Leaf = code, nil
	g.sequence(row, name+"-"+g.alg, title, "proof/control-"+g.alg, "base", g.agent("b"), st)
}

// altered is row 63: every field of the message altered after it was signed.
func (g *group) altered() {
	g.proofAllow(63, "control", "a message with a proof")
	for _, tc := range []struct {
		name string
		do   func(*Envelope)
	}{
		{"id", func(e *Envelope) { e.ID = seed("other")[:16] }},
		{"conversation", func(e *Envelope) { e.Conversation = nil }},
		{"causation", func(e *Envelope) { e.Causation = seed("other")[:16] }},
		{"conversation-and-causation-swapped", func(e *Envelope) { e.Conversation, e.Causation = e.Causation, e.Conversation }},
		{"tenant", func(e *Envelope) { e.Tenant = "red" }},
		{"action", func(e *Envelope) { e.Intent.Action = "memory.write" }},
		{"resource", func(e *Envelope) { e.Intent.Resource = []string{"ns", "b"} }},
		{"resource-joined", func(e *Envelope) { e.Intent.Resource = []string{"nsa"} }},
		{"resource-shifted", func(e *Envelope) { e.Intent.Resource = []string{"n", "sa"} }},
		{"purpose", func(e *Envelope) { e.Intent.Purpose = "own task" }},
		{"arguments-digest", func(e *Envelope) { e.Intent.ArgumentsDigest = seed("other") }},
		{"intent-gone", func(e *Envelope) { e.Intent = nil }},
		{"context-gone", func(e *Envelope) { e.Context = nil }},
		{"context-twice", func(e *Envelope) { e.Context = append(e.Context, e.Context[0]) }},
		{"ref-store", func(e *Envelope) { e.Context[0].Store = "spiffe://acme.test/service/other" }},
		{"ref-tenant", func(e *Envelope) { e.Context[0].Tenant = "red" }},
		{"ref-namespace", func(e *Envelope) { e.Context[0].Ref.Ns.Labels = []string{"ns", "b"} }},
		{"ref-namespace-gone", func(e *Envelope) { e.Context[0].Ref.Ns = nil }},
		{"ref-key", func(e *Envelope) { e.Context[0].Ref.Key = []byte("l") }},
		{"ref-version", func(e *Envelope) { e.Context[0].Ref.Version = "4" }},
		{"ref-commitment", func(e *Envelope) { e.Context[0].Commitment = seed("other") }},
		{"ref-size", func(e *Envelope) { e.Context[0].Size = "100" }},
		{"ref-media-type", func(e *Envelope) { e.Context[0].MediaType = "text/html" }},
		{"ref-label", func(e *Envelope) { e.Context[0].Label.Confidentiality = 1 }},
		{"ref-label-gone", func(e *Envelope) { e.Context[0].Label = nil }},
		{"ref-grant", func(e *Envelope) { e.Context[0].GrantDsse = nil }},
		{"control-integrity", func(e *Envelope) { e.Control.Integrity = 3 }},
		{"control-confidentiality", func(e *Envelope) { e.Control.Confidentiality = 1 }},
		{"control-any-reader", func(e *Envelope) { e.Control.AnyReader = true }},
		{"control-readers", func(e *Envelope) { e.Control.Readers = append(e.Control.Readers, agentID("e")) }},
		{"control-tags", func(e *Envelope) { e.Control.Tags = nil }},
		{"control-sources", func(e *Envelope) { e.Control.Sources = nil }},
		{"control-sources-truncated", func(e *Envelope) { e.Control.SourcesTruncated = true }},
		{"control-reader-as-tag", func(e *Envelope) {
			e.Control.Readers, e.Control.Tags = e.Control.Readers[:1], append([]string{e.Control.Readers[1]}, e.Control.Tags...)
		}},
		{"control-gone", func(e *Envelope) { e.Control = nil }},
		{"data-ref", func(e *Envelope) { e.Data[0].Ref = 1 }},
		{"data-field", func(e *Envelope) { e.Data[0].Field = "a.c" }},
		{"data-label", func(e *Envelope) { e.Data[0].Label.Integrity = 3 }},
		{"data-gone", func(e *Envelope) { e.Data = nil }},
		{"deadline", func(e *Envelope) { e.Deadline = strconv.Itoa(startMs + minuteMs + 1) }},
		{"timeout", func(e *Envelope) { e.Timeout = 0 }},
		{"critical", func(e *Envelope) { e.Critical = nil }},
		{"idempotency-key", func(e *Envelope) { e.IdempotencyKey = "twice" }},
		{"method", func(e *Envelope) { e.Method = "/mesh.v1.MeshService/Delete" }},
		{"payload-type", func(e *Envelope) { e.PayloadType = "mesh.v1.DeleteRequest" }},
		{"payload", func(e *Envelope) { e.Payload = []byte("Payload") }},
		{"payload-gone", func(e *Envelope) { e.Payload = nil }},
		{"no-payload", func(e *Envelope) { e.NoPayload = true }},
		{"endorsements", func(e *Envelope) { e.Endorsements = []Hex{[]byte("endorsed")} }},
	} {
		if g.alg == algP256 && tc.name != "payload" {
			continue
		}
		g.proofDeny(63, "altered-"+tc.name, tc.name+" altered after signing", notBound, func(p *proven) { tc.do(p.env) })
	}
	g.proofDeny(63, "stored-altered", "delivery altered after signing", notBound, func(p *proven) { p.env.Delivery = 1 })
	g.proofAllow(63, "outside", "what is no part of the transcript altered", func(p *proven) {
		p.env.Call, p.env.Credit, p.env.Metadata, p.env.TraceID = "7", 1, map[string]string{"k": "76"}, seed("trace")[:16]
	})
}

// claims is row 63 for the claims of the proof itself, and row 37.
func (g *group) claims() {
	payload := func(f func(*v1.InvocationPayload)) func(*proven) { return func(p *proven) { p.payload = f } }
	for _, tc := range []struct {
		row         int
		name, title string
		code        string
		do          func(*v1.InvocationPayload)
	}{
		{63, "other-leaf", "the grant's statement id as leaf", notBound, func(m *v1.InvocationPayload) {
			m.LeafId = statementID(typeGrant, g.hop1().chain.GetGrant().GetPayload())
		}},
		{63, "no-leaf", "no leaf", notBound, func(m *v1.InvocationPayload) { m.LeafId = nil }},
		{63, "other-caller", "another caller", notBound, func(m *v1.InvocationPayload) { m.Caller = agentID("c") }},
		{63, "other-callee", "another callee", notBound, func(m *v1.InvocationPayload) { m.Callee = agentID("c") }},
		{63, "other-method", "another method", notBound, func(m *v1.InvocationPayload) { m.Method = "/mesh.v1.MeshService/Delete" }},
		{63, "no-digest", "no envelope digest", notBound, func(m *v1.InvocationPayload) { m.EnvelopeDigest = nil }},
		{37, "proof-version", "version 2", badVersion, func(m *v1.InvocationPayload) { m.Version = 2 }},
		{37, "proof-no-jti", "no jti", malformed, func(m *v1.InvocationPayload) { m.Jti = nil }},
		{37, "proof-jti-15", "a jti of 15 bytes", malformed, func(m *v1.InvocationPayload) { m.Jti = m.GetJti()[:15] }},
		{37, "proof-no-method", "no method", malformed, func(m *v1.InvocationPayload) { m.Method = "" }},
		{37, "proof-digest-31", "a digest of 31 bytes", malformed, func(m *v1.InvocationPayload) { m.EnvelopeDigest = m.GetEnvelopeDigest()[:31] }},
		{37, "proof-text", "a letter outside ASCII in the method", nonCanonical, func(m *v1.InvocationPayload) { m.Method = "/m\u00e9" }},
	} {
		g.proofDeny(tc.row, tc.name, "a proof with "+tc.title, tc.code, payload(tc.do))
	}
	raw := func(f func([]byte) []byte) func(*proven) { return func(p *proven) { p.raw = f } }
	g.proofDeny(37, "proof-unknown", "a proof with field 10", nonCanonical, raw(func(b []byte) []byte { return append(b, varint(10, 1)...) }))
	g.proofDeny(37, "proof-order", "a proof with its version last", nonCanonical, raw(func(b []byte) []byte {
		return append(slices.Clone(b[2:]), b[:2]...)
	}))
	frame := func(f func(*v1.InvocationProof)) func(*proven) { return func(p *proven) { p.proof = f } }
	g.proofDeny(19, "proof-1k-1", "a proof payload of 1025 bytes", tooLarge, frame(func(p *v1.InvocationProof) { p.Statement.Payload = make([]byte, 1025) }))
	g.proofDeny(19, "proof-two-certs", "a proof with two certificates", tooLarge, frame(func(p *v1.InvocationProof) {
		p.Certs = append(p.GetCerts(), certsOf(g.agent("c")))
	}))
	g.proofDeny(19, "proof-4k", "a proof of more than 4 KiB with its certificates", tooLarge, frame(func(p *v1.InvocationProof) {
		p.Certs[0].Intermediates = [][]byte{make([]byte, 2000), make([]byte, 2000)}
	}))
	g.proofDeny(62, "proof-empty-cert", "a proof with a certificate of no bytes", malformed, frame(func(p *v1.InvocationProof) {
		p.Certs[0] = &v1.CertChain{}
	}))
	g.proofDeny(62, "proof-empty-intermediate", "a proof with an intermediate of no bytes", malformed, frame(func(p *v1.InvocationProof) {
		p.Certs[0].Intermediates = [][]byte{nil}
	}))
	g.proofDeny(30, "proof-stripped", "a proof without a signature", malformed, frame(func(p *v1.InvocationProof) { p.Statement.Signature = nil }))
	g.proofDeny(62, "proof-no-cert", "a proof that refers to a certificate it does not have", malformed, frame(func(p *v1.InvocationProof) { p.Certs = nil }))
	g.proofDeny(62, "proof-unreferenced", "a proof that does not refer to its certificate", malformed, frame(func(p *v1.InvocationProof) { p.Statement.CertRef = 0 }))
	g.proofDeny(62, "proof-reference-2", "a proof that refers to a second certificate", malformed, frame(func(p *v1.InvocationProof) { p.Statement.CertRef = 2 }))
	g.proofAllow(62, "proof-of-connection", "a proof under the certificate of the connection", frame(func(p *v1.InvocationProof) {
		p.Statement.CertRef, p.Certs = 0, nil
	}))
}

// proofSigners is rows 26 to 32 for a proof.
func (g *group) proofSigners() {
	g.proofDeny(26, "proof-neighbour", "a proof signed by another agent", badSigner, func(p *proven) { p.key = g.agent("c") })
	g.proofAllow(53, "proof-rotated", "a proof under a newer certificate than the hop", func(p *proven) { p.key = g.rotated("a") })
	expired := g.party("a.expired", agentID("a"), g.alg, lives(startMs-hourMs, startMs-minuteMs))
	g.proofDeny(53, "proof-expired", "a proof under an expired certificate", badSVID, func(p *proven) { p.key = expired })
	short := g.party("a.shorter", agentID("a"), g.alg, lives(startMs-minuteMs, startMs+30_000))
	g.proofDeny(13, "proof-outlives", "a proof that outlives its certificate", badLife, func(p *proven) { p.key = short })
	for _, typ := range []string{typeHop, typeGrant, typeReceipt} {
		g.proofDeny(31, "proof-signed-as-"+typ[len("application/vnd.safeconduct."):len(typ)-len(".v1+proto")], "a proof signed as "+typ, badSignature,
			func(p *proven) { p.typ = typ })
	}
	sig := func(f func([]byte) []byte) func(*proven) {
		return func(p *proven) {
			p.proof = func(x *v1.InvocationProof) { x.Statement.Signature = f(slices.Clone(x.GetStatement().GetSignature())) }
		}
	}
	g.proofDeny(30, "proof-zero", "a proof whose signature is zero", badSignature, sig(func([]byte) []byte { return make([]byte, sigBytes) }))
	g.proofDeny(29, "proof-flip", "a proof with a bit of its signature flipped", badSignature, sig(func(b []byte) []byte { b[40] ^= 1; return b }))
}

// proofTimes is rows 14 and 52 for a proof.
func (g *group) proofTimes() {
	times := func(issued, expires int64) func(*proven) {
		return func(p *proven) {
			p.payload = func(m *v1.InvocationPayload) { m.IssuedAtMs, m.ExpiresAtMs = issued, expires }
		}
	}
	g.proofDeny(14, "proof-over-60s", "a proof that lives 60 s and a millisecond", badLife, times(startMs, startMs+60_001))
	g.proofDeny(14, "proof-no-end", "a proof without an end", badLife, times(startMs, 0))
	g.proofDeny(14, "proof-no-issue", "a proof without an issue time", badLife, times(0, startMs+1))
	g.proofDeny(14, "proof-empty-life", "a proof that ends as it begins", badLife, times(startMs, startMs))
	g.proofDeny(14, "proof-far", "a proof that ends in 2100", badLife, times(endOfTime-1, endOfTime))
	g.proofAllow(52, "proof-29s-ahead", "a proof issued 29 s ahead", times(startMs+29_000, startMs+60_000))
	g.proofDeny(52, "proof-31s-ahead", "a proof issued 31 s ahead", badTime, times(startMs+31_000, startMs+60_000))
	g.proofAllow(52, "proof-last-ms", "a proof in its last millisecond", times(startMs-59_999, startMs+1))
	g.proofDeny(52, "proof-over", "a proof that ends now", badTime, times(startMs-60_000, startMs))
	stored := func(p *proven) { p.env.Delivery, p.signed.Delivery = 1, 1 }
	g.proofAllow(62, "stored", "a stored message whose proof lives as long as its chain", stored, times(startMs, startMs+grantLifeMs))
	g.proofDeny(14, "stored-outlives-chain", "a stored message whose proof outlives its chain", badLife, stored, times(startMs, startMs+grantLifeMs+1))
	g.proofDeny(62, "stored-of-connection", "a stored message under the certificate of the connection", malformed, stored, func(p *proven) {
		p.proof = func(x *v1.InvocationProof) { x.Statement.CertRef, x.Certs = 0, nil }
	})
}

// proofReplays is row 45 for a proof: its jti is used once.
func (g *group) proofReplays() {
	step := func(code string, change ...func(*proven)) *Step {
		st := g.proven(change...)
		if st.Expect = code; code != Allow {
			st.Leaf = nil
		}
		return st
	}
	self := g.agent("b")
	other := func(p *proven) { p.env.ID = seed("other")[:16]; p.signed.ID = p.env.ID }
	g.sequence(45, "again-"+g.alg, "the same proof twice", "", "base", self, step(Allow), step(replayed))
	g.sequence(45, "same-jti-"+g.alg, "another message with the same jti", "", "base", self, step(Allow), step(replayed, other))
	g.sequence(45, "refused-first-"+g.alg, "a refused message does not burn its jti", "", "base", self,
		step(notBound, func(p *proven) { p.env.Tenant = "red" }), step(Allow), step(replayed))
	g.sequence(45, "next-jti-"+g.alg, "the same message with a new jti: its id is the business of direct messages", "", "base", self, step(Allow),
		step(Allow, func(p *proven) { p.payload = func(m *v1.InvocationPayload) { m.Jti = seed("next jti")[:16] } }))
	restarted := step(replayed)
	restarted.Restart = true
	g.sequence(45, "restart-proof-"+g.alg, "the same proof after a restart", "", "base", self, step(Allow), restarted)
	many := step(Allow)
	many.Times = 100
	g.sequence(45, "concurrent-proof-"+g.alg, "the same proof 100 times at once", "", "base", self, many)
	next := func(p *proven) { p.payload = func(m *v1.InvocationPayload) { m.Jti = seed("next jti")[:16] } }
	gone := step(revoked, next, func(p *proven) { p.key = g.rotated("a") })
	gone.Revoked = []Hex{digest(g.rotated("a").leaf)}
	g.sequence(60, "proof-revoked-"+g.alg, "a proof under a revoked certificate", "", "base", self, step(Allow), gone)
}

// shapes is envelopes of every shape: absent and empty messages, zeros, the ends of the integers.
func (g *group) shapes() {
	for _, tc := range []struct {
		name, title string
		env         *Envelope
	}{
		{"empty", "an envelope without anything", &Envelope{}},
		{"empty-messages", "messages that are present and empty", &Envelope{
			Intent: &EnvelopeIntent{}, Context: []*ContextRef{{}, {Ref: &KeyRef{}, Label: &Label{}}, {Ref: &KeyRef{Ns: &Path{}}}}, Control: &Label{},
			Data: []*DataLabel{{}, {Label: &Label{}}},
		}},
		{"integers", "the ends of the integers", &Envelope{
			Deadline: "-9223372036854775808", Timeout: 1<<32 - 1, Critical: []uint32{0, 1<<32 - 1}, Delivery: -1,
			Context: []*ContextRef{{Size: "18446744073709551615", Ref: &KeyRef{Version: "18446744073709551615"}}},
			Control: &Label{Integrity: -2147483648, Confidentiality: 2147483647, AnyReader: true, SourcesTruncated: true},
		}},
		{"texts", "texts outside ASCII, and empty ones in lists", &Envelope{
			Tenant: "bl\u00fc", Intent: &EnvelopeIntent{Resource: []string{"", "\u00e9", "\U0001f600"}}, Control: &Label{Tags: []string{"", ""}},
		}},
	} {
		g.proofAllow(63, "transcript-"+tc.name, tc.title, func(p *proven) { p.env, p.signed = tc.env, tc.env })
	}
}
