package intruder

import (
	"context"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Files is an identity that does not change, from PEM: certificate chain, private key, and the authorities of its trust domain.
// The caller closes it.
func Files(cert, key, bundle []byte) (identity.Source, error) {
	svid, err := x509svid.Parse(cert, key)
	if err != nil {
		return nil, unfit("certificate and key: %w", err)
	}
	b, err := x509bundle.Parse(svid.ID.TrustDomain(), bundle)
	if err != nil {
		return nil, unfit("bundle: %w", err)
	}
	if b.Empty() {
		return nil, unfit("bundle: no certificate in it")
	}
	return &files{SVID: svid, Bundle: b, never: make(chan struct{})}, nil
}

type files struct {
	*x509svid.SVID
	*x509bundle.Bundle
	never chan struct{}
}

var _ identity.Source = (*files)(nil)

// Updated implements identity.Source.
func (f *files) Updated() <-chan struct{} { return f.never }

// Close implements identity.Source.
func (f *files) Close() error { return nil }

// Locate asks the authority at addr where peer serves. It is the one call that does not go to the target, and no attack.
func Locate(ctx context.Context, src identity.Source, addr string, peer identity.AgentID) (string, error) {
	svid, err := src.GetX509SVID()
	if err != nil {
		return "", fmt.Errorf("own SVID: %w", err)
	}
	self, err := identity.ParseAgentID(svid.ID)
	if err != nil {
		return "", fmt.Errorf("own SVID: %w", err)
	}
	authority, err := identity.NewServiceID(self.TrustDomain(), "authority")
	if err != nil {
		return "", fmt.Errorf("authority: %w", err)
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithNoProxy(),
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(src, authority))))
	if err != nil {
		return "", fmt.Errorf("authority at %s: %w", addr, err)
	}
	defer func() { _ = cc.Close() }()
	r, err := rpcv1.NewAuthorityServiceClient(cc).Locate(ctx, &rpcv1.LocateRequest{SpiffeId: peer.String(), Envelope: &v1.Envelope{
		Id: random(nonceBytes), Method: rpcv1.AuthorityService_Locate_FullMethodName, Tenant: self.Tenant().Name(),
		Recipient: authority.String(), DeadlineUnixMs: time.Now().Add(envelopeLife).UnixMilli(),
	}})
	if err != nil {
		return "", fmt.Errorf("locating %s at the authority at %s: %w", peer, addr, err)
	}
	return r.GetAddress(), nil
}
