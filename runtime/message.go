package runtime

import (
	"slices"
	"sync"

	"google.golang.org/grpc"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/wirecodec"
)

// message is one call on its way: what is sent, what it is sent for, and the hop that it is sent under, nil for an open method. It
// holds the memory of the envelope too.
type message struct {
	env    *v1.Envelope // own
	parent *interceptors.Interaction
	hop    *signedHop
	reply  wirecodec.Frame

	own     v1.Envelope
	intent  v1.Intent
	id      [16]byte
	sum     [32]byte
	payload []byte
	labels  []v1.DataLabel
	data    []*v1.DataLabel
}

func newMessage() *message {
	m := &message{}
	m.env = &m.own
	return m
}

// size returns the size of the envelope with its whole chain, which is not measured again for each call.
func (m *message) size() int {
	if m.hop == nil {
		return m.env.SizeVT()
	}
	m.env.Chain = nil
	n := m.env.SizeVT() + m.hop.size
	m.env.Chain = m.hop.chain
	return n
}

// labelled returns the labels of references, at most maxShared.
func (m *message) labelled(refs []*v1.ContextRef) []*v1.DataLabel {
	if len(refs) > len(m.labels) {
		m.labels, m.data = make([]v1.DataLabel, len(refs)), make([]*v1.DataLabel, len(refs))
		for i := range m.labels {
			m.labels[i].Ref, m.data[i] = uint32(i), &m.labels[i] // at most maxShared
		}
	}
	for i, ref := range refs {
		m.labels[i].Label = ref.GetLabel()
	}
	return m.data[:len(refs)]
}

// messages keeps the memory of calls that have ended, for the next ones. Nothing that a call hands out lies in it: grpc encodes and
// decodes before it returns, the log encodes a record when it takes it, and what a caller gets of a reply is decoded from it or was made
// for it.
type messages struct{ pool sync.Pool }

func (ms *messages) get() *message {
	if m, ok := ms.pool.Get().(*message); ok {
		return m
	}
	return newMessage()
}

// put empties m, so that nothing of one call is left when the next is made.
func (ms *messages) put(m *message) {
	m.own.Reset()
	m.intent.Reset()
	m.reply.Reset()
	m.parent, m.hop, m.payload = nil, nil, wirecodec.Keep(m.payload)
	clear(m.id[:])
	clear(m.sum[:])
	for i := range m.labels {
		m.labels[i].Label = nil
	}
	ms.pool.Put(m)
}

// with returns the options of every call to the peer and more.
func (c *Conn) with(more []grpc.CallOption) []grpc.CallOption {
	if len(more) == 0 {
		return c.options
	}
	return slices.Concat(c.options, more)
}
