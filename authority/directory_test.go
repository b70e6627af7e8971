package authority_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/safeconduct/safeconduct/authority"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// peerFrom stands for the enforcement core: the test says who calls.
func peerFrom(ctx context.Context) (identity.Peer, bool) {
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md.Get("test-peer")) == 0 {
		return identity.Peer{}, false
	}
	id, err := identity.ParseAgent(md.Get("test-peer")[0])
	return identity.Peer{ID: id.ID(), Agent: id, Tenant: id.Tenant()}, err == nil
}

func as(ctx context.Context, id string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "test-peer", id)
}

func serve(t *testing.T, a *authority.Authority) rpcv1.AuthorityServiceClient {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer()
	rpcv1.RegisterAuthorityServiceServer(s, a.AuthorityServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("passthrough:///authority", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return rpcv1.NewAuthorityServiceClient(conn)
}

func TestAnnounceAndLocate(t *testing.T) {
	a, _ := world(t, func(c *authority.Config) { c.PeerFrom = peerFrom })
	client := serve(t, a)
	for _, tt := range []struct {
		name, as, address string
		want              codes.Code
	}{
		{"nobody", "", "127.0.0.1:1", codes.PermissionDenied},
		{"unregistered", "spiffe://dev.example/tenant/acme/agent/eve", "127.0.0.1:1", codes.PermissionDenied},
		{"foreign", "spiffe://other.example/tenant/acme/agent/alice", "127.0.0.1:1", codes.PermissionDenied},
		{"no address", alice, "", codes.InvalidArgument},
		{"no port", alice, "127.0.0.1", codes.InvalidArgument},
		{"no host", alice, ":1", codes.InvalidArgument},
		{"port zero", alice, "127.0.0.1:0", codes.InvalidArgument},
		{"port name", alice, "127.0.0.1:http", codes.InvalidArgument},
		{"port too high", alice, "127.0.0.1:65536", codes.InvalidArgument},
		{"host with a slash", alice, "a/b:1", codes.InvalidArgument},
		{"over 256 bytes", alice, strings.Repeat("a", 256) + ":1", codes.InvalidArgument},
		{"alice", alice, "127.0.0.1:7001", codes.OK},
		{"alice again", alice, "[::1]:7002", codes.OK},
		{"the memory service", memory, "localhost:7003", codes.OK},
	} {
		ctx := t.Context()
		if tt.as != "" {
			ctx = as(ctx, tt.as)
		}
		if _, err := client.Announce(ctx, &rpcv1.AnnounceRequest{Address: tt.address}); status.Code(err) != tt.want {
			t.Errorf("%s: Announce() = %v, want %v", tt.name, err, tt.want)
		}
	}
	for _, tt := range []struct {
		name, as, of, want string
		code               codes.Code
	}{
		{"same tenant", bob, alice, "[::1]:7002", codes.OK},
		{"a service by anyone", mallory, memory, "localhost:7003", codes.OK},
		{"anyone by a service", memory, alice, "[::1]:7002", codes.OK},
		{"another tenant", mallory, alice, "", codes.NotFound},
		{"not announced", alice, bob, "", codes.NotFound},
		{"no identity", alice, "alice", "", codes.InvalidArgument},
		{"by nobody", "", alice, "", codes.PermissionDenied},
	} {
		ctx := t.Context()
		if tt.as != "" {
			ctx = as(ctx, tt.as)
		}
		r, err := client.Locate(ctx, &rpcv1.LocateRequest{SpiffeId: tt.of})
		if status.Code(err) != tt.code || r.GetAddress() != tt.want {
			t.Errorf("%s: Locate() = %q, %v, want %q, %v", tt.name, r.GetAddress(), err, tt.want, tt.code)
		}
	}
}

func TestWithoutPeersNobodyIsServed(t *testing.T) {
	a, _ := world(t)
	if _, err := serve(t, a).Locate(as(t.Context(), alice), &rpcv1.LocateRequest{SpiffeId: bob}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("Locate() = %v, want PermissionDenied", err)
	}
}

func TestWatchTrust(t *testing.T) {
	a, _ := world(t, func(c *authority.Config) { c.PeerFrom = peerFrom })
	client := serve(t, a)
	watch := func(ctx context.Context, after uint64) rpcv1.AuthorityService_WatchTrustClient {
		t.Helper()
		stream, err := client.WatchTrust(ctx, &rpcv1.WatchTrustRequest{AfterSerial: after})
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	if _, err := watch(t.Context(), 0).Recv(); status.Code(err) != codes.PermissionDenied {
		t.Errorf("WatchTrust() by nobody = %v, want PermissionDenied", err)
	}
	ctx := as(t.Context(), alice)
	if _, err := watch(ctx, a.Status().GetBundleSerial()+1).Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("WatchTrust() from a later serial = %v, want Unavailable", err)
	}
	stream := watch(ctx, 0)
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	first := openBundle(t, a, r.GetBundle()).GetSerial()
	known := watch(ctx, first)
	const changes = 20
	for i := range changes {
		id := "spiffe://dev.example/tenant/acme/agent/w" + string(rune('a'+i))
		if _, err := a.RegisterAgent(t.Context(), newAgent(id)); err != nil {
			t.Fatal(err)
		}
	}
	for name, s := range map[string]rpcv1.AuthorityService_WatchTrustClient{"from the start": stream, "from the known serial": known} {
		for last := first; last < first+changes; {
			r, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			serial := openBundle(t, a, r.GetBundle()).GetSerial()
			if serial <= last {
				t.Fatalf("%s: serial %d after %d", name, serial, last)
			}
			last = serial
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("WatchTrust() after Close = %v, want Unavailable", err)
	}
}
