package runtime_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	hellov1 "github.com/safeconduct/safeconduct/examples/hello/gen/hello/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

func TestGeneratedStubCarriesMetadataBothWays(t *testing.T) {
	s := newScene(t)
	s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		in, _ := metadata.FromIncomingContext(ctx)
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-head", "h"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-tail", "t"))
		method, _ := grpc.Method(ctx)
		return &meshpb.UnaryResponse{Text: strings.Join(in.Get("x-request"), ",") + " " + method}, nil
	}
	var header, trailer metadata.MD
	ctx := metadata.AppendToOutgoingContext(s.ctx, "x-request", "r1", "x-request", "r2")
	got, err := s.call(ctx, grpc.Header(&header), grpc.Trailer(&trailer))
	if want := "r1,r2 " + meshpb.MeshService_Unary_FullMethodName; err != nil || got != want {
		t.Errorf("Unary() = %q, %v, want %q", got, err, want)
	}
	// A carried reply has one place for both.
	for name, md := range map[string]metadata.MD{"header": header, "trailer": trailer} {
		if md.Get("x-head")[0] != "h" || md.Get("x-tail")[0] != "t" {
			t.Errorf("%s = %v, want x-head and x-tail", name, md)
		}
	}
}

func TestHandlerSeesWhoActsAndForWhom(t *testing.T) {
	s := newScene(t)
	s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		peer, ok := runtime.Peer(ctx)
		if !ok || runtime.Permit(ctx).IsZero() || runtime.Permit(ctx).Purpose() != "tests of the runtime" {
			return nil, errors.New("no peer or no permit")
		}
		return &meshpb.UnaryResponse{Text: runtime.Principal(ctx).GetSubject() + " through " + peer.Name()}, nil
	}
	if got, err := s.call(s.ctx); err != nil || got != alice+" through relay" {
		t.Errorf("Unary() = %q, %v", got, err)
	}
}

func TestDeadlineEndsTheHandler(t *testing.T) {
	s := newScene(t)
	var started atomic.Int32
	ended := make(chan error, 10)
	s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		started.Add(1)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}
	for wait := 50 * time.Millisecond; started.Load() == 0 && wait < patience; wait *= 2 { // until it is long enough to reach the handler
		ctx, cancel := context.WithTimeout(s.ctx, wait)
		defer cancel()
		_, err := s.call(ctx)
		wantCode(t, err, codes.DeadlineExceeded)
		_, err = s.call(ctx)
		wantCode(t, err, codes.DeadlineExceeded)
	}
	if err := receive(t, "the handler's end", ended); err == nil {
		t.Error("handler's context ended without an error")
	}
}

func TestHandlerEndsWithItsChain(t *testing.T) {
	s := newScene(t)
	s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		end, ok := ctx.Deadline()
		if !ok || time.Until(end) > 20*time.Second {
			return nil, errors.New("the handler may outlive its chain")
		}
		return &meshpb.UnaryResponse{}, nil
	}
	ctx, cancel := context.WithTimeout(s.grant(agenttest.Life(20*time.Second)), time.Hour)
	defer cancel()
	s.mustCall(ctx)
}

func TestCancelReachesTheHandler(t *testing.T) {
	s := newScene(t)
	started, ended := make(chan struct{}), make(chan error, 1)
	s.node.unary = func(ctx context.Context, _ *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		close(started)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(s.ctx)
	go func() { <-started; cancel() }()
	_, err := s.call(ctx)
	wantCode(t, err, codes.Canceled)
	if err := receive(t, "the handler's end", ended); !errors.Is(err, context.Canceled) {
		t.Errorf("handler's context ended with %v", err)
	}
}

func TestErrorsOfAuthors(t *testing.T) {
	withDetail, err := status.New(codes.NotFound, "no such note").WithDetails(wrapperspb.String(canary))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"status", status.Error(codes.NotFound, "no such note"), codes.NotFound, "no such note"},
		{"status with details", withDetail.Err(), codes.NotFound, "no such note"},
		{"public error", interceptors.Public(interceptors.CodeAborted, "try again"), codes.Aborted, "try again"},
		{"bare error", errors.New(canary), codes.Internal, "internal error"},
		{"status of no code", status.Error(codes.Unknown, canary), codes.Internal, "internal error"},
		{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded, "the deadline has passed"},
		{"cancelled", context.Canceled, codes.Canceled, "the call was cancelled"},
		{"long status", status.Error(codes.DataLoss, strings.Repeat("x", 4000)), codes.DataLoss, strings.Repeat("x", 256)},
	}
	s := newScene(t)
	var fail error
	s.node.unary = func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) { return nil, fail }
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			fail = tt.err
			_, err := s.call(s.ctx)
			st := status.Convert(err)
			if st.Code() != tt.code || st.Message() != tt.text || len(st.Details()) != 0 || strings.Contains(err.Error(), canary) {
				t.Errorf("error = %s %q, %d details; want %s %q", st.Code(), st.Message(), len(st.Details()), tt.code, tt.text)
			}
			var r *runtime.Refusal
			if errors.As(err, &r) {
				t.Errorf("error %v is a refusal", err)
			}
		})
	}
	for id, evs := range s.calls(s.writer, meshpb.MeshService_Unary_FullMethodName, v1.EventDirection_EVENT_DIRECTION_INBOUND) {
		if code := evs[1].GetOutcome().GetCode(); code == uint32(codes.OK) {
			t.Errorf("call %s: recorded code %d", id, code)
		}
	}
}

