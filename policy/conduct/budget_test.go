package conduct_test

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

func agent(t *testing.T, name string) identity.AgentID {
	t.Helper()
	id, err := identity.ParseAgent("spiffe://mesh.test/tenant/acme/agent/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestBucket(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	b := conduct.NewMeter(conduct.Budget{Rate: 10, Burst: 3}, conduct.Budget{}).Agent(agent(t, "a")).Rate
	for i := range 3 {
		if wait, ok := b.Take(start, 1); !ok || wait != 0 {
			t.Fatalf("Take #%d of the burst = %v, %v", i+1, wait, ok)
		}
	}
	wait, ok := b.Take(start, 1)
	if ok || wait != 100*time.Millisecond {
		t.Errorf("Take past the burst = %v, %v, want 100ms, false", wait, ok)
	}
	if _, ok := b.Take(start.Add(99*time.Millisecond), 1); ok {
		t.Error("Take before the wait is over succeeds")
	}
	if _, ok := b.Take(start.Add(wait), 1); !ok {
		t.Error("Take after the wait fails")
	}
	if _, ok := b.Take(start.Add(time.Hour), 4); ok {
		t.Error("Take of more than the burst succeeds: an idle bucket saved up")
	}
	if _, ok := b.Take(start.Add(time.Hour), 3); !ok {
		t.Error("a refused Take spent something")
	}
	if _, ok := b.Take(start.Add(-time.Hour), 1); ok {
		t.Error("a clock that steps back refills the bucket")
	}
}

func TestBucketGivesNoMoreThanItHasUnderRace(t *testing.T) {
	const burst, workers = 100, 8
	start := time.Unix(1_700_000_000, 0)
	b := conduct.NewMeter(conduct.Budget{Rate: 1, Burst: burst}, conduct.Budget{}).Agent(agent(t, "a")).Rate
	var got atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range burst {
				if _, ok := b.Take(start, 1); ok {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got.Load() != burst {
		t.Errorf("%d workers took %d, want %d", workers, got.Load(), burst)
	}
}

func TestSlots(t *testing.T) {
	const limit, workers = 5, 16
	s := conduct.NewMeter(conduct.Budget{InFlight: limit}, conduct.Budget{}).Agent(agent(t, "a")).Slots
	var held, most atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range 1000 {
				if !s.Acquire() {
					continue
				}
				now := held.Add(1)
				for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
				}
				held.Add(-1)
				s.Release()
			}
		})
	}
	wg.Wait()
	if most.Load() > limit {
		t.Errorf("%d slots were held at once, want at most %d", most.Load(), limit)
	}
	if s.InUse() != 0 {
		t.Errorf("InUse() = %d after all were released", s.InUse())
	}
	for range limit {
		if !s.Acquire() {
			t.Fatal("a free slot is refused")
		}
	}
	if s.Acquire() || s.InUse() != limit {
		t.Error("a slot over the limit is given, or the refusal is counted")
	}
}

func TestMeterKeepsOneAccountPerIdentity(t *testing.T) {
	m := conduct.NewMeter(conduct.Budget{}, conduct.Budget{Rate: 1, Burst: 1})
	a, b := agent(t, "a"), agent(t, "b")
	first := m.Agent(a)
	if m.Agent(a) != first || first == m.Agent(b) || m.Tenant(a.Tenant()) != m.Tenant(b.Tenant()) {
		t.Error("accounts are mixed up")
	}
	other, err := identity.RegisteredTenant(spiffeid.RequireTrustDomainFromString("mesh.test"), "globex")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	if _, ok := m.Tenant(a.Tenant()).Rate.Take(now, 1); !ok {
		t.Fatal("a fresh tenant is limited")
	}
	if _, ok := m.Tenant(a.Tenant()).Rate.Take(now, 1); ok {
		t.Error("a tenant over its budget is not limited")
	}
	if _, ok := m.Tenant(other).Rate.Take(now, 1); !ok {
		t.Error("a tenant is limited by another's use")
	}
	if _, ok := m.Agent(a).Rate.Take(now, int64(conduct.DefaultAgent.Burst)); !ok {
		t.Error("a zero budget is not the default")
	}
	if _, ok := m.Agent(a).Cold.Take(now, int64(conduct.DefaultCold.Burst)+1); ok {
		t.Error("cold verifications have no bound")
	}
}

// Many agents of one tenant cannot make an endpoint verify what one of them may not.
func TestColdAllowanceOfATenant(t *testing.T) {
	m, now := conduct.NewMeter(conduct.Budget{}, conduct.Budget{}), time.Unix(1_700_000_000, 0)
	spent := 0
	for i := range 2 * conduct.DefaultColdTenant.Burst / conduct.DefaultCold.Burst {
		if m.Cold(agent(t, "a"+strconv.Itoa(i)), now, conduct.DefaultCold.Burst) {
			spent += conduct.DefaultCold.Burst
		}
	}
	if spent != conduct.DefaultColdTenant.Burst {
		t.Errorf("the agents of a tenant spend %d signatures at once, want %d", spent, conduct.DefaultColdTenant.Burst)
	}
	other, err := identity.ParseAgent("spiffe://mesh.test/tenant/globex/agent/a")
	if err != nil {
		t.Fatal(err)
	}
	if !m.Cold(other, now, conduct.DefaultCold.Burst) || m.Cold(other, now, 1) {
		t.Error("another tenant has no allowance of its own, or its agent one without an end")
	}
}
