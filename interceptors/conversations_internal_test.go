package interceptors

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"
	"unsafe"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

func talkKey(i int) conversationKey {
	return conversationKey{subject: "alice", id: string(binary.BigEndian.AppendUint64(nil, uint64(i)))}
}

func talkPeer(t *testing.T, i int) identity.AgentID {
	t.Helper()
	id, err := identity.ParseAgent(fmt.Sprintf("spiffe://mesh.test/tenant/acme/agent/a%d", i))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// One peer's share is bounded: who fills it spoils its own new conversations, and nobody else's.
func TestOnePeerCannotFillTheConversationTable(t *testing.T) {
	var cs conversations
	now, clean := time.Unix(1_700_000_000, 0), policy.OwnWords(v1.Integrity_INTEGRITY_ATTESTED, "")
	flood, other := talkPeer(t, 0), talkPeer(t, 1)
	for i := range maxPeerConversations + 10 {
		c, created := cs.find(talkKey(i), clean, now, flood)
		if want := i < maxPeerConversations; !created || c.Label().Equal(clean) != want {
			t.Fatalf("conversation %d: created %v, %s", i, created, c.Label())
		}
	}
	if c, created := cs.find(talkKey(-1), clean, now, other); !created || !c.Label().Equal(clean) {
		t.Errorf("another peer's conversation: created %v, %s", created, c.Label())
	}
	if c, created := cs.find(talkKey(0), clean, now, other); created || !c.Label().Equal(clean) {
		t.Error("a kept conversation is not found by another peer")
	}
	if len(cs.m) != maxPeerConversations+1 {
		t.Errorf("%d conversations are kept", len(cs.m))
	}
}

// A full table keeps what it has, tainted conversations above all, and gives a new one the worst label.
func TestFullConversationTable(t *testing.T) {
	var cs conversations
	now, clean := time.Unix(1_700_000_000, 0), policy.OwnWords(v1.Integrity_INTEGRITY_ATTESTED, "")
	var peers []identity.AgentID
	for i := range maxConversations/maxPeerConversations + 1 {
		peers = append(peers, talkPeer(t, i))
	}
	for i := range maxConversations {
		if _, created := cs.find(talkKey(i), clean, now, peers[i/maxPeerConversations]); !created {
			t.Fatalf("conversation %d exists already", i)
		}
	}
	last := peers[len(peers)-1]
	old, created := cs.find(talkKey(0), clean, now, last)
	if created || !old.Label().Equal(clean) {
		t.Fatalf("an old conversation: created %v, %s", created, old.Label())
	}
	old.Taint(policy.Label{})
	for i := range 3 {
		c, created := cs.find(talkKey(maxConversations+i), clean, now.Add(conversationIdle), last)
		if !created || !c.Label().Equal(policy.Label{}) {
			t.Errorf("a new conversation over the bound: created %v, %s, want the worst", created, c.Label())
		}
	}
	if len(cs.m) != maxConversations {
		t.Errorf("%d conversations are kept, want %d", len(cs.m), maxConversations)
	}
	if c, created := cs.find(talkKey(0), clean, now, last); created || !c.Label().Equal(policy.Label{}) {
		t.Error("a tainted conversation was pushed out")
	}
	later := now.Add(conversationIdle + 2*sweepEvery)
	if c, created := cs.find(talkKey(maxConversations), clean, later, last); !created || !c.Label().Equal(clean) || len(cs.m) != 1 {
		t.Errorf("after a day of idleness: created %v, %s, %d kept", created, c.Label(), len(cs.m))
	}
	if cs.peers[last] != 1 || cs.peers[peers[0]] != 0 {
		t.Errorf("the shares after the sweep: %v", cs.peers)
	}
}

// What a conversation remembers of a message is not the message: each label would keep all of it.
func TestConversationKeepsNoMessage(t *testing.T) {
	message := strings.Repeat("reader tag source ", 200) // as a small envelope is: one block, with every string inside
	part := func(i, n int) []string { return []string{message[i : i+n]} }
	l := policy.Label{Integrity: v1.Integrity_INTEGRITY_ATTESTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL, Readers: part(0, 6)}
	var cs conversations
	c, _ := cs.find(talkKey(0), l, time.Unix(1_700_000_000, 0), talkPeer(t, 0))
	l.Tags = part(7, 3)
	c.Taint(l)
	l.Sources = part(11, 6)
	c.Taint(l)
	got := c.Label()
	if fmt.Sprint(got.Readers, got.Tags, got.Sources) != "[reader] [tag] [source]" {
		t.Fatalf("label %s", got)
	}
	begin := uintptr(unsafe.Pointer(unsafe.StringData(message)))
	for _, s := range []string{got.Readers[0], got.Tags[0], got.Sources[0]} {
		if at := uintptr(unsafe.Pointer(unsafe.StringData(s))); at >= begin && at < begin+uintptr(len(message)) {
			t.Errorf("%q lies in the message", s)
		}
	}
}
