package meshtest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
)

// Protocol is what a client speaks.
type Protocol string

// The protocols of the route table.
const (
	GRPC        Protocol = "grpc"
	ConnectGRPC Protocol = "connect-gRPC"
	Connect     Protocol = "connect"
	GRPCWeb     Protocol = "gRPC-Web"
)

// Shape is the shape of a method.
type Shape string

// The four shapes, named as the methods of MeshService.
const (
	Unary        Shape = "Unary"
	ServerStream Shape = "ServerStream"
	ClientStream Shape = "ClientStream"
	Bidi         Shape = "Bidi"
)

// Failure is what a client sees of an error, whatever it speaks.
type Failure struct {
	Code     interceptors.Code
	Message  string
	Reason   string // of the ErrorInfo of our domain
	Decision string // its decision id
	Infos    int    // how many ErrorInfos there are
	Raw      string // everything, to look for what must not be there
}

// Error implements error.
func (f *Failure) Error() string { return f.Raw }

// Client calls the methods of MeshService as one peer. All requests have the fields of UnaryRequest, all replies those of
// UnaryResponse. It is safe for concurrent use.
type Client struct {
	grpc *grpc.ClientConn
	http *http.Client
	base string
	opts []connect.ClientOption
}

// Dial returns a client of the server at addr, which must prove to be server, with the identity of src.
func (w *World) Dial(tb testing.TB, p Protocol, src identity.Source, server identity.AgentID, addr string) *Client {
	tb.Helper()
	cfg := identity.ClientTLS(src, server)
	if p == GRPC {
		cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithDisableRetry())
		if err != nil {
			tb.Fatalf("grpc client: %v", err)
		}
		tb.Cleanup(func() { _ = cc.Close() })
		return &Client{grpc: cc}
	}
	t := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	tb.Cleanup(t.CloseIdleConnections)
	c := &Client{http: &http.Client{Transport: t}, base: "https://" + addr}
	switch p {
	case ConnectGRPC:
		c.opts = append(c.opts, connect.WithGRPC())
	case GRPCWeb:
		c.opts = append(c.opts, connect.WithGRPCWeb())
	case Connect, GRPC:
	}
	return c
}

// HTTP returns the client's http client, nil for grpc.
func (c *Client) HTTP() *http.Client { return c.http }

// Call calls a method, given as /pkg.Service/Method, in the given shape. A streaming request is sent as msgs, a single one as the
// first of them. It returns the text of the last reply; errors are *Failure.
func (c *Client) Call(ctx context.Context, shape Shape, procedure string, msgs ...*meshpb.UnaryRequest) (string, error) {
	if c.grpc != nil {
		text, err := c.callGRPC(ctx, shape, procedure, msgs)
		return text, grpcFailure(err)
	}
	cl := connect.NewClient[meshpb.UnaryRequest, meshpb.UnaryResponse](c.http, c.base+procedure, c.opts...)
	text, err := callConnect(ctx, cl, shape, msgs)
	return text, connectFailure(err)
}

func (c *Client) callGRPC(ctx context.Context, shape Shape, procedure string, msgs []*meshpb.UnaryRequest) (string, error) {
	var resp meshpb.UnaryResponse
	if shape == Unary {
		err := c.grpc.Invoke(ctx, procedure, msgs[0], &resp)
		return resp.GetText(), err
	}
	desc := &grpc.StreamDesc{ClientStreams: shape != ServerStream, ServerStreams: shape != ClientStream}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := c.grpc.NewStream(ctx, desc, procedure)
	if err != nil {
		return "", err
	}
	if shape == ServerStream {
		msgs = msgs[:1]
	}
	for _, m := range msgs {
		if err := s.SendMsg(m); err != nil { // io.EOF: the status is read below
			break
		}
	}
	if err := s.CloseSend(); err != nil {
		return "", err
	}
	for {
		if err := s.RecvMsg(&resp); err != nil {
			if errors.Is(err, io.EOF) {
				return resp.GetText(), nil
			}
			return "", err
		}
	}
}

func callConnect(ctx context.Context, cl *connect.Client[meshpb.UnaryRequest, meshpb.UnaryResponse], shape Shape, msgs []*meshpb.UnaryRequest) (string, error) {
	switch shape {
	case Unary:
		resp, err := cl.CallUnary(ctx, connect.NewRequest(msgs[0]))
		if err != nil {
			return "", err
		}
		return resp.Msg.GetText(), nil
	case ServerStream:
		s, err := cl.CallServerStream(ctx, connect.NewRequest(msgs[0]))
		if err != nil {
			return "", err
		}
		defer func() { _ = s.Close() }()
		text := ""
		for s.Receive() {
			text = s.Msg().GetText()
		}
		return text, s.Err()
	case ClientStream:
		s := cl.CallClientStream(ctx)
		for _, m := range msgs {
			if s.Send(m) != nil {
				break
			}
		}
		resp, err := s.CloseAndReceive()
		if err != nil {
			return "", err
		}
		return resp.Msg.GetText(), nil
	case Bidi:
	}
	s := cl.CallBidiStream(ctx)
	defer func() { _ = s.CloseResponse() }()
	for _, m := range msgs {
		if s.Send(m) != nil {
			break
		}
	}
	_ = s.CloseRequest()
	text := ""
	for {
		resp, err := s.Receive()
		if errors.Is(err, io.EOF) {
			return text, nil
		}
		if err != nil {
			return "", err
		}
		text = resp.GetText()
	}
}

func grpcFailure(err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	f := &Failure{Code: interceptors.Code(s.Code()), Message: s.Message(), Raw: s.Proto().String()}
	for _, d := range s.Details() {
		if m, ok := d.(proto.Message); ok {
			f.add(m)
		}
	}
	return f
}

func connectFailure(err error) error {
	if err == nil {
		return nil
	}
	f := &Failure{Code: interceptors.Code(connect.CodeOf(err)), Message: err.Error(), Raw: err.Error()}
	var ce *connect.Error
	if errors.As(err, &ce) {
		f.Message = ce.Message()
		for _, d := range ce.Details() {
			if m, err := d.Value(); err == nil {
				f.add(m)
			}
		}
	}
	return f
}

func (f *Failure) add(m proto.Message) {
	f.Raw += " " + prototext(m)
	info, ok := m.(*errdetails.ErrorInfo)
	if !ok {
		return
	}
	f.Infos++
	if info.GetDomain() == interceptors.Domain {
		f.Reason, f.Decision = info.GetReason(), info.GetMetadata()["decision_id"]
	}
}

func prototext(m proto.Message) string {
	raw, err := proto.Marshal(m)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
