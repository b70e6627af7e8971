package vectors_test

import (
	"strconv"
	"testing"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/vectors"
)

// envelope is the message of a vector.
func envelope(t *testing.T, e *vectors.Envelope) *v1.Envelope {
	t.Helper()
	out := &v1.Envelope{
		Id: e.ID, Conversation: e.Conversation, Causation: e.Causation, Tenant: e.Tenant, Control: label(e.Control),
		DeadlineUnixMs: int64(number(t, e.Deadline)), TimeoutMs: e.Timeout, Delivery: v1.Delivery(e.Delivery), Critical: e.Critical,
		IdempotencyKey: e.IdempotencyKey, Method: e.Method, PayloadType: e.PayloadType, Payload: e.Payload,
		Call: number(t, e.Call), Credit: e.Credit, NoPayload: e.NoPayload,
	}
	if in := e.Intent; in != nil {
		out.Intent = &v1.Intent{Action: in.Action, Resource: in.Resource, Purpose: in.Purpose, ArgumentsDigest: in.ArgumentsDigest}
	}
	for _, r := range e.Context {
		ref := &v1.ContextRef{
			Store: r.Store, Tenant: r.Tenant, Commitment: r.Commitment, Size: number(t, r.Size), MediaType: r.MediaType, Label: label(r.Label),
			GrantDsse: r.GrantDsse,
		}
		if k := r.Ref; k != nil {
			ref.Ref = &v1.KeyRef{Key: k.Key, Version: number(t, k.Version)}
			if k.Ns != nil {
				ref.Ref.Ns = &v1.Path{Labels: k.Ns.Labels}
			}
		}
		out.Context = append(out.Context, ref)
	}
	for _, d := range e.Data {
		out.Data = append(out.Data, &v1.DataLabel{Ref: d.Ref, Field: d.Field, Label: label(d.Label)})
	}
	for k, v := range e.Metadata {
		out.Metadata = append(out.Metadata, &v1.Pair{Key: k, Value: []byte(v)})
	}
	if len(e.TraceID) > 0 {
		out.Trace = &v1.TraceContext{TraceId: e.TraceID}
	}
	for _, b := range e.Endorsements {
		out.Endorsements = append(out.Endorsements, &v1.SignedStatement{Payload: b})
	}
	return out
}

func label(l *vectors.Label) *v1.Label {
	if l == nil {
		return nil
	}
	return &v1.Label{
		Integrity: v1.Integrity(l.Integrity), Confidentiality: v1.Confidentiality(l.Confidentiality), AnyReader: l.AnyReader, Readers: l.Readers,
		Tags: l.Tags, Sources: l.Sources, SourcesTruncated: l.SourcesTruncated,
	}
}

// number reads a signed or unsigned decimal; nothing is zero.
func number(t *testing.T, s string) uint64 {
	t.Helper()
	if s == "" {
		return 0
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return uint64(n)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Error(err)
	}
	return n
}
