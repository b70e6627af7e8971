package enforceconnect

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
)

// EnvelopeKey is the header of an envelope beside a typed request that has no field for one.
const EnvelopeKey = "Safeconduct-Envelope-Bin"

var (
	errNotPost = errors.New("not a POST")
	errUnseen  = errors.New("ended before any interceptor")
)

// New returns the interceptor that puts e in front of handlers. On clients it does nothing.
func New(e *interceptors.Enforcer) connect.Interceptor { return &adapter{e} }

type adapter struct{ e *interceptors.Enforcer }

// WrapUnary implements connect.Interceptor.
func (a *adapter) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (resp connect.AnyResponse, err error) {
		if req.Spec().IsClient {
			return next(ctx, req)
		}
		defer func() { err = Error(err) }()
		if isCarrier(req.Spec().Procedure) {
			return next(ctx, req)
		}
		ctx, in, err := a.open(ctx, req.Spec().Procedure, req.Peer().Protocol, req.Header())
		defer in.Close(&err)
		if err != nil {
			return nil, err
		}
		if _, err = in.Admit(ctx, req.Any()); err != nil {
			return nil, err
		}
		ctx, cancel := in.Bound(ctx)
		defer cancel()
		err = interceptors.ErrUnfinished
		resp, err = next(ctx, req)
		if err == nil {
			err = in.Emit(resp.Any())
		}
		return resp, own(err)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (a *adapter) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (a *adapter) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) (err error) {
		defer func() { err = Error(err) }()
		if isCarrier(conn.Spec().Procedure) {
			return next(ctx, conn)
		}
		ctx, in, err := a.open(ctx, conn.Spec().Procedure, conn.Peer().Protocol, conn.RequestHeader())
		defer in.Close(&err)
		if err != nil {
			return err
		}
		if ed, ok := ctx.Value(edgeKey{}).(*edge); ok {
			defer context.AfterFunc(ctx, ed.interrupt)()
		}
		gc := &guardedConn{StreamingHandlerConn: conn, ctx: ctx, in: in}
		if gc.first, err = in.Prefetch(ctx, func(m proto.Message) error { return conn.Receive(m) }); err != nil {
			return err
		}
		ctx, cancel := in.Bound(ctx)
		defer cancel()
		err = interceptors.ErrUnfinished
		err = next(ctx, gc)
		return own(err)
	}
}

func (a *adapter) open(ctx context.Context, procedure, protocol string, h http.Header) (context.Context, *interceptors.Interaction, error) {
	session, refused := SessionFrom(ctx)
	c := &interceptors.Call{Session: session, Procedure: procedure, Transport: transportOf(protocol)}
	switch v := h.Values(EnvelopeKey); {
	case len(v) == 1:
		raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(v[0], "="))
		if err != nil && refused == nil {
			refused = interceptors.Refuse(v1.Reason_REASON_MALFORMED, err)
		}
		c.Metadata = raw
	case len(v) > 1 && refused == nil:
		refused = interceptors.Refuse(v1.Reason_REASON_MALFORMED, nil)
	}
	return a.e.Open(ctx, c, refused)
}

type guardedConn struct {
	connect.StreamingHandlerConn
	ctx context.Context //nolint:containedctx // it dies with the call.
	in  *interceptors.Interaction
	// first is admitted, and not yet read by the handler.
	first proto.Message
}

// Receive implements connect.StreamingHandlerConn: every message is admitted before the handler sees it.
func (c *guardedConn) Receive(m any) error {
	if first := c.first; first != nil {
		c.first = nil
		return interceptors.Hand(first, m)
	}
	if err := c.StreamingHandlerConn.Receive(m); err != nil {
		return err
	}
	_, err := c.in.Admit(c.ctx, m)
	return err
}

// Send implements connect.StreamingHandlerConn.
func (c *guardedConn) Send(m any) error {
	if err := c.in.Emit(m); err != nil {
		return err
	}
	return c.StreamingHandlerConn.Send(m)
}
