package memory_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/memorytest"
)

// all reads every page of a list and returns "namespace key" of each header.
func (a *actor) all(o memory.ListOptions, labels ...string) []string {
	a.w.Helper()
	var out []string
	for {
		page, err := a.open(memory.ActionList, labels...).List(a.w.Context(), o)
		if err != nil {
			a.w.Fatalf("List() = %v", err)
		}
		for _, e := range page.Headers {
			if e.Value != nil {
				a.w.Errorf("a list returns the value of %q", e.Ref.Key)
			}
			out = append(out, e.Ref.Namespace.String()+" "+string(e.Ref.Key))
		}
		if page.NextPageToken == "" {
			return out
		}
		o.PageToken = page.NextPageToken
	}
}

func TestListIsExactOrSubtree(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		a := w.agent("acme", "alice")
		for _, labels := range [][]string{{"shared", "a"}, {"shared", "a", "b"}, {"shared", "ab"}, {"shared", "a.b"}, {"shared", "a", "b", "c"}} {
			a.put("k1", "v", labels...)
			a.put("k2", "v", labels...)
		}
		a.put("other\x00", "v", "shared", "a")
		a.put("deleted", "v", "shared", "a")
		a.write(memory.Delete{Ref: ref("deleted")}, "shared", "a")
		own := []string{`["shared", "a"] k1`, `["shared", "a"] k2`, "[\"shared\", \"a\"] other\x00"}
		below := []string{`["shared", "a", "b"] k1`, `["shared", "a", "b"] k2`, `["shared", "a", "b", "c"] k1`, `["shared", "a", "b", "c"] k2`}
		for _, size := range []int{1, 2, 3, 100} {
			for _, c := range []struct {
				o    memory.ListOptions
				want []string
			}{
				{memory.ListOptions{}, own},
				{memory.ListOptions{Subtree: true}, append(slices.Clone(own), below...)},
				{memory.ListOptions{KeyPrefix: []byte("k")}, own[:2]},
				{memory.ListOptions{KeyPrefix: []byte("other\x00")}, own[2:]},
				{memory.ListOptions{KeyPrefix: []byte("other\x00\x00")}, nil},
				{memory.ListOptions{KeyPrefix: []byte("k2"), Subtree: true}, []string{own[1], below[1], below[3]}},
			} {
				c.o.PageSize = size
				if got := a.all(c.o, "shared", "a"); !slices.Equal(got, c.want) {
					t.Errorf("List(%+v) = %q, want %q", c.o, got, c.want)
				}
			}
		}
	})
}

func TestListSubtreeNeedsAPermitForIt(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		a := w.agent("acme", "alice")
		a.put("k", "v", "shared", "a", "b")
		a.exact = true
		v := a.open(memory.ActionList, "shared", "a")
		_, err := v.List(t.Context(), memory.ListOptions{Subtree: true})
		w.refused("List of a subtree with an exact permit", err, memory.ErrNotFound, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE)
		if _, err := v.Sub("b"); !errors.Is(err, memory.ErrNotFound) {
			t.Errorf("Sub() with an exact permit = %v", err)
		}
	})
}

