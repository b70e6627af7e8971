package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"

	rpcv1connect "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1/safeconductrpcv1connect"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforceconnect"
)

// edgeStreams bounds what one connection can make the edge hold before a message is complete.
const edgeStreams = 64

// edgeServer serves Connect and gRPC-Web on a listener of its own.
type edgeServer struct {
	http *http.Server
	addr string
	done chan struct{}
}

// startEdge serves ExchangeService to Connect clients when Config.Edge is set; every unary method is reached through it.
func (a *Agent) startEdge(ctx context.Context) error {
	if a.cfg.Edge == "" {
		return nil
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", a.cfg.Edge)
	if err != nil {
		return fmt.Errorf("runtime: edge: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(rpcv1connect.NewExchangeServiceHandler(&edgeExchange{a.exchange},
		connect.WithInterceptors(enforceconnect.New(a.enforcer)),
		connect.WithReadMaxBytes(interceptors.MaxEnvelope)))
	aged := agedConns{age: a.connAge, next: enforceconnect.Middleware(a.enforcer, mux)}
	tls := identity.ServerTLS(a.src)
	tls.NextProtos = []string{"h2", "http/1.1"}
	e := &edgeServer{addr: l.Addr().String(), done: make(chan struct{}), http: &http.Server{
		Handler: aged, TLSConfig: tls, ConnContext: aged.connContext,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: drainTimeout, // unary calls only
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: edgeStreams}, MaxHeaderBytes: 8 << 10, IdleTimeout: 2 * time.Minute,
	}}
	go func() {
		defer close(e.done)
		if err := e.http.ServeTLS(identity.ShownListener{Listener: l}, "", ""); !errors.Is(err, http.ErrServerClosed) {
			a.cfg.Logger.ErrorContext(ctx, "edge listener ended", slog.String("error", err.Error()))
		}
	}()
	a.mu.Lock()
	a.edge = e
	a.mu.Unlock()
	return nil
}

// agedConns ends connections that are older than age with the request that they serve, as the listener for agents does: a client
// then comes with the SVID that it has now.
type agedConns struct {
	age  time.Duration
	next http.Handler
}

type openedKey struct{}

func (h agedConns) connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(enforceconnect.ConnContext(ctx, c), openedKey{}, time.Now())
}

// ServeHTTP implements http.Handler.
func (h agedConns) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if opened, ok := r.Context().Value(openedKey{}).(time.Time); ok && time.Since(opened) > h.age {
		w.Header().Set("Connection", "close") // in HTTP/2 a GOAWAY
	}
	h.next.ServeHTTP(w, r)
}

func (a *Agent) stopEdge() {
	a.mu.Lock()
	e := a.edge
	a.edge = nil
	a.mu.Unlock()
	if e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if e.http.Shutdown(ctx) != nil {
		_ = e.http.Close()
	}
	<-e.done
}

// EdgeAddr returns where Connect clients are served, empty when they are not.
func (a *Agent) EdgeAddr() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.edge == nil {
		return ""
	}
	return a.edge.addr
}

// edgeExchange is exchange with the stream type of connect.
type edgeExchange struct{ *exchange }

// Exchange implements ExchangeServiceHandler.
func (x *edgeExchange) Exchange(ctx context.Context, _ *connect.BidiStream[v1.Envelope, v1.Envelope]) error {
	return x.refuseExchange(ctx)
}
