package policy_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// labels draws well-formed labels over pools that are larger than the bounds, so that joins overflow.
func labels(t *rapid.T, name string) policy.Label {
	set := func(what string, pool, most int) []string {
		picked := rapid.SliceOfNDistinct(rapid.IntRange(0, pool), 0, most, rapid.ID[int]).Draw(t, name+"."+what)
		var out []string
		for _, i := range picked {
			out = append(out, fmt.Sprintf("%s:%02d", what, i))
		}
		slices.Sort(out)
		return out
	}
	l := policy.Label{
		Integrity:        v1.Integrity(rapid.IntRange(0, 4).Draw(t, name+".integrity")),
		Confidentiality:  v1.Confidentiality(rapid.IntRange(0, 4).Draw(t, name+".confidentiality")),
		AnyReader:        rapid.Bool().Draw(t, name+".any"),
		Tags:             set("tag", 24, policy.MaxTags),
		Sources:          set("src", 24, policy.MaxSources),
		SourcesTruncated: rapid.Bool().Draw(t, name+".truncated"),
	}
	if rapid.IntRange(0, 9).Draw(t, name+".overflow") == 0 {
		l.Tags = []string{policy.TagOverflow}
	}
	if !l.AnyReader {
		l.Readers = set("reader", 40, policy.MaxReaders)
	}
	return l
}

func TestJoinIsASemilattice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := labels(t, "a"), labels(t, "b"), labels(t, "c")
		if ab, ba := policy.Join(a, b), policy.Join(b, a); !ab.Equal(ba) {
			t.Errorf("Join is not commutative: %+v, %+v", ab, ba)
		}
		if x, y := policy.Join(policy.Join(a, b), c), policy.Join(a, policy.Join(b, c)); !x.Equal(y) {
			t.Errorf("Join is not associative: %+v, %+v", x, y)
		}
		if aa := policy.Join(a, a); !aa.Equal(a) {
			t.Errorf("Join(a, a) = %+v, want %+v", aa, a)
		}
	})
}

func TestJoinOnlyWorsens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := labels(t, "a"), labels(t, "b")
		j := policy.Join(a, b)
		if j.Integrity > max(a.Integrity, 1) || j.Integrity > max(b.Integrity, 1) {
			t.Errorf("integrity rose: %v", j)
		}
		if j.Confidentiality < a.Confidentiality || j.Confidentiality < b.Confidentiality {
			t.Errorf("confidentiality fell: %v", j)
		}
		for i := range 41 {
			r := fmt.Sprintf("reader:%02d", i)
			if reads(j, r) && (!reads(a, r) || !reads(b, r)) {
				t.Errorf("Join let %s read what one of its parts does not", r)
			}
		}
		for _, tag := range append(slices.Clone(a.Tags), b.Tags...) {
			if !slices.Contains(j.Tags, tag) && !slices.Contains(j.Tags, policy.TagOverflow) {
				t.Errorf("Join lost %s", tag)
			}
		}
		if len(j.Tags) > policy.MaxTags || len(j.Sources) > policy.MaxSources || len(j.Readers) > policy.MaxReaders {
			t.Errorf("Join left its bounds: %+v", j)
		}
		if !a.FlowsTo(j) || !b.FlowsTo(j) {
			t.Errorf("a part does not flow to the join")
		}
		if !a.FlowsTo(b) && j.Equal(b) || a.FlowsTo(b) && !j.Equal(b) {
			t.Errorf("FlowsTo disagrees with Join")
		}
	})
}

func reads(l policy.Label, r string) bool { return l.AnyReader || slices.Contains(l.Readers, r) }

