package memory_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/memorytest"
	"github.com/safeconduct/safeconduct/policy"
)

func TestNewRefusesAnIncompleteConfig(t *testing.T) {
	w := newWorld(t, memorytest.NewModel())
	full := memory.Config{Driver: w.driver, Recorder: w.rec, Now: w.mesh.Now, Self: w.self}
	for name, change := range map[string]func(*memory.Config){
		"no driver":   func(c *memory.Config) { c.Driver = nil },
		"no recorder": func(c *memory.Config) { c.Recorder = nil },
		"no clock":    func(c *memory.Config) { c.Now = nil },
		"no self":     func(c *memory.Config) { c.Self = identity.AgentID{} },
		"wide limits": func(c *memory.Config) { c.Limits.ValueBytes = memory.MaxValueBytes + 1 },
		"wide pages":  func(c *memory.Config) { c.Limits.Page = memory.MaxPage + 1 },
		"below zero":  func(c *memory.Config) { c.Limits.Page = -1 },
	} {
		c := full
		change(&c)
		if _, err := memory.New(t.Context(), c); err == nil {
			t.Errorf("New(%s) succeeds", name)
		}
	}
}

func TestWriteThenRead(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		alice := w.agent("acme", "alice")
		parent := bytes.Repeat([]byte{9}, 32)
		written := alice.write(memory.Put{
			Ref: ref("k"), Value: []byte("hello"), MediaType: "text/plain",
			Meta: []memory.MetaPair{{Key: "z", Value: "1"}, {Key: "a", Value: "2"}}, DerivedFrom: [][]byte{parent, parent},
		}, "shared", "notes")
		if written.Ref.Version != 1 || written.Value != nil || written.Size != 5 || written.Rev != 1 {
			t.Errorf("Write() = version %d, value %q, size %d, revision %d", written.Ref.Version, written.Value, written.Size, written.Rev)
		}
		got, err := w.agent("acme", "bob").read("k", "shared", "notes")
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Value) != "hello" || got.Commitment != written.Commitment || got.Rev != 1 || got.State != v1.State_STATE_LIVE {
			t.Errorf("Read() = %q at %d, state %v", got.Value, got.Rev, got.State)
		}
		if len(got.Meta) != 2 || got.Meta[0].Key != "a" {
			t.Errorf("Read() metadata = %v, want sorted", got.Meta)
		}
		p := got.Provenance
		if p.GetAuthor() != alice.id.String() || p.GetPrincipal() != "alice" || len(p.GetLeafId()) != 32 || len(p.GetChainId()) != 16 ||
			len(p.GetParents()) != 1 || !bytes.Equal(p.GetParents()[0], parent) {
			t.Errorf("Read() provenance = %v", p)
		}
		if age := w.mesh.Now().Sub(got.CreateTime); age < 0 || age > time.Minute {
			t.Errorf("Read() create time = %v, want now", got.CreateTime)
		}
		if c := memory.CommitmentOf(memorytest.Tenant(t, "acme"), got); c != got.Commitment {
			t.Errorf("CommitmentOf(read entry) differs from its commitment")
		}
		if pb := got.Proto(); pb.GetRef().GetVersion() != 1 || string(pb.GetValue()) != "hello" || pb.GetRevision() != 1 {
			t.Errorf("Proto() = %v", pb)
		}
	})
}

func TestReadIsABatchOfOneSnapshot(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		a := w.agent("acme", "alice")
		a.put("k", "one", "shared", "team")
		a.put("k", "two", "shared", "team")
		a.put("empty", "", "shared", "team", "sub")
		v := a.open(memory.ActionRead, "shared", "team")
		entries, rev, err := v.ReadWith(t.Context(), memory.ReadOptions{}, ref("k"), ref("none"),
			memory.Ref{Key: []byte("k"), Version: 1}, memory.Ref{Key: []byte("k"), Version: 9},
			memory.Ref{Namespace: namespace(t, "shared", "team", "sub"), Key: []byte("empty")})
		if err != nil || rev != 3 {
			t.Fatalf("Read() = revision %d, %v", rev, err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, fmt.Sprintf("%d:%s", e.Ref.Version, e.Value))
		}
		if want := "2:two 0: 1:one 0: 1:"; strings.Join(got, " ") != want {
			t.Errorf("Read() = %q, want %q", got, want)
		}
		if entries[4].Value == nil {
			t.Error("an empty value reads as nil")
		}
		entries, _, err = v.ReadWith(t.Context(), memory.ReadOptions{HeaderOnly: true}, ref("k"))
		if err != nil || entries[0].Value != nil || entries[0].Size != 3 {
			t.Errorf("Read(header only) = %q, size %d, %v", entries[0].Value, entries[0].Size, err)
		}
		_, err = v.Read(t.Context(), ref("none"))
		w.refused("Read of nothing that exists", err, memory.ErrNotFound, v1.Reason_REASON_MEMORY_ABSENT)
	})
}

