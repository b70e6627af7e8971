package memory_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/memorytest"
	"github.com/safeconduct/safeconduct/policy"
)

// T1: data of one tenant, and of namespaces that start like another, is never found from the other.
func TestT1TenantsAndSiblingsDoNotLeak(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		w.addTenants("1", "12")
		one, twelve := w.agent("1", "alice"), w.agent("12", "alice")
		siblings := [][]string{{"shared", "1"}, {"shared", "12"}, {"shared", "1_"}, {"shared", "1.2"}, {"shared", "1-"}, {"shared", "1", "2"}}
		for _, s := range siblings {
			twelve.put("secret", "of 12", s...)
		}
		if got := one.all(memory.ListOptions{Subtree: true}, "shared", "1"); len(got) != 0 {
			t.Errorf("tenant 1 lists %q", got)
		}
		if _, err := one.read("secret", "shared", "1"); !errors.Is(err, memory.ErrNotFound) {
			t.Errorf("tenant 1 reads: %v", err)
		}
		want := []string{`["shared", "1"] secret`, `["shared", "1", "2"] secret`}
		if got := twelve.all(memory.ListOptions{Subtree: true}, "shared", "1"); !slices.Equal(got, want) {
			t.Errorf("tenant 12 lists %q below [shared, 1], want %q", got, want)
		}
		one.put("mine", "of 1", "shared", "1")
		if got := twelve.all(memory.ListOptions{}, "shared", "1"); len(got) != 1 {
			t.Errorf("tenant 12 lists %q after tenant 1 wrote", got)
		}
	})
}

// T3 and N3: labels that could collide, climb or disguise are refused, never rewritten.
func TestT3N3NamespacesAreRejectedNotRewritten(t *testing.T) {
	bad := map[string][]string{
		"no labels": {}, "empty": {"a", ""}, "dot": {"."}, "dot dot": {"a", "..", "b"}, "slash": {"a/b"}, "encoded slash": {"a%2Fb"},
		"backslash": {`a\b`}, "NUL": {"a\x00"}, "terminator": {"a\x00\x01b"}, "newline": {"a\n"}, "U+202E": {"a\u202eb"},
		"NFC": {"caf\u00e9"}, "NFD": {"cafe\u0301"}, "no UTF-8": {"\xff"}, "space": {"a b"}, "percent": {"1%"}, "star": {"*"},
		"129 bytes": {strings.Repeat("a", 129)}, "17 labels": slices.Repeat([]string{"a"}, 17),
	}
	for name, labels := range bad {
		ns, err := memory.NewNamespace(labels...)
		if !errors.Is(err, memory.ErrInvalid) || memory.ReasonOf(err) != v1.Reason_REASON_MEMORY_BAD_NAMESPACE || !ns.IsZero() {
			t.Errorf("%s: NewNamespace(%q) = %v, %v, want it refused", name, labels, ns, err)
		}
	}
	for _, labels := range [][]string{{"a"}, {"..."}, {"a.b", "c"}, {strings.Repeat("a", 128)}, slices.Repeat([]string{"a"}, 16), {"A-Z_a~z@0:9+."}} {
		if ns, err := memory.NewNamespace(labels...); err != nil || !slices.Equal(ns.Labels(), labels) {
			t.Errorf("NewNamespace(%q) = %v, %v, want it unchanged", labels, ns, err)
		}
	}
	onEachDriver(t, func(t *testing.T, w *world) {
		a := w.agent("acme", "alice")
		twins := [][]string{{"a", "b.c"}, {"a", "b", "c"}, {"a", "b:c"}, {"a", "bc"}}
		for i, labels := range twins {
			a.put("k", fmt.Sprint(i), labels...)
		}
		for i, labels := range twins {
			if e, err := a.read("k", labels...); err != nil || string(e.Value) != fmt.Sprint(i) {
				t.Errorf("Read(%q) = %q, %v, want %d", labels, e.Value, err, i)
			}
		}
	})
}

