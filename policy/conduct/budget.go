package conduct

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

// Budget is what one agent, or one tenant, may spend. A zero field takes the default of the level it stands for.
type Budget struct {
	Rate     float64 // calls per second
	Burst    int
	InFlight int64
}

// Defaults for a small host. Busy agents and benchmarks raise them by configuration.
var (
	DefaultAgent  = Budget{Rate: 1000, Burst: 2000, InFlight: 64}
	DefaultTenant = Budget{Rate: 5000, Burst: 10000, InFlight: 1024}
	// DefaultCold bounds signatures verified for chains that no cache knew, per agent: 8 hops cost 0.4 ms of CPU.
	DefaultCold = Budget{Rate: 200, Burst: 400}
	// DefaultColdTenant is the same for all agents of a tenant together: half of what two processors verify.
	DefaultColdTenant = Budget{Rate: 2000, Burst: 4000}
)

func (b Budget) or(d Budget) Budget {
	if b.Rate <= 0 {
		b.Rate = d.Rate
	}
	if b.Burst <= 0 {
		b.Burst = d.Burst
	}
	if b.InFlight <= 0 {
		b.InFlight = d.InFlight
	}
	return b
}

// Bucket is a GCRA limiter in one word. It is safe for concurrent use.
type Bucket struct {
	tat      atomic.Int64 // theoretical arrival time, unix nanoseconds
	interval int64
	burst    int64
}

func newBucket(b Budget) *Bucket {
	interval := int64(float64(time.Second) / b.Rate)
	return &Bucket{interval: max(interval, 1), burst: max(interval, 1) * int64(b.Burst)}
}

// Take spends n units. When they are not there it spends nothing and returns how long to wait.
func (b *Bucket) Take(now time.Time, n int64) (wait time.Duration, ok bool) {
	at := now.UnixNano()
	for {
		old := b.tat.Load()
		next := max(old, at) + n*b.interval
		if over := next - at - b.burst; over > 0 {
			return time.Duration(over), false
		}
		if b.tat.CompareAndSwap(old, next) {
			return 0, true
		}
	}
}

// Slots counts calls in flight. It is safe for concurrent use.
type Slots struct {
	used  atomic.Int64
	limit int64
}

// Acquire takes a slot if one is free.
func (s *Slots) Acquire() bool {
	if s.used.Add(1) > s.limit {
		s.used.Add(-1)
		return false
	}
	return true
}

// Release gives a slot back.
func (s *Slots) Release() { s.used.Add(-1) }

// InUse returns how many slots are taken.
func (s *Slots) InUse() int64 { return s.used.Load() }

// Account is the running state of one identity.
type Account struct {
	Rate  *Bucket
	Cold  *Bucket
	Slots *Slots
}

// Meter holds the accounts of the agents and tenants that have connected. It is safe for concurrent use.
type Meter struct {
	agent, tenant Budget
	mu            sync.Mutex
	agents        map[identity.AgentID]*Account
	tenants       map[identity.Tenant]*Account
}

// NewMeter returns a meter with the same budget for every agent and the same for every tenant.
func NewMeter(agent, tenant Budget) *Meter {
	return &Meter{
		agent: agent.or(DefaultAgent), tenant: tenant.or(DefaultTenant),
		agents: map[identity.AgentID]*Account{}, tenants: map[identity.Tenant]*Account{},
	}
}

// InFlight returns how many calls of one agent may be in flight.
func (m *Meter) InFlight() int64 { return m.agent.InFlight }

// Agent returns the account of a registered, authenticated agent. The caller pins it to the connection.
func (m *Meter) Agent(id identity.AgentID) *Account {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.agents[id]
	if a == nil {
		a = account(m.agent, DefaultCold)
		m.agents[id] = a
	}
	return a
}

// Tenant returns the account of a tenant; that of no tenant is shared by the services.
func (m *Meter) Tenant(t identity.Tenant) *Account {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.tenants[t]
	if a == nil {
		a = account(m.tenant, DefaultColdTenant)
		m.tenants[t] = a
	}
	return a
}

// Cold spends n signatures of the allowance of an agent and of its tenant, and reports whether both had them.
func (m *Meter) Cold(id identity.AgentID, now time.Time, n int) bool {
	if _, ok := m.Agent(id).Cold.Take(now, int64(n)); !ok {
		return false
	}
	_, ok := m.Tenant(id.Tenant()).Cold.Take(now, int64(n))
	return ok
}

func account(b, cold Budget) *Account {
	return &Account{Rate: newBucket(b), Cold: newBucket(cold), Slots: &Slots{limit: b.InFlight}}
}
