package runtime_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
)

func down(t *testing.T, stream grpc.ServerStreamingClient[meshpb.ServerStreamResponse], err error) (string, error) {
	t.Helper()
	text := ""
	for err == nil {
		var resp *meshpb.ServerStreamResponse
		if resp, err = stream.Recv(); err == nil {
			text += resp.GetText()
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return text, err
}

func TestStreamsOfEveryShape(t *testing.T) {
	s := newScene(t)
	t.Run("server", func(t *testing.T) {
		stream, err := s.client.ServerStream(s.grant(), &meshpb.ServerStreamRequest{Resource: mesh()})
		if text, err := down(t, stream, err); err != nil || text != "abc" {
			t.Errorf("received %q, %v", text, err)
		}
	})
	t.Run("client", func(t *testing.T) {
		stream, err := s.client.ClientStream(s.grant())
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"x", "y", "z"} {
			if err := stream.Send(&meshpb.ClientStreamRequest{Resource: mesh(), Behave: word}); err != nil {
				t.Fatal(err)
			}
		}
		if resp, err := stream.CloseAndRecv(); err != nil || resp.GetText() != "xyz" {
			t.Errorf("received %q, %v", resp.GetText(), err)
		}
	})
	t.Run("bidi", func(t *testing.T) {
		stream, err := s.client.Bidi(s.grant())
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"x", "y", "z"} {
			if err := stream.Send(&meshpb.BidiRequest{Resource: mesh(), Behave: word}); err != nil {
				t.Fatal(err)
			}
			if resp, err := stream.Recv(); err != nil || resp.GetText() != word {
				t.Fatalf("received %q, %v, want %q", resp.GetText(), err, word)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v, want EOF", err)
		}
	})
	s.wantPairs(s.relay, s.writer)
}

func TestStreamCarriesMetadataAndReferences(t *testing.T) {
	s := newScene(t)
	s.node.down = func(_ *meshpb.ServerStreamRequest, stream grpc.ServerStreamingServer[meshpb.ServerStreamResponse]) error {
		md, _ := metadata.FromIncomingContext(stream.Context())
		if len(runtime.Refs(stream.Context())) != 1 || runtime.Principal(stream.Context()).GetSubject() != alice {
			return status.Error(codes.FailedPrecondition, "no reference or principal")
		}
		stream.SetTrailer(metadata.Pairs("x-tail", "t"))
		return stream.SendHeader(metadata.Pairs("x-head", strings.Join(md.Get("x-request"), ",")))
	}
	var header, trailer metadata.MD
	stream, err := s.client.ServerStream(metadata.AppendToOutgoingContext(s.ctx, "x-request", "r"), &meshpb.ServerStreamRequest{Resource: mesh()},
		runtime.Share(&v1.ContextRef{Size: 1}), grpc.Header(&header), grpc.Trailer(&trailer))
	if _, err := down(t, stream, err); err != nil {
		t.Fatal(err)
	}
	if len(header.Get("x-head")) != 1 || header.Get("x-head")[0] != "r" || len(trailer.Get("x-tail")) != 1 {
		t.Errorf("header %v, trailer %v", header, trailer)
	}
}

func TestStreamRefusals(t *testing.T) {
	s := newScene(t)
	t.Run("policy", func(t *testing.T) {
		stream, err := s.client.ServerStream(s.grant(), &meshpb.ServerStreamRequest{Resource: []string{"elsewhere"}})
		_, err = down(t, stream, err)
		r := refusalOf(t, err)
		if r.Reason != v1.Reason_REASON_SCOPE || len(s.decision(s.writer, r.DecisionID)) != 2 {
			t.Errorf("refusal %v, records %v", r, s.decision(s.writer, r.DecisionID))
		}
	})
	t.Run("a later message", func(t *testing.T) {
		stream, err := s.client.Bidi(s.grant())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&meshpb.BidiRequest{Resource: mesh()}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&meshpb.BidiRequest{Resource: []string{"elsewhere"}}); err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		wantReason(t, err, v1.Reason_REASON_SCOPE)
	})
	t.Run("author's status", func(t *testing.T) {
		s.node.bidi = func(grpc.BidiStreamingServer[meshpb.BidiRequest, meshpb.BidiResponse]) error {
			return status.Error(codes.OutOfRange, "no more")
		}
		stream, err := s.client.Bidi(s.grant())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&meshpb.BidiRequest{Resource: mesh()}); err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		if st := status.Convert(err); st.Code() != codes.OutOfRange || st.Message() != "no more" {
			t.Errorf("error %v", err)
		}
	})
	s.wantPairs(s.relay, s.writer)
}

func TestStreamEndsWithItsContext(t *testing.T) {
	s := newScene(t)
	ended := make(chan error, 1)
	s.node.down = func(_ *meshpb.ServerStreamRequest, stream grpc.ServerStreamingServer[meshpb.ServerStreamResponse]) error {
		if err := stream.Send(&meshpb.ServerStreamResponse{}); err != nil {
			return err
		}
		<-stream.Context().Done()
		ended <- stream.Context().Err()
		return stream.Context().Err()
	}
	ctx, cancel := context.WithCancel(s.grant())
	stream, err := s.client.ServerStream(ctx, &meshpb.ServerStreamRequest{Resource: mesh()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := receive(t, "the handler's end", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("the handler's context ended with %v", err)
	}
	eventually(t, "both records on each side", func() bool {
		return len(s.calls(s.relay, meshpb.MeshService_ServerStream_FullMethodName, v1.EventDirection_EVENT_DIRECTION_OUTBOUND)) == 1 &&
			pairsDone(s, s.relay) && pairsDone(s, s.writer)
	})
	s.wantPairs(s.relay, s.writer)
}

// pairsDone reports whether no call in the log of a waits for its outcome.
func pairsDone(s *scene, a *runtime.Agent) bool {
	open := 0
	for _, ev := range s.Records(a) {
		if ev.GetKind() == v1.EventKind_EVENT_KIND_CALL {
			switch ev.GetPhase() {
			case v1.EventPhase_EVENT_PHASE_INTENT:
				open++
			default:
				open--
			}
		}
	}
	return open == 0
}

func TestExchangeIsRefused(t *testing.T) {
	s := newScene(t)
	stream, err := s.exchange(s.relay, s.writer).Exchange(within(t, s.ctx))
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantCode(t, err, codes.Unimplemented)
}

func TestUnaryFacadeDoesNotCarryStreams(t *testing.T) {
	s := newScene(t)
	env := s.envelope(s.ctx)
	env.Method, env.PayloadType = meshpb.MeshService_ServerStream_FullMethodName, "mesh.v1.ServerStreamRequest"
	_, err := s.exchange(s.relay, s.writer).Deliver(within(t, s.ctx), env)
	wantCode(t, err, codes.Unimplemented)
}
