package operator_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	"github.com/safeconduct/safeconduct/internal/operator"
)

// fake refuses everything with err.
type fake struct {
	rpcv1.UnimplementedOperatorServiceServer
	err error
}

func (f fake) Status(context.Context, *rpcv1.StatusRequest) (*rpcv1.StatusResponse, error) {
	return &rpcv1.StatusResponse{TrustDomain: "dev.example"}, f.err
}

func serve(t *testing.T, f fake) *operator.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "o.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	rpcv1.RegisterOperatorServiceServer(s, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return dial(t, path)
}

func dial(t *testing.T, path string) *operator.Client {
	t.Helper()
	c, err := operator.Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestErrorsSayCodeAndReason(t *testing.T) {
	refused, err := status.New(codes.PermissionDenied, "refused").WithDetails(&errdetails.ErrorInfo{
		Reason: "PEER_UNVERIFIED", Domain: "safeconduct", Metadata: map[string]string{"decision_id": "0a"},
	})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := status.New(codes.NotFound, "no").WithDetails(&errdetails.ErrorInfo{Reason: "X", Domain: "elsewhere"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		input error
		want  operator.Error
	}{
		{"refusal", refused.Err(), operator.Error{Code: "PermissionDenied", Reason: "PEER_UNVERIFIED", Decision: "0a", Message: "refused"}},
		{"foreign detail", foreign.Err(), operator.Error{Code: "NotFound", Message: "no"}},
		{"plain status", status.Error(codes.Internal, "x"), operator.Error{Code: "Internal", Message: "x"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := serve(t, fake{err: tt.input}).Status(t.Context())
			var got *operator.Error
			if !errors.As(err, &got) || *got != tt.want {
				t.Errorf("Status() = %v, want %v", err, tt.want)
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	c := dial(t, filepath.Join(t.TempDir(), "none.sock"))
	if _, err := c.Status(t.Context()); !errors.Is(err, operator.ErrUnreachable) {
		t.Errorf("Status() = %v, want %v", err, operator.ErrUnreachable)
	}
}

func TestLongPath(t *testing.T) {
	if _, err := operator.Dial("/" + strings.Repeat("a", 107)); !errors.Is(err, operator.ErrSocketPath) {
		t.Errorf("Dial(108 bytes) = %v, want %v", err, operator.ErrSocketPath)
	}
}

func TestAnswer(t *testing.T) {
	st, err := serve(t, fake{}).Status(t.Context())
	if err != nil || st.GetTrustDomain() != "dev.example" {
		t.Errorf("Status() = %v, %v", st, err)
	}
}