func TestVersionsCountAndAreNotReused(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		a := w.agent("acme", "alice")
		for want := uint64(1); want <= memory.KeptVersions+3; want++ {
			if got := a.put("k", fmt.Sprint(want), "shared").Ref.Version; got != want {
				t.Fatalf("version = %d, want %d", got, want)
			}
		}
		v := a.open(memory.ActionRead, "shared")
		for _, c := range []struct {
			version uint64
			kept    bool
		}{{3, false}, {4, true}, {memory.KeptVersions + 3, true}, {memory.KeptVersions + 4, false}} {
			entries, err := v.Read(t.Context(), memory.Ref{Key: []byte("k"), Version: c.version})
			if c.kept && (err != nil || string(entries[0].Value) != fmt.Sprint(c.version)) || !c.kept && !errors.Is(err, memory.ErrNotFound) {
				t.Errorf("Read(version %d) = %v, want kept %v", c.version, err, c.kept)
			}
		}
		a.write(memory.Delete{Ref: ref("k")}, "shared")
		if _, err := a.read("k", "shared"); !errors.Is(err, memory.ErrNotFound) {
			t.Errorf("Read() after Delete = %v", err)
		}
		if _, err := v.Read(t.Context(), memory.Ref{Key: []byte("k"), Version: 4}); !errors.Is(err, memory.ErrNotFound) {
			t.Errorf("Read(old version) after Delete = %v", err)
		}
		if got := a.put("k", "again", "shared").Ref.Version; got != memory.KeptVersions+4 {
			t.Errorf("version after Delete = %d, want %d", got, memory.KeptVersions+4)
		}
		if _, err := v.Read(t.Context(), memory.Ref{Key: []byte("k"), Version: 4}); !errors.Is(err, memory.ErrNotFound) {
			t.Errorf("Read(version from before the delete) = %v", err)
		}
		a.write(memory.Delete{Ref: ref("never was")}, "shared")
		if bytes, items, err := w.driver.Stats(t.Context(), memorytest.Tenant(t, "acme")); err != nil || items != 2 {
			t.Errorf("Stats() = %d bytes, %d items, %v, want the head and one version", bytes, items, err)
		}
	})
}

func TestPreconditions(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		a := w.agent("acme", "alice")
		e := a.put("k", "1", "shared")
		a.put("gone", "1", "shared")
		a.write(memory.Delete{Ref: ref("gone")}, "shared")
		for _, c := range []struct {
			name, key string
			onlyIf    memory.Precondition
			want      error
		}{
			{"stale version", "k", memory.VersionIs(2), memory.ErrConflict},
			{"version 0", "k", memory.VersionIs(0), memory.ErrConflict},
			{"version of an absent key", "none", memory.VersionIs(1), memory.ErrConflict},
			{"version of a deleted key", "gone", memory.VersionIs(1), memory.ErrConflict},
			{"present must not exist", "k", memory.MustNotExist(), memory.ErrConflict},
			{"other commitment", "k", memory.CommitmentIs([32]byte{1}), memory.ErrConflict},
			{"commitment of a deleted key", "gone", memory.CommitmentIs([32]byte{}), memory.ErrConflict},
			{"right commitment", "k", memory.CommitmentIs(e.Commitment), nil},
			{"right version", "k", memory.VersionIs(2), nil},
			{"absent must not exist", "new", memory.MustNotExist(), nil},
			{"deleted must not exist", "gone", memory.MustNotExist(), nil},
		} {
			// The failing operation comes second: the batch is one.
			marker := "marker " + c.name
			_, _, err := a.open(memory.ActionWrite, "shared").Write(t.Context(),
				memory.Put{Ref: ref(marker)}, memory.Put{Ref: ref(c.key), OnlyIf: c.onlyIf})
			if !errors.Is(err, c.want) {
				t.Errorf("%s: Write() = %v, want %v", c.name, err, c.want)
			}
			if _, err := a.read(marker, "shared"); (err == nil) != (c.want == nil) {
				t.Errorf("%s: the other operation of the batch: %v", c.name, err)
			}
		}
		_, _, err := a.open(memory.ActionWrite, "shared").Write(t.Context(), memory.Delete{Ref: ref("k"), OnlyIf: memory.VersionIs(1)})
		w.refused("Delete of a stale version", err, memory.ErrConflict, v1.Reason_REASON_CONFLICT)
	})
}

