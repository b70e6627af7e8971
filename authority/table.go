package authority

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// tableState is the capability table in force. It is immutable; the zero value permits nothing.
type tableState struct {
	signed  *v1.Dsse
	rows    []*v1.CapabilityRow
	parsed  *policy.Table
	highest uint64 // serial that the next one must exceed
}

// openTable verifies a signed table. Errors wrap policy.ErrTable.
func (a *Authority) openTable(d *v1.Dsse) (*tableState, error) {
	parsed, err := policy.ParseTable(d, a.PolicyKey)
	if err != nil {
		return nil, err
	}
	var t v1.CapabilityTable
	if err := proto.Unmarshal(d.GetPayload(), &t); err != nil {
		return nil, fmt.Errorf("%w: %w", policy.ErrTable, err)
	}
	if t.GetTrustDomain() != a.td.Name() {
		return nil, fmt.Errorf("%w: it is of trust domain %q", policy.ErrTable, t.GetTrustDomain())
	}
	return &tableState{signed: d, rows: t.GetRows(), parsed: parsed, highest: parsed.Serial()}, nil
}

// ActivateTable puts a capability table that the policy key signed in force and returns its serial. A serial that is not above
// every earlier one is refused, also after a restart. Errors wrap policy.ErrTable or ErrAudit.
func (a *Authority) ActivateTable(ctx context.Context, d *v1.Dsse) (uint64, error) {
	return a.activateTable(ctx, d, inProcess)
}

func (a *Authority) activateTable(ctx context.Context, d *v1.Dsse, by string) (uint64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.activateLocked(ctx, proto.CloneOf(d), by)
}

func (a *Authority) activateLocked(ctx context.Context, d *v1.Dsse, by string) (uint64, error) {
	if err := a.open(); err != nil {
		return 0, err
	}
	next, err := a.openTable(d)
	if err != nil {
		return 0, err
	}
	serial, highest := next.parsed.Serial(), a.table.Load().highest
	if serial <= highest {
		return 0, fmt.Errorf("%w: serial %d does not follow %d", policy.ErrTable, serial, highest)
	}
	snapshot := a.snapshot.Load()
	trust, err := a.sealTrust(a.trust.Load().serial+1, snapshot, next)
	if err != nil {
		return 0, err
	}
	sum := next.parsed.SHA256()
	err = a.trail.allow(ctx, &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_TABLE_ACTIVATED, PolicySerial: serial, PolicySha256: sum[:],
		Detail: by + ": " + strconv.Itoa(next.parsed.Len()) + " rows",
	})
	if err != nil {
		return 0, err
	}
	if err := a.store.putTable(d, serial, trust.serial); err != nil {
		return 0, err
	}
	a.publish(snapshot, next, trust)
	return serial, nil
}

// EditTable removes rows by id, adds rows, signs the result with the authority's policy key under the next serial and puts it in
// force. A row that stands already with the same content is left alone; an edit that changes nothing keeps the serial. Errors
// wrap ErrInvalid, policy.ErrTable or ErrAudit.
func (a *Authority) EditTable(ctx context.Context, add []*v1.CapabilityRow, remove []string) (uint64, error) {
	return a.editTable(ctx, add, remove, inProcess)
}

func (a *Authority) editTable(ctx context.Context, add []*v1.CapabilityRow, remove []string, by string) (uint64, error) {
	if len(add) > policy.MaxTableRows || len(remove) > policy.MaxTableRows {
		return 0, fmt.Errorf("%w: over %d rows in one edit", ErrInvalid, policy.MaxTableRows)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	current := a.table.Load()
	rows, err := editRows(current.rows, add, remove)
	if err != nil {
		return 0, err
	}
	if rows == nil {
		return current.highest, nil
	}
	signed, err := policy.SignTable(&v1.CapabilityTable{
		Version: 1, TrustDomain: a.td.Name(), Serial: current.highest + 1, IssuedAtMs: a.cfg.Now().UnixMilli(), Rows: rows,
	}, a.policy.private)
	if err != nil {
		return 0, err
	}
	return a.activateLocked(ctx, signed, by)
}

// editRows returns the rows after an edit, nil when it changes nothing.
func editRows(rows, add []*v1.CapabilityRow, remove []string) ([]*v1.CapabilityRow, error) {
	at := make(map[string]*v1.CapabilityRow, len(rows)+len(add))
	for _, row := range rows {
		at[row.GetId()] = row
	}
	changed := false
	for _, id := range remove {
		if at[id] == nil {
			return nil, fmt.Errorf("%w: no row %q to remove", ErrInvalid, id)
		}
		delete(at, id)
		changed = true
	}
	out := slices.DeleteFunc(slices.Clone(rows), func(row *v1.CapabilityRow) bool { return at[row.GetId()] == nil })
	for _, row := range add {
		old := at[row.GetId()]
		if old != nil && proto.Equal(old, row) {
			continue
		}
		if old != nil {
			return nil, fmt.Errorf("%w: row %q stands with other content; remove it in the same edit", ErrInvalid, row.GetId())
		}
		row = proto.CloneOf(row)
		at[row.GetId()] = row
		out = append(out, row)
		changed = true
	}
	if !changed {
		return nil, nil
	}
	if out == nil {
		out = []*v1.CapabilityRow{}
	}
	return out, nil
}
