package enforcegrpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
)

// refusedLife is how long a peer that is verified and not admitted stays connected.
const refusedLife = 5 * time.Second

// AuthInfo is the state of one authenticated connection.
type AuthInfo struct {
	credentials.TLSInfo
	session *interceptors.Session
	refused error
	who     string // the SPIFFE ID of a verified peer
	unseen  *interceptors.Unseen
}

// Credentials are server credentials that resolve the peer of each connection into a session of e. A connection whose certificate
// does not verify is closed and recorded; a verified peer that is not admitted is told so, with a reason, on each call.
func Credentials(cfg *tls.Config, e *interceptors.Enforcer) credentials.TransportCredentials {
	return &serverCredentials{TransportCredentials: credentials.NewTLS(cfg), e: e}
}

type serverCredentials struct {
	credentials.TransportCredentials
	e *interceptors.Enforcer
}

// ServerHandshake implements credentials.TransportCredentials.
func (c *serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	shown := identity.Shown(raw)
	conn, info, err := c.TransportCredentials.ServerHandshake(shown)
	if err != nil {
		return nil, nil, c.e.RefuseTransport("", interceptors.Refuse(v1.Reason_REASON_PEER_NOT_SVID, fmt.Errorf("%s: %w", raw.RemoteAddr(), err)))
	}
	var out AuthInfo
	out.TLSInfo, _ = info.(credentials.TLSInfo) // the zero value has no peer and is refused below
	out.unseen = c.e.Unseen("")
	p, err := identity.PeerFromTLS(out.State)
	if err != nil {
		out.refused = c.e.RefuseTransport("", interceptors.Refuse(v1.Reason_REASON_PEER_NOT_SVID, err))
		return conn, out, nil
	}
	out.who = p.ID.String()
	out.unseen = c.e.Unseen(out.who)
	out.session, out.refused = c.e.Accept(p)
	conn = out.session.Track(conn)
	if out.refused != nil {
		out.session = nil
		time.AfterFunc(refusedLife, func() { _ = conn.Close() }) // long enough to be told why
		return conn, out, nil
	}
	if k, err := delegation.NewSigner(shown.SVID()); err == nil { // without one, methods that owe a receipt are not answered
		out.session.SetSigner(k)
	}
	return conn, out, nil
}

// Clone implements credentials.TransportCredentials.
func (c *serverCredentials) Clone() credentials.TransportCredentials {
	return &serverCredentials{TransportCredentials: c.TransportCredentials.Clone(), e: c.e}
}

// SessionFrom returns the session of the connection that a call came on, nil when the peer was not admitted, and why not.
func SessionFrom(ctx context.Context) (*interceptors.Session, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, nil
	}
	info, ok := p.AuthInfo.(AuthInfo)
	if !ok {
		return nil, nil
	}
	return info.session, info.refused
}
