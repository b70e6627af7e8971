package authority

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

	"google.golang.org/grpc"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	"github.com/safeconduct/safeconduct/identity"
)

const (
	maxAddress = 256
	// maxWatchers bounds open WatchTrust streams: one per runtime and a margin for reconnects.
	maxWatchers = 2048
)

// directory says where verified workloads serve. An address is no authority: whoever dials it demands the exact SPIFFE ID.
type directory struct {
	mu        sync.Mutex
	addresses map[identity.AgentID]string // one per registered identity, so bounded by the registry
	watchers  int
}

func (d *directory) put(id identity.AgentID, address string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.addresses == nil {
		d.addresses = map[identity.AgentID]string{}
	}
	if _, known := d.addresses[id]; !known && len(d.addresses) >= maxAgents {
		return fmt.Errorf("%w: %d addresses", ErrLimit, maxAgents)
	}
	d.addresses[id] = address
	return nil
}

func (d *directory) get(id identity.AgentID) (string, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	address, ok := d.addresses[id]
	return address, ok
}

func (d *directory) watch(step int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if step > 0 && d.watchers >= maxWatchers {
		return false
	}
	d.watchers += step
	return true
}

// Announce records where a service of this process serves, as AuthorityService.Announce does for others.
func (a *Authority) Announce(id identity.AgentID, address string) error {
	if err := a.active(id); err != nil {
		return err
	}
	return a.directory.put(id, address)
}

// Locate returns where a workload serves, empty when it has not said so.
func (a *Authority) Locate(id identity.AgentID) string {
	address, _ := a.directory.get(id)
	return address
}

// authorityService serves verified workloads. It stands behind the enforcement core, which made the peer known.
type authorityService struct {
	rpcv1.UnimplementedAuthorityServiceServer
	a *Authority
}

// AuthorityServer returns the handlers of AuthorityService, to be served over mTLS behind the enforcement core. They know their
// caller only through Config.PeerFrom.
func (a *Authority) AuthorityServer() rpcv1.AuthorityServiceServer { return &authorityService{a: a} }

// peer returns the verified caller, which must be registered and active.
func (s *authorityService) peer(ctx context.Context) (identity.AgentID, error) {
	if s.a.cfg.PeerFrom == nil {
		return identity.AgentID{}, fmt.Errorf("%w: no way to know it", errNoCaller)
	}
	p, ok := s.a.cfg.PeerFrom(ctx)
	if !ok || p.IsZero() {
		return identity.AgentID{}, errNoCaller
	}
	if err := s.a.active(p.Agent); err != nil {
		return identity.AgentID{}, fmt.Errorf("%w: %w", errNoCaller, err)
	}
	return p.Agent, nil
}

// refused is the status of a refusal; the enforcement core around the handler records it.
func refused(err error) error {
	id, idErr := newDecisionID()
	if idErr != nil {
		return statusOf(errors.Join(err, idErr), nil)
	}
	return statusOf(err, id)
}

// WatchTrust sends the trust bundle now, unless the caller has it, and after every change. Changes that come faster than the
// caller reads are sent as one. A caller that has seen a later serial than ours gets UNAVAILABLE: this is not the authority it
// knew, or an old copy of it.
func (s *authorityService) WatchTrust(r *rpcv1.WatchTrustRequest, stream grpc.ServerStreamingServer[rpcv1.WatchTrustResponse]) error {
	ctx := stream.Context()
	if _, err := s.peer(ctx); err != nil {
		return refused(err)
	}
	if !s.a.directory.watch(1) {
		return refused(fmt.Errorf("%w: %d watchers", ErrLimit, maxWatchers))
	}
	defer s.a.directory.watch(-1)
	if p, ok := s.a.cfg.PeerFrom(ctx); ok {
		defer s.a.watch(ctx, p)()
	}
	sent := r.GetAfterSerial()
	if sent > s.a.trust.Load().serial {
		return refused(fmt.Errorf("%w: serial %d is not known here", ErrClosed, sent))
	}
	for {
		changed := s.a.changed.wait()
		if trust := s.a.trust.Load(); trust.serial > sent {
			if err := stream.Send(&rpcv1.WatchTrustResponse{Bundle: trust.bundle}); err != nil {
				return err
			}
			sent = trust.serial
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return refused(ctx.Err())
		case <-s.a.closing:
			return refused(ErrClosed)
		}
	}
}

// Announce says where the caller serves.
func (s *authorityService) Announce(ctx context.Context, r *rpcv1.AnnounceRequest) (*rpcv1.AnnounceResponse, error) {
	id, err := s.peer(ctx)
	if err != nil {
		return nil, refused(err)
	}
	if err := checkAddress(r.GetAddress()); err != nil {
		return nil, refused(err)
	}
	if err := s.a.directory.put(id, r.GetAddress()); err != nil {
		return nil, refused(err)
	}
	return &rpcv1.AnnounceResponse{}, nil
}

// Locate returns the announced address of an agent of the caller's tenant or of a service. Foreign and absent look the same. A
// service finds everyone.
func (s *authorityService) Locate(ctx context.Context, r *rpcv1.LocateRequest) (*rpcv1.LocateResponse, error) {
	caller, err := s.peer(ctx)
	if err != nil {
		return nil, refused(err)
	}
	id, err := identity.ParseAgent(r.GetSpiffeId())
	if err != nil {
		return nil, refused(fmt.Errorf("%w: %w", ErrInvalid, err))
	}
	address, ok := s.a.directory.get(id)
	if !ok || !caller.IsService() && !id.IsService() && caller.Tenant() != id.Tenant() {
		return nil, refused(fmt.Errorf("%w: no address of it", ErrUnknownAgent))
	}
	return &rpcv1.LocateResponse{Address: address}, nil
}

// checkAddress wants host:port with a literal host or DNS name and a number.
func checkAddress(s string) error {
	if len(s) > maxAddress {
		return fmt.Errorf("%w: address is over %d bytes", ErrInvalid, maxAddress)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" {
		return fmt.Errorf("%w: address is not host:port", ErrInvalid)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
		return fmt.Errorf("%w: address has no port number", ErrInvalid)
	}
	for i := range len(host) {
		c := host[i]
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && c != '-' && c != '.' && c != ':' && c != '_' {
			return fmt.Errorf("%w: address has a strange host", ErrInvalid)
		}
	}
	return nil
}
