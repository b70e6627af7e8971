package delegation_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/safeconduct/safeconduct/delegation"
	"github.com/safeconduct/safeconduct/identity"
)

func TestReplayKeyFraming(t *testing.T) {
	t.Parallel()
	id, err := identity.ParseAgent("spiffe://example.org/tenant/acme/agent/planner")
	if err != nil {
		t.Fatal(err)
	}
	long := bytes.Repeat([]byte{7}, 400)
	for _, jti := range [][]byte{[]byte("0123456789abcdef"), nil, {0}, {0, 0}, long} {
		for _, kind := range []delegation.ReplayKind{delegation.ReplayDirect, delegation.ReplayInvocation, delegation.ReplayAssertion} {
			want := sha256.Sum256(append([]byte("safeconduct/replay/v1"+string(rune(kind))+id.String()+"\x00"), jti...))
			if got := delegation.ReplayKey(kind, id, jti); got != want {
				t.Errorf("kind %d, jti %x: key %x, want %x", kind, jti, got, want)
			}
		}
	}
	want := sha256.Sum256([]byte("safeconduct/replay/v1\x040ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I\x00jti-1"))
	if got := delegation.ReplayKeyDPoP("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I", "jti-1"); got != want {
		t.Errorf("DPoP: key %x, want %x", got, want)
	}
}

func TestReplayKeysDiffer(t *testing.T) {
	t.Parallel()
	seen := map[[32]byte]string{}
	for _, name := range []string{"a", "ab"} {
		id, err := identity.ParseAgent("spiffe://example.org/tenant/acme/agent/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []delegation.ReplayKind{delegation.ReplayDirect, delegation.ReplayInvocation, delegation.ReplayAssertion, delegation.ReplayDPoP} {
			for _, jti := range []string{"", "b", "\x00", "b\x00", "\x00b"} {
				key, what := delegation.ReplayKey(kind, id, []byte(jti)), name+string(rune('0'+kind))+jti
				if other, ok := seen[key]; ok {
					t.Errorf("%q and %q share a key", what, other)
				}
				seen[key] = what
			}
		}
	}
}