func TestWriteBounds(t *testing.T) {
	w := newWorld(t, memorytest.NewModel())
	a := w.agent("acme", "alice")
	many := func(n int) (ops []memory.Op) {
		for i := range n {
			ops = append(ops, memory.Put{Ref: ref(fmt.Sprint("k", i))})
		}
		return ops
	}
	put := func(p memory.Put) []memory.Op {
		if p.Ref.Key == nil {
			p.Ref = ref("k")
		}
		return []memory.Op{p}
	}
	large := func(n int) (ops []memory.Op) {
		for _, op := range many(n) {
			p := op.(memory.Put)
			p.Value = make([]byte, memory.MaxValueBytes)
			ops = append(ops, p)
		}
		return ops
	}
	parents := func(n int) (out [][]byte) {
		for i := range n {
			out = append(out, append(make([]byte, 30), byte(i>>8), byte(i)))
		}
		return out
	}
	meta := func(n int) (out []memory.MetaPair) {
		for i := range n {
			out = append(out, memory.MetaPair{Key: fmt.Sprint(i)})
		}
		return out
	}
	for _, c := range []struct {
		name string
		ops  []memory.Op
		want error
	}{
		{"nothing", nil, memory.ErrInvalid},
		{"a nil operation", []memory.Op{nil}, memory.ErrInvalid},
		{"64 operations", many(memory.MaxOps), nil},
		{"65 operations", many(memory.MaxOps + 1), memory.ErrTooLarge},
		{"a key twice", append(many(2), many(1)...), memory.ErrInvalid},
		{"a put and a delete of a key", append(many(1), memory.Delete{Ref: ref("k0")}), memory.ErrInvalid},
		{"a version in a put", put(memory.Put{Ref: memory.Ref{Key: []byte("k"), Version: 1}}), memory.ErrInvalid},
		{"an empty key", put(memory.Put{Ref: memory.Ref{Key: []byte{}}}), memory.ErrInvalid},
		{"a key of 512 bytes", put(memory.Put{Ref: memory.Ref{Key: bytes.Repeat([]byte("k"), 512)}}), nil},
		{"a key of 513 bytes", put(memory.Put{Ref: memory.Ref{Key: bytes.Repeat([]byte("k"), 513)}}), memory.ErrTooLarge},
		{"a value of 64 KiB", put(memory.Put{Value: make([]byte, memory.MaxValueBytes)}), nil},
		{"a value over 64 KiB", put(memory.Put{Value: make([]byte, memory.MaxValueBytes+1)}), memory.ErrTooLarge},
		{"15 values of 64 KiB", large(15), nil},
		{"17 values of 64 KiB", large(17), memory.ErrTooLarge},
		{"a media type of 128 bytes", put(memory.Put{MediaType: strings.Repeat("x", 128)}), memory.ErrTooLarge},
		{"a media type with a newline", put(memory.Put{MediaType: "text/\nplain"}), memory.ErrInvalid},
		{"16 metadata pairs", put(memory.Put{Meta: meta(16)}), nil},
		{"17 metadata pairs", put(memory.Put{Meta: meta(17)}), memory.ErrTooLarge},
		{"a metadata key twice", put(memory.Put{Meta: append(meta(1), meta(1)...)}), memory.ErrInvalid},
		{"a long metadata value", put(memory.Put{Meta: []memory.MetaPair{{Key: "k", Value: strings.Repeat("x", 257)}}}), memory.ErrTooLarge},
		{"metadata that is no text", put(memory.Put{Meta: []memory.MetaPair{{Key: "k", Value: "\xff"}}}), memory.ErrInvalid},
		{"256 parents", put(memory.Put{DerivedFrom: parents(256)}), nil},
		{"257 parents", put(memory.Put{DerivedFrom: parents(257)}), memory.ErrTooLarge},
		{
			"257 parents in a batch",
			[]memory.Op{memory.Put{Ref: ref("a"), DerivedFrom: parents(200)}, memory.Put{Ref: ref("b"), DerivedFrom: parents(57)}},
			memory.ErrTooLarge,
		},
		{"a parent of 31 bytes", put(memory.Put{DerivedFrom: [][]byte{make([]byte, 31)}}), memory.ErrInvalid},
	} {
		_, _, err := a.open(memory.ActionWrite, "shared").Write(t.Context(), c.ops...)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: Write() = %v, want %v", c.name, err, c.want)
		}
	}
	deep := []string{"shared"}
	for range 15 {
		deep = append(deep, strings.Repeat("n", 120))
	}
	v, err := w.store.Open(a.permit(memory.ActionWrite, "shared"), namespace(t, deep...))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = v.Write(t.Context(), memory.Put{Ref: memory.Ref{Key: make([]byte, 120)}})
	w.refused("Write with an encoded name over 2048 bytes", err, memory.ErrTooLarge, v1.Reason_REASON_LIMIT)
	if _, _, err := v.Write(t.Context(), memory.Put{Ref: memory.Ref{Key: make([]byte, 100)}}); err != nil {
		t.Errorf("Write with an encoded name below 2048 bytes = %v", err)
	}
	_, err = a.open(memory.ActionRead, "shared").Read(t.Context(), make([]memory.Ref, memory.MaxRefs+1)...)
	w.refused("Read of 257 references", err, memory.ErrTooLarge, v1.Reason_REASON_LIMIT)
	_, err = a.open(memory.ActionRead, "shared").Read(t.Context())
	w.refused("Read of no references", err, memory.ErrInvalid, v1.Reason_REASON_MALFORMED)
}

