package interceptors

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// Bounds of an Envelope, enforced before any signature is looked at. Sizes are bytes.
const (
	MaxPayload       = 1 << 20
	MaxEnvelope      = MaxPayload + 64<<10
	MaxMetadata      = 4096 // envelope in metadata: C-core refuses header lists above 8 KiB
	maxMethod        = 256
	maxTenant        = 64
	maxRecipient     = 512
	maxPurpose       = 128
	maxResource      = 17
	maxContextRefs   = 32
	maxContextRef    = 8 << 10
	maxDataLabels    = 32
	maxChain         = 16 << 10
	maxIdempotency   = 64
	maxMetadataPairs = 16
	maxMetadataBytes = 1 << 10
	maxTraceState    = 256
	maxTimeout       = 24 * time.Hour
	maxDeadline      = 5 * time.Minute // bounds the replay set
	clockSkew        = 30 * time.Second
	maxCritical      = 8
)

// understood are the Envelope fields that a peer may list as critical: what this version honours.
var understood = []uint32{1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 23, 24, 27, 30, 34}

// checkShape holds the bounds of the fields that every route shares. It reads unverified data and can only deny.
func checkShape(e *v1.Envelope) *Denial {
	malformed := func(what string) *Denial { return denyf(v1.Reason_REASON_MALFORMED, "envelope: %s", what) }
	limit := func(what string) *Denial { return denyf(v1.Reason_REASON_MALFORMED, "envelope over a limit: %s", what) }
	for _, c := range e.GetCritical() {
		if len(e.GetCritical()) > maxCritical || !slices.Contains(understood, c) {
			return denyf(v1.Reason_REASON_EXTENSION_UNKNOWN, "envelope: critical field %d", c)
		}
	}
	in := e.GetIntent()
	switch {
	case !ValidText(e):
		return malformed("a string is not UTF-8")
	case len(e.GetId()) != 16:
		return malformed("id is not 16 bytes")
	case len(e.GetMethod()) > maxMethod || len(e.GetPayloadType()) > maxMethod:
		return limit("method or payload type")
	case len(e.GetPayload()) > MaxPayload:
		return limit("payload")
	case len(e.GetConversation()) != 0 && len(e.GetConversation()) != 16,
		len(e.GetCausation()) != 0 && len(e.GetCausation()) != 16:
		return malformed("conversation or causation is not 16 bytes")
	case len(in.GetAction()) > 64 || len(in.GetPurpose()) > maxPurpose || len(in.GetResource()) > maxResource:
		return limit("intent")
	case !printable(in.GetPurpose()) || !printable(e.GetTenant()) || !printable(e.GetRecipient()):
		return malformed("control characters")
	case len(in.GetResource()) > 0 && !policy.ValidResource(in.GetResource()):
		return malformed("intent resource")
	case len(e.GetTenant()) > maxTenant || len(e.GetRecipient()) > maxRecipient:
		return limit("tenant or recipient")
	case len(e.GetChainRef()) != 0 && len(e.GetChainRef()) != 32:
		return malformed("chain reference is not 32 bytes")
	case e.GetChain() != nil && e.GetChain().SizeVT() > maxChain:
		return limit("chain")
	case len(e.GetContext()) > maxContextRefs || len(e.GetData()) > maxDataLabels:
		return limit("context references or data labels")
	case len(e.GetIdempotencyKey()) > maxIdempotency:
		return limit("idempotency key")
	case time.Duration(e.GetTimeoutMs())*time.Millisecond > maxTimeout:
		return limit("timeout")
	case e.GetTrace() != nil && (len(e.GetTrace().GetTraceId()) != 16 || len(e.GetTrace().GetSpanId()) != 8 || len(e.GetTrace().GetState()) > maxTraceState):
		return malformed("trace context")
	}
	if d := checkLists(e, limit); d != nil {
		return d
	}
	return checkAbsent(e, malformed)
}

func checkLists(e *v1.Envelope, limit func(string) *Denial) *Denial {
	for _, ref := range e.GetContext() {
		if ref.SizeVT() > maxContextRef {
			return limit("context reference")
		}
	}
	if p := e.GetProof(); p != nil && p.SizeVT() > delegation.MaxWholeProofBytes {
		return limit("proof")
	}
	if len(e.GetMetadata()) > maxMetadataPairs {
		return limit("metadata pairs")
	}
	sum := 0
	for _, p := range e.GetMetadata() {
		sum += len(p.GetKey()) + len(p.GetValue())
	}
	if sum > maxMetadataBytes {
		return limit("metadata")
	}
	return nil
}

