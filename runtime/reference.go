package runtime

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// A chain is sent once on a connection; later calls carry its 32-byte reference. What is kept here is a belief about what the callee
// remembers. A wrong one costs one more round trip, because a callee that does not know a reference says CHAIN_UNKNOWN before it
// spends the message's id; nothing is allowed by it.

// line is what a Conn knows of the connections under it: grpc replaces them without telling.
type line struct {
	// state is the number of the last connection, from 1, shifted by one, and in the lowest bit whether it is open.
	state atomic.Uint64
	// admitted counts the chains that the callee has begun to remember.
	admitted atomic.Uint64
}

// belief is when a callee began to remember a chain: the state of the line and the count of admitted chains at that time.
type belief struct{ state, admitted uint64 }

// knows reports whether the callee is believed to remember h on the connection that is open now. It keeps delegation.MaxRemembered
// chains, the oldest goes first.
func (l *line) knows(h *signedHop, state uint64) bool {
	b := h.known.Load()
	return b != nil && state&1 == 1 && b.state == state && l.admitted.Load()-b.admitted < delegation.MaxRemembered
}

// note keeps that a call proved h admitted. before is the state when the call began: when it was on one connection all the time, or on
// the first that was opened meanwhile, that connection is the one it went over; otherwise nothing is known.
func (l *line) note(h *signedHop, before uint64) {
	now := l.state.Load()
	if now&1 == 0 || before != now && (before&1 == 1 || before>>1+1 != now>>1) || l.knows(h, now) {
		return
	}
	h.known.Store(&belief{state: now, admitted: l.admitted.Add(1)})
}

// credentials returns inner, with every connection numbered.
func (l *line) credentials(inner credentials.TransportCredentials) credentials.TransportCredentials {
	return &lineCredentials{inner, l}
}

type lineCredentials struct {
	credentials.TransportCredentials
	line *line
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *lineCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		return conn, info, err
	}
	for {
		old := c.line.state.Load()
		if open := (old>>1+1)<<1 | 1; c.line.state.CompareAndSwap(old, open) {
			return &lineConn{conn, c.line, open}, info, nil
		}
	}
}

// Clone implements credentials.TransportCredentials.
func (c *lineCredentials) Clone() credentials.TransportCredentials {
	return &lineCredentials{c.TransportCredentials.Clone(), c.line}
}

type lineConn struct {
	net.Conn
	line *line
	open uint64
}

// Close implements net.Conn.
func (c *lineConn) Close() error {
	c.line.state.CompareAndSwap(c.open, c.open&^1)
	return c.Conn.Close()
}

// transmit sends m and returns the callee's RESULT, or an error as callers see it. A chain that the callee should know by now goes by
// reference; when it does not, the same message goes once more with the whole chain, and what the callee says then is final.
func (c *Conn) transmit(ctx context.Context, m *message, o *options) (*v1.Envelope, error) {
	c.locate(ctx)
	before := c.line.state.Load()
	referred := m.hop != nil && c.line.knows(m.hop, before) && c.cc.GetState() == connectivity.Ready
	if referred {
		m.env.Chain, m.env.ChainRef = nil, m.hop.link[:]
	}
	res, err := c.deliver(ctx, m, o)
	if referred && isUnknown(err) {
		m.hop.known.Store(nil)
		before = c.line.state.Load()
		m.env.Chain, m.env.ChainRef = m.hop.chain, nil
		res, err = c.deliver(ctx, m, o)
	}
	if m.hop != nil && provesAdmission(err) {
		c.line.note(m.hop, before)
	}
	return res, err
}

// isUnknown reports whether the callee does not know a chain reference.
func isUnknown(err error) bool {
	if err == nil {
		return false
	}
	var r *Refusal
	return errors.As(err, &r) && r.Reason == v1.Reason_REASON_CHAIN_UNKNOWN
}

// provesAdmission reports whether an answer shows that the callee has verified the chain: a RESULT, or a status with a code that only
// handlers give. A refusal proves nothing, nor does a code that grpc makes itself.
func provesAdmission(err error) bool {
	if err == nil {
		return true
	}
	var r *Refusal
	if errors.As(err, &r) {
		return false
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.FailedPrecondition, codes.Aborted,
		codes.OutOfRange, codes.DataLoss:
		return true
	default:
		return false
	}
}
