package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// ErrNoPeer is returned when a connection carries no certificate that could name a peer.
var ErrNoPeer = errors.New("no verified peer certificate")

// Peer is the verified other end of one connection.
type Peer struct {
	ID       spiffeid.ID
	Agent    AgentID
	Tenant   Tenant
	CertID   [32]byte // SHA-256 of the leaf's DER, the x5t#S256 of RFC 8705
	NotAfter time.Time
	Serial   string // hex
	Leaf     *x509.Certificate
}

// IsZero reports whether p is nobody.
func (p Peer) IsZero() bool { return p.Agent.IsZero() }

// PeerFromTLS reads the peer from a finished handshake whose chain the TLS layer verified against SPIFFE bundles. It is
// called by the adapters' handshake code only; handlers learn their peer from the enforcement core. It refuses a leaf that
// is a CA, has other than one URI SAN, has no path, lacks the digitalSignature or the client and server key usages, and an
// ID of neither shape. Errors wrap ErrNoPeer or ErrNotAnIdentity.
func PeerFromTLS(state tls.ConnectionState) (Peer, error) {
	if !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
		return Peer{}, ErrNoPeer
	}
	return PeerFromLeaf(state.PeerCertificates[0])
}

// PeerFromLeaf is PeerFromTLS for a leaf that was verified by other means.
func PeerFromLeaf(leaf *x509.Certificate) (Peer, error) {
	if leaf == nil {
		return Peer{}, ErrNoPeer
	}
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return Peer{}, fmt.Errorf("%w: leaf is a CA", ErrNotAnIdentity)
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return Peer{}, fmt.Errorf("%w: leaf may not sign", ErrNotAnIdentity)
	}
	for _, want := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if !slices.Contains(leaf.ExtKeyUsage, want) {
			return Peer{}, fmt.Errorf("%w: leaf lacks a TLS key usage", ErrNotAnIdentity)
		}
	}
	id, err := x509svid.IDFromCert(leaf)
	if err != nil {
		return Peer{}, fmt.Errorf("%w: %w", ErrNotAnIdentity, err)
	}
	agent, err := ParseAgentID(id)
	if err != nil {
		return Peer{}, err
	}
	return Peer{
		ID: id, Agent: agent, Tenant: agent.Tenant(), CertID: sha256.Sum256(leaf.Raw),
		NotAfter: leaf.NotAfter, Serial: leaf.SerialNumber.Text(16), Leaf: leaf,
	}, nil
}

// Source supplies a workload's own SVID and the bundles that verify others. Implementations are safe for concurrent use.
type Source interface {
	x509svid.Source
	x509bundle.Source
	// Updated returns a channel that is closed at the next change of SVID or bundles; each caller asks again after it.
	Updated() <-chan struct{}
	Close() error
}
