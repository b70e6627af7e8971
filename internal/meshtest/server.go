package meshtest

import (
	"errors"
	"net"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforceconnect"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb/meshpbconnect"
)

// ServeGRPC serves MeshService behind end on loopback until the test ends, and returns the address. more registers further
// services.
func (w *World) ServeGRPC(tb testing.TB, end *Endpoint, more ...func(*grpc.Server)) string {
	tb.Helper()
	l := listen(tb)
	s := grpc.NewServer(enforcegrpc.ServerOptions(end.Enforcer, identity.ServerTLS(w.Identity(end.Self())))...)
	meshpb.RegisterMeshServiceServer(s, GRPCService{Ran: &end.Handled})
	for _, f := range more {
		f(s)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	tb.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			tb.Errorf("grpc server: %v", err)
		}
	})
	return l.Addr().String()
}

// ConnectParts leaves parts of the connect server out, to show what they are for.
type ConnectParts struct{ NoMiddleware, NoConnContext bool }

// ServeConnect serves MeshService behind end on loopback until the test ends, and returns the address.
func (w *World) ServeConnect(tb testing.TB, end *Endpoint, without ConnectParts) string {
	tb.Helper()
	l := listen(tb)
	mux := http.NewServeMux()
	mux.Handle(meshpbconnect.NewMeshServiceHandler(ConnectService{Ran: &end.Handled},
		connect.WithInterceptors(enforceconnect.New(end.Enforcer)), connect.WithReadMaxBytes(interceptors.MaxEnvelope)))
	s := &http.Server{
		Handler: enforceconnect.Middleware(end.Enforcer, mux), TLSConfig: identity.ServerTLS(w.Identity(end.Self())),
		ConnContext: enforceconnect.ConnContext, ReadHeaderTimeout: 5 * time.Second,
	}
	if without.NoMiddleware {
		s.Handler = mux
	}
	if without.NoConnContext {
		s.ConnContext = nil
	}
	done := make(chan error, 1)
	go func() { done <- s.ServeTLS(l, "", "") }()
	tb.Cleanup(func() {
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			tb.Errorf("connect server: %v", err)
		}
	})
	return l.Addr().String()
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listening on loopback: %v", err)
	}
	return l
}