func TestListBoundsThePage(t *testing.T) {
	w := newWorld(t, memorytest.NewModel())
	a := w.agent("acme", "alice")
	v := a.open(memory.ActionWrite, "shared")
	var meta []memory.MetaPair
	for i := range memory.MaxMeta {
		meta = append(meta, memory.MetaPair{Key: fmt.Sprint(i), Value: strings.Repeat("x", memory.MaxMetaValue)})
	}
	const entries = 640
	for i := 0; i < entries; i += memory.MaxOps {
		var ops []memory.Op
		for j := range memory.MaxOps {
			ops = append(ops, memory.Put{Ref: ref(fmt.Sprintf("%04d", i+j)), Meta: meta})
		}
		if _, _, err := v.Write(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
	}
	page, err := a.open(memory.ActionList, "shared").List(t.Context(), memory.ListOptions{PageSize: memory.MaxPage})
	if err != nil || len(page.Headers) == 0 || len(page.Headers) >= entries || page.NextPageToken == "" {
		t.Errorf("List() = %d headers of about 4 KiB, more %v, %v, want a page of about 1 MiB", len(page.Headers), page.NextPageToken != "", err)
	}
	if got := a.all(memory.ListOptions{PageSize: 5000}, "shared"); len(got) != entries || !slices.IsSorted(got) {
		t.Errorf("List() in pages = %d headers", len(got))
	}
	small := w.newStore(memory.Limits{Page: 7})
	lv, err := small.Open(a.permit(memory.ActionList, "shared"), namespace(t, "shared"))
	if err != nil {
		t.Fatal(err)
	}
	if page, err := lv.List(t.Context(), memory.ListOptions{PageSize: 100}); err != nil || len(page.Headers) != 7 {
		t.Errorf("List() of a store with pages of 7 = %d headers, %v", len(page.Headers), err)
	}
	_, err = lv.List(t.Context(), memory.ListOptions{PageSize: -1})
	w.refused("List with a negative page", err, memory.ErrInvalid, v1.Reason_REASON_MALFORMED)
}

// T8: a page token of one caller is worth nothing to another, nor for another list.
func TestT8PageTokensAreBound(t *testing.T) {
	onEachDriver(t, func(t *testing.T, w *world) {
		alice := w.agent("acme", "alice")
		for i := range 5 {
			alice.put(fmt.Sprint("key-of-some-length-", i), "v", "shared", "a")
		}
		w.agent("globex", "alice").put("k0", "v", "shared", "a")
		o := memory.ListOptions{PageSize: 2, KeyPrefix: []byte("k")}
		page, err := alice.open(memory.ActionList, "shared", "a").List(t.Context(), o)
		if err != nil || page.NextPageToken == "" {
			t.Fatalf("List() = %v", err)
		}
		token := page.NextPageToken
		if raw, err := base64.RawURLEncoding.DecodeString(token); err != nil || bytes.Contains(raw, []byte("key-of")) {
			t.Error("the token shows a key")
		}
		flipped := []byte(token)
		flipped[len(flipped)/2] ^= 1
		use := func(a *actor, o memory.ListOptions, token string, labels ...string) error {
			o.PageToken = token
			_, err := a.open(memory.ActionList, labels...).List(t.Context(), o)
			return err
		}
		shared := []string{"shared", "a"}
		other := func(change func(*memory.ListOptions)) memory.ListOptions {
			c := o
			change(&c)
			return c
		}
		for name, err := range map[string]error{
			"another agent":     use(w.agent("acme", "bob"), o, token, shared...),
			"another tenant":    use(w.agent("globex", "alice"), o, token, shared...),
			"altered":           use(alice, o, string(flipped), shared...),
			"cut":               use(alice, o, token[:10], shared...),
			"no base64":         use(alice, o, "!"+token, shared...),
			"oversize":          use(alice, o, strings.Repeat("A", 5000), shared...),
			"another prefix":    use(alice, other(func(o *memory.ListOptions) { o.KeyPrefix = nil }), token, shared...),
			"subtree":           use(alice, other(func(o *memory.ListOptions) { o.Subtree = true }), token, shared...),
			"another floor":     use(alice, other(func(o *memory.ListOptions) { o.MinIntegrity = 1 }), token, shared...),
			"another namespace": use(alice, o, token, "shared", "b"),
		} {
			w.refused(name, err, memory.ErrInvalid, v1.Reason_REASON_MALFORMED)
		}
		if err := use(alice, other(func(o *memory.ListOptions) { o.PageSize = 1 }), token, shared...); err != nil {
			t.Errorf("own token with another page size = %v", err)
		}
		another := w.newStore(memory.Limits{})
		v, err := another.Open(alice.permit(memory.ActionList, shared...), namespace(t, shared...))
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.List(t.Context(), memory.ListOptions{PageSize: 2, KeyPrefix: []byte("k"), PageToken: token})
		w.refused("token of another store", err, memory.ErrInvalid, v1.Reason_REASON_MALFORMED)
		w.mesh.Advance(11 * time.Minute)
		w.refused("old token", use(alice, o, token, shared...), memory.ErrInvalid, v1.Reason_REASON_MALFORMED)
	})
}
