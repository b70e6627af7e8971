package meshtest

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb/meshpbconnect"
)

// Words that a request of MeshService may carry in its field behave; anything else succeeds with the reply "done".
const (
	BehaveStatus = "status" // the author's own NOT_FOUND with AuthorText
	BehaveBare   = "bare"   // an error whose text is Canary
	BehavePanic  = "panic"  // a panic whose value is Canary
	BehaveStall  = "stall"  // wait for the end of the context, or for the next message on a stream
)

// Canary must never reach a peer; AuthorText must.
const (
	Canary     = "canary-0815-pq: password authentication failed"
	AuthorText = "no such note"
)

// behave is the one handler of all methods; ran counts how often a handler is reached, authorErr is the transport's own error.
func behave(ctx context.Context, ran *atomic.Int64, word string, authorErr error) (string, error) {
	ran.Add(1)
	switch word {
	case BehaveStatus:
		return "", authorErr
	case BehaveBare:
		return "", errors.New(Canary)
	case BehavePanic:
		panic(Canary) //nolint:forbidigo // what the tests look for.
	case BehaveStall:
		<-ctx.Done()
		return "", ctx.Err()
	}
	return "done", nil
}

// GRPCService is MeshService for grpc-go.
type GRPCService struct {
	meshpb.UnimplementedMeshServiceServer
	Ran *atomic.Int64 // how often a handler was reached
}

func grpcErr() error { return status.Error(codes.NotFound, AuthorText) }

// Unary implements MeshServiceServer.
func (g GRPCService) Unary(ctx context.Context, req *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
	text, err := behave(ctx, g.Ran, req.GetBehave(), grpcErr())
	return &meshpb.UnaryResponse{Text: text}, err
}

// Foreign implements MeshServiceServer.
func (g GRPCService) Foreign(context.Context, *meshpb.ForeignRequest) (*meshpb.ForeignResponse, error) {
	g.Ran.Add(1)
	return &meshpb.ForeignResponse{Text: "done"}, nil
}

// Open implements MeshServiceServer.
func (GRPCService) Open(context.Context, *meshpb.OpenRequest) (*meshpb.OpenResponse, error) {
	return &meshpb.OpenResponse{}, nil
}

// ServerStream implements MeshServiceServer.
func (g GRPCService) ServerStream(req *meshpb.ServerStreamRequest, s grpc.ServerStreamingServer[meshpb.ServerStreamResponse]) error {
	g.Ran.Add(1)
	text, err := behave(s.Context(), g.Ran, req.GetBehave(), grpcErr())
	if err != nil {
		return err
	}
	return s.Send(&meshpb.ServerStreamResponse{Text: text})
}

// ClientStream implements MeshServiceServer.
func (g GRPCService) ClientStream(s grpc.ClientStreamingServer[meshpb.ClientStreamRequest, meshpb.ClientStreamResponse]) error {
	g.Ran.Add(1)
	text := ""
	for {
		req, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&meshpb.ClientStreamResponse{Text: text})
		}
		if err != nil {
			return err
		}
		if text, err = behave(s.Context(), g.Ran, req.GetBehave(), grpcErr()); err != nil {
			return err
		}
	}
}

// Bidi implements MeshServiceServer.
func (g GRPCService) Bidi(s grpc.BidiStreamingServer[meshpb.BidiRequest, meshpb.BidiResponse]) error {
	g.Ran.Add(1)
	for {
		req, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if req.GetBehave() == BehaveStall {
			continue
		}
		text, err := behave(s.Context(), g.Ran, req.GetBehave(), grpcErr())
		if err != nil {
			return err
		}
		if err := s.Send(&meshpb.BidiResponse{Text: text}); err != nil {
			return err
		}
	}
}

// ConnectService is MeshService for connect-go.
type ConnectService struct {
	Ran *atomic.Int64 // how often a handler was reached
}

var _ meshpbconnect.MeshServiceHandler = ConnectService{}

func connectErr() error { return connect.NewError(connect.CodeNotFound, errors.New(AuthorText)) }

// Unary implements MeshServiceHandler.
func (g ConnectService) Unary(ctx context.Context, req *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
	text, err := behave(ctx, g.Ran, req.GetBehave(), connectErr())
	return &meshpb.UnaryResponse{Text: text}, err
}

// Foreign implements MeshServiceHandler.
func (g ConnectService) Foreign(context.Context, *meshpb.ForeignRequest) (*meshpb.ForeignResponse, error) {
	g.Ran.Add(1)
	return &meshpb.ForeignResponse{Text: "done"}, nil
}

// Open implements MeshServiceHandler.
func (ConnectService) Open(context.Context, *meshpb.OpenRequest) (*meshpb.OpenResponse, error) {
	return &meshpb.OpenResponse{}, nil
}

// ServerStream implements MeshServiceHandler.
func (g ConnectService) ServerStream(ctx context.Context, req *meshpb.ServerStreamRequest, s *connect.ServerStream[meshpb.ServerStreamResponse]) error {
	g.Ran.Add(1)
	text, err := behave(ctx, g.Ran, req.GetBehave(), connectErr())
	if err != nil {
		return err
	}
	return s.Send(&meshpb.ServerStreamResponse{Text: text})
}

// ClientStream implements MeshServiceHandler.
func (g ConnectService) ClientStream(ctx context.Context, s *connect.ClientStream[meshpb.ClientStreamRequest]) (*meshpb.ClientStreamResponse, error) {
	g.Ran.Add(1)
	text := ""
	for s.Receive() {
		var err error
		if text, err = behave(ctx, g.Ran, s.Msg().GetBehave(), connectErr()); err != nil {
			return nil, err
		}
	}
	return &meshpb.ClientStreamResponse{Text: text}, s.Err()
}

// Bidi implements MeshServiceHandler.
func (g ConnectService) Bidi(ctx context.Context, s *connect.BidiStream[meshpb.BidiRequest, meshpb.BidiResponse]) error {
	g.Ran.Add(1)
	for {
		req, err := s.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if req.GetBehave() == BehaveStall {
			continue
		}
		text, err := behave(ctx, g.Ran, req.GetBehave(), connectErr())
		if err != nil {
			return err
		}
		if err := s.Send(&meshpb.BidiResponse{Text: text}); err != nil {
			return err
		}
	}
}