// The record names the code that the caller saw, also for a status of the author's.
func TestRecordNamesTheAuthorsCode(t *testing.T) {
	s := newScene(t)
	s.node.unary = func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		return nil, status.Error(codes.NotFound, "no such note")
	}
	_, err := s.call(s.ctx)
	wantCode(t, err, codes.NotFound)
	for _, a := range []struct {
		agent *runtime.Agent
		d     v1.EventDirection
	}{{s.writer, v1.EventDirection_EVENT_DIRECTION_INBOUND}, {s.relay, v1.EventDirection_EVENT_DIRECTION_OUTBOUND}} {
		for _, evs := range s.calls(a.agent, meshpb.MeshService_Unary_FullMethodName, a.d) {
			if code := evs[1].GetOutcome().GetCode(); code != uint32(codes.NotFound) {
				t.Errorf("%s recorded code %d, want %d", a.agent.ID(), code, codes.NotFound)
			}
		}
	}
}

func TestRefusalNamesReasonAndDecision(t *testing.T) {
	s := newScene(t)
	s.Revoke("mesh.call")
	_, err := s.call(s.ctx)
	r := refusalOf(t, err)
	if r.Reason != v1.Reason_REASON_POLICY || status.Code(err) != codes.PermissionDenied {
		t.Errorf("refusal %v with code %s", r, status.Code(err))
	}
	evs := s.decision(s.writer, r.DecisionID)
	if len(evs) != 2 || evs[1].GetReason() != v1.Reason_REASON_POLICY_NO_ROW || evs[1].GetWireReason() != v1.Reason_REASON_POLICY ||
		evs[1].GetDecision() != v1.EventDecision_EVENT_DECISION_DENY {
		t.Errorf("records of decision %x at the callee: %v", r.DecisionID, evs)
	}
	own := s.decision(s.relay, r.DecisionID)
	if len(own) != 1 || own[0].GetWireReason() != v1.Reason_REASON_POLICY {
		t.Errorf("the caller's record of the same decision: %v", own)
	}
}

func TestCallWithoutAuthorityNamesTheRemedy(t *testing.T) {
	s := newScene(t)
	_, err := s.call(t.Context())
	if !errors.Is(err, runtime.ErrNoAuthority) || status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "Agent.Act") {
		t.Errorf("error = %v, want %v", err, runtime.ErrNoAuthority)
	}
	stream, err := s.client.ServerStream(t.Context(), &meshpb.ServerStreamRequest{Resource: mesh()})
	if !errors.Is(err, runtime.ErrNoAuthority) {
		t.Errorf("stream = %v, %v, want %v", stream, err, runtime.ErrNoAuthority)
	}
	if _, err := s.client.Open(t.Context(), &meshpb.OpenRequest{}); err != nil {
		t.Errorf("open method without authority: %v", err)
	}
}

func TestGrantForAnotherPurposeOrAgentIsRefused(t *testing.T) {
	s := newScene(t)
	grant, purpose := s.Grant(alice, s.relay)
	_, err := s.relay.Act(t.Context(), grant, purpose+" and more")
	wantReason(t, err, v1.Reason_REASON_SCOPE)
	_, err = s.writer.Act(t.Context(), grant, purpose)
	wantReason(t, err, v1.Reason_REASON_AUDIENCE_MISMATCH)
}

func TestUnsupportedCallOptionsAreNamed(t *testing.T) {
	s := newScene(t)
	tests := []struct {
		name string
		opt  grpc.CallOption
	}{
		{"CompressorCallOption", grpc.UseCompressor(gzip.Name)},
		{"ContentSubtypeCallOption", grpc.CallContentSubtype("json")},
		{"PerRPCCredsCallOption", grpc.PerRPCCredentials(nil)},
		{"AuthorityOverrideCallOption", grpc.CallAuthority("elsewhere")},
		{"MaxRetryRPCBufferSizeCallOption", grpc.MaxRetryRPCBufferSize(1)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.call(s.ctx, tt.opt)
			if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), tt.name) {
				t.Errorf("error = %v, want UNIMPLEMENTED naming %s", err, tt.name)
			}
		})
	}
	var refs []*v1.ContextRef
	_, err := s.client.ServerStream(s.ctx, &meshpb.ServerStreamRequest{Resource: mesh()}, runtime.Opaque(&refs))
	if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "Opaque") {
		t.Errorf("Opaque on a stream: %v, want UNIMPLEMENTED", err)
	}
	if got, err := s.call(s.ctx, grpc.WaitForReady(true), grpc.StaticMethod(), grpc.MaxCallRecvMsgSize(1<<20)); err != nil || got != "done" {
		t.Errorf("supported options: %q, %v", got, err)
	}
}