// checkAbsent refuses what belongs to other frames and what this version does not honour: an ignored security field is worse
// than an error.
func checkAbsent(e *v1.Envelope, malformed func(string) *Denial) *Denial {
	switch {
	case e.GetSeq() != 0 || e.GetCredit() != 0 || e.GetHello() != nil || e.GetGoaway() != nil || len(e.GetStatus()) != 0 ||
		e.GetAudit() != nil || e.GetReceipt() != nil:
		return malformed("a field of another frame kind is set")
	case e.GetDelivery() != v1.Delivery_DELIVERY_UNSPECIFIED && e.GetDelivery() != v1.Delivery_DELIVERY_STORED: // that waits for its proof
		return denyf(v1.Reason_REASON_EXTENSION_UNKNOWN, "envelope: delivery %d", e.GetDelivery())
	case len(e.GetEndorsements()) != 0 || e.GetIdempotencyKey() != "":
		return denyf(v1.Reason_REASON_EXTENSION_UNKNOWN, "envelope: endorsements and idempotency keys are not offered")
	}
	return nil
}

// checkCarried holds what is special to an Envelope that carries its payload, as on Deliver.
func checkCarried(e *v1.Envelope, m *Method) *Denial {
	switch {
	case e.GetKind() != v1.FrameKind_FRAME_KIND_OPEN || e.GetCall() != 0 || !e.GetHalfClose() || e.GetNoPayload():
		return denyf(v1.Reason_REASON_MALFORMED, "envelope: Deliver takes one OPEN frame, call 0, half closed")
	case m.Input != nil && e.GetPayloadType() != string(m.Input.FullName()):
		return denyf(v1.Reason_REASON_MALFORMED, "envelope: payload type %q, want %q", e.GetPayloadType(), m.Input.FullName())
	case e.GetRecipient() == "":
		return denyf(v1.Reason_REASON_MALFORMED, "envelope: no recipient")
	}
	if m.Intent.GetOpen() && len(e.GetIntent().GetArgumentsDigest()) == 0 {
		return nil
	}
	if sum := sha256.Sum256(e.GetPayload()); !bytes.Equal(sum[:], e.GetIntent().GetArgumentsDigest()) {
		return denyf(v1.Reason_REASON_DIGEST_MISMATCH, "envelope: arguments digest is not that of the payload")
	}
	return nil
}

// checkGuard holds what is special to an Envelope that stands beside its request, in a field or in metadata: the channel binds
// the two, and a digest would be circular.
func checkGuard(e *v1.Envelope) *Denial {
	if len(e.GetPayload()) != 0 || len(e.GetIntent().GetArgumentsDigest()) != 0 {
		return denyf(v1.Reason_REASON_MALFORMED, "envelope: payload or digest beside a typed request")
	}
	return nil
}

// checkTime holds the deadline: required, not past by more than the skew, not so far ahead that the replay set forgets first.
func checkTime(e *v1.Envelope, now time.Time) (time.Time, *Denial) {
	if e.GetDeadlineUnixMs() <= 0 {
		return time.Time{}, denyf(v1.Reason_REASON_MALFORMED, "envelope: no deadline")
	}
	deadline := time.UnixMilli(e.GetDeadlineUnixMs())
	switch {
	case deadline.Add(clockSkew).Before(now):
		return deadline, denyf(v1.Reason_REASON_DEADLINE, "envelope: deadline passed %v ago", now.Sub(deadline))
	case deadline.After(now.Add(maxDeadline + clockSkew)):
		return deadline, denyf(v1.Reason_REASON_MALFORMED, "envelope: deadline is %v ahead", deadline.Sub(now))
	}
	return deadline, nil
}

// runUntil is when the handler's context ends.
func runUntil(e *v1.Envelope, deadline, now time.Time) time.Time {
	if ms := e.GetTimeoutMs(); ms > 0 {
		return now.Add(time.Duration(ms) * time.Millisecond)
	}
	return deadline.Add(clockSkew)
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
}