func TestCanonicalBytesAreTheLabel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := labels(t, "a"), labels(t, "b")
		if rapid.Bool().Draw(t, "same") {
			b = a
		}
		same := bytes.Equal(a.AppendCanonical(nil), b.AppendCanonical(nil))
		if same != a.Equal(b) {
			t.Errorf("canonical bytes equal: %v, labels equal: %v", same, a.Equal(b))
		}
		if got := a.AppendCanonical([]byte("x")); got[0] != 'x' || !bytes.Equal(got[1:], a.AppendCanonical(nil)) {
			t.Errorf("AppendCanonical does not append")
		}
		back, err := policy.LabelFromProto(a.Proto())
		if err != nil || !back.Equal(a) {
			t.Errorf("LabelFromProto(Proto()) = %+v, %v, want %+v", back, err, a)
		}
	})
}

func TestCapsOnlyLower(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, limit := labels(t, "l"), v1.Integrity(rapid.IntRange(-1, 6).Draw(t, "limit"))
		got := l.WithIntegrityCap(limit)
		if got.Integrity > max(l.Integrity, 1) || got.Integrity > max(limit, 1) || got.Integrity < 1 {
			t.Errorf("WithIntegrityCap(%d) of %d = %d", limit, l.Integrity, got.Integrity)
		}
		if own := policy.OwnWords(limit, "agent:x"); own.Integrity > v1.Integrity_INTEGRITY_ATTESTED {
			t.Errorf("OwnWords(%d) = %s, above ATTESTED", limit, own)
		}
	})
}

func TestZeroLabelIsTheWorst(t *testing.T) {
	var zero policy.Label
	want := &v1.Label{Integrity: v1.Integrity_INTEGRITY_UNTRUSTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_RESTRICTED}
	got := zero.Proto()
	if got.GetIntegrity() != want.GetIntegrity() || got.GetConfidentiality() != want.GetConfidentiality() || got.GetAnyReader() || len(got.GetReaders()) != 0 {
		t.Errorf("Label{}.Proto() = %v, want %v", got, want)
	}
	if l, err := policy.LabelFromProto(nil); err != nil || !l.Equal(zero) {
		t.Errorf("LabelFromProto(nil) = %+v, %v, want the zero label", l, err)
	}
	if got := zero.String(); got != "untrusted/restricted" {
		t.Errorf("String() = %q", got)
	}
	best := policy.OwnWords(v1.Integrity_INTEGRITY_SYSTEM, "")
	if zero.FlowsTo(best) || !policy.Join(zero, best).Equal(zero) {
		t.Error("the zero label is not the worst")
	}
}

func TestLabelFromProtoRefusals(t *testing.T) {
	many := func(n int) []string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf("m%03d", i))
		}
		return out
	}
	tests := []struct {
		name  string
		input *v1.Label
	}{
		{"unknown integrity", &v1.Label{Integrity: 5}},
		{"negative integrity", &v1.Label{Integrity: -1}},
		{"unknown confidentiality", &v1.Label{Confidentiality: 5}},
		{"negative confidentiality", &v1.Label{Confidentiality: -1}},
		{"any reader and readers", &v1.Label{AnyReader: true, Readers: []string{"a"}}},
		{"33 readers", &v1.Label{Readers: many(33)}},
		{"17 tags", &v1.Label{Tags: many(17)}},
		{"17 sources", &v1.Label{Sources: many(17)}},
		{"unsorted", &v1.Label{Tags: []string{"b", "a"}}},
		{"twice", &v1.Label{Tags: []string{"a", "a"}}},
		{"empty member", &v1.Label{Sources: []string{""}}},
		{"long member", &v1.Label{Sources: []string{strings.Repeat("x", 257)}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := policy.LabelFromProto(tt.input)
			if !errors.Is(err, policy.ErrLabel) || !got.Equal(policy.Label{}) {
				t.Errorf("LabelFromProto(%v) = %+v, %v, want the zero label and ErrLabel", tt.input, got, err)
			}
		})
	}
	if l, err := policy.LabelFromProto(&v1.Label{Tags: []string{"a", policy.TagOverflow}}); err != nil || len(l.Tags) != 1 {
		t.Errorf("an overflowed label kept other tags: %+v, %v", l, err)
	}
}
