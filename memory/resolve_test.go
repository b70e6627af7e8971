package memory_test

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/policy"
)

func (a *actor) ref(e memory.Entry, labels ...string) *v1.ContextRef {
	a.w.Helper()
	return a.open(memory.ActionRead, labels...).Ref(e)
}

func (a *actor) resolve(r *v1.ContextRef, labels ...string) (memory.Entry, error) {
	a.w.Helper()
	return a.open(memory.ActionResolve, labels...).Resolve(a.w.Context(), r)
}

func TestResolvePinsTheVersion(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		alice, bob := w.agent("acme", "alice"), w.agent("acme", "bob")
		first := alice.put("k", "first", "shared", "a")
		r := alice.ref(first, "shared", "a")
		if r.GetStore() != w.self.String() || r.GetTenant() != "acme" || r.GetRef().GetVersion() != 1 || r.GetSize() != 5 || len(r.GetGrantDsse()) != 0 {
			t.Errorf("Ref() = %v", r)
		}
		alice.put("k", "second", "shared", "a")
		e, err := bob.resolve(r, "shared", "a")
		if err != nil || string(e.Value) != "first" || e.Ref.Version != 1 || e.Provenance.GetAuthor() != alice.id.String() {
			t.Errorf("Resolve() = %q at %d, %v", e.Value, e.Ref.Version, err)
		}
		if err := bob.open(memory.ActionResolve, "shared", "a").Verify(t.Context(), r); err != nil {
			t.Errorf("Verify() = %v", err)
		}
		if o := w.rec.last(); o.Err != nil || len(o.Touched) != 0 {
			t.Errorf("recorded outcome of an opaque resolve = %+v, want nothing touched", o)
		}
		if alice.ref(memory.Entry{}, "shared", "a") != nil {
			t.Error("Ref(zero entry) is a reference")
		}
		alice.write(memory.Delete{Ref: ref("k")}, "shared", "a")
		_, err = bob.resolve(r, "shared", "a")
		w.refused("Resolve of a deleted entry", err, memory.ErrNotFound, v1.Reason_REASON_MEMORY_ABSENT)
	})
}

