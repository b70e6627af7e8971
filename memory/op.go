package memory

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"slices"
	"unicode/utf8"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// Op is one operation of a batch: a [Put] or a [Delete].
type Op interface{ op() (Ref, Precondition) }

// Put writes the next version of a key.
type Put struct {
	// Ref names the key; its Version is 0.
	Ref       Ref
	Value     []byte
	MediaType string
	// Meta has unique keys; the store sorts it.
	Meta []MetaPair
	// Raise worsens the label beyond what the permit gives: it is joined in and never improves. nil adds nothing.
	Raise *Label
	// DerivedFrom are the commitments, 32 bytes each, of what the content was made from.
	DerivedFrom [][]byte
	OnlyIf      Precondition
}

// Delete makes a key absent and forgets its versions. Their numbers are not used again. Deleting an absent key is no error.
type Delete struct {
	Ref    Ref
	OnlyIf Precondition
}

func (p Put) op() (Ref, Precondition)    { return p.Ref, p.OnlyIf }
func (d Delete) op() (Ref, Precondition) { return d.Ref, d.OnlyIf }

type preconditionKind uint8

const (
	always preconditionKind = iota
	versionIs
	mustNotExist
	commitmentIs
)

// Precondition is what must hold for a batch to be written. The zero value always holds.
type Precondition struct {
	kind       preconditionKind
	version    uint64
	commitment [32]byte
}

// VersionIs holds when the key is live at this version, which is greater than 0.
func VersionIs(version uint64) Precondition { return Precondition{kind: versionIs, version: version} }

// MustNotExist holds when the key is absent or deleted.
func MustNotExist() Precondition { return Precondition{kind: mustNotExist} }

// CommitmentIs holds when the key's live version has this commitment.
func CommitmentIs(c [32]byte) Precondition { return Precondition{kind: commitmentIs, commitment: c} }

// holds evaluates p against the head of a key; live is false for an absent or deleted one.
func (p Precondition) holds(live bool, head record) bool {
	switch p.kind {
	case always:
		return true
	case versionIs:
		return live && p.version != 0 && head.version == p.version
	case mustNotExist:
		return !live
	case commitmentIs:
		return live && subtle.ConstantTimeCompare(head.commitment[:], p.commitment[:]) == 1
	}
	return false
}

// plan is one operation after validation.
type plan struct {
	ref     Ref
	cur     Key
	onlyIf  Precondition
	put     *Put // nil deletes
	meta    []MetaPair
	label   Label
	parents [][]byte
}

// plans validates a batch and computes the labels of what it would write.
func (v *View) plans(ops []Op) ([]plan, error) {
	if len(ops) == 0 {
		return nil, invalid("no operations")
	}
	if len(ops) > MaxOps {
		return nil, tooLarge(fmt.Sprintf("%d operations, at most %d", len(ops), MaxOps))
	}
	out := make([]plan, len(ops))
	size, parents := 0, 0
	seen := make(map[string]bool, len(ops))
	for i, op := range ops {
		if op == nil {
			return nil, invalid("an empty operation")
		}
		p := &out[i]
		ref, onlyIf := op.op()
		if ref.Version != 0 {
			return nil, invalid("an operation names a version; use a precondition")
		}
		var err error
		if p.ref, err = v.place(ref); err != nil {
			return nil, err
		}
		p.onlyIf, p.cur = onlyIf, Key{T: Cur, K: curKey(p.ref.Namespace.labels, p.ref.Key)}
		if seen[string(p.cur.K)] {
			return nil, invalid("a key stands twice in a batch")
		}
		seen[string(p.cur.K)] = true
		size += len(p.ref.Key)
		if put, ok := op.(Put); ok {
			if err := v.planPut(p, put); err != nil {
				return nil, err
			}
			parents += len(p.parents)
			size += len(put.Value) + metaSize(p.meta)
		}
	}
	if size > MaxBatchBytes || parents > MaxParents {
		return nil, tooLarge(fmt.Sprintf("batch of %d bytes and %d parents, at most %d and %d", size, parents, MaxBatchBytes, MaxParents))
	}
	return out, nil
}

func (v *View) planPut(p *plan, put Put) (err error) {
	p.put = &put
	limit := v.store.cfg.Limits.ValueBytes
	switch {
	case len(put.Value) > limit:
		return tooLarge(fmt.Sprintf("value of %d bytes, at most %d", len(put.Value), limit))
	case len(put.MediaType) > MaxMediaType:
		return tooLarge(fmt.Sprintf("media type of %d bytes, at most %d", len(put.MediaType), MaxMediaType))
	case !printable(put.MediaType):
		return invalid("media type is not printable ASCII")
	}
	if p.meta, err = planMeta(put.Meta); err != nil {
		return err
	}
	if p.parents, err = planParents(put.DerivedFrom); err != nil {
		return err
	}
	p.label, err = v.labelFor(put.Raise)
	return err
}

// labelFor is the label of everything this view writes: what decided the intent, worsened by what the writer declares, and never
// above what the agent may vouch for. SYSTEM is the operator's alone.
func (v *View) labelFor(raise *Label) (Label, error) {
	l := v.permit.Control()
	if raise != nil {
		// The round trip refuses what the wire would refuse.
		r, err := policy.LabelFromProto(raise.Proto())
		if err != nil {
			return Label{}, refuse(ErrLabel, v1.Reason_REASON_LABEL_UNKNOWN, err.Error())
		}
		l = policy.Join(l, r)
	}
	if slices.Contains(l.Tags, overflowTag) {
		return Label{}, refuse(ErrLabel, v1.Reason_REASON_MEMORY_WRITE_FLOOR, "more tags than a label holds")
	}
	return l.WithIntegrityCap(min(v.permit.IntegrityCap(), v1.Integrity_INTEGRITY_TRUSTED)), nil
}

func planMeta(meta []MetaPair) ([]MetaPair, error) {
	if len(meta) > MaxMeta {
		return nil, tooLarge(fmt.Sprintf("%d metadata pairs, at most %d", len(meta), MaxMeta))
	}
	out := sortMeta(meta)
	for i, m := range out {
		switch {
		case m.Key == "" || !utf8.ValidString(m.Key) || !utf8.ValidString(m.Value):
			return nil, invalid("metadata with an empty key or text that is not UTF-8")
		case len(m.Key) > MaxMetaKey || len(m.Value) > MaxMetaValue:
			return nil, tooLarge(fmt.Sprintf("metadata of %d and %d bytes", len(m.Key), len(m.Value)))
		case i > 0 && out[i-1].Key == m.Key:
			return nil, invalid("a metadata key stands twice")
		}
	}
	return out, nil
}

func planParents(parents [][]byte) ([][]byte, error) {
	if len(parents) > MaxParents {
		return nil, tooLarge(fmt.Sprintf("%d parents, at most %d", len(parents), MaxParents))
	}
	out := make([][]byte, 0, len(parents))
	for _, p := range parents {
		if len(p) != 32 {
			return nil, invalid("a parent is not a commitment of 32 bytes")
		}
		out = append(out, slices.Clone(p))
	}
	slices.SortFunc(out, bytes.Compare)
	return slices.CompactFunc(out, bytes.Equal), nil
}

func metaSize(meta []MetaPair) int {
	n := 0
	for _, m := range meta {
		n += len(m.Key) + len(m.Value)
	}
	return n
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}
