package memory

import (
	"context"
	"crypto/subtle"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// Ref returns the reference under which others find this version of e: pinned, with its commitment, size and label. It gives no
// right to read; the receiver resolves it under its own identity. e comes from this view; the zero Entry gives nil.
func (v *View) Ref(e Entry) *v1.ContextRef {
	if e.IsZero() {
		return nil
	}
	return &v1.ContextRef{
		Store: v.store.cfg.Self.String(), Tenant: v.tenant.Name(), Ref: e.Ref.Proto(), Commitment: e.Commitment[:],
		Size: e.Size, MediaType: e.MediaType, Label: e.Label.Proto(),
	}
}

// Resolve returns the version that a reference names, after checking the reference against what is stored: store, tenant, pinned
// version, commitment, size and, where the reference says them, label and media type. The permit's action is context.resolve
// and covers the reference's namespace. Everything that does not match is ErrNotFound with its reason; a reference that carries
// a grant is refused, as grants between tenants do not exist.
func (v *View) Resolve(ctx context.Context, ref *v1.ContextRef) (Entry, error) {
	return v.resolve(ctx, ref, false)
}

// Verify is Resolve for a holder that passes a reference on without reading it: it returns no content, so that nothing has to be
// joined into the caller's label.
func (v *View) Verify(ctx context.Context, ref *v1.ContextRef) error {
	_, err := v.resolve(ctx, ref, true)
	return err
}

func (v *View) resolve(ctx context.Context, ref *v1.ContextRef, opaque bool) (Entry, error) {
	if err := v.check(ActionResolve); err != nil {
		return Entry{}, err
	}
	place, err := v.claimed(ref)
	if err != nil {
		return Entry{}, err
	}
	var entry Entry
	err = v.record(ctx, []Ref{place}, func() (Outcome, error) {
		entries, rev, err := v.fetch(ctx, []Ref{place})
		if err != nil {
			return Outcome{}, err
		}
		e := entries[0]
		out := Outcome{Rev: rev}
		if e.IsZero() {
			return out, refuse(ErrNotFound, v1.Reason_REASON_MEMORY_ABSENT, "no such version")
		}
		if !matches(ref, &e) {
			return out, refuse(ErrNotFound, v1.Reason_REASON_MEMORY_COMMITMENT, "the reference does not match what is stored")
		}
		if opaque {
			return out, nil
		}
		if !readableBy(e.Label, v.permit.Peer().Agent) {
			return out, refuse(ErrNotFound, v1.Reason_REASON_CONFIDENTIALITY_TOO_HIGH, "the label does not admit this reader")
		}
		entry = e
		out.Touched = []Touched{e.touched(e.Ref.Version, e.Ref.Version)}
		return out, nil
	})
	if err != nil {
		return Entry{}, err
	}
	return entry, nil
}

// claimed checks what a reference claims before anything is looked up.
func (v *View) claimed(ref *v1.ContextRef) (Ref, error) {
	outside := func(cause string) error { return refuse(ErrNotFound, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE, cause) }
	place, err := RefFromProto(ref.GetRef())
	switch {
	case err != nil:
		return Ref{}, err
	case place.Namespace.IsZero():
		return Ref{}, badNamespace("a reference without namespace")
	case ref.GetStore() != v.store.cfg.Self.String():
		return Ref{}, outside("the reference is to another store")
	case ref.GetTenant() != v.tenant.Name():
		return Ref{}, outside("the reference is to another tenant")
	case len(ref.GetGrantDsse()) > 0:
		return Ref{}, outside("the reference carries a grant")
	case place.Version == 0:
		return Ref{}, invalid("a reference without pinned version")
	case len(ref.GetCommitment()) != 32:
		return Ref{}, invalid("a reference without commitment")
	}
	return v.place(place)
}

// matches reports whether a reference says what the entry is. fetch has verified that the entry's commitment is that of its bytes.
func matches(ref *v1.ContextRef, e *Entry) bool {
	if subtle.ConstantTimeCompare(ref.GetCommitment(), e.Commitment[:]) != 1 || ref.GetSize() != e.Size {
		return false
	}
	if m := ref.GetMediaType(); m != "" && m != e.MediaType {
		return false
	}
	if ref.GetLabel() == nil {
		return true
	}
	l, err := policy.LabelFromProto(ref.GetLabel())
	return err == nil && l.Equal(e.Label)
}
