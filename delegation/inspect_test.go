package delegation_test

import (
	"crypto/ed25519"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func TestClaimedReference(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.agent("a"), w.agent("b"), w.agent("c")
	chain := w.chain(a).to(b).to(c).c
	leaf, err := w.verifier(c).Verify(chain, b.peer)
	if err != nil {
		t.Fatal(err)
	}
	key := w.key.Public().(ed25519.PublicKey)
	if ref, err := delegation.ClaimedReference(chain, key); err != nil || ref != leaf.Link() {
		t.Errorf("reference %x, %v; the verifier's is %x", ref, err, leaf.Link())
	}
	other := proto.CloneOf(chain)
	other.Hops[1].Signature[0] ^= 1
	if ref, err := delegation.ClaimedReference(other, key); err != nil || ref == leaf.Link() {
		t.Errorf("a changed chain has the same reference, %v", err)
	}

	refusals := []struct {
		name   string
		change func(*v1.DelegationChain)
		key    ed25519.PublicKey
		want   v1.Reason
	}{
		{"no grant", func(c *v1.DelegationChain) { c.Grant = nil }, key, v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT},
		{"the certificate is the presenter's", func(c *v1.DelegationChain) { c.Hops[1].CertRef = 0 }, key, v1.Reason_REASON_CHAIN_MALFORMED},
		{"no key", func(*v1.DelegationChain) {}, key[:31], 0},
	}
	for _, tt := range refusals {
		t.Run(tt.name, func(t *testing.T) {
			bad := proto.CloneOf(chain)
			tt.change(bad)
			if _, err := delegation.ClaimedReference(bad, tt.key); err == nil || reason(err) != tt.want {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}