// T5: a driver that hands out the record of another tenant or key fails the call; nothing of it is returned.
func TestT5ForeignRecordsFailTheCall(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		alice, eve := w.agent("acme", "alice"), w.agent("globex", "eve")
		alice.put("k", "acme's", "shared")
		alice.put("other", "acme's other", "shared")
		eve.put("k", "globex's", "shared")
		steal := func(from identity.Tenant, key string) func(identity.Tenant, []memory.Item) {
			// Takes the newest stored bytes under another tenant or key, as a wrong cursor would.
			return func(_ identity.Tenant, items []memory.Item) {
				for i := range items {
					stolen, _, err := w.driver.Driver.Scan(t.Context(), from, memory.Range{T: items[i].T, Limit: 100})
					if err != nil {
						t.Fatal(err)
					}
					for _, it := range stolen {
						if bytes.Contains(it.K, []byte(key)) && items[i].Rev != 0 {
							items[i].V, items[i].Rev = it.V, it.Rev
						}
					}
				}
			}
		}
		acme := memorytest.Tenant(t, "acme")
		crossed := func(what string, err error) {
			t.Helper()
			w.refused(what, err, memory.ErrUnavailable, v1.Reason_REASON_MEMORY_TENANT_CROSSED)
		}
		w.driver.onGet = steal(acme, "k")
		_, err := eve.read("k", "shared")
		crossed("Read of another tenant's record", err)
		_, _, err = eve.open(memory.ActionWrite, "shared").Write(t.Context(), memory.Put{Ref: ref("k"), Value: []byte("x")})
		crossed("Write over another tenant's record", err)
		w.driver.onGet = steal(acme, "other")
		_, err = alice.read("k", "shared")
		crossed("Read of another key's record", err)
		w.driver.onGet = nil
		w.driver.onScan = steal(acme, "k")
		page, err := eve.open(memory.ActionList, "shared").List(t.Context(), memory.ListOptions{})
		crossed("List of another tenant's record", err)
		if len(page.Headers) != 0 {
			t.Errorf("List() returns %d headers beside the error", len(page.Headers))
		}
		// Bytes with a key of their own, outside what was asked.
		w.driver.onScan = func(_ identity.Tenant, items []memory.Item) {
			for i := range items {
				items[i].K = append([]byte{'a'}, items[i].K...)
			}
		}
		_, err = alice.open(memory.ActionList, "shared").List(t.Context(), memory.ListOptions{})
		crossed("List outside the range", err)
		w.driver.onScan = nil
		w.driver.onGet = func(_ identity.Tenant, items []memory.Item) { items[0].K = []byte("other") }
		_, err = alice.read("k", "shared")
		crossed("Read answered for another key", err)
		if o := w.rec.last(); o.Reason != v1.Reason_REASON_MEMORY_TENANT_CROSSED || len(o.Touched) != 0 {
			t.Errorf("recorded outcome = %+v, want the crossing", o)
		}
	})
}

// N1: no permit, the wrong permit, or one for elsewhere opens nothing, and the caller learns nothing from how it is refused.
func TestN1WrongPermitsOpenNothing(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		alice := w.agent("acme", "alice")
		alice.put("k", "v", "shared", "a")
		alice.put("k", "v", "agent", "alice")
		bob := w.agent("acme", "bob")
		bobExact := w.agent("acme", "bob")
		bobExact.exact = true
		for _, c := range []struct {
			name   string
			permit policy.Permit
			ns     []string
			reason v1.Reason
		}{
			{"zero permit", policy.Permit{}, []string{"shared", "a"}, v1.Reason_REASON_MEMORY_NO_PERMIT},
			{"permit for agent.invoke", bob.permit("agent.invoke", "shared", "a"), []string{"shared", "a"}, v1.Reason_REASON_MEMORY_WRONG_ACTION},
			{"sibling", bob.permit(memory.ActionRead, "shared", "b"), []string{"shared", "a"}, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE},
			{"parent", bob.permit(memory.ActionRead, "shared", "a", "b"), []string{"shared", "a"}, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE},
			{"child of an exact permit", bobExact.permit(memory.ActionRead, "shared", "a"), []string{"shared", "a", "b"}, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE},
			{"another agent's", bob.permit(memory.ActionRead, "agent", "alice"), []string{"agent", "alice"}, v1.Reason_REASON_MEMORY_RESERVED},
			{"below another agent's", bob.permit(memory.ActionRead, "agent", "alice", "x"), []string{"agent", "alice", "x"}, v1.Reason_REASON_MEMORY_RESERVED},
			{"all agents", bob.permit(memory.ActionList, "agent"), []string{"agent"}, v1.Reason_REASON_MEMORY_RESERVED},
			{"writing sys", bob.permit(memory.ActionWrite, "sys", "x"), []string{"sys", "x"}, v1.Reason_REASON_MEMORY_RESERVED},
		} {
			v, err := w.store.Open(c.permit, namespace(t, c.ns...))
			w.refused(c.name, err, memory.ErrNotFound, c.reason)
			if v != nil {
				t.Errorf("%s: Open() returns a view", c.name)
			}
			if err != nil && err.Error() != memory.ErrNotFound.Error() {
				t.Errorf("%s: error text %q differs from that of an absent entry", c.name, err)
			}
		}
		if _, err := w.store.Open(bob.permit(memory.ActionRead, "shared"), memory.Namespace{}); !errors.Is(err, memory.ErrInvalid) {
			t.Errorf("Open(no namespace) = %v", err)
		}
	})
}

