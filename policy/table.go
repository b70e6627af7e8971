package policy

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Bounds of a capability table, counted before anything is indexed.
const (
	MaxTableBytes = 4 << 20
	MaxTableRows  = 4096
	maxRowPeers   = 16
	maxSegments   = 17
	maxSegment    = 128
	maxAction     = 64
)

// ErrTable is returned for a capability table that may not come into force.
var ErrTable = errors.New("capability table refused")

// Table is a verified capability table: agent class -> actions, resources, peers. It is immutable.
type Table struct {
	td     string
	serial uint64
	sum    [32]byte
	rows   map[rowKey][]tableRow
	count  int
}

// tableRow is a row, with its id as the answer of Permits where no other row allows the same.
type tableRow struct {
	*v1.CapabilityRow
	ids []string
}

type rowKey struct{ tenant, class, action string }

// ParseTable verifies a signed table and every row in it. Errors wrap ErrTable.
func ParseTable(d *v1.Dsse, policyKey func(keyID string) (ed25519.PublicKey, bool)) (*Table, error) {
	if len(d.GetPayload()) > MaxTableBytes {
		return nil, fmt.Errorf("%w: over %d bytes", ErrTable, MaxTableBytes)
	}
	payload, err := delegation.OpenDsse(d, delegation.TypeTable, policyKey)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTable, err)
	}
	var t v1.CapabilityTable
	if err := proto.Unmarshal(payload, &t); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTable, err)
	}
	out, err := newTable(&t)
	if err != nil {
		return nil, err
	}
	out.sum = sha256.Sum256(payload)
	return out, nil
}

// SignTable signs a table after the checks of ParseTable.
func SignTable(t *v1.CapabilityTable, key ed25519.PrivateKey) (*v1.Dsse, error) {
	if _, err := newTable(t); err != nil {
		return nil, err
	}
	payload, err := proto.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("marshalling capability table: %w", err)
	}
	return delegation.SealDsse(delegation.TypeTable, payload, key)
}

func newTable(t *v1.CapabilityTable) (*Table, error) {
	switch {
	case t.GetVersion() != 1:
		return nil, fmt.Errorf("%w: version %d", ErrTable, t.GetVersion())
	case t.GetTrustDomain() == "":
		return nil, fmt.Errorf("%w: no trust domain", ErrTable)
	case t.GetSerial() == 0:
		return nil, fmt.Errorf("%w: no serial", ErrTable)
	case len(t.GetRows()) > MaxTableRows:
		return nil, fmt.Errorf("%w: %d rows, at most %d", ErrTable, len(t.GetRows()), MaxTableRows)
	}
	out := &Table{td: t.GetTrustDomain(), serial: t.GetSerial(), rows: map[rowKey][]tableRow{}, count: len(t.GetRows())}
	seen := map[string]bool{}
	for _, row := range t.GetRows() {
		if err := CheckRow(row); err != nil {
			return nil, err
		}
		if seen[row.GetId()] {
			return nil, fmt.Errorf("%w: row %q stands twice", ErrTable, row.GetId())
		}
		seen[row.GetId()] = true
		k := rowKey{row.GetTenant(), row.GetAgentClass(), row.GetCapability().GetAction()}
		out.rows[k] = append(out.rows[k], tableRow{row, []string{row.GetId()}})
	}
	for _, rows := range out.rows {
		slices.SortFunc(rows, func(a, b tableRow) int { return compare(a.GetId(), b.GetId()) })
	}
	return out, nil
}

