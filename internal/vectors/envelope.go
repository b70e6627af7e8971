package vectors

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
)

// Proof is an invocation proof, and the name of the message that it came with.
type Proof struct {
	Proof    Pieces `json:"proof"`
	Method   string `json:"method"`
	Envelope string `json:"envelope"`
	Key      Hex    `json:"key"`
}

// Digested is a message and what must come out of it: neither a transcript nor a digest when it can have none. The transcript of
// a message that other vectors alter is not given for all of them.
type Digested struct {
	Fields     *Envelope `json:"fields"`
	Transcript Hex       `json:"transcript,omitempty"`
	Digest     Hex       `json:"digest,omitempty"`
}

// Envelope is the fields of a message, by their names in envelope.proto. Integers of 64 bits are decimal strings.
type Envelope struct {
	ID             Hex             `json:"id,omitempty"`
	Conversation   Hex             `json:"conversation,omitempty"`
	Causation      Hex             `json:"causation,omitempty"`
	Tenant         string          `json:"tenant,omitempty"`
	Intent         *EnvelopeIntent `json:"intent,omitempty"`
	Context        []*ContextRef   `json:"context,omitempty"`
	Control        *Label          `json:"control,omitempty"`
	Data           []*DataLabel    `json:"data,omitempty"`
	Deadline       string          `json:"deadline_unix_ms,omitempty"`
	Timeout        uint32          `json:"timeout_ms,omitempty"`
	Delivery       int32           `json:"delivery,omitempty"`
	Critical       []uint32        `json:"critical,omitempty"`
	IdempotencyKey string          `json:"idempotency_key,omitempty"`
	Method         string          `json:"method,omitempty"`
	PayloadType    string          `json:"payload_type,omitempty"`
	Payload        Hex             `json:"payload,omitempty"`

	// Fields that are no part of the transcript.
	Call     string            `json:"call,omitempty"`
	Credit   uint32            `json:"credit,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
	TraceID  Hex               `json:"trace_id,omitempty"`

	// Fields that have no transcript.
	NoPayload    bool  `json:"no_payload,omitempty"`
	Endorsements []Hex `json:"endorsements,omitempty"`
}

// EnvelopeIntent is the intent that an envelope claims.
type EnvelopeIntent struct {
	Action          string   `json:"action,omitempty"`
	Resource        []string `json:"resource,omitempty"`
	Purpose         string   `json:"purpose,omitempty"`
	ArgumentsDigest Hex      `json:"arguments_digest,omitempty"`
}

// ContextRef is a reference to shared context.
type ContextRef struct {
	Store      string  `json:"store,omitempty"`
	Tenant     string  `json:"tenant,omitempty"`
	Ref        *KeyRef `json:"ref,omitempty"`
	Commitment Hex     `json:"commitment,omitempty"`
	Size       string  `json:"size,omitempty"`
	MediaType  string  `json:"media_type,omitempty"`
	Label      *Label  `json:"label,omitempty"`
	GrantDsse  Hex     `json:"grant_dsse,omitempty"`
}

// KeyRef is one version of one key.
type KeyRef struct {
	Ns      *Path  `json:"ns,omitempty"`
	Key     Hex    `json:"key,omitempty"`
	Version string `json:"version,omitempty"`
}

// Path is a namespace.
type Path struct {
	Labels []string `json:"labels,omitempty"`
}

// Label is what is known of where something came from and who may read it.
type Label struct {
	Integrity        int32    `json:"integrity,omitempty"`
	Confidentiality  int32    `json:"confidentiality,omitempty"`
	AnyReader        bool     `json:"any_reader,omitempty"`
	Readers          []string `json:"readers,omitempty"`
	Tags             []string `json:"tags,omitempty"`
	Sources          []string `json:"sources,omitempty"`
	SourcesTruncated bool     `json:"sources_truncated,omitempty"`
}

// DataLabel is the label of a field of the payload.
type DataLabel struct {
	Ref   uint32 `json:"ref,omitempty"`
	Field string `json:"field,omitempty"`
	Label *Label `json:"label,omitempty"`
}

// Values of a transcript, framed.
func framed(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...) //nolint:gosec // G115: a value of this generator.
}

func framedNumber(v uint64) []byte { return framed(binary.BigEndian.AppendUint64(nil, v)) }

func framedFlag(b bool) []byte {
	if b {
		return framedNumber(1)
	}
	return framedNumber(0)
}

// framedSigned is the two's complement of an int32, or of an enum.
func framedSigned(v int32) []byte { return framedNumber(uint64(int64(v))) } //nolint:gosec // G115: two's complement is meant.

// listed frames the elements of a repeated field.
func listed[T any](list []T, frame func(T) []byte) []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(list))) //nolint:gosec // G115: a list of this generator.
	for _, x := range list {
		out = append(out, frame(x)...)
	}
	return out
}

func framedText(s string) []byte { return framed([]byte(s)) }

func texts(list []string) []byte { return listed(list, framedText) }

// decimal frames a number that JSON has as a string; nothing is zero.
func (w *world) decimal(s string) []byte {
	if s == "" {
		return framedNumber(0)
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return framedNumber(uint64(n)) //nolint:gosec // G115: two's complement is meant.
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		w.fail(fmt.Errorf("reading a number: %w", err))
	}
	return framedNumber(n)
}

// transcript is what a proof signs the digest of.
func (w *world) transcript(e *Envelope) []byte {
	in := e.Intent
	if in == nil {
		in = new(EnvelopeIntent)
	}
	payload := sha256.Sum256(e.Payload)
	return slices.Concat(
		[]byte("safeconduct/envelope/v1\x00"),
		framed(e.ID), framed(e.Conversation), framed(e.Causation), framedText(e.Tenant),
		framedText(in.Action), texts(in.Resource), framedText(in.Purpose), framed(in.ArgumentsDigest),
		listed(e.Context, w.contextRef), label(e.Control), listed(e.Data, dataLabel),
		w.decimal(e.Deadline), framedNumber(uint64(e.Timeout)), framedSigned(e.Delivery),
		listed(e.Critical, func(n uint32) []byte { return framedNumber(uint64(n)) }),
		framedText(e.IdempotencyKey), framedText(e.Method), framedText(e.PayloadType), framed(payload[:]),
	)
}

func (w *world) contextRef(r *ContextRef) []byte {
	return framed(slices.Concat(framedText(r.Store), framedText(r.Tenant), w.keyRef(r.Ref), framed(r.Commitment), w.decimal(r.Size),
		framedText(r.MediaType), label(r.Label), framed(r.GrantDsse)))
}

func (w *world) keyRef(k *KeyRef) []byte {
	if k == nil {
		return framed(nil)
	}
	var ns []byte
	if k.Ns != nil {
		ns = texts(k.Ns.Labels)
	}
	return framed(slices.Concat(framed(ns), framed(k.Key), w.decimal(k.Version)))
}

func label(l *Label) []byte {
	if l == nil {
		return framed(nil)
	}
	return framed(slices.Concat(framedSigned(l.Integrity), framedSigned(l.Confidentiality), framedFlag(l.AnyReader), texts(l.Readers),
		texts(l.Tags), texts(l.Sources), framedFlag(l.SourcesTruncated)))
}

func dataLabel(d *DataLabel) []byte {
	return framed(slices.Concat(framedNumber(uint64(d.Ref)), framedText(d.Field), label(d.Label)))
}
