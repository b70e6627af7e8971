package wirecodec

import (
	"google.golang.org/protobuf/encoding/protowire"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// maxAliased bounds the messages that are decoded in place: what keeps one small part of such a message keeps all of it.
const maxAliased = 4 << 10

// decode reads raw, which it does not keep. A small Envelope lies in one copy of raw, with its strings and bytes inside: that takes half
// of the allocations. The copy belongs to the Envelope alone and is never written again.
func decode(env *v1.Envelope, raw []byte) error {
	if len(raw) > maxAliased {
		return env.UnmarshalVT(raw)
	}
	own := make([]byte, len(raw))
	copy(own, raw)
	if err := env.UnmarshalVTUnsafe(own); err != nil {
		return err
	}
	closeEnvelope(env)
	return nil
}

// envelopePayload is the field number of the payload in an Envelope.
const envelopePayload = 5

// split reads raw with the payload in buf, which grows as needed, and everything else in memory of its own. It returns the buffer.
func split(env *v1.Envelope, raw, buf []byte) ([]byte, error) {
	head, payload, tail, ok := cut(raw)
	if !ok || len(head)+len(tail) > maxAliased {
		env.Payload = buf[:0] // without what it held before
		err := env.UnmarshalVT(raw)
		if env.Payload != nil {
			buf = env.Payload
		}
		return buf, err
	}
	own := make([]byte, len(head)+len(tail))
	copy(own[copy(own, head):], tail)
	if err := env.UnmarshalVTUnsafe(own); err != nil {
		return buf, err
	}
	closeEnvelope(env)
	buf = append(buf[:0], payload...)
	env.Payload = clip(buf)
	return buf, nil
}

// cut returns what stands before and behind the payload of an Envelope. ok is false when there is none or more than one, and for bytes that
// are no fields: the decoder says what becomes of those.
func cut(raw []byte) (head, payload, tail []byte, ok bool) {
	for at := 0; at < len(raw); {
		num, typ, n := protowire.ConsumeTag(raw[at:])
		if n < 0 {
			return nil, nil, nil, false
		}
		v := protowire.ConsumeFieldValue(num, typ, raw[at+n:])
		if v < 0 {
			return nil, nil, nil, false
		}
		if num == envelopePayload {
			if ok || typ != protowire.BytesType {
				return nil, nil, nil, false
			}
			payload, _ = protowire.ConsumeBytes(raw[at+n:])
			head, tail, ok = raw[:at], raw[at+n+v:], true
		}
		at += n + v
	}
	return head, payload, tail, ok
}

// clip takes b's capacity away, so that who appends to it gets a slice of his own and does not write over what lies behind.
func clip(b []byte) []byte { return b[:len(b):len(b)] }

func closeEnvelope(e *v1.Envelope) {
	e.Payload, e.Id, e.ChainRef, e.Conversation, e.Causation, e.Status = clip(e.Payload), clip(e.Id), clip(e.ChainRef), clip(e.Conversation), clip(e.Causation), clip(e.Status)
	if in := e.GetIntent(); in != nil {
		in.ArgumentsDigest = clip(in.GetArgumentsDigest())
	}
	for _, c := range e.GetContext() {
		c.Commitment, c.GrantDsse = clip(c.GetCommitment()), clip(c.GetGrantDsse())
		if k := c.GetRef(); k != nil {
			k.Key = clip(k.GetKey())
		}
	}
	for _, p := range e.GetMetadata() {
		p.Value = clip(p.GetValue())
	}
	if t := e.GetTrace(); t != nil {
		t.TraceId, t.SpanId = clip(t.GetTraceId()), clip(t.GetSpanId())
	}
	if h := e.GetHello(); h != nil {
		h.Session = clip(h.GetSession())
	}
	for _, r := range []*v1.AuditReceipt{e.GetAudit(), e.GetCallerAudit()} {
		if r != nil {
			r.LogId, r.LeafHash, r.BootId = clip(r.GetLogId()), clip(r.GetLeafHash()), clip(r.GetBootId())
		}
	}
	closeSigned(e)
}

// closeSigned closes what is signed and what it is signed with.
func closeSigned(e *v1.Envelope) {
	closeStatement(e.GetReceipt())
	for _, s := range e.GetEndorsements() {
		closeStatement(s)
	}
	if p := e.GetProof(); p != nil {
		closeStatement(p.GetStatement())
		for _, c := range p.GetCerts() {
			closeCerts(c)
		}
	}
	if c := e.GetChain(); c != nil {
		closeStatement(c.GetGrant())
		for _, h := range c.GetHops() {
			closeStatement(h)
		}
		for _, c := range c.GetCerts() {
			closeCerts(c)
		}
	}
}

func closeStatement(s *v1.SignedStatement) {
	if s != nil {
		s.Payload, s.Signature = clip(s.GetPayload()), clip(s.GetSignature())
	}
}

func closeCerts(c *v1.CertChain) {
	if c == nil {
		return
	}
	c.Leaf = clip(c.GetLeaf())
	for i, der := range c.GetIntermediates() {
		c.Intermediates[i] = clip(der)
	}
}
