package interceptors

import (
	"encoding/binary"
	"testing"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// A full table keeps what it has, tainted conversations above all, and gives a new one the worst label.
func TestFullConversationTable(t *testing.T) {
	var cs conversations
	now := time.Unix(1_700_000_000, 0)
	clean := policy.OwnWords(v1.Integrity_INTEGRITY_ATTESTED, "")
	key := func(i int) conversationKey {
		return conversationKey{subject: "alice", id: string(binary.BigEndian.AppendUint64(nil, uint64(i)))}
	}
	for i := range maxConversations {
		if _, created := cs.find(key(i), clean, now); !created {
			t.Fatalf("conversation %d exists already", i)
		}
	}
	old, created := cs.find(key(0), clean, now)
	if created || !old.Label().Equal(clean) {
		t.Fatalf("an old conversation: created %v, %s", created, old.Label())
	}
	old.Taint(policy.Label{})
	for i := range 3 {
		c, created := cs.find(key(maxConversations+i), clean, now.Add(conversationIdle))
		if !created || !c.Label().Equal(policy.Label{}) {
			t.Errorf("a new conversation over the bound: created %v, %s, want the worst", created, c.Label())
		}
	}
	if len(cs.m) != maxConversations {
		t.Errorf("%d conversations are kept, want %d", len(cs.m), maxConversations)
	}
	if c, created := cs.find(key(0), clean, now); created || !c.Label().Equal(policy.Label{}) {
		t.Error("a tainted conversation was pushed out")
	}
	later := now.Add(conversationIdle + 2*sweepEvery)
	if c, created := cs.find(key(maxConversations), clean, later); !created || !c.Label().Equal(clean) || len(cs.m) != 1 {
		t.Errorf("after a day of idleness: created %v, %s, %d kept", created, c.Label(), len(cs.m))
	}
}
