package meshtest

import (
	"context"
	"errors"
	"io"

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

// behave is the one handler of all methods; authorErr is the transport's own error.
func behave(ctx context.Context, word string, authorErr error) (string, error) {
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
}

func grpcErr() error { return status.Error(codes.NotFound, AuthorText) }

// Unary implements MeshServiceServer.
func (GRPCService) Unary(ctx context.Context, req *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
	text, err := behave(ctx, req.GetBehave(), grpcErr())
	return &meshpb.UnaryResponse{Text: text}, err
}

// Foreign implements MeshServiceServer.
func (GRPCService) Foreign(context.Context, *meshpb.ForeignRequest) (*meshpb.ForeignResponse, error) {
	return &meshpb.ForeignResponse{Text: "done"}, nil
}

// Open implements MeshServiceServer.
func (GRPCService) Open(context.Context, *meshpb.OpenRequest) (*meshpb.OpenResponse, error) {
	return &meshpb.OpenResponse{}, nil
}

// ServerStream implements MeshServiceServer.
func (GRPCService) ServerStream(req *meshpb.ServerStreamRequest, s grpc.ServerStreamingServer[meshpb.ServerStreamResponse]) error {
	text, err := behave(s.Context(), req.GetBehave(), grpcErr())
	if err != nil {
		return err
	}
	return s.Send(&meshpb.ServerStreamResponse{Text: text})
}

// ClientStream implements MeshServiceServer.
func (GRPCService) ClientStream(s grpc.ClientStreamingServer[meshpb.ClientStreamRequest, meshpb.ClientStreamResponse]) error {
	text := ""
	for {
		req, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&meshpb.ClientStreamResponse{Text: text})
		}
		if err != nil {
			return err
		}
		if text, err = behave(s.Context(), req.GetBehave(), grpcErr()); err != nil {
			return err
		}
	}
}

// Bidi implements MeshServiceServer.
func (GRPCService) Bidi(s grpc.BidiStreamingServer[meshpb.BidiRequest, meshpb.BidiResponse]) error {
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
		text, err := behave(s.Context(), req.GetBehave(), grpcErr())
		if err != nil {
			return err
		}
		if err := s.Send(&meshpb.BidiResponse{Text: text}); err != nil {
			return err
		}
	}
}

// ConnectService is MeshService for connect-go.
type ConnectService struct{}

var _ meshpbconnect.MeshServiceHandler = ConnectService{}

func connectErr() error { return connect.NewError(connect.CodeNotFound, errors.New(AuthorText)) }

// Unary implements MeshServiceHandler.
func (ConnectService) Unary(ctx context.Context, req *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
	text, err := behave(ctx, req.GetBehave(), connectErr())
	return &meshpb.UnaryResponse{Text: text}, err
}

// Foreign implements MeshServiceHandler.
func (ConnectService) Foreign(context.Context, *meshpb.ForeignRequest) (*meshpb.ForeignResponse, error) {
	return &meshpb.ForeignResponse{Text: "done"}, nil
}

// Open implements MeshServiceHandler.
func (ConnectService) Open(context.Context, *meshpb.OpenRequest) (*meshpb.OpenResponse, error) {
	return &meshpb.OpenResponse{}, nil
}

// ServerStream implements MeshServiceHandler.
func (ConnectService) ServerStream(ctx context.Context, req *meshpb.ServerStreamRequest, s *connect.ServerStream[meshpb.ServerStreamResponse]) error {
	text, err := behave(ctx, req.GetBehave(), connectErr())
	if err != nil {
		return err
	}
	return s.Send(&meshpb.ServerStreamResponse{Text: text})
}

// ClientStream implements MeshServiceHandler.
func (ConnectService) ClientStream(ctx context.Context, s *connect.ClientStream[meshpb.ClientStreamRequest]) (*meshpb.ClientStreamResponse, error) {
	text := ""
	for s.Receive() {
		var err error
		if text, err = behave(ctx, s.Msg().GetBehave(), connectErr()); err != nil {
			return nil, err
		}
	}
	return &meshpb.ClientStreamResponse{Text: text}, s.Err()
}

// Bidi implements MeshServiceHandler.
func (ConnectService) Bidi(ctx context.Context, s *connect.BidiStream[meshpb.BidiRequest, meshpb.BidiResponse]) error {
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
		text, err := behave(ctx, req.GetBehave(), connectErr())
		if err != nil {
			return err
		}
		if err := s.Send(&meshpb.BidiResponse{Text: text}); err != nil {
			return err
		}
	}
}
