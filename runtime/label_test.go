package runtime_test

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

const (
	untrusted = v1.Integrity_INTEGRITY_UNTRUSTED
	attested  = v1.Integrity_INTEGRITY_ATTESTED
)

// reader makes writer read something untrusted before it answers.
func (s *scene) reader() {
	s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		runtime.Taint(ctx, policy.Label{})
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-content", canary))
		return &meshpb.UnaryResponse{Text: canary}, runtime.Attach(ctx, &v1.ContextRef{Store: "spiffe://mesh.test/service/memory", Size: 7})
	}
}

func wantIntegrity(t *testing.T, ctx context.Context, want v1.Integrity) {
	t.Helper()
	if got := runtime.Label(ctx).Integrity; got != want {
		t.Errorf("integrity of the conversation = %s, want %s", got, want)
	}
}

func TestReadReplyTaintsAndTaintedConversationIsRefused(t *testing.T) {
	s := newScene(t)
	s.reader()
	var refs []*v1.ContextRef
	ctx := s.grant()
	wantIntegrity(t, ctx, attested)
	if got, err := s.call(ctx, runtime.ReplyRefs(&refs)); err != nil || got != canary || len(refs) != 1 || refs[0].GetSize() != 7 {
		t.Fatalf("Unary() = %q, %v, references %v", got, err, refs)
	}
	wantIntegrity(t, ctx, untrusted)
	_, err := s.call(ctx)
	wantReason(t, err, v1.Reason_REASON_INTEGRITY_TOO_LOW)
	wantCode(t, err, codes.FailedPrecondition)
	s.mustCall(s.grant()) // another conversation of the same principal is as good as new
}

func TestOpaqueReplyKeepsTheLabel(t *testing.T) {
	s := newScene(t)
	s.reader()
	var refs []*v1.ContextRef
	var header, trailer metadata.MD
	ctx := s.grant()
	got, err := s.call(ctx, runtime.Opaque(&refs), grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil || len(refs) != 1 {
		t.Fatalf("Unary() = %v, references %v", err, refs)
	}
	if got != "" || len(header) != 0 || len(trailer) != 0 {
		t.Errorf("an opaque reply showed %q, %v, %v", got, header, trailer)
	}
	wantIntegrity(t, ctx, attested)
	// relay's words are as good as before; writer itself has read more in this conversation, and says so of its own calls.
	s.mustCall(ctx)
}

func TestSharedReferencesReachTheHandler(t *testing.T) {
	s := newScene(t)
	s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		refs := runtime.Refs(ctx)
		if len(refs) != 1 || refs[0].GetMediaType() != "text/plain" {
			return nil, status.Errorf(codes.InvalidArgument, "%d references", len(refs))
		}
		return &meshpb.UnaryResponse{}, nil
	}
	if _, err := s.call(s.ctx, runtime.Share(&v1.ContextRef{MediaType: "text/plain"})); err != nil {
		t.Error(err)
	}
}

func TestReplyCannotClaimMoreThanItsSenderMay(t *testing.T) {
	s := newScene(t, agenttest.IntegrityCap(attested))
	weak := s.Agent("weak", agenttest.IntegrityCap(untrusted))
	meshpb.RegisterMeshServiceServer(weak, &node{})
	s.Serve(weak)
	s.Allow(s.relay, weak, "mesh.call", "mesh")
	ctx := s.grant()
	if _, err := meshpb.NewMeshServiceClient(s.Dial(s.relay, weak)).Unary(ctx, &meshpb.UnaryRequest{Resource: mesh()}); err != nil {
		t.Fatal(err)
	}
	wantIntegrity(t, ctx, untrusted)
}

// The words of an error are content too: they travel without a label, so they stay behind when what they could repeat is untrusted.
func TestErrorTextCarriesNothingUntrusted(t *testing.T) {
	s := newScene(t)
	s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		runtime.Taint(ctx, policy.Label{})
		return nil, status.Error(codes.NotFound, canary)
	}
	ctx := s.grant()
	_, err := s.call(ctx)
	if st := status.Convert(err); st.Code() != codes.NotFound || st.Message() != "not found" {
		t.Errorf("error %s %q, want NotFound with the fixed text", st.Code(), st.Message())
	}
	wantIntegrity(t, ctx, attested)
}

func TestErrorOfAWeakAgentTaints(t *testing.T) {
	s := newScene(t)
	weak := s.Agent("weak", agenttest.IntegrityCap(untrusted))
	meshpb.RegisterMeshServiceServer(weak, &node{unary: func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		return nil, status.Error(codes.NotFound, canary)
	}})
	s.Serve(weak)
	s.Allow(s.relay, weak, "mesh.call", "mesh")
	ctx := s.grant()
	_, err := meshpb.NewMeshServiceClient(s.Dial(s.relay, weak)).Unary(ctx, &meshpb.UnaryRequest{Resource: mesh()})
	wantCode(t, err, codes.NotFound)
	wantIntegrity(t, ctx, untrusted)
}

func TestStreamTaints(t *testing.T) {
	s := newScene(t)
	ctx := s.grant()
	stream, err := s.client.ServerStream(ctx, &meshpb.ServerStreamRequest{Resource: mesh()})
	if err != nil {
		t.Fatal(err)
	}
	wantIntegrity(t, ctx, attested)
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	wantIntegrity(t, ctx, untrusted)
}

func TestLabelOutsideAConversationIsTheWorst(t *testing.T) {
	if got := runtime.Label(t.Context()); got.Integrity > untrusted {
		t.Errorf("Label() = %s", got)
	}
	runtime.Taint(t.Context(), policy.Label{}) // has nothing to taint
	if err := runtime.Attach(t.Context()); err == nil {
		t.Error("Attach outside of a handler succeeded")
	}
	if refs := runtime.Refs(t.Context()); refs != nil || !runtime.Permit(t.Context()).IsZero() || runtime.Principal(t.Context()) != nil {
		t.Error("a context without a call knows something of one")
	}
}
