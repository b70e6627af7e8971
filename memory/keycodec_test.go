package memory_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/safeconduct/safeconduct/memory"
)

// hard are the bytes that break naive encodings: terminator and escape bytes, separators, wildcards, the ends of the range.
var hard = []byte{0, 1, 2, 'a', '.', '/', '%', '_', 0xFE, 0xFF}

func drawText(t *rapid.T, label string, least, most int) string {
	return string(rapid.SliceOfN(rapid.SampledFrom(hard), least, most).Draw(t, label))
}

type name struct {
	labels  []string
	key     string
	version uint64
}

// drawNames draws two names that are equal, related or unrelated.
func drawNames(t *rapid.T) (a, b name) {
	draw := func() name {
		n := name{key: drawText(t, "key", 1, 4), version: rapid.Uint64().Draw(t, "version")}
		for range rapid.IntRange(1, 4).Draw(t, "labels") {
			n.labels = append(n.labels, drawText(t, "label", 1, 3))
		}
		return n
	}
	a, b = draw(), draw()
	switch rapid.IntRange(0, 4).Draw(t, "relation") {
	case 0:
		b.labels = slices.Clone(a.labels)
	case 1:
		b.labels, b.key = slices.Clone(a.labels), a.key
	case 2:
		b.labels = append(slices.Clone(a.labels), b.labels...)
	case 3: // a joined twin
		b.labels = []string{strings.Join(a.labels, "\x00\x01")}
	}
	return a, b
}

func (n name) String() string { return fmt.Sprintf("%q %q %d", n.labels, n.key, n.version) }

func (n name) cur() []byte { return memory.CurKey(n.labels, []byte(n.key)) }
func (n name) ver() []byte { return memory.VerKey(n.cur(), n.version) }

// compareNames is the order that the encoding must have: a namespace's own keys before those of its children, labels and keys in
// byte order, newest version first.
func compareNames(a, b name) int {
	for i := range min(len(a.labels), len(b.labels)) {
		if c := strings.Compare(a.labels[i], b.labels[i]); c != 0 {
			return c
		}
	}
	if len(a.labels) != len(b.labels) {
		return len(a.labels) - len(b.labels)
	}
	if c := strings.Compare(a.key, b.key); c != 0 {
		return c
	}
	switch {
	case a.version > b.version:
		return -1
	case a.version < b.version:
		return 1
	}
	return 0
}

func sign(n int) int { return min(1, max(-1, n)) }

func TestKeyCodecOrderAndInjectivity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawNames(t)
		if got, want := sign(bytes.Compare(a.ver(), b.ver())), sign(compareNames(a, b)); got != want {
			t.Fatalf("ver keys of %v and %v compare %d, want %d", a, b, got, want)
		}
		a.version, b.version = 0, 0
		if got, want := sign(bytes.Compare(a.cur(), b.cur())), sign(compareNames(a, b)); got != want {
			t.Fatalf("cur keys of %v and %v compare %d, want %d", a, b, got, want)
		}
	})
}

func TestKeyCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, _ := drawNames(t)
		labels, key, version, err := memory.DecodeVerKey(a.ver())
		if err != nil || !slices.Equal(labels, a.labels) || string(key) != a.key || version != a.version {
			t.Fatalf("DecodeVerKey(%v) = %q, %q, %d, %v", a, labels, key, version, err)
		}
	})
}

func within(k, lo, hi []byte) bool {
	return bytes.Compare(k, lo) >= 0 && (hi == nil || bytes.Compare(k, hi) < 0)
}

func TestKeyCodecRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawNames(t)
		below := len(b.labels) >= len(a.labels) && slices.Equal(a.labels, b.labels[:len(a.labels)])
		same := slices.Equal(a.labels, b.labels)
		lo, hi := memory.SubtreeRange(a.labels)
		if got := within(b.cur(), lo, hi); got != below {
			t.Fatalf("subtree of %q has %v: %v, want %v", a.labels, b, got, below)
		}
		lo, hi = memory.ExactRange(a.labels)
		if got := within(b.cur(), lo, hi); got != same {
			t.Fatalf("namespace %q has %v: %v, want %v", a.labels, b, got, same)
		}
		prefix := drawText(t, "prefix", 0, 3)
		lo, hi = memory.PrefixRange(a.labels, []byte(prefix))
		if got, want := within(b.cur(), lo, hi), same && strings.HasPrefix(b.key, prefix); got != want {
			t.Fatalf("prefix %q of %q has %v: %v, want %v", prefix, a.labels, b, got, want)
		}
		// The versions of one key are the ver keys that start with its cur key.
		lo, hi = a.cur(), memory.Successor(a.cur())
		if got, want := within(b.ver(), lo, hi), same && a.key == b.key; got != want {
			t.Fatalf("versions of %v have %v: %v, want %v", a, b, got, want)
		}
	})
}

func TestKeyCodecIsExact(t *testing.T) {
	for _, c := range []struct {
		n    name
		want string
	}{
		{name{labels: []string{"a"}, key: "k", version: 1}, "610001" + "0000" + "6b0001" + "fffffffffffffffe"},
		{name{labels: []string{"a", "b\x00"}, key: "\x00", version: 1<<64 - 1}, "610001" + "6200ff0001" + "0000" + "00ff0001" + "0000000000000000"},
	} {
		if got := hex.EncodeToString(c.n.ver()); got != c.want {
			t.Errorf("ver key of %v = %s, want %s", c.n, got, c.want)
		}
	}
	for _, c := range []struct{ in, want string }{{"61", "62"}, {"61ff", "62"}, {"ff", ""}, {"", ""}, {"0001", "0002"}, {"feffff", "ff"}} {
		in, err := hex.DecodeString(c.in)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(memory.Successor(in)); got != c.want {
			t.Errorf("successor(%s) = %s, want %s", c.in, got, c.want)
		}
	}
}

func TestKeyCodecRefusesWhatItWouldNotWrite(t *testing.T) {
	for _, in := range []string{"", "00", "0000", "61", "610001", "6100010000", "61000100006b", "61000100006b00", "61000100006b0002", "61000100006b000100", "6100020000", "610003"} {
		raw, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		if labels, key, err := memory.DecodeCurKey(raw); err == nil {
			t.Errorf("DecodeCurKey(%s) = %q, %q, want it refused", in, labels, key)
		}
	}
}

func FuzzKeyCodec(f *testing.F) {
	f.Add([]byte("a\x00\x01\x00\x00k\x00\x01"))
	f.Add([]byte("a\x00\xff\x00\x01b\x00\x01\x00\x00\x00\xff\x00\x01\xff\xff\xff\xff\xff\xff\xff\xfe"))
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		if labels, key, err := memory.DecodeCurKey(in); err == nil && !bytes.Equal(memory.CurKey(labels, key), in) {
			t.Errorf("cur key %x decodes to %q, %q, which encodes differently", in, labels, key)
		}
		if labels, key, version, err := memory.DecodeVerKey(in); err == nil && !bytes.Equal(memory.VerKey(memory.CurKey(labels, key), version), in) {
			t.Errorf("ver key %x decodes to %q, %q, %d, which encodes differently", in, labels, key, version)
		}
	})
}
