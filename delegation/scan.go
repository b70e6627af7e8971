package delegation

import (
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// kind is how a field is encoded and what its default is. The zero value is a field that the table does not know.
type kind uint8

const (
	kindUint32 kind = iota + 1
	kindVarint      // int64 and uint64: every 64-bit value is one
	kindBool
	kindEnum
	kindString
	kindIdent // a string of printable ASCII
	kindBytes
	kindMessage
)

// field is one row of a message's table.
type field struct {
	kind     kind
	explicit bool // may be zero on the wire: member of a oneof, or optional
	oneof    bool // at most one such field per message; the schema has no message with two oneofs
	count    int  // of a repeated field: most elements; 0 is a singular field
	max      int  // most bytes, or the highest enum number; 0 is unbounded
	size     int  // exact bytes; 0 is any
	sub      *message
}

// message is the table of one message version, indexed by field number.
type message struct {
	name    string
	fields  []field
	unknown v1.Reason // of a field number that the table does not know; 0 is CHAIN_NON_CANONICAL
}

// fault is where and why a scan failed. The zero value is no fault.
type fault struct {
	reason  v1.Reason
	message string
	number  protowire.Number
}

// Error makes a fault the cause of an Error.
func (f fault) Error() string { return fmt.Sprintf("field %d of %s", f.number, f.message) }

// scan holds raw bytes against the strict profile: the fields of the table, in ascending order, singular ones once, in
// minimal encoding, without default values, inside their bounds. It allocates nothing and reads every byte at most once per
// level, so it may run before anything is known about the sender.
func (m *message) scan(b []byte, nesting int) fault {
	var (
		last  protowire.Number
		count int
		chose bool
	)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || n != protowire.SizeTag(num) || num < last || num > protowire.MaxValidNumber {
			return m.fault(num, v1.Reason_REASON_CHAIN_NON_CANONICAL)
		}
		b = b[n:]
		if int64(num) >= int64(len(m.fields)) || m.fields[num].kind == 0 {
			if m.unknown != 0 {
				return m.fault(num, m.unknown)
			}
			return m.fault(num, v1.Reason_REASON_CHAIN_NON_CANONICAL)
		}
		f := &m.fields[num]
		switch {
		case num != last:
			count = 1
		case f.count == 0:
			return m.fault(num, v1.Reason_REASON_CHAIN_NON_CANONICAL)
		default:
			count++
		}
		last = num
		if f.count > 0 && count > f.count {
			return m.fault(num, v1.Reason_REASON_CHAIN_TOO_LARGE)
		}
		if f.oneof && chose {
			return m.fault(num, v1.Reason_REASON_CHAIN_NON_CANONICAL)
		}
		chose = chose || f.oneof
		var bad fault
		if b, bad = m.value(f, num, typ, b, nesting); bad.reason != 0 {
			return bad
		}
	}
	return fault{}
}

// value scans one value of field num and returns the bytes behind it.
func (m *message) value(f *field, num protowire.Number, typ protowire.Type, b []byte, nesting int) ([]byte, fault) {
	if f.kind < kindString {
		v, n := protowire.ConsumeVarint(b)
		if typ != protowire.VarintType || n < 0 || n != protowire.SizeVarint(v) || !f.number(v) {
			return nil, m.fault(num, v1.Reason_REASON_CHAIN_NON_CANONICAL)
		}
		return b[n:], fault{}
	}
	size, n := protowire.ConsumeVarint(b)
	if typ != protowire.BytesType || n < 0 || n != protowire.SizeVarint(size) || size > uint64(len(b)-n) { //nolint:gosec // G115: what was consumed is part of b.
		return nil, m.fault(num, v1.Reason_REASON_CHAIN_NON_CANONICAL)
	}
	end := n + int(size) //nolint:gosec // G115: at most len(b), as checked.
	body, rest := b[n:end], b[end:]
	if f.kind == kindMessage {
		if nesting >= maxNesting {
			return nil, m.fault(num, v1.Reason_REASON_CHAIN_TOO_LARGE)
		}
		return rest, f.sub.scan(body, nesting+1)
	}
	if reason := f.text(body); reason != 0 {
		return nil, m.fault(num, reason)
	}
	return rest, fault{}
}

// number reports whether v is a value of the field and not its default.
func (f *field) number(v uint64) bool {
	if v == 0 {
		return f.explicit
	}
	switch f.kind {
	case kindUint32:
		return v <= math.MaxUint32
	case kindBool:
		return v == 1
	case kindEnum:
		return v <= uint64(f.max) //nolint:gosec // G115: a constant of the table, never negative.
	default:
		return true
	}
}

// text returns why body is not a string or bytes value of the field, 0 when it is.
func (f *field) text(body []byte) v1.Reason {
	switch {
	case f.max > 0 && len(body) > f.max:
		return v1.Reason_REASON_CHAIN_TOO_LARGE
	case len(body) == 0 && !f.explicit && f.count == 0:
		return v1.Reason_REASON_CHAIN_NON_CANONICAL
	case f.size > 0 && len(body) != f.size:
		return v1.Reason_REASON_CHAIN_MALFORMED
	case f.kind == kindBytes:
		return 0
	case !utf8.Valid(body):
		return v1.Reason_REASON_CHAIN_NON_CANONICAL
	}
	for _, c := range body {
		if c < 0x20 || c == 0x7f || (f.kind == kindIdent && c > 0x7f) {
			return v1.Reason_REASON_CHAIN_NON_CANONICAL
		}
	}
	return 0
}

func (m *message) fault(num protowire.Number, reason v1.Reason) fault {
	return fault{reason: reason, message: m.name, number: num}
}
