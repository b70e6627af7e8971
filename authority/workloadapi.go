package authority

import (
	"context"
	"crypto/sha256"
	"fmt"

	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	// headerWorkloadAPI is demanded by the SPIFFE Workload Endpoint specification, section 4: a browser or a proxy that was
	// tricked into calling cannot set it.
	headerWorkloadAPI = "workload.spiffe.io"
	// maxWorkloadRequest bounds a request: all of them are empty.
	maxWorkloadRequest = 4 << 10
)

// workloadAPI is the SPIFFE Workload API. Methods of JWT and WIT SVIDs answer UNIMPLEMENTED.
type workloadAPI struct {
	workloadpb.UnimplementedSpiffeWorkloadAPIServer
	a *Authority
}

func (a *Authority) workloadServer() *grpc.Server {
	s := grpc.NewServer(append(a.serverOptions(maxWorkloadRequest),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := checkHeader(ctx); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := checkHeader(stream.Context()); err != nil {
				return err
			}
			return next(srv, stream)
		}))...)
	workloadpb.RegisterSpiffeWorkloadAPIServer(s, &workloadAPI{a: a})
	return s
}

func checkHeader(ctx context.Context) error {
	md, _ := metadata.FromIncomingContext(ctx)
	if got := md.Get(headerWorkloadAPI); len(got) != 1 || got[0] != "true" {
		return status.Errorf(codes.InvalidArgument, "metadata %s: true is required", headerWorkloadAPI)
	}
	return nil
}

// FetchX509SVID sends the caller's SVID now and at every rotation, as long as the caller is what was admitted.
func (s *workloadAPI) FetchX509SVID(_ *workloadpb.X509SVIDRequest, stream grpc.ServerStreamingServer[workloadpb.X509SVIDResponse]) error {
	const method = "/SpiffeWorkloadAPI/FetchX509SVID"
	ctx := stream.Context()
	w, err := s.identify(ctx, method)
	if err != nil {
		return err
	}
	if err := w.enter(); err != nil {
		return s.a.trail.deny(ctx, v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED, method, err, callerFrom(ctx))
	}
	defer w.leave()
	source, err := w.identity(func() (*source, error) { return s.a.workloadSource(ctx, w) })
	if err != nil {
		return s.a.trail.deny(ctx, v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED, method, err, callerFrom(ctx))
	}
	for {
		updated := source.Updated()
		// Without a valid SVID, because renewal keeps failing, the stream waits for one.
		if svid, err := source.GetX509SVID(); err == nil {
			response, err := s.a.svidResponse(svid)
			if err != nil {
				return s.a.trail.deny(ctx, v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED, method, err, callerFrom(ctx))
			}
			if err := stream.Send(response); err != nil {
				return err
			}
		}
		if err := s.a.await(ctx, w, updated); err != nil {
			return err
		}
		// The socket may have survived an exec into another program.
		if _, err := s.identify(ctx, method); err != nil {
			return err
		}
	}
}

// FetchX509Bundles sends the roots of the trust domain to a caller with an identity, now and when they change.
func (s *workloadAPI) FetchX509Bundles(_ *workloadpb.X509BundlesRequest, stream grpc.ServerStreamingServer[workloadpb.X509BundlesResponse]) error {
	const method = "/SpiffeWorkloadAPI/FetchX509Bundles"
	ctx := stream.Context()
	w, err := s.identify(ctx, method)
	if err != nil {
		return err
	}
	if err := w.enter(); err != nil {
		return s.a.trail.deny(ctx, v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED, method, err, callerFrom(ctx))
	}
	defer w.leave()
	for {
		changed := s.a.ca.changed.wait()
		err := stream.Send(&workloadpb.X509BundlesResponse{Bundles: map[string][]byte{s.a.td.IDString(): s.a.ca.der()}})
		if err != nil {
			return err
		}
		if err := s.a.await(ctx, w, changed); err != nil {
			return err
		}
		if _, err := s.identify(ctx, method); err != nil {
			return err
		}
	}
}

// identify returns the workload that the caller is, or the status of its refusal.
func (s *workloadAPI) identify(ctx context.Context, method string) (*workload, error) {
	who := callerFrom(ctx)
	w, err := s.a.workloads.identify(who)
	if err == nil {
		err = s.a.active(w.id)
	}
	if err != nil {
		cause := fmt.Errorf("%w: %w", errNoCaller, err)
		return nil, s.a.trail.deny(ctx, v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED, method, cause, who)
	}
	return w, nil
}

// await returns nil when updated is closed, and otherwise why the stream ends.
func (a *Authority) await(ctx context.Context, w *workload, updated <-chan struct{}) error {
	select {
	case <-updated:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-w.gone:
		return status.Error(codes.PermissionDenied, "no identity issued")
	case <-a.closing:
		return status.Error(codes.Unavailable, "authority is closing")
	}
}

// workloadSource issues SVIDs for an admitted process. Each is recorded before it can be fetched; without a record there is none.
func (a *Authority) workloadSource(ctx context.Context, w *workload) (*source, error) {
	return newSource(ctx, a.ca, func(ctx context.Context) (*x509svid.SVID, error) {
		if err := a.active(w.id); err != nil {
			return nil, err
		}
		svid, err := a.ca.issue(w.id)
		if err != nil {
			return nil, err
		}
		leaf := svid.Certificates[0]
		sum := sha256.Sum256(leaf.Raw)
		peer := a.party(w.id)
		peer.CertSha256, peer.Serial = sum[:], leaf.SerialNumber.Text(16)
		return svid, a.trail.allow(ctx, &v1.AuditEvent{
			Kind: v1.EventKind_EVENT_KIND_SVID_ISSUED, Tenant: w.id.Tenant().Name(), Peer: peer, Detail: w.String(),
		})
	}, a.cfg.Now, a.cfg.Logger)
}

// svidResponse is the full state of one workload: every message replaces the last.
func (a *Authority) svidResponse(svid *x509svid.SVID) (*workloadpb.X509SVIDResponse, error) {
	chain, key, err := svid.MarshalRaw()
	if err != nil {
		return nil, fmt.Errorf("encoding SVID: %w", err)
	}
	return &workloadpb.X509SVIDResponse{Svids: []*workloadpb.X509SVID{{
		SpiffeId: svid.ID.String(), X509Svid: chain, X509SvidKey: key, Bundle: a.ca.der(),
	}}}, nil
}
