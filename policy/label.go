package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Bounds of a label. Overflow only ever worsens a label, never the reverse.
const (
	MaxReaders = 32
	MaxTags    = 16
	MaxSources = 16
	maxMember  = 256 // bytes of one reader, tag or source
)

// TagOverflow stands for tags that no longer fit; it admits nobody but a reviewer.
const TagOverflow = "tag:overflow"

// ErrLabel is returned for a label that is not well formed. The label is then to be read as the zero Label, the worst one.
var ErrLabel = errors.New("malformed label")

// Label is an information-flow label: how far content may be trusted (integrity) and how far it may travel (confidentiality,
// readers, tags). The zero value is the worst label: untrusted, restricted, readable by nobody. Labels are values: no function
// changes its arguments. Sets are sorted and unique.
type Label struct {
	Integrity        v1.Integrity
	Confidentiality  v1.Confidentiality
	AnyReader        bool
	Readers          []string
	Tags             []string
	Sources          []string
	SourcesTruncated bool
}

// LabelFromProto reads a label from the wire. Absent and unspecified parts read as the worst: UNTRUSTED, RESTRICTED, no reader.
// Unknown enum values, unsorted or oversize sets are refused with an error that wraps ErrLabel.
func LabelFromProto(p *v1.Label) (Label, error) {
	l := Label{
		Integrity: p.GetIntegrity(), Confidentiality: p.GetConfidentiality(), AnyReader: p.GetAnyReader(),
		Readers: p.GetReaders(), Tags: p.GetTags(), Sources: p.GetSources(), SourcesTruncated: p.GetSourcesTruncated(),
	}
	if l.Integrity < 0 || l.Integrity > v1.Integrity_INTEGRITY_SYSTEM {
		return Label{}, fmt.Errorf("integrity %d: %w", l.Integrity, ErrLabel)
	}
	if l.Confidentiality < 0 || l.Confidentiality > v1.Confidentiality_CONFIDENTIALITY_RESTRICTED {
		return Label{}, fmt.Errorf("confidentiality %d: %w", l.Confidentiality, ErrLabel)
	}
	if l.AnyReader && len(l.Readers) > 0 {
		return Label{}, fmt.Errorf("any reader and a list of readers: %w", ErrLabel)
	}
	for _, s := range []struct {
		name string
		set  []string
		most int
	}{{"readers", l.Readers, MaxReaders}, {"tags", l.Tags, MaxTags}, {"sources", l.Sources, MaxSources}} {
		if err := checkSet(s.set, s.most); err != nil {
			return Label{}, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if slices.Contains(l.Tags, TagOverflow) {
		l.Tags = []string{TagOverflow}
	}
	return l.norm(), nil
}

func checkSet(set []string, most int) error {
	if len(set) > most {
		return fmt.Errorf("%d members, at most %d: %w", len(set), most, ErrLabel)
	}
	for i, m := range set {
		if m == "" || len(m) > maxMember {
			return fmt.Errorf("member of %d bytes: %w", len(m), ErrLabel)
		}
		if i > 0 && strings.Compare(set[i-1], m) >= 0 {
			return fmt.Errorf("not strictly ascending: %w", ErrLabel)
		}
	}
	return nil
}

// norm replaces unspecified parts by what they are read as.
func (l Label) norm() Label {
	if l.Integrity == v1.Integrity_INTEGRITY_UNSPECIFIED {
		l.Integrity = v1.Integrity_INTEGRITY_UNTRUSTED
	}
	if l.Confidentiality == v1.Confidentiality_CONFIDENTIALITY_UNSPECIFIED {
		l.Confidentiality = v1.Confidentiality_CONFIDENTIALITY_RESTRICTED
	}
	return l
}

// Proto returns the label for the wire.
func (l Label) Proto() *v1.Label {
	l = l.norm()
	return &v1.Label{
		Integrity: l.Integrity, Confidentiality: l.Confidentiality, AnyReader: l.AnyReader,
		Readers: l.Readers, Tags: l.Tags, Sources: l.Sources, SourcesTruncated: l.SourcesTruncated,
	}
}

// OwnWords returns the label that an agent's conversation starts with when no message caused it: at most ATTESTED, whatever the
// cap, because nothing is TRUSTED by default; internal to the tenant.
func OwnWords(limit v1.Integrity, source string) Label {
	l := Label{
		Integrity: v1.Integrity_INTEGRITY_ATTESTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL, AnyReader: true,
	}
	if source != "" && len(source) <= maxMember {
		l.Sources = []string{source}
	}
	return l.WithIntegrityCap(limit)
}

// WithIntegrityCap lowers the integrity to limit; an unspecified limit is UNTRUSTED.
func (l Label) WithIntegrityCap(limit v1.Integrity) Label {
	l = l.norm()
	l.Integrity = min(l.Integrity, max(limit, v1.Integrity_INTEGRITY_UNTRUSTED))
	return l
}

// Join returns the label of content that was made from both: the lower integrity, the higher confidentiality, the common
// readers, all tags and sources. It is commutative, associative and idempotent up to overflow, and never better than a or b.
func Join(a, b Label) Label {
	a, b = a.norm(), b.norm()
	out := Label{
		Integrity:        min(a.Integrity, b.Integrity),
		Confidentiality:  max(a.Confidentiality, b.Confidentiality),
		SourcesTruncated: a.SourcesTruncated || b.SourcesTruncated,
	}
	switch {
	case a.AnyReader && b.AnyReader:
		out.AnyReader = true
	case a.AnyReader:
		out.Readers = b.Readers
	case b.AnyReader:
		out.Readers = a.Readers
	default:
		out.Readers = intersect(a.Readers, b.Readers)
	}
	out.Tags = union(a.Tags, b.Tags)
	if len(out.Tags) > MaxTags {
		out.Tags = []string{TagOverflow}
	}
	if slices.Contains(out.Tags, TagOverflow) {
		out.Tags = []string{TagOverflow}
	}
	out.Sources = union(a.Sources, b.Sources)
	if len(out.Sources) > MaxSources {
		out.Sources, out.SourcesTruncated = out.Sources[:MaxSources], true
	}
	return out
}

// FlowsTo reports whether content labelled l may be treated as if labelled to: whether joining it in would not change to.
func (l Label) FlowsTo(to Label) bool { return Join(l, to).Equal(to.norm()) }

// Equal reports whether two labels say the same.
func (l Label) Equal(o Label) bool {
	l, o = l.norm(), o.norm()
	return l.Integrity == o.Integrity && l.Confidentiality == o.Confidentiality && l.AnyReader == o.AnyReader &&
		l.SourcesTruncated == o.SourcesTruncated && slices.Equal(l.Readers, o.Readers) &&
		slices.Equal(l.Tags, o.Tags) && slices.Equal(l.Sources, o.Sources)
}

// AppendCanonical appends the canonical bytes of l: for each field in number order a big-endian u32 length and the bytes; enums
// and bools are one byte, sets a u32 count and then each member with its length. Equal labels have equal bytes; commitments
// cover them.
func (l Label) AppendCanonical(dst []byte) []byte {
	l = l.norm()
	one := func(v byte) { dst = append(binary.BigEndian.AppendUint32(dst, 1), v) }
	flag := func(v bool) {
		if v {
			one(1)
		} else {
			one(0)
		}
	}
	set := func(members []string) {
		n := 4
		for _, m := range members {
			n += 4 + len(m)
		}
		dst = binary.BigEndian.AppendUint32(dst, uint32(n))
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(members))) //nolint:gosec // G115: a label's sets have at most 32 members.
		for _, m := range members {
			dst = binary.BigEndian.AppendUint32(dst, uint32(len(m))) //nolint:gosec // G115: a member has at most maxMember bytes.
			dst = append(dst, m...)
		}
	}
	one(byte(l.Integrity))       //nolint:gosec // G115: one of four values; LabelFromProto refuses others.
	one(byte(l.Confidentiality)) //nolint:gosec // G115: one of four values; LabelFromProto refuses others.
	flag(l.AnyReader)
	set(l.Readers)
	set(l.Tags)
	set(l.Sources)
	flag(l.SourcesTruncated)
	return dst
}

// String returns the label in words, for people.
func (l Label) String() string {
	l = l.norm()
	return strings.ToLower(strings.TrimPrefix(l.Integrity.String(), "INTEGRITY_") + "/" +
		strings.TrimPrefix(l.Confidentiality.String(), "CONFIDENTIALITY_"))
}

func union(a, b []string) []string {
	if within(b, a) { // the usual case: a conversation hears from those that it has heard from
		return a
	}
	if within(a, b) {
		return b
	}
	out := make([]string, 0, len(a)+len(b))
	out = append(append(out, a...), b...)
	slices.Sort(out)
	return slices.Compact(out)
}

// within reports whether every member of a is one of b. Both are sorted.
func within(a, b []string) bool {
	for _, m := range a {
		if _, ok := slices.BinarySearch(b, m); !ok {
			return false
		}
	}
	return true
}

func intersect(a, b []string) []string {
	var out []string
	for _, m := range a {
		if _, ok := slices.BinarySearch(b, m); ok {
			out = append(out, m)
		}
	}
	return out
}