// N1: a view does the one action of its permit, through whatever method it is tried.
func TestN1MethodsHoldToTheirAction(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		a := w.agent("acme", "alice")
		e := a.put("k", "v", "shared", "a")
		rv := a.open(memory.ActionResolve, "shared", "a")
		good := rv.Ref(e)
		methods := map[string]func(*memory.View) error{
			memory.ActionRead:    func(v *memory.View) error { _, err := v.Read(t.Context(), ref("k")); return err },
			memory.ActionList:    func(v *memory.View) error { _, err := v.List(t.Context(), memory.ListOptions{}); return err },
			memory.ActionResolve: func(v *memory.View) error { _, err := v.Resolve(t.Context(), good); return err },
			memory.ActionWrite: func(v *memory.View) error {
				_, _, err := v.Write(t.Context(), memory.Delete{Ref: ref("never")})
				return err
			},
		}
		for held := range methods {
			for tried, method := range methods {
				err := method(a.open(held, "shared", "a"))
				if held == tried && err != nil {
					t.Errorf("%s with its own permit = %v", tried, err)
				}
				if held != tried {
					w.refused(tried+" with a permit for "+held, err, memory.ErrNotFound, v1.Reason_REASON_MEMORY_WRONG_ACTION)
				}
			}
			if held != memory.ActionResolve {
				if err := a.open(held, "shared", "a").Verify(t.Context(), good); !errors.Is(err, memory.ErrNotFound) {
					t.Errorf("Verify with a permit for %s = %v", held, err)
				}
			}
		}
		// References to elsewhere inside a call.
		v := a.open(memory.ActionRead, "shared", "a")
		for _, labels := range [][]string{{"shared"}, {"shared", "b"}, {"agent", "bob"}, {"agent", "alice"}} {
			_, err := v.Read(t.Context(), memory.Ref{Namespace: namespace(t, labels...), Key: []byte("k")})
			w.refused(fmt.Sprintf("Read of %q through a view of [shared a]", labels), err, memory.ErrNotFound, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE)
		}
		wv := a.open(memory.ActionWrite, "shared", "a")
		_, _, err := wv.Write(t.Context(), memory.Put{Ref: memory.Ref{Namespace: namespace(t, "sys"), Key: []byte("k")}})
		w.refused("Write to sys through a view of [shared a]", err, memory.ErrNotFound, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE)
	})
}

