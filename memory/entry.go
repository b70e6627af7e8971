package memory

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Ref names one version of one key. The zero Namespace is that of the View it is given to.
type Ref struct {
	Namespace Namespace
	Key       []byte
	// Version 0 is the latest live version.
	Version uint64
}

// Proto returns r for the wire.
func (r Ref) Proto() *v1.KeyRef {
	return &v1.KeyRef{Ns: r.Namespace.Proto(), Key: r.Key, Version: r.Version}
}

// RefFromProto reads a reference from the wire; a missing namespace stays zero. The error wraps ErrInvalid.
func RefFromProto(p *v1.KeyRef) (Ref, error) {
	r := Ref{Key: p.GetKey(), Version: p.GetVersion()}
	if p.GetNs() == nil {
		return r, nil
	}
	ns, err := NamespaceFromProto(p.GetNs())
	r.Namespace = ns
	return r, err
}

// MetaPair is one metadata pair of an entry.
type MetaPair struct{ Key, Value string }

// Entry is one version of one key. The zero Entry stands for an absent one.
type Entry struct {
	// Ref has the namespace and the pinned version.
	Ref Ref
	// Value is nil in a header. Size is always that of the value.
	Value     []byte
	Size      uint64
	MediaType string
	Meta      []MetaPair
	// Label is what everything made from this entry inherits.
	Label Label
	// Provenance is set by the store from the writer's permit. The caller must not change it.
	Provenance *v1.Provenance
	Commitment [32]byte
	Salt       [16]byte
	// Rev is the tenant's revision that wrote this version.
	Rev        Rev
	State      v1.State
	CreateTime time.Time
}

// IsZero reports whether e stands for an absent entry.
func (e Entry) IsZero() bool { return e.Ref.Version == 0 }

// Proto returns e for the wire; an absent entry is an empty message.
func (e Entry) Proto() *v1.Entry {
	if e.IsZero() {
		return &v1.Entry{}
	}
	p := e.body()
	p.Ref, p.Value, p.Commitment = e.Ref.Proto(), e.Value, e.Commitment[:]
	p.Revision, p.State = uint64(e.Rev), e.State
	return p
}

// body is the part of e that a stored record keeps as a message.
func (e Entry) body() *v1.Entry {
	p := &v1.Entry{
		MediaType: e.MediaType, Label: e.Label.Proto(), Provenance: e.Provenance, Salt: e.Salt[:],
		CreateTime: timestamppb.New(e.CreateTime),
	}
	for _, m := range e.Meta {
		p.Meta = append(p.Meta, &v1.MetaPair{Key: m.Key, Value: m.Value})
	}
	return p
}

// CommitmentOf computes the commitment of an entry of a tenant from its value: SHA-256 over the domain "safeconduct/entry/v1",
// a zero byte, the salt, the header and the value. The header is, each with a big-endian u32 length: tenant id, encoded
// namespace, key, be64 version, media type, metadata, canonical label, be64 size, parents. Metadata is a u32 count, then keys and
// values with their lengths; parents are a u32 count, then the commitments with theirs; both sorted. Whoever holds an entry and
// a reference to it can check one against the other with it.
func CommitmentOf(t identity.Tenant, e Entry) [32]byte { return commit(StorageID(t), &e) }

func commit(tenant [16]byte, e *Entry) [32]byte {
	b := make([]byte, 0, 512)
	b = append(b, "safeconduct/entry/v1\x00"...)
	b = append(b, e.Salt[:]...)
	b = appendField(b, tenant[:])
	b = appendSized(b, func(b []byte) []byte { return appendNS(b, e.Ref.Namespace.labels) })
	b = appendField(b, e.Ref.Key)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, 8), e.Ref.Version)
	b = appendField(b, e.MediaType)
	b = appendSized(b, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.Meta))) //nolint:gosec // G115: at most MaxMeta
		for _, m := range e.Meta {
			b = appendField(appendField(b, m.Key), m.Value)
		}
		return b
	})
	b = appendSized(b, e.Label.AppendCanonical)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, 8), uint64(len(e.Value)))
	b = appendSized(b, func(b []byte) []byte {
		parents := e.Provenance.GetParents()
		b = binary.BigEndian.AppendUint32(b, uint32(len(parents))) //nolint:gosec // G115: at most MaxParents
		for _, p := range parents {
			b = appendField(b, p)
		}
		return b
	})
	h := sha256.New()
	h.Write(b)
	h.Write(e.Value)
	return [32]byte(h.Sum(b[:0]))
}

func appendField[S string | []byte](b []byte, s S) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...) //nolint:gosec // G115: fields are bounded far below
}

// appendSized appends what fill appends, behind its length.
func appendSized(b []byte, fill func([]byte) []byte) []byte {
	at := len(b)
	b = fill(append(b, 0, 0, 0, 0))
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4)) //nolint:gosec // G115: fields are bounded far below
	return b
}

// header returns e without its value.
func (e Entry) header() Entry {
	e.Value = nil
	return e
}

func (e Entry) touched(before, after uint64) Touched {
	return Touched{Ref: e.Ref, VersionBefore: before, VersionAfter: after, Label: e.Label, Commitment: e.Commitment}
}

// readableBy reports whether the label's readers admit an agent of the tenant. A label whose tags overflowed admits nobody.
func readableBy(l Label, agent identity.AgentID) bool {
	if slices.Contains(l.Tags, overflowTag) {
		return false
	}
	return l.AnyReader || slices.Contains(l.Readers, agent.String())
}

var marshal = proto.MarshalOptions{Deterministic: true}
