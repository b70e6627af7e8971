package interceptors

import (
	"sync"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// maxConversations bounds the labels kept. When it is reached, conversations idle for a day are forgotten; if there are none, a
// new conversation counts as the worst instead of pushing out a tainted one.
const (
	maxConversations = 65536
	conversationIdle = 24 * time.Hour
	sweepEvery       = time.Minute
)

// Conversation is the information-flow label of one conversation that this agent takes part in. It only ever worsens. It is
// safe for concurrent use.
type Conversation struct {
	id    []byte
	mu    sync.Mutex
	label policy.Label
	used  time.Time
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
	c.label = policy.Join(c.label, l)
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
	swept time.Time
}

// join returns the conversation id of leaf's principal, created with label l or tainted by it. An empty id means that of the chain.
func (cs *conversations) join(leaf *delegation.Leaf, id []byte, l policy.Label, now time.Time) *Conversation {
	if len(id) == 0 {
		chainID := leaf.ChainID()
		id = chainID[:]
	}
	p := leaf.Principal()
	k := conversationKey{leaf.Tenant(), p.GetIssuer(), p.GetSubject(), p.GetType(), string(id)}
	c, created := cs.find(k, l, now)
	if !created {
		c.mu.Lock()
		c.label, c.used = policy.Join(c.label, l), now
		c.mu.Unlock()
	}
	return c
}

func (cs *conversations) find(k conversationKey, l policy.Label, now time.Time) (c *Conversation, created bool) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if c := cs.m[k]; c != nil {
		return c, false
	}
	c = &Conversation{id: []byte(k.id), label: l, used: now}
	if cs.m == nil {
		cs.m = map[conversationKey]*Conversation{}
	}
	if len(cs.m) >= maxConversations && now.Sub(cs.swept) > sweepEvery { // a full table must not cost a sweep for each message
		cs.swept = now
		for old, oc := range cs.m {
			if now.Sub(oc.idleSince()) > conversationIdle {
				delete(cs.m, old)
			}
		}
	}
	if len(cs.m) >= maxConversations {
		c.label = policy.Label{}
		return c, true
	}
	cs.m[k] = c
	return c, true
}
