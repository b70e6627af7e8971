package delegation

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// transcriptDomain begins every transcript and is its version.
const transcriptDomain = "safeconduct/envelope/v1\x00"

// transcriptBytes is room for the transcript of a message with a few context references; a longer one costs an allocation.
const transcriptBytes = 2 << 10

// ErrUncovered is returned by EnvelopeDigest for an envelope with a field that has a meaning and no place in the transcript.
var ErrUncovered = errors.New("a field that the envelope digest does not cover")

// EnvelopeDigest returns the digest that an invocation proof signs: SHA-256 over a transcript of the envelope's decoded values. It
// does not depend on how the envelope was encoded, and nothing is marshalled for it. What follows is the whole specification.
//
// The transcript is the ASCII bytes "safeconduct/envelope/v1", one zero byte, and then these values in this order:
//
//	id                       bytes
//	conversation             bytes
//	causation                bytes
//	tenant                   string
//	intent.action            string
//	intent.resource          repeated string
//	intent.purpose           string
//	intent.arguments_digest  bytes
//	context                  repeated ContextRef
//	control                  Label
//	data                     repeated DataLabel
//	deadline_unix_ms         int64
//	timeout_ms               uint32
//	delivery                 enum
//	critical                 repeated uint32
//	idempotency_key          string
//	method                   string
//	payload_type             string
//	SHA-256 of payload       bytes, 32 of them; of an empty payload the digest of nothing
//
// A value that is not repeated is framed as its length in bytes, four bytes big-endian, followed by its bytes:
//
//   - bytes are themselves, and a string is its UTF-8 bytes; empty ones have length 0;
//   - an integer, enum or bool is eight bytes big-endian, and so has length 8: unsigned integers are extended by zeros, signed integers
//     and enums by their sign (two's complement), false is 0 and true 1. A value of zero is written like any other;
//   - a message is the concatenation of all its fields, set or not, in ascending field number, each framed by these same rules;
//   - a message that is absent has length 0. A message has at least one field, so an empty one that is present is told apart.
//
// A repeated field, also inside a message, is the number of its elements, four bytes big-endian, followed by the elements, each
// framed as above. There is no length around the whole. An intent that is absent is as one without values. The messages have these
// fields, in this order:
//
//	ContextRef  store string, tenant string, ref KeyRef, commitment bytes, size uint64, media_type string, label Label, grant_dsse bytes
//	KeyRef      ns Path, key bytes, version uint64
//	Path        labels repeated string
//	Label       integrity enum, confidentiality enum, any_reader bool, readers repeated string, tags repeated string,
//	            sources repeated string, sources_truncated bool
//	DataLabel   ref uint32, field string, label Label
//
// Outside, because the proof binds them otherwise: chain and chain_ref (leaf_id of the payload), recipient (callee), proof.
// Outside, because they carry no authority, and whoever relays a message may change them: kind, call, seq, half_close, credit,
// status, hello, goaway, trace, metadata, audit, receipt, caller_audit. Unknown fields are outside as well.
//
// What is left, no_payload and endorsements, means something and has no place in this version of the transcript: an envelope that
// sets one has no digest, and the error is ErrUncovered.
func EnvelopeDigest(e *v1.Envelope) ([32]byte, error) {
	if e.GetNoPayload() || len(e.GetEndorsements()) != 0 {
		return [32]byte{}, ErrUncovered
	}
	var buf [transcriptBytes]byte
	return sha256.Sum256(appendTranscript(buf[:0], e)), nil
}

func appendTranscript(dst []byte, e *v1.Envelope) []byte {
	in, payload := e.GetIntent(), sha256.Sum256(e.GetPayload())
	t := append(transcript(dst), transcriptDomain...)
	t = t.bytes(e.GetId()).bytes(e.GetConversation()).bytes(e.GetCausation()).text(e.GetTenant())
	t = t.text(in.GetAction()).texts(in.GetResource()).text(in.GetPurpose()).bytes(in.GetArgumentsDigest())
	t = t.count(len(e.GetContext()))
	for _, ref := range e.GetContext() {
		t = t.contextRef(ref)
	}
	t = t.label(e.GetControl())
	t = t.count(len(e.GetData()))
	for _, d := range e.GetData() {
		t = t.dataLabel(d)
	}
	t = t.signed(e.GetDeadlineUnixMs()).number(uint64(e.GetTimeoutMs())).signed(int64(e.GetDelivery()))
	t = t.count(len(e.GetCritical()))
	for _, c := range e.GetCritical() {
		t = t.number(uint64(c))
	}
	return t.text(e.GetIdempotencyKey()).text(e.GetMethod()).text(e.GetPayloadType()).bytes(payload[:])
}

// transcript is what EnvelopeDigest describes, as far as it is written. Lengths fit into 32 bits: an envelope is bounded far below.
type transcript []byte

func (t transcript) count(n int) transcript {
	return binary.BigEndian.AppendUint32(t, uint32(n)) //nolint:gosec // G115: a length inside a bounded envelope.
}

func (t transcript) bytes(b []byte) transcript { return append(t.count(len(b)), b...) }

func (t transcript) text(s string) transcript { return append(t.count(len(s)), s...) }

func (t transcript) texts(list []string) transcript {
	t = t.count(len(list))
	for _, s := range list {
		t = t.text(s)
	}
	return t
}

func (t transcript) number(v uint64) transcript { return binary.BigEndian.AppendUint64(t.count(8), v) }

func (t transcript) signed(v int64) transcript {
	return t.number(uint64(v)) //nolint:gosec // G115: two's complement is the encoding.
}

func (t transcript) flag(v bool) transcript {
	if v {
		return t.number(1)
	}
	return t.number(0)
}

// close writes the length of the message whose fields begin after the count at position `at`.
func (t transcript) close(at int) transcript {
	binary.BigEndian.PutUint32(t[at:], uint32(len(t)-at-4)) //nolint:gosec // G115: a length inside a bounded envelope.
	return t
}

func (t transcript) contextRef(r *v1.ContextRef) transcript {
	at := len(t)
	t = t.count(0).text(r.GetStore()).text(r.GetTenant()).keyRef(r.GetRef()).bytes(r.GetCommitment()).number(r.GetSize())
	return t.text(r.GetMediaType()).label(r.GetLabel()).bytes(r.GetGrantDsse()).close(at)
}

func (t transcript) keyRef(k *v1.KeyRef) transcript {
	at := len(t)
	t = t.count(0)
	if k == nil {
		return t
	}
	inner := len(t)
	t = t.count(0)
	if ns := k.GetNs(); ns != nil {
		t = t.texts(ns.GetLabels()).close(inner)
	}
	return t.bytes(k.GetKey()).number(k.GetVersion()).close(at)
}

func (t transcript) label(l *v1.Label) transcript {
	at := len(t)
	t = t.count(0)
	if l == nil {
		return t
	}
	t = t.signed(int64(l.GetIntegrity())).signed(int64(l.GetConfidentiality())).flag(l.GetAnyReader())
	return t.texts(l.GetReaders()).texts(l.GetTags()).texts(l.GetSources()).flag(l.GetSourcesTruncated()).close(at)
}

func (t transcript) dataLabel(d *v1.DataLabel) transcript {
	at := len(t)
	return t.count(0).number(uint64(d.GetRef())).text(d.GetField()).label(d.GetLabel()).close(at)
}
