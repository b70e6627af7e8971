package enforcegrpc

import (
	"context"

	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
)

// begin is a tap.ServerInHandle: it notes the calls that may end before an interceptor sees them. It must not block.
func begin(ctx context.Context, _ *tap.Info) (context.Context, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(AuthInfo); ok && info.unseen != nil {
			return info.unseen.Begin(ctx), nil
		}
	}
	return ctx, nil
}
