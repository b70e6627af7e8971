package enforceconnect

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
)

type (
	connKey struct{}
	edgeKey struct{}
)

// connState is the session of one connection, resolved at its first request.
type connState struct {
	once    sync.Once
	shown   *identity.ShownConn // nil where the listener does not wrap
	session *interceptors.Session
	refused error
}

// edge is what the interceptor knows of the request that it serves.
type edge struct {
	session *interceptors.Session
	refused error
	remote  string
	seen    bool
	mu      sync.Mutex
	rc      *http.ResponseController
}

// ConnContext belongs into http.Server.ConnContext: it gives each connection a session of its own, so that chain references work. For
// signed receipts the listener is to be an identity.ShownListener as well.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	st := new(connState)
	if t, ok := c.(*tls.Conn); ok {
		st.shown, _ = t.NetConn().(*identity.ShownConn)
	}
	return context.WithValue(ctx, connKey{}, st)
}

// Middleware resolves the peer before the body is read, refuses every method but POST, bounds the body, and records the calls
// that no interceptor took over.
func Middleware(e *interceptors.Enforcer, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		st, ok := r.Context().Value(connKey{}).(*connState)
		if !ok {
			st = new(connState)
		}
		st.once.Do(func() { st.session, st.refused = accept(e, r, st.shown) })
		who := ""
		if st.session != nil {
			who = st.session.Peer().ID.String()
		}
		if r.Method != http.MethodPost {
			// A GET puts the message into the URL, and so into the logs of proxies.
			_ = e.RefuseTransport(who, interceptors.Refuse(v1.Reason_REASON_TRANSPORT_REFUSED, errNotPost))
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "only POST", http.StatusMethodNotAllowed)
			return
		}
		ed := &edge{session: st.session, refused: st.refused, remote: r.RemoteAddr, rc: http.NewResponseController(w)}
		r = r.WithContext(context.WithValue(r.Context(), edgeKey{}, ed))
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		defer ed.release()
		handler := next
		if e.Methods().Lookup(r.URL.Path) == nil && !isCarrier(r.URL.Path) {
			handler = unknown(e)
		}
		handler.ServeHTTP(w, r)
		if !ed.seen {
			_ = e.RefuseTransport(who, interceptors.Refuse(v1.Reason_REASON_TRANSPORT_REFUSED, errUnseen))
		}
	})
}

// unknown answers a method that no service has, in the caller's protocol: opened like any call, so that it is limited, refused and
// recorded.
func unknown(e *interceptors.Enforcer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		protocol, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Content-Type"), "application/"), "+")
		_, in, err := (&adapter{e}).open(r.Context(), r.URL.Path, strings.ReplaceAll(protocol, "-", ""), r.Header)
		if err == nil {
			err = interceptors.Refuse(v1.Reason_REASON_UNKNOWN_METHOD, nil)
		}
		in.Close(&err)
		if writer := connect.NewErrorWriter(); writer.IsSupported(r) {
			_ = writer.Write(w, r, Error(err))
			return
		}
		http.NotFound(w, r)
	})
}

// maxBody bounds what a streaming request may send in all; each message is bounded by connect.
const maxBody = 64 << 20

func accept(e *interceptors.Enforcer, r *http.Request, shown *identity.ShownConn) (*interceptors.Session, error) {
	if r.TLS == nil {
		return nil, e.RefuseTransport("", interceptors.Refuse(v1.Reason_REASON_PEER_NO_TLS, nil))
	}
	p, err := identity.PeerFromTLS(*r.TLS)
	if err != nil {
		return nil, e.RefuseTransport("", interceptors.Refuse(v1.Reason_REASON_PEER_NOT_SVID, err))
	}
	s, err := e.Accept(p)
	if err != nil || shown == nil {
		return s, err
	}
	if k, err := delegation.NewSigner(shown.SVID()); err == nil { // without one, methods that owe a receipt are not answered
		s.SetSigner(k)
	}
	return s, nil
}

// SessionFrom returns the session of the connection that a call came on, nil when the peer was not admitted, and why not. It
// counts the call as taken over.
func SessionFrom(ctx context.Context) (*interceptors.Session, error) {
	ed, ok := ctx.Value(edgeKey{}).(*edge)
	if !ok {
		return nil, nil
	}
	ed.seen = true
	return ed.session, ed.refused
}

// interrupt releases a Receive that is blocked on the body, which the end of the context alone does not. It must not touch the
// response after the handler has returned.
func (ed *edge) interrupt() {
	ed.mu.Lock()
	defer ed.mu.Unlock()
	if ed.rc != nil {
		_ = ed.rc.SetReadDeadline(time.Unix(1, 0))
	}
}

func (ed *edge) release() {
	ed.mu.Lock()
	defer ed.mu.Unlock()
	ed.rc = nil
}

func transportOf(protocol string) interceptors.Transport {
	switch {
	case strings.EqualFold(protocol, "grpc"):
		return interceptors.TransportGRPC
	case strings.EqualFold(protocol, "grpcweb"):
		return interceptors.TransportGRPCWeb
	}
	return interceptors.TransportConnect
}
