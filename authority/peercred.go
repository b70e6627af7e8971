package authority

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
)

// caller is the process at the other end of a unix socket, pinned when it connected. It lives as long as the connection.
type caller struct {
	proc *process
	uid  uint32
	err  error // why it could not be pinned; such a caller is refused at its first call
}

func (c *caller) pid() int {
	if c.proc == nil {
		return 0
	}
	return c.proc.pid
}

// String names the caller in audit records.
func (c *caller) String() string { return fmt.Sprintf("pid %d uid %d", c.pid(), c.uid) }

// peerCredentials pins the peer process of every unix connection. Nothing travels for it: clients dial without credentials.
type peerCredentials struct{}

type callerInfo struct {
	credentials.CommonAuthInfo
	caller *caller
}

// AuthType names the mechanism.
func (callerInfo) AuthType() string { return "unix-peer" }

// ServerHandshake pins the peer. A peer that cannot be pinned is let through to be refused with a status, and recorded.
func (peerCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := conn.(*unixConn)
	if !ok {
		return nil, nil, fmt.Errorf("%w: not a unix connection", ErrUnattested)
	}
	who := &caller{}
	who.proc, who.uid, who.err = peerProcess(c.UnixConn)
	c.proc = who.proc
	return c, callerInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, caller: who,
	}, nil
}

// ClientHandshake is never used.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fmt.Errorf("%w: server only", ErrUnattested)
}

// Info describes the mechanism.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix-peer"}
}

// Clone returns p.
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

// OverrideServerName does nothing; a unix socket has no name to check.
func (peerCredentials) OverrideServerName(string) error { return nil }

func callerFrom(ctx context.Context) *caller {
	p, ok := peer.FromContext(ctx)
	if ok {
		if info, ok := p.AuthInfo.(callerInfo); ok {
			return info.caller
		}
	}
	return &caller{err: fmt.Errorf("%w: no peer credentials", ErrUnattested)}
}