func TestDeletingAFullBatchOfFullHistoriesFitsOneDriverBatch(t *testing.T) {
	w := newWorld(t, memorytest.NewModel())
	a := w.agent("acme", "alice")
	var puts, deletes []memory.Op
	for i := range memory.MaxOps {
		puts = append(puts, memory.Put{Ref: ref(fmt.Sprint("k", i))})
		deletes = append(deletes, memory.Delete{Ref: ref(fmt.Sprint("k", i))})
	}
	v := a.open(memory.ActionWrite, "shared")
	for range memory.KeptVersions + 1 {
		if _, _, err := v.Write(t.Context(), puts...); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := v.Write(t.Context(), deletes...); err != nil {
		t.Errorf("Write(64 deletes of full histories) = %v", err)
	}
}

func TestLabels(t *testing.T) {
	label := func(i v1.Integrity, c v1.Confidentiality, tags ...string) policy.Label {
		return policy.Label{Integrity: i, Confidentiality: c, AnyReader: true, Tags: tags}
	}
	const (
		untrusted, attested, trusted, system = v1.Integrity_INTEGRITY_UNTRUSTED, v1.Integrity_INTEGRITY_ATTESTED,
			v1.Integrity_INTEGRITY_TRUSTED, v1.Integrity_INTEGRITY_SYSTEM
		public, internal, confidential = v1.Confidentiality_CONFIDENTIALITY_PUBLIC, v1.Confidentiality_CONFIDENTIALITY_INTERNAL,
			v1.Confidentiality_CONFIDENTIALITY_CONFIDENTIAL
	)
	for _, c := range []struct {
		name    string
		control policy.Label
		cap     v1.Integrity
		raise   *policy.Label
		want    policy.Label
	}{
		{"control alone", label(attested, internal), trusted, nil, label(attested, internal)},
		{"capped", label(trusted, internal), attested, nil, label(attested, internal)},
		{"system is never written", label(system, internal), system, nil, label(trusted, internal)},
		{"raise worsens", label(trusted, public), trusted, ptr(label(untrusted, confidential, "pii")), label(untrusted, confidential, "pii")},
		{"raise does not improve", label(untrusted, confidential, "pii"), trusted, ptr(label(system, public)), label(untrusted, confidential, "pii")},
	} {
		t.Run(c.name, func(t *testing.T) {
			onEachDriver(t, func(t *testing.T, w *world) {
				a := w.agent("acme", "alice")
				a.control = c.control
				w.mesh.Registry.SetCap(a.id, c.cap)
				written := a.write(memory.Put{Ref: ref("k"), Value: []byte("v"), Raise: c.raise}, "shared")
				got, err := w.agent("acme", "bob").read("k", "shared")
				if err != nil || !got.Label.Equal(c.want) || !written.Label.Equal(c.want) {
					t.Errorf("label = %+v (written %+v), %v, want %+v", got.Label, written.Label, err, c.want)
				}
			})
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestWriteRefusesBadLabels(t *testing.T) {
	w := newWorld(t, memorytest.NewModel())
	a := w.agent("acme", "alice")
	tags := make([]string, policy.MaxTags)
	for i := range tags {
		tags[i] = fmt.Sprintf("tag%02d", i)
	}
	a.control.Tags = []string{"another"}
	for name, raise := range map[string]policy.Label{
		"unknown integrity": {Integrity: 9},
		"unsorted tags":     {Tags: []string{"b", "a"}},
		"tag overflow":      {AnyReader: true, Tags: tags},
	} {
		_, _, err := a.open(memory.ActionWrite, "shared").Write(t.Context(), memory.Put{Ref: ref("k"), Raise: &raise})
		if !errors.Is(err, memory.ErrLabel) {
			t.Errorf("%s: Write() = %v, want ErrLabel", name, err)
		}
	}
}

func TestReadersAndIntegrityFloorHideEntries(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		alice, bob := w.agent("acme", "alice"), w.agent("acme", "bob")
		alice.write(memory.Put{Ref: ref("mine"), Value: []byte("v"), Raise: &policy.Label{
			Integrity: v1.Integrity_INTEGRITY_TRUSTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_PUBLIC, Readers: []string{alice.id.String()},
		}}, "shared")
		if _, err := alice.read("mine", "shared"); err != nil {
			t.Errorf("reader: Read() = %v", err)
		}
		_, err := bob.read("mine", "shared")
		w.refused("Read by nobody the label names", err, memory.ErrNotFound, v1.Reason_REASON_MEMORY_ABSENT)
		page, err := bob.open(memory.ActionList, "shared").List(t.Context(), memory.ListOptions{})
		if err != nil || len(page.Headers) != 0 {
			t.Errorf("List() by nobody the label names = %d headers, %v", len(page.Headers), err)
		}
		alice.put("attested", "v", "shared")
		floor := v1.Integrity_INTEGRITY_TRUSTED
		_, _, err = bob.open(memory.ActionRead, "shared").ReadWith(t.Context(), memory.ReadOptions{MinIntegrity: floor}, ref("attested"))
		w.refused("Read below the floor", err, memory.ErrNotFound, v1.Reason_REASON_MEMORY_ABSENT)
		page, err = bob.open(memory.ActionList, "shared").List(t.Context(), memory.ListOptions{MinIntegrity: floor})
		if err != nil || len(page.Headers) != 0 {
			t.Errorf("List() below the floor = %d headers, %v", len(page.Headers), err)
		}
	})
}

func TestRecorderRefuses(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		a := w.agent("acme", "alice")
		broken := errors.New("log is full")
		w.rec.begin = broken
		_, _, err := a.open(memory.ActionWrite, "shared").Write(t.Context(), memory.Put{Ref: ref("k")})
		w.refused("Write without a record", err, memory.ErrUnavailable, v1.Reason_REASON_AUDIT_UNAVAILABLE)
		w.rec.begin = nil
		if _, err := a.read("k", "shared"); !errors.Is(err, memory.ErrNotFound) {
			t.Errorf("a write that was not announced took effect: %v", err)
		}
		e := a.put("k", "v", "shared")
		if o := w.rec.last(); o.Err != nil || o.Rev == 0 || len(o.Touched) != 1 || o.Touched[0].VersionAfter != 1 || o.Touched[0].Commitment != e.Commitment {
			t.Errorf("recorded outcome of a write = %+v", o)
		}
		w.rec.end = broken
		_, err = a.read("k", "shared")
		w.refused("Read that was not recorded", err, memory.ErrUnavailable, v1.Reason_REASON_AUDIT_UNAVAILABLE)
		page, err := a.open(memory.ActionList, "shared").List(t.Context(), memory.ListOptions{})
		if !errors.Is(err, memory.ErrUnavailable) || len(page.Headers) != 0 {
			t.Errorf("List() that was not recorded = %d headers, %v", len(page.Headers), err)
		}
		if w.rec.open != 0 {
			t.Errorf("%d accesses were begun and never ended", w.rec.open)
		}
	})
}

func TestPermitEndsAView(t *testing.T) {
	w := newWorld(t, memorytest.NewModel())
	a := w.agent("acme", "alice")
	a.put("k", "v", "shared")
	v := a.open(memory.ActionRead, "shared")
	w.mesh.Advance(time.Hour)
	_, err := v.Read(t.Context(), ref("k"))
	w.refused("Read with an expired permit", err, memory.ErrNotFound, v1.Reason_REASON_MEMORY_PERMIT_EXPIRED)
}

func TestRevocationEndsAView(t *testing.T) {
	w := newWorld(t, memorytest.NewModel())
	a := w.agent("acme", "alice")
	a.put("k", "v", "shared")
	v := a.open(memory.ActionRead, "shared")
	w.mesh.Registry.Touch()
	if _, err := v.Read(t.Context(), ref("k")); err != nil {
		t.Errorf("Read() after another agent changed = %v", err)
	}
	w.mesh.Registry.SetState(a.id, identity.StateSuspended)
	_, err := v.Read(t.Context(), ref("k"))
	w.refused("Read by a suspended agent", err, memory.ErrNotFound, v1.Reason_REASON_AGENT_STATE)
}