// G10: a reference that says anything else than what is stored is refused, and so is one for a receiver without a right.
func TestG10ReferencesMatchOrAreRefused(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		alice, bob := w.agent("acme", "alice"), w.agent("acme", "bob")
		first := alice.put("k", "first", "shared", "a")
		second := alice.put("k", "second", "shared", "a")
		good := alice.ref(first, "shared", "a")
		const (
			absent, mismatch, outside = v1.Reason_REASON_MEMORY_ABSENT, v1.Reason_REASON_MEMORY_COMMITMENT, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE
			malformed                 = v1.Reason_REASON_MALFORMED
		)
		for _, c := range []struct {
			name     string
			change   func(*v1.ContextRef)
			sentinel error
			reason   v1.Reason
		}{
			{"changed commitment", func(r *v1.ContextRef) { r.Commitment[31] ^= 1 }, memory.ErrNotFound, mismatch},
			{"commitment of another version", func(r *v1.ContextRef) { r.Commitment = second.Commitment[:] }, memory.ErrNotFound, mismatch},
			{"another version", func(r *v1.ContextRef) { r.Ref.Version = 2 }, memory.ErrNotFound, mismatch},
			{"a version to come", func(r *v1.ContextRef) { r.Ref.Version = 3 }, memory.ErrNotFound, absent},
			{"another key", func(r *v1.ContextRef) { r.Ref.Key = []byte("x") }, memory.ErrNotFound, absent},
			{"another size", func(r *v1.ContextRef) { r.Size++ }, memory.ErrNotFound, mismatch},
			{"another media type", func(r *v1.ContextRef) { r.MediaType = "text/html" }, memory.ErrNotFound, mismatch},
			{"a better label", func(r *v1.ContextRef) { r.Label.Integrity = v1.Integrity_INTEGRITY_SYSTEM }, memory.ErrNotFound, mismatch},
			{"a malformed label", func(r *v1.ContextRef) { r.Label.Integrity = 99 }, memory.ErrNotFound, mismatch},
			{"version 0", func(r *v1.ContextRef) { r.Ref.Version = 0 }, memory.ErrInvalid, malformed},
			{"no commitment", func(r *v1.ContextRef) { r.Commitment = nil }, memory.ErrInvalid, malformed},
			{"short commitment", func(r *v1.ContextRef) { r.Commitment = r.Commitment[:31] }, memory.ErrInvalid, malformed},
			{"no namespace", func(r *v1.ContextRef) { r.Ref.Ns = nil }, memory.ErrInvalid, v1.Reason_REASON_MEMORY_BAD_NAMESPACE},
			{"bad namespace", func(r *v1.ContextRef) { r.Ref.Ns.Labels = []string{".."} }, memory.ErrInvalid, v1.Reason_REASON_MEMORY_BAD_NAMESPACE},
			{"another namespace", func(r *v1.ContextRef) { r.Ref.Ns.Labels = []string{"shared", "b"} }, memory.ErrNotFound, outside},
			{"another store", func(r *v1.ContextRef) { r.Store = "spiffe://mesh.test/service/other" }, memory.ErrNotFound, outside},
			{"another tenant", func(r *v1.ContextRef) { r.Tenant = "globex" }, memory.ErrNotFound, outside},
			{"no tenant", func(r *v1.ContextRef) { r.Tenant = "" }, memory.ErrNotFound, outside},
			{"a grant", func(r *v1.ContextRef) { r.GrantDsse = []byte("x") }, memory.ErrNotFound, outside},
		} {
			r, ok := proto.Clone(good).(*v1.ContextRef)
			if !ok {
				t.Fatal("clone of another type")
			}
			c.change(r)
			e, err := bob.resolve(r, "shared", "a")
			w.refused(c.name, err, c.sentinel, c.reason)
			if !e.IsZero() || e.Value != nil {
				t.Errorf("%s: Resolve() returns %q beside the error", c.name, e.Value)
			}
			if err := bob.open(memory.ActionResolve, "shared", "a").Verify(t.Context(), r); !errors.Is(err, c.sentinel) {
				t.Errorf("%s: Verify() = %v, want %v", c.name, err, c.sentinel)
			}
		}
		// The receiver's own identity decides: the same reference under another tenant finds nothing.
		eve := w.agent("globex", "eve")
		_, err := eve.resolve(good, "shared", "a")
		w.refused("Resolve from another tenant", err, memory.ErrNotFound, outside)
		claimed, ok := proto.Clone(good).(*v1.ContextRef)
		if !ok {
			t.Fatal("clone of another type")
		}
		claimed.Tenant = "globex"
		_, err = eve.resolve(claimed, "shared", "a")
		w.refused("Resolve with the tenant claimed", err, memory.ErrNotFound, absent)
		if e, err := bob.resolve(good, "shared", "a"); err != nil || string(e.Value) != "first" {
			t.Errorf("Resolve() = %q, %v", e.Value, err)
		}
	})
}

func TestResolveHoldsToReaders(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		alice, bob := w.agent("acme", "alice"), w.agent("acme", "bob")
		e := alice.write(memory.Put{Ref: ref("k"), Value: []byte("v"), Raise: &policy.Label{
			Integrity: v1.Integrity_INTEGRITY_TRUSTED, Readers: []string{alice.id.String()},
		}}, "shared", "a")
		r := alice.ref(e, "shared", "a")
		_, err := bob.resolve(r, "shared", "a")
		w.refused("Resolve by nobody the label names", err, memory.ErrNotFound, v1.Reason_REASON_CONFIDENTIALITY_TOO_HIGH)
		if err := bob.open(memory.ActionResolve, "shared", "a").Verify(t.Context(), r); err != nil {
			t.Errorf("Verify() by one who passes it on = %v", err)
		}
		if _, err := alice.resolve(r, "shared", "a"); err != nil {
			t.Errorf("Resolve() by the reader = %v", err)
		}
	})
}
