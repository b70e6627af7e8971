package agenttest

import (
	"bytes"
	"encoding/binary"
	"sync"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// What of HTTP/2 (RFC 9113) is needed to find the messages: the client's preface, the frame header, and the frames that carry a
// message or end a stream.
const (
	preface      = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeader  = 9
	typeData     = 0
	typeHeaders  = 1
	typeReset    = 3
	flagEnd      = 0x1
	flagPadded   = 0x8
	streamMask   = 1<<31 - 1
	grpcPrefix   = 5 // of each message: whether it is compressed, and its length
	compressedAt = 0
)

// calls is what the two directions of one connection know together.
type calls struct {
	see            func(Message)
	caller, callee string

	mu      sync.Mutex
	carried map[uint32]bool // streams whose request was an Envelope
}

// frames finds the messages in one direction of a connection.
type frames struct {
	*calls
	reply   bool
	skip    int
	buf     []byte
	streams map[uint32][]byte
}

// write takes the next bytes of the direction.
func (f *frames) write(p []byte) {
	if f.skip > 0 {
		n := min(f.skip, len(p))
		f.skip -= n
		p = p[n:]
	}
	f.buf = append(f.buf, p...)
	for len(f.buf) >= frameHeader {
		n := int(f.buf[0])<<16 | int(f.buf[1])<<8 | int(f.buf[2])
		if len(f.buf) < frameHeader+n {
			return
		}
		f.frame(f.buf[3], f.buf[4], binary.BigEndian.Uint32(f.buf[5:9])&streamMask, f.buf[frameHeader:frameHeader+n])
		f.buf = f.buf[frameHeader+n:]
	}
}

func (f *frames) frame(kind, flags byte, stream uint32, body []byte) {
	if kind == typeData {
		if flags&flagPadded != 0 && len(body) > int(body[0]) {
			body = body[1 : len(body)-int(body[0])]
		}
		f.data(stream, body)
	}
	if kind == typeReset || (kind == typeData || kind == typeHeaders) && flags&flagEnd != 0 {
		delete(f.streams, stream)
		if f.reply || kind == typeReset {
			f.mu.Lock()
			delete(f.carried, stream)
			f.mu.Unlock()
		}
	}
}

func (f *frames) data(stream uint32, body []byte) {
	if f.streams == nil {
		f.streams = map[uint32][]byte{}
	}
	buf := append(f.streams[stream], body...)
	for len(buf) >= grpcPrefix {
		n := int(binary.BigEndian.Uint32(buf[1:grpcPrefix]))
		if len(buf)-grpcPrefix < n {
			break
		}
		f.message(stream, buf[compressedAt] != 0, buf[grpcPrefix:grpcPrefix+n])
		buf = buf[grpcPrefix+n:]
	}
	f.streams[stream] = buf
}

func (f *frames) message(stream uint32, compressed bool, raw []byte) {
	m := Message{From: f.caller, To: f.callee, Reply: f.reply, Raw: bytes.Clone(raw)}
	if f.reply {
		m.From, m.To = f.callee, f.caller
	}
	if !compressed {
		m.Envelope = f.envelope(stream, raw)
	}
	f.see(m)
}

// envelope decodes the two messages of Deliver. The method of a stream is in compressed header fields, so a request is known by its
// content: an OPEN frame with an id, for this callee.
func (f *frames) envelope(stream uint32, raw []byte) *v1.Envelope {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reply && !f.carried[stream] {
		return nil
	}
	var env v1.Envelope
	if proto.Unmarshal(raw, &env) != nil {
		return nil
	}
	if f.reply {
		return &env
	}
	if env.GetKind() != v1.FrameKind_FRAME_KIND_OPEN || len(env.GetId()) != 16 || env.GetRecipient() != f.callee {
		return nil
	}
	if f.carried == nil {
		f.carried = map[uint32]bool{}
	}
	f.carried[stream] = true
	return &env
}
