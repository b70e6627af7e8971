package memory

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

const overflowTag = policy.TagOverflow

// A stored record is, in tables Cur (without the value) and Ver (with it):
//
//	format byte, tenant16, table byte, be16 length and driver key, be64 version, state byte, be64 size, commitment32, Entry
//
// Tenant, table and key are repeated, so that bytes which an engine hands out in the wrong place are noticed. The Entry message
// has what the fixed part has not.
const (
	recordFormat = 1
	recordFixed  = 8 + 1 + 8 + 32
)

// record is the fixed part of a stored record; rest is the message, which still aliases the stored bytes.
type record struct {
	version    uint64
	state      v1.State
	size       uint64
	commitment [32]byte
	rest       []byte
	rev        Rev
}

func damaged(reason v1.Reason, cause string) error { return refuse(ErrUnavailable, reason, cause) }

// encodeRecord returns the value to store for e under k.
func (v *View) encodeRecord(k Key, e *Entry, body *v1.Entry) ([]byte, error) {
	b := make([]byte, 0, 1+16+3+len(k.K)+recordFixed+256+len(body.GetValue()))
	b = append(b, recordFormat)
	b = append(b, v.id[:]...)
	b = append(b, byte(k.T))
	b = binary.BigEndian.AppendUint16(b, uint16(len(k.K))) //nolint:gosec // G115: at most MaxDriverKey
	b = append(b, k.K...)
	b = binary.BigEndian.AppendUint64(b, e.Ref.Version)
	b = append(b, byte(e.State)) //nolint:gosec // G115: one of the states of this package
	b = binary.BigEndian.AppendUint64(b, e.Size)
	b = append(b, e.Commitment[:]...)
	b, err := marshal.MarshalAppend(b, body)
	if err != nil {
		return nil, fmt.Errorf("encoding an entry: %w", err)
	}
	return b, nil
}

// decodeRecord reads the fixed part of what a driver returned for k and refuses what belongs elsewhere.
func (v *View) decodeRecord(k Key, it Item) (record, error) {
	b := it.V
	if it.T != k.T || !bytes.Equal(it.K, k.K) {
		return record{}, damaged(v1.Reason_REASON_MEMORY_TENANT_CROSSED, "the driver answered for another key")
	}
	if len(b) < 1+16+3 || b[0] != recordFormat {
		return record{}, damaged(v1.Reason_REASON_MEMORY_COMMITMENT, "a stored record has no known format")
	}
	if !bytes.Equal(b[1:17], v.id[:]) {
		return record{}, damaged(v1.Reason_REASON_MEMORY_TENANT_CROSSED, "a stored record is of another tenant")
	}
	n := int(binary.BigEndian.Uint16(b[18:]))
	rest := b[20:]
	if len(rest) < n+recordFixed {
		return record{}, damaged(v1.Reason_REASON_MEMORY_COMMITMENT, "a stored record is cut")
	}
	if Table(b[17]) != k.T || !bytes.Equal(rest[:n], k.K) {
		return record{}, damaged(v1.Reason_REASON_MEMORY_TENANT_CROSSED, "a stored record is of another key")
	}
	rest = rest[n:]
	r := record{
		version: binary.BigEndian.Uint64(rest), state: v1.State(rest[8]), size: binary.BigEndian.Uint64(rest[9:]),
		commitment: [32]byte(rest[17:49]), rest: rest[recordFixed:], rev: it.Rev,
	}
	if r.version == 0 || (r.state != v1.State_STATE_LIVE && r.state != v1.State_STATE_TOMBSTONE) {
		return record{}, damaged(v1.Reason_REASON_MEMORY_COMMITMENT, "a stored record has no version or no known state")
	}
	return r, nil
}

// entry reads the message of a record.
func (r record) entry(ref Ref) (Entry, error) {
	var p v1.Entry
	if err := proto.Unmarshal(r.rest, &p); err != nil {
		return Entry{}, damaged(v1.Reason_REASON_MEMORY_COMMITMENT, "a stored entry does not decode")
	}
	label, err := policy.LabelFromProto(p.GetLabel())
	if err != nil || p.GetLabel() == nil || len(p.GetSalt()) != 16 {
		return Entry{}, damaged(v1.Reason_REASON_MEMORY_COMMITMENT, "a stored entry has no valid label or salt")
	}
	e := Entry{
		Ref:   Ref{Namespace: ref.Namespace, Key: ref.Key, Version: r.version},
		Value: p.GetValue(), Size: r.size, MediaType: p.GetMediaType(), Label: label, Provenance: p.GetProvenance(),
		Commitment: r.commitment, Salt: [16]byte(p.GetSalt()), Rev: r.rev, State: r.state, CreateTime: p.GetCreateTime().AsTime(),
	}
	if n := len(p.GetMeta()); n > 0 {
		e.Meta = make([]MetaPair, 0, n)
		for _, m := range p.GetMeta() {
			e.Meta = append(e.Meta, MetaPair{Key: m.GetKey(), Value: m.GetValue()})
		}
	}
	return e, nil
}

// full reads a record of table Ver and verifies that its content is what was committed to.
func (v *View) full(r record, ref Ref) (Entry, error) {
	e, err := r.entry(ref)
	if err != nil {
		return Entry{}, err
	}
	if uint64(len(e.Value)) != r.size || commit(v.id, &e) != r.commitment {
		return Entry{}, damaged(v1.Reason_REASON_MEMORY_COMMITMENT, "stored content is not what was committed to")
	}
	if e.Value == nil {
		e.Value = []byte{}
	}
	return e, nil
}

func sortMeta(meta []MetaPair) []MetaPair {
	out := slices.Clone(meta)
	slices.SortFunc(out, func(a, b MetaPair) int { return bytes.Compare([]byte(a.Key), []byte(b.Key)) })
	return out
}