// P10: older bytes put back into the file are noticed.
func TestP10RollbackIsDetected(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		a := w.agent("acme", "alice")
		acme := memorytest.Tenant(t, "acme")
		a.put("k", "old", "shared")
		snapshot := func(table memory.Table) []memory.Item {
			items, _, err := w.driver.Driver.Scan(t.Context(), acme, memory.Range{T: table, Limit: 10})
			if err != nil {
				t.Fatal(err)
			}
			return items
		}
		oldCur, oldVer := snapshot(memory.Cur)[0], snapshot(memory.Ver)[0]
		a.put("k", "new", "shared")
		newCur, newVer := snapshot(memory.Cur)[0], snapshot(memory.Ver)[0]
		set := func(k memory.Key, v []byte) {
			t.Helper()
			if _, err := w.driver.Commit(t.Context(), acme, memory.Batch{Muts: []memory.Mut{{Key: k, V: v}}}); err != nil {
				t.Fatal(err)
			}
		}
		detected := func(what string, reason v1.Reason) {
			t.Helper()
			_, err := a.read("k", "shared")
			w.refused(what, err, memory.ErrUnavailable, reason)
			set(newCur.Key, newCur.V)
			set(newVer.Key, newVer.V)
			if e, err := a.read("k", "shared"); err != nil || string(e.Value) != "new" {
				t.Fatalf("after repair Read() = %q, %v", e.Value, err)
			}
		}
		set(newCur.Key, oldCur.V)
		detected("old head", v1.Reason_REASON_MEMORY_COMMITMENT)
		set(newVer.Key, oldVer.V)
		detected("old version under the new key", v1.Reason_REASON_MEMORY_TENANT_CROSSED)
		set(newVer.Key, nil)
		detected("newest version removed", v1.Reason_REASON_MEMORY_COMMITMENT)
		for _, at := range []int{len(newVer.V) - 1, len(newVer.V) - 20, len(newVer.V) / 2, len(newVer.V) / 3} {
			changed := bytes.Clone(newVer.V)
			changed[at] ^= 1
			set(newVer.Key, changed)
			if e, err := a.read("k", "shared"); err == nil && (string(e.Value) != "new" || !e.Label.Equal(own)) {
				t.Errorf("a bit flipped at %d is read as %q, %v", at, e.Value, e.Label)
			}
		}
		// The value, where it stands, at each of its bits.
		at := bytes.Index(newVer.V, []byte("new"))
		for bit := range 24 {
			changed := bytes.Clone(newVer.V)
			changed[at+bit/8] ^= 1 << (bit % 8)
			set(newVer.Key, changed)
			_, err := a.read("k", "shared")
			w.refused("changed value", err, memory.ErrUnavailable, v1.Reason_REASON_MEMORY_COMMITMENT)
		}
		for _, n := range []int{0, 1, 19, 30, len(newVer.V) - 1} {
			set(newVer.Key, newVer.V[:n:n])
			if _, err := a.read("k", "shared"); !errors.Is(err, memory.ErrUnavailable) {
				t.Errorf("a record cut to %d bytes: Read() = %v", n, err)
			}
		}
	})
}

// S1: 64 writers on one version, exactly one wins and nothing is lost.
func TestS1OneOfManyWritersWins(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		a := w.agent("acme", "alice")
		a.put("k", "start", "shared")
		v := a.open(memory.ActionWrite, "shared")
		race := func(onlyIf memory.Precondition) (won int, winner string) {
			var wg sync.WaitGroup
			var mu sync.Mutex
			for i := range 64 {
				wg.Go(func() {
					value := fmt.Sprint(i)
					_, _, err := v.Write(t.Context(), memory.Put{Ref: ref("k"), Value: []byte(value), OnlyIf: onlyIf})
					mu.Lock()
					defer mu.Unlock()
					switch {
					case err == nil:
						won, winner = won+1, value
					case !errors.Is(err, memory.ErrConflict):
						t.Errorf("Write() = %v", err)
					}
				})
			}
			wg.Wait()
			return won, winner
		}
		for version := uint64(1); version < 4; version++ {
			won, winner := race(memory.VersionIs(version))
			e, err := a.read("k", "shared")
			if won != 1 || err != nil || string(e.Value) != winner || e.Ref.Version != version+1 {
				t.Fatalf("%d writers won, the entry is %q at %d, %v", won, e.Value, e.Ref.Version, err)
			}
		}
		// Without a precondition nobody overwrites a version: each success has a number of its own.
		before := uint64(4)
		won, _ := race(memory.Precondition{})
		if e, err := a.read("k", "shared"); err != nil || e.Ref.Version != before+uint64(won) || won == 0 {
			t.Errorf("%d unconditional writes took the version from %d to %d, %v", won, before, e.Ref.Version, err)
		}
	})
}