// CheckRow reports what is wrong with one row; errors wrap ErrTable.
func CheckRow(row *v1.CapabilityRow) error {
	c := row.GetCapability()
	bad := func(what string) error { return fmt.Errorf("%w: row %q: %s", ErrTable, row.GetId(), what) }
	switch {
	case !validWord(row.GetId(), 64):
		return bad("id is not [a-z0-9-]{1,64}")
	case !validWord(row.GetTenant(), identity.MaxName), !validWord(row.GetAgentClass(), identity.MaxName):
		return bad("tenant and class are DNS labels")
	case !ValidAction(c.GetAction()):
		return bad("action is not dotted lower case of at most 64 bytes")
	case len(c.GetConstraints()) > 0 || c.GetReach() != 0:
		return bad("constraints and reach have no meaning in a table")
	case !ValidResource(c.GetResource()):
		return bad("resource has an empty, dotted or oversize segment")
	case len(row.GetPeers()) == 0 || len(row.GetPeers()) > maxRowPeers:
		return bad("1 to 16 peers are required")
	}
	for _, p := range row.GetPeers() {
		if !identity.ValidDelegatePattern(p) {
			return bad("peer " + p + " is no identity pattern")
		}
	}
	return nil
}

// Serial returns the table's serial.
func (t *Table) Serial() uint64 { return t.serial }

// SHA256 returns the digest of the signed bytes.
func (t *Table) SHA256() [32]byte { return t.sum }

// Len returns the number of rows.
func (t *Table) Len() int { return t.count }

// Permits returns the ids of the rows that let the class act on exactly this resource at this callee, and whether some row also
// covers everything below the resource. No row is no permission. The caller must not change ids.
func (t *Table) Permits(tenant, class, action string, resource []string, callee identity.AgentID) (ids []string, subtree bool) {
	if t == nil || callee.TrustDomain().Name() != t.td {
		return nil, false
	}
	covered := false
	below := &v1.Capability{Resource: resource, Subtree: true}
	for _, row := range t.rows[rowKey{tenant, class, action}] {
		if !matchesAny(row.GetPeers(), callee) {
			continue
		}
		exact, under := delegation.CoversResource(row.GetCapability(), resource), coversCapability(row.GetCapability(), below)
		if exact || under {
			if ids == nil {
				ids = row.ids[:1:1] // shared: it has no room for a second one
			} else {
				ids = append(ids, row.GetId())
			}
		}
		covered, subtree = covered || exact, subtree || under
	}
	if !covered {
		return nil, false
	}
	return ids, subtree
}

// Ceiling reports whether some class of the tenant may do c at all: what a grant for the tenant may contain.
func (t *Table) Ceiling(tenant string, c *v1.Capability) bool {
	if t == nil {
		return false
	}
	for k, rows := range t.rows {
		if k.tenant != tenant || k.action != c.GetAction() {
			continue
		}
		for _, row := range rows {
			if coversCapability(row.GetCapability(), c) {
				return true
			}
		}
	}
	return false
}

// coversCapability is the resource half of the subset rule of delegation chains.
func coversCapability(parent, child *v1.Capability) bool {
	p, q := parent.GetResource(), child.GetResource()
	if !child.GetSubtree() {
		return delegation.CoversResource(parent, q)
	}
	return parent.GetSubtree() && len(q) >= len(p) && slices.Equal(q[:len(p)], p)
}

func matchesAny(patterns []string, id identity.AgentID) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return identity.MatchDelegate(p, id) })
}

// ValidAction reports whether s is a dotted lower-case action of at most 64 bytes.
func ValidAction(s string) bool {
	if s == "" || len(s) > maxAction {
		return false
	}
	start := true
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z':
			start = false
		case !start && (c >= '0' && c <= '9' || c == '_'):
		case c == '.' && !start:
			start = true
		default:
			return false
		}
	}
	return !start
}

// ValidResource reports whether path is a resource: 1 to 17 segments of 1 to 128 bytes without control characters, none of
// them "." or "..".
func ValidResource(path []string) bool {
	if len(path) == 0 || len(path) > maxSegments {
		return false
	}
	for _, s := range path {
		if s == "" || len(s) > maxSegment || s == "." || s == ".." {
			return false
		}
		for i := range len(s) {
			if s[i] < 0x20 || s[i] == 0x7f {
				return false
			}
		}
	}
	return true
}

func validWord(s string, most int) bool {
	if s == "" || len(s) > most {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
