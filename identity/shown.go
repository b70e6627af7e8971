package identity

import (
	"net"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// ShownConn is an accepted connection that remembers which SVID ServerTLS showed on it. The SVID of a process is replaced while its
// connections live: what a peer is to verify against the certificate it has seen must be signed with that one. It is safe for
// concurrent use.
type ShownConn struct {
	net.Conn
	svid atomic.Pointer[x509svid.SVID]
}

// Shown wraps a connection before its handshake.
func Shown(c net.Conn) *ShownConn { return &ShownConn{Conn: c} }

// SVID returns the SVID that was shown, nil before the handshake has come that far.
func (c *ShownConn) SVID() *x509svid.SVID { return c.svid.Load() }

// ShownListener wraps every connection that it accepts.
type ShownListener struct{ net.Listener }

// Accept implements net.Listener.
func (l ShownListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return Shown(c), nil
}

// note remembers on a wrapped connection what is shown on it.
func note(c net.Conn, svid *x509svid.SVID) {
	if shown, ok := c.(*ShownConn); ok {
		shown.svid.Store(svid)
	}
}
