package memorytest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/memory"
)

// Model is an in-memory memory.Driver. It is safe for concurrent use and keeps nothing when the process ends.
type Model struct {
	mu      sync.Mutex
	tenants map[identity.Tenant]*tenant
	closed  bool
}

type tenant struct {
	rev, floor memory.Rev
	tables     map[memory.Table]map[string]memory.Item
	log        []memory.Change
	watchers   map[chan struct{}]struct{}
}

var _ memory.Driver = (*Model)(nil)

// NewModel returns a model without tenants.
func NewModel() *Model { return &Model{tenants: map[identity.Tenant]*tenant{}} }

// find returns the state of t. The caller holds mu.
func (m *Model) find(ctx context.Context, t identity.Tenant) (*tenant, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if m.closed {
		return nil, fmt.Errorf("the model is closed: %w", memory.ErrUnavailable)
	}
	st := m.tenants[t]
	if st == nil {
		return nil, fmt.Errorf("tenant %s: %w", t, memory.ErrNoTenant)
	}
	return st, nil
}

// Get implements memory.Driver.
func (m *Model) Get(ctx context.Context, t identity.Tenant, keys ...memory.Key) ([]memory.Item, memory.Rev, error) {
	if len(keys) > memory.MaxGet {
		return nil, 0, fmt.Errorf("get of %d keys: %w", len(keys), memory.ErrTooLarge)
	}
	for _, k := range keys {
		if err := k.Check(); err != nil {
			return nil, 0, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	st, err := m.find(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	items := make([]memory.Item, len(keys))
	for i, k := range keys {
		items[i] = st.item(k)
	}
	return items, st.rev, nil
}

// item returns a copy of what stands under k.
func (st *tenant) item(k memory.Key) memory.Item {
	it, ok := st.tables[k.T][string(k.K)]
	if !ok {
		return memory.Item{Key: k}
	}
	return memory.Item{Key: k, V: copyOf(it.V), Rev: it.Rev}
}

// copyOf is bytes.Clone that keeps empty apart from nil.
func copyOf(b []byte) []byte { return append(make([]byte, 0, len(b)), b...) }

// Scan implements memory.Driver.
func (m *Model) Scan(ctx context.Context, t identity.Tenant, r memory.Range) ([]memory.Item, memory.Rev, error) {
	if err := r.Check(); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	st, err := m.find(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	var out []memory.Item
	for k, it := range st.tables[r.T] {
		if k >= string(r.Lo) && (len(r.Hi) == 0 || k < string(r.Hi)) {
			out = append(out, memory.Item{Key: memory.Key{T: r.T, K: []byte(k)}, V: copyOf(it.V), Rev: it.Rev})
		}
	}
	slices.SortFunc(out, func(a, b memory.Item) int { return bytes.Compare(a.K, b.K) })
	if r.Desc {
		slices.Reverse(out)
	}
	return out[:min(len(out), r.Limit)], st.rev, nil
}

// Commit implements memory.Driver.
func (m *Model) Commit(ctx context.Context, t identity.Tenant, b memory.Batch) (memory.Rev, error) {
	if err := b.Check(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	st, err := m.find(ctx, t)
	if err != nil {
		return 0, err
	}
	for _, c := range b.If {
		if got := st.item(c.Key).Rev; got != c.Rev {
			return 0, fmt.Errorf("a key is at revision %d, want %d: %w", got, c.Rev, memory.ErrConflict)
		}
	}
	muts := slices.Clone(b.Muts)
	for _, a := range b.Add {
		n, err := memory.Count(st.item(a.Key))
		if err == nil {
			n, err = a.Apply(n)
		}
		if err != nil {
			return 0, err
		}
		v := binary.BigEndian.AppendUint64(nil, uint64(n)) //nolint:gosec // G115: Apply returns nothing negative
		muts = append(muts, memory.Mut{Key: a.Key, V: v})
	}
	slices.SortFunc(muts, func(a, b memory.Mut) int { return memory.CompareKeys(a.Key, b.Key) })
	st.rev++
	c := memory.Change{Rev: st.rev}
	for _, mut := range muts {
		k := memory.Key{T: mut.T, K: bytes.Clone(mut.K)}
		c.Keys = append(c.Keys, k)
		if mut.V == nil {
			delete(st.tables[k.T], string(k.K))
			continue
		}
		if st.tables[k.T] == nil {
			st.tables[k.T] = map[string]memory.Item{}
		}
		st.tables[k.T][string(k.K)] = memory.Item{Key: k, V: copyOf(mut.V), Rev: st.rev}
	}
	st.log = append(st.log, c)
	for ch := range st.watchers {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
	return st.rev, nil
}

// Changes implements memory.Driver.
func (m *Model) Changes(ctx context.Context, t identity.Tenant, after memory.Rev, limit int) ([]memory.Change, memory.Rev, error) {
	if limit < 1 || limit > memory.MaxScan {
		return nil, 0, fmt.Errorf("changes with limit %d: %w", limit, memory.ErrInvalid)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	st, err := m.find(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	if after < st.floor {
		return nil, 0, fmt.Errorf("changes after %d, kept after %d: %w", after, st.floor, memory.ErrCompacted)
	}
	var out []memory.Change
	for _, c := range st.log {
		if c.Rev > after && len(out) < limit {
			out = append(out, c)
		}
	}
	return out, st.rev, nil
}

// Trim implements memory.Driver.
func (m *Model) Trim(ctx context.Context, t identity.Tenant, upTo memory.Rev) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	st, err := m.find(ctx, t)
	if err != nil {
		return err
	}
	st.floor = max(st.floor, min(upTo, st.rev))
	st.log = slices.DeleteFunc(st.log, func(c memory.Change) bool { return c.Rev <= st.floor })
	return nil
}

// Wake implements memory.Driver.
func (m *Model) Wake(ctx context.Context, t identity.Tenant) (<-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st, err := m.find(ctx, t)
	if err != nil {
		return nil, err
	}
	ch := make(chan struct{}, 1)
	st.watchers[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if _, ok := st.watchers[ch]; ok {
			delete(st.watchers, ch)
			close(ch)
		}
	})
	return ch, nil
}

// CreateTenant implements memory.Driver.
func (m *Model) CreateTenant(ctx context.Context, t identity.Tenant) error {
	if t.IsZero() {
		return fmt.Errorf("creating no tenant: %w", memory.ErrInvalid)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.closed {
		return fmt.Errorf("the model is closed: %w", memory.ErrUnavailable)
	}
	if m.tenants[t] == nil {
		m.tenants[t] = &tenant{tables: map[memory.Table]map[string]memory.Item{}, watchers: map[chan struct{}]struct{}{}}
	}
	return nil
}

// DropTenant implements memory.Driver.
func (m *Model) DropTenant(ctx context.Context, t identity.Tenant) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	st, err := m.find(ctx, t)
	if err != nil {
		return err
	}
	delete(m.tenants, t)
	st.end()
	return nil
}

// Stats implements memory.Driver.
func (m *Model) Stats(ctx context.Context, t identity.Tenant) (size, items int64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st, err := m.find(ctx, t)
	if err != nil {
		return 0, 0, err
	}
	for _, table := range st.tables {
		for k, it := range table {
			items++
			size += int64(len(k) + len(it.V))
		}
	}
	return size, items, nil
}

// Close implements memory.Driver.
func (m *Model) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, st := range m.tenants {
		st.end()
	}
	return nil
}

func (st *tenant) end() {
	for ch := range st.watchers {
		close(ch)
	}
	clear(st.watchers)
}
