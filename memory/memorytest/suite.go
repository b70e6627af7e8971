package memorytest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/memory"
)

// Harness says how to open a driver under test.
type Harness struct {
	// Open opens the driver whose files are in dir; the suite closes it. Opening the same dir again after Close finds the data,
	// when the driver is Durable.
	Open    func(dir string) (memory.Driver, error)
	Durable bool
}

// Run runs the conformance suite.
func Run(t *testing.T, h Harness) {
	cases := []struct {
		name string
		run  func(*fixture)
	}{
		{"scan order and bounds", scanOrder},
		{"scan pages", scanPages},
		{"get", getCases},
		{"get is one snapshot", getSnapshot},
		{"conditions", conditions},
		{"one of two racing batches wins", racingBatches},
		{"counters", counters},
		{"counters under 64 writers", countersRace},
		{"a refused batch changes nothing", atomicity},
		{"later batches see earlier ones", roundOrder},
		{"changes are gap-free under 64 writers", gapFree},
		{"trim", trim},
		{"wake", wake},
		{"cancelled contexts", cancelled},
		{"bounds of a batch", batchBounds},
		{"bounds of a key", keyBounds},
		{"tenants do not meet", tenantWall},
		{"drop and create", dropCreate},
		{"values are copies", copies},
		{"stats", stats},
		{"unknown tenant", unknownTenant},
		{"closed driver", closedDriver},
	}
	if h.Durable {
		cases = append(cases, []struct {
			name string
			run  func(*fixture)
		}{{"reopen", reopen}, {"second opener", secondOpener}}...)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f := &fixture{T: t, h: h, dir: t.TempDir(), a: Tenant(t, "acme"), b: Tenant(t, "globex")}
			f.open()
			t.Cleanup(func() {
				if err := f.d.Close(); err != nil {
					t.Errorf("Close() = %v", err)
				}
			})
			c.run(f)
		})
	}
}

// Tenant returns a tenant of the trust domain mesh.test.
func Tenant(t testing.TB, name string) identity.Tenant {
	t.Helper()
	agent, err := identity.ParseAgent("spiffe://mesh.test/tenant/" + name + "/agent/any")
	if err != nil {
		t.Fatal(err)
	}
	return agent.Tenant()
}

type fixture struct {
	*testing.T
	h    Harness
	dir  string
	d    memory.Driver
	a, b identity.Tenant
}

func (f *fixture) open() {
	f.Helper()
	d, err := f.h.Open(f.dir)
	if err != nil {
		f.Fatalf("Open() = %v", err)
	}
	f.d = d
	for _, t := range []identity.Tenant{f.a, f.b} {
		if err := d.CreateTenant(f.Context(), t); err != nil {
			f.Fatalf("CreateTenant(%s) = %v", t, err)
		}
	}
}

func (f *fixture) commit(b memory.Batch) memory.Rev {
	f.Helper()
	rev, err := f.d.Commit(f.Context(), f.a, b)
	if err != nil {
		f.Fatalf("Commit() = %v", err)
	}
	return rev
}

// put commits key=value pairs in table Cur of tenant a.
func (f *fixture) put(kv ...string) memory.Rev {
	f.Helper()
	return f.commit(puts(kv...))
}

func puts(kv ...string) memory.Batch {
	var b memory.Batch
	for i := 0; i+1 < len(kv); i += 2 {
		b.Muts = append(b.Muts, memory.Mut{Key: key(kv[i]), V: []byte(kv[i+1])})
	}
	return b
}

func (f *fixture) get(k memory.Key) memory.Item {
	f.Helper()
	items, _, err := f.d.Get(f.Context(), f.a, k)
	if err != nil || len(items) != 1 {
		f.Fatalf("Get() = %d items, %v", len(items), err)
	}
	return items[0]
}

func (f *fixture) scan(r memory.Range) []string {
	f.Helper()
	items, _, err := f.d.Scan(f.Context(), f.a, r)
	if err != nil {
		f.Fatalf("Scan() = %v", err)
	}
	out := make([]string, len(items))
	for i, it := range items {
		out[i] = string(it.K)
	}
	return out
}

// wantErr fails the test when err does not wrap want.
func (f *fixture) wantErr(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s = %v, want %v", what, err, want)
	}
}

func key(k string) memory.Key { return memory.Key{T: memory.Cur, K: []byte(k)} }

func number(i int) string { return fmt.Sprintf("k%06d", i) }

// each runs fn n times at once and returns the errors.
func each(n int, fn func(i int) error) []error {
	errs := make([]error, n)
	done := make(chan struct{})
	for i := range n {
		go func() {
			defer func() { done <- struct{}{} }()
			errs[i] = fn(i)
		}()
	}
	for range n {
		<-done
	}
	return errs
}

func count(errs []error, want error) int {
	n := 0
	for _, err := range errs {
		if errors.Is(err, want) {
			n++
		}
	}
	return n
}
