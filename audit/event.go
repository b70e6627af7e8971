package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Event is one record before it has a position.
type Event = v1.AuditEvent

// Class says how long Append waits. The zero value and every unknown value wait longest.
type Class uint8

const (
	// Effect waits until the record is durable; for intents whose effect may not happen unrecorded.
	Effect Class = iota
	// Reply waits until the record is durable; for outcomes, which makes the intent before them durable too.
	Reply
	// Buffered waits for room in the buffer only. A killed process loses at most the last flush interval, a power loss the
	// last flush and sync interval.
	Buffered
)

// String returns the lower-case name of c; unknown values read as effect.
func (c Class) String() string {
	switch c {
	case Reply:
		return "reply"
	case Buffered:
		return "buffered"
	default:
		return "effect"
	}
}

// Position is where a record stands. Seqs that were handed out but lost in a crash are given again; BootID tells them apart.
type Position struct {
	LogID  [16]byte
	BootID [16]byte
	Seq    uint64
	// Leaf is SHA-256(0x00 || record), RFC 6962 section 2.1.
	Leaf [32]byte
}

// Proto returns p as it travels in an envelope.
func (p Position) Proto() *v1.AuditReceipt {
	return &v1.AuditReceipt{LogId: p.LogID[:], Seq: p.Seq, LeafHash: p.Leaf[:], BootId: p.BootID[:]}
}

// Recorder takes records. Append fills schema_version, time_unix_ns, mono_ns, boot_id and clock_regressed of e, gives the record a
// record_nonce, cuts the free texts cause and detail to 1 KiB, and does not keep e: its caller may use it again. Effect and Reply return when the record is durable; the wait ends
// with ctx. A position that comes with an error from such a wait was accepted and may become durable later: the effect must not
// happen.
//
// Errors: ErrFull, ErrPoisoned, ErrTooLarge, ErrInvalid, ErrClosed, and those of ctx. Append is safe for concurrent use; one Event is
// not.
type Recorder interface {
	Append(ctx context.Context, c Class, e *Event) (Position, error)
}

var (
	// ErrFull is returned when the buffer had no room until the caller's deadline, or for a second without one.
	ErrFull = errors.New("audit log is full")
	// ErrPoisoned is returned by everything after a write or sync failed. Only a restart helps.
	ErrPoisoned = errors.New("audit log is poisoned")
	// ErrTooLarge is returned for a record of more than MaxRecordBytes.
	ErrTooLarge = errors.New("audit record is too large")
	// ErrInvalid is returned for an event without a kind, or with text that is not UTF-8.
	ErrInvalid = errors.New("audit event is not valid")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("audit log is closed")
	// ErrTampered is returned when bytes that were once written are missing or changed.
	ErrTampered = errors.New("audit log was changed")
	// ErrForeign is returned when a directory holds the log of another origin or key.
	ErrForeign = errors.New("audit log belongs to another origin")
	// ErrLocked is returned when another Log has the directory open.
	ErrLocked = errors.New("audit log is open elsewhere")
	// ErrNoLog is returned by the offline readers for a directory without a log.
	ErrNoLog = errors.New("no audit log here")
	// ErrNotFound is returned by queries for an id that no record carries.
	ErrNotFound = errors.New("no such audit record")
)

const (
	// MaxRecordBytes bounds one record. A typical one has 350 to 740 bytes; the bound holds 8 hops with their capabilities.
	MaxRecordBytes = 32 << 10
	// MaxTextBytes bounds the free texts cause and detail, which may hold a foreign error's words.
	MaxTextBytes = 1 << 10
	// SchemaVersion is the version of Event that this package writes. Version 1 stored boot_id in every record and decision_id in every
	// record of a call; both versions are read.
	SchemaVersion = 2
	oldSchema     = 1
)

// Record is one event with its position.
type Record struct {
	Position
	Event *Event
	// Raw is the record as stored; Leaf is over these bytes.
	Raw []byte
	// ChainMissing says that the record names a chain and that no record read before it spells the chain out: that segment is not
	// there. Only [Expander] sets it.
	ChainMissing bool
	// Chain is SHA-256(chain of the record before || Leaf).
	Chain [32]byte
}

// ParseID parses 32 hex digits: an interaction, envelope, conversation, trace or decision id.
func ParseID(s string) ([16]byte, error) {
	var id [16]byte
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("parsing id: want 32 hex digits, got %d characters", len(s))
	}
	return [16]byte(b), nil
}

// id16 returns b as an id, and false when b is not 16 bytes or all zero.
func id16(b []byte) ([16]byte, bool) {
	if len(b) != 16 {
		return [16]byte{}, false
	}
	id := [16]byte(b)
	return id, id != [16]byte{}
}