func TestWhatDoesNotFitFailsBeforeItIsSent(t *testing.T) {
	s := newScene(t)
	many := metadata.MD{}
	for i := range 17 {
		many.Append("x-"+string(rune('a'+i)), "v")
	}
	tests := []struct {
		name string
		call func() error
		code codes.Code
	}{
		{"payload", func() error {
			_, err := s.client.Foreign(s.ctx, &meshpb.ForeignRequest{Text: strings.Repeat("x", interceptors.MaxPayload+1)})
			return err
		}, codes.ResourceExhausted},
		{"metadata pairs", func() error { _, err := s.call(metadata.NewOutgoingContext(s.ctx, many)); return err }, codes.InvalidArgument},
		{"metadata value", func() error {
			_, err := s.call(metadata.AppendToOutgoingContext(s.ctx, "x", strings.Repeat("v", 201)))
			return err
		}, codes.InvalidArgument},
		{"a reserved key", func() error {
			_, err := s.call(metadata.AppendToOutgoingContext(s.ctx, "safeconduct-envelope-bin", "x"))
			return err
		}, codes.InvalidArgument},
		{"references", func() error { _, err := s.call(s.ctx, runtime.Share(make([]*v1.ContextRef, 33)...)); return err }, codes.InvalidArgument},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { wantCode(t, tt.call(), tt.code) })
	}
	if got := s.calls(s.writer, "", v1.EventDirection_EVENT_DIRECTION_INBOUND); len(got) != 0 {
		t.Errorf("the callee saw %d calls", len(got))
	}
}

func TestOversizeReplyIsRefusedByName(t *testing.T) {
	s := newScene(t)
	s.node.foreign = func(context.Context, *meshpb.ForeignRequest) (*meshpb.ForeignResponse, error) {
		return &meshpb.ForeignResponse{Text: strings.Repeat("x", interceptors.MaxPayload+1)}, nil
	}
	_, err := s.client.Foreign(s.ctx, &meshpb.ForeignRequest{})
	wantReason(t, err, v1.Reason_REASON_LIMIT)
}

func TestUnknownMethod(t *testing.T) {
	s := newScene(t)
	// hello.v1 is linked into this binary, and writer does not serve it.
	_, err := hellov1.NewGreeterServiceClient(s.Dial(s.relay, s.writer)).Greet(s.ctx, &hellov1.GreetRequest{})
	wantReason(t, err, v1.Reason_REASON_UNKNOWN_METHOD)
	wantCode(t, err, codes.Unimplemented)
	for _, method := range []string{"", "x", "/nobody.v1.Nothing/Do", "/mesh.v1.MeshService/Nothing", "/mesh.v1.UnaryRequest/Do"} {
		err := s.Dial(s.relay, s.writer).Invoke(s.ctx, method, &meshpb.UnaryRequest{}, &meshpb.UnaryResponse{})
		wantCode(t, err, codes.Unimplemented)
	}
}

func TestFreeFormIntents(t *testing.T) {
	s := prepareScene(t)
	spec := &v1.MethodIntent{Audit: v1.AuditClass_AUDIT_CLASS_BUFFERED}
	runtime.HandleIntent(s.writer, "note.count", spec, func(_ context.Context, req *wrapperspb.StringValue) (*wrapperspb.Int64Value, error) {
		return wrapperspb.Int64(int64(len(req.GetValue()))), nil
	})
	s.start()
	s.Allow(s.relay, s.writer, "note.count")
	conn := s.Dial(s.relay, s.writer)
	ctx := s.grant(agenttest.Can("note.count", "agent", "writer"))
	got, err := runtime.CallIntent[wrapperspb.Int64Value](ctx, conn, "note.count", wrapperspb.String("abc"))
	if err != nil || got.GetValue() != 3 {
		t.Errorf("note.count = %v, %v, want 3", got, err)
	}
	// The same capability and row do not open another intent, and no intent stands in for another type.
	_, err = runtime.CallIntent[wrapperspb.Int64Value](ctx, conn, "note.other", wrapperspb.String("abc"))
	wantReason(t, err, v1.Reason_REASON_UNKNOWN_METHOD)
	_, err = runtime.CallIntent[wrapperspb.Int64Value](s.ctx, conn, "note.count", wrapperspb.String("abc"))
	wantReason(t, err, v1.Reason_REASON_SCOPE)
	_, err = runtime.CallIntent[wrapperspb.Int64Value](ctx, conn, "Not An Action", wrapperspb.String("abc"))
	wantCode(t, err, codes.InvalidArgument)
	if spec.GetAction() != "" {
		t.Error("HandleIntent changed its caller's spec")
	}
}
