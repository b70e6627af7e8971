package interceptors

import (
	"strings"
	"sync"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// maxConversations bounds the labels kept. When it is reached, conversations idle for a day are forgotten; if there are none, a
// new conversation counts as the worst instead of pushing out a tainted one.
const (
	maxConversations = 65536
	// maxPeerConversations is one peer's share: who fills it spoils its own conversations only.
	maxPeerConversations = 4096
	conversationIdle     = 24 * time.Hour
	sweepEvery           = time.Minute
)

// Conversation is the information-flow label of one conversation that this agent takes part in. It only ever worsens. It is
// safe for concurrent use.
type Conversation struct {
	id    []byte
	mu    sync.Mutex
	label policy.Label
	proto *v1.Label // label for the wire, made once until it worsens
	used  time.Time
	peer  identity.AgentID // who started it
}

// ID returns the conversation id, 16 bytes; the caller must not change it.
func (c *Conversation) ID() []byte { return c.id }

// Label returns the label of everything that has influenced the conversation so far.
func (c *Conversation) Label() policy.Label {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.label
}

// Taint joins the label of something that was read. It is called before the reader sees the content.
func (c *Conversation) Taint(l policy.Label) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.join(l)
}

// Control returns Label for the wire. Messages share it: nobody may change it.
func (c *Conversation) Control() *v1.Label {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.proto == nil {
		c.proto = c.label.Proto()
	}
	return c.proto
}

// join worsens the label by l. The caller holds mu.
func (c *Conversation) join(l policy.Label) {
	if joined := policy.Join(c.label, l); !joined.Equal(c.label) {
		c.label, c.proto = owned(joined), nil
	}
}

// owned returns l in memory of its own. A conversation lives for days, and one string of a small message keeps all of the message.
func owned(l policy.Label) policy.Label {
	for _, set := range []*[]string{&l.Readers, &l.Tags, &l.Sources} {
		if len(*set) == 0 {
			continue
		}
		members := make([]string, len(*set))
		for i, m := range *set {
			members[i] = strings.Clone(m)
		}
		*set = members
	}
	return l
}

func (c *Conversation) idleSince() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// conversationKey holds tenant and principal besides the id, because the caller picks the id and must not reach another's.
type conversationKey struct {
	tenant, issuer, subject string
	kind                    v1.Principal_Type
	id                      string
}

type conversations struct {
	mu    sync.Mutex
	m     map[conversationKey]*Conversation
	peers map[identity.AgentID]int // how many of them each agent has started
	swept time.Time
}

// join returns the conversation id of leaf's principal, created for peer with label l or tainted by it. An empty id means that of
// the chain.
func (cs *conversations) join(leaf *delegation.Leaf, id []byte, l policy.Label, now time.Time, peer identity.AgentID) *Conversation {
	if len(id) == 0 {
		chainID := leaf.ChainID()
		id = chainID[:]
	}
	p := leaf.Principal()
	cs.mu.Lock()
	c := cs.m[conversationKey{leaf.Tenant(), p.GetIssuer(), p.GetSubject(), p.GetType(), string(id)}] // without a copy of id
	cs.mu.Unlock()
	created := false
	if c == nil {
		c, created = cs.find(conversationKey{leaf.Tenant(), p.GetIssuer(), p.GetSubject(), p.GetType(), string(id)}, l, now, peer)
	}
	if !created {
		c.mu.Lock()
		c.join(l)
		c.used = now
		c.mu.Unlock()
	}
	return c
}

func (cs *conversations) find(k conversationKey, l policy.Label, now time.Time, peer identity.AgentID) (c *Conversation, created bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c := cs.m[k]; c != nil {
		return c, false
	}
	c = &Conversation{id: []byte(k.id), label: owned(l), used: now, peer: peer}
	if cs.m == nil {
		cs.m = map[conversationKey]*Conversation{}
	}
	if cs.peers == nil {
		cs.peers = map[identity.AgentID]int{}
	}
	full := func() bool { return len(cs.m) >= maxConversations || cs.peers[peer] >= maxPeerConversations }
	if full() && now.Sub(cs.swept) > sweepEvery { // a full table must not cost a sweep for each message
		cs.swept = now
		cs.sweep(now)
	}
	if full() {
		c.label = policy.Join(policy.Label{}, policy.Label{}) // the worst, in full
		return c, true
	}
	cs.m[k] = c
	cs.peers[peer]++
	return c, true
}

// sweep forgets what has been idle for a day, and counts again.
func (cs *conversations) sweep(now time.Time) {
	clear(cs.peers)
	for k, c := range cs.m {
		if now.Sub(c.idleSince()) > conversationIdle {
			delete(cs.m, k)
			continue
		}
		cs.peers[c.peer]++
	}
}
