package wirecodec

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// New returns the codec of our own servers and clients. An Envelope, the one message of the hot path, is encoded by generated
// code (vtprotobuf), which takes a quarter of the time of reflection; every other message, health and reflection included, by
// grpc-go's own codec. Bytes on the wire are the same, so either end may use any protobuf.
//
// What the generated code does differently is held here and by interceptors.ValidText:
//   - it merges into what a message holds, so the message is reset first; only a [Frame], whose owner says so, is used again;
//   - it copies bytes and strings out of the receive buffer, which grpc uses again, or refers to a copy of the whole, which nobody does;
//   - it does not look at UTF-8, so the receiver of an Envelope does;
//   - it takes encodings that the standard codec refuses, a varint above 64 bits and a field number above 2^29-1, both cut off. Nothing
//     is decided on the bytes of an Envelope: what is signed in it lies inside bytes fields and is scanned by delegation.
//
// It is handed to grpc by ForceServerCodecV2 and ForceCodecV2 and never registered, because a process may serve others beside us.
func New() encoding.CodecV2 { return codec{encoding.GetCodecV2(proto.Name)} }

// Frame is an Envelope whose memory its owner uses again. Received into, it is overwritten, the bytes of its last payload too: nothing of
// the payload may be kept. Sent, it is given back by Sent once its bytes are written.
type Frame struct {
	Envelope v1.Envelope
	// Buffer is where a received payload is put, and where its owner may put one that is sent.
	Buffer []byte
	// Receipt is memory for the receipt of an Envelope that is sent.
	Receipt v1.AuditReceipt
	// Sent is called after the Frame was encoded; nil is not called.
	Sent func(*Frame)
}

// Request is an Envelope that stays, with a payload that does not: the next message received into the Request overwrites it. Its owner
// takes the payload out of the Envelope before that.
type Request struct {
	Envelope *v1.Envelope
	Buffer   []byte
}

// maxKept bounds the buffer that a Frame keeps for the next message.
const maxKept = 64 << 10

// Reset empties the Frame for the next message.
func (f *Frame) Reset() {
	f.Envelope.Reset()
	f.Receipt.Reset()
	f.Buffer = Keep(f.Buffer)
}

// Keep returns b without its content, for the next payload, or nil when it has grown too large to be kept.
func Keep(b []byte) []byte {
	if cap(b) > maxKept {
		return nil
	}
	return b[:0]
}

type codec struct{ encoding.CodecV2 }

// Name implements encoding.CodecV2: clients send it as content subtype.
func (codec) Name() string { return proto.Name }

// Marshal implements encoding.CodecV2.
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *v1.Envelope:
		return marshal(m)
	case *Frame:
		data, err := marshal(&m.Envelope)
		if m.Sent != nil {
			m.Sent(m)
		}
		return data, err
	}
	return c.CodecV2.Marshal(v)
}

func marshal(env *v1.Envelope) (mem.BufferSlice, error) {
	size := env.SizeVT()
	if mem.IsBelowBufferPoolingThreshold(size) {
		raw, err := env.MarshalVT()
		return mem.BufferSlice{mem.SliceBuffer(raw)}, err
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	if _, err := env.MarshalToSizedBufferVT((*buf)[:size]); err != nil {
		pool.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *v1.Envelope:
		m.Reset()
		return unmarshal(data, m, decode)
	case *Frame:
		m.Reset()
		return unmarshal(data, &m.Envelope, func(env *v1.Envelope, raw []byte) (err error) {
			m.Buffer, err = split(env, raw, m.Buffer)
			return err
		})
	case *Request:
		m.Envelope = new(v1.Envelope)
		return unmarshal(data, m.Envelope, func(env *v1.Envelope, raw []byte) (err error) {
			m.Buffer, err = split(env, raw, m.Buffer)
			return err
		})
	}
	return c.CodecV2.Unmarshal(data, v)
}

func unmarshal(data mem.BufferSlice, env *v1.Envelope, into func(*v1.Envelope, []byte) error) error {
	if len(data) == 1 {
		return into(env, data[0].ReadOnlyData())
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	return into(env, buf.ReadOnlyData())
}
