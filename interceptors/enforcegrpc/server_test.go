package enforcegrpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
)

const foreign = "/mesh.v1.MeshService/Foreign"

// house is relay as a gRPC client of writer.
type house struct {
	*meshtest.World
	t             *testing.T
	relay, writer identity.AgentID
	end           *meshtest.Endpoint
	addr          string
	conn          *grpc.ClientConn
	chain         *v1.DelegationChain
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{World: meshtest.New(t), t: t}
	h.relay, h.writer = h.Agent("acme", "relay"), h.Agent("acme", "writer")
	h.Table.Allow("acme", meshtest.DefaultClass, "mesh.call", []string{"mesh"}, false, h.writer.String())
	h.Table.Allow("acme", meshtest.DefaultClass, "mesh.foreign", []string{"agent", "writer"}, false, h.writer.String())
	methods := meshtest.Methods(t, meshpb.File_mesh_v1_mesh_proto.Services().ByName("MeshService"),
		rpcv1.File_safeconduct_rpc_v1_authority_proto.Services().ByName("AuthorityService"))
	for _, m := range []string{"Check", "Watch"} {
		if err := methods.Add(&interceptors.Method{Procedure: "/grpc.health.v1.Health/" + m, Intent: &v1.MethodIntent{Open: true}}); err != nil {
			t.Fatal(err)
		}
	}
	h.end = h.Enforcer(t, h.writer, methods)
	h.addr = h.ServeGRPC(t, h.end, func(s *grpc.Server) {
		healthpb.RegisterHealthServer(s, health.NewServer())
		rpcv1.RegisterExchangeServiceServer(s, carrier{})
		rpcv1.RegisterAuthorityServiceServer(s, trust{})
	})
	h.conn = h.dial(identity.ClientTLS(h.Identity(h.relay), h.writer))
	h.chain = h.Chain(t, []identity.AgentID{h.relay, h.writer},
		meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh"), meshtest.Capability("mesh.foreign", "agent", "writer")))
	return h
}

// carrier shows what ExchangeService's handler gets: the session, and no interaction.
type carrier struct {
	rpcv1.UnimplementedExchangeServiceServer
}

func (carrier) Deliver(ctx context.Context, _ *v1.Envelope) (*v1.Envelope, error) {
	session, refused := enforcegrpc.SessionFrom(ctx)
	if _, ok := interceptors.From(ctx); ok || session == nil || refused != nil {
		return nil, errors.New("a carrier with an interaction or without a session")
	}
	return &v1.Envelope{Recipient: session.Peer().ID.String()}, nil
}

func (carrier) Exchange(grpc.BidiStreamingServer[v1.Envelope, v1.Envelope]) error {
	return interceptors.Refuse(v1.Reason_REASON_PROTOCOL_ERROR, errors.New(meshtest.Canary))
}

// trust serves an open stream.
type trust struct {
	rpcv1.UnimplementedAuthorityServiceServer
}

func (trust) WatchTrust(_ *rpcv1.WatchTrustRequest, s grpc.ServerStreamingServer[rpcv1.WatchTrustResponse]) error {
	if _, ok := interceptors.PermitFrom(s.Context()); ok {
		return errors.New("an open method with a Permit")
	}
	if p, ok := interceptors.PeerFrom(s.Context()); !ok || p.IsZero() {
		return errors.New("an open method without a peer")
	}
	return s.Send(&rpcv1.WatchTrustResponse{})
}

func (h *house) dial(cfg *tls.Config) *grpc.ClientConn {
	h.t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+h.addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)), grpc.WithDisableRetry())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func (h *house) request() *meshpb.UnaryRequest {
	env := h.Envelope(h.relay, meshpb.MeshService_Unary_FullMethodName, "mesh.call")
	env.Chain = h.chain
	return &meshpb.UnaryRequest{Resource: []string{"mesh"}, Envelope: env}
}

func (h *house) refused() *v1.AuditEvent {
	h.t.Helper()
	events := h.end.Log.Await(h.t, func(events []*v1.AuditEvent) bool { return len(events) > 0 })
	if events[0].GetKind() != v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED {
		h.t.Fatalf("records %v, want TRANSPORT_REFUSED", events)
	}
	return events[0]
}

func TestBodiesThatNoInterceptorSees(t *testing.T) {
	for name, send := range map[string]func(*house) error{
		"two mebibytes": func(h *house) error {
			req := h.request()
			req.Behave = string(make([]byte, 2<<20))
			_, err := meshpb.NewMeshServiceClient(h.conn).Unary(t.Context(), req)
			return err
		},
		"malformed": func(h *house) error {
			garbage := &emptypb.Empty{}
			garbage.ProtoReflect().SetUnknown([]byte{0x0a, 0x01, 0xff}) // field 1, a string that is not UTF-8
			return h.conn.Invoke(t.Context(), meshpb.MeshService_Unary_FullMethodName, garbage, &meshpb.UnaryResponse{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			if err := send(h); err == nil {
				t.Fatal("the call succeeds")
			}
			if ev := h.refused(); ev.GetActor().GetSpiffeId() != h.relay.String() || ev.GetReason() != v1.Reason_REASON_TRANSPORT_REFUSED {
				t.Errorf("record %v", ev)
			}
			if _, err := meshpb.NewMeshServiceClient(h.conn).Unary(t.Context(), h.request()); err != nil {
				t.Errorf("the connection afterwards: %v", err)
			}
		})
	}
}

func TestBadCertificatesDoNotConnect(t *testing.T) {
	h := newHouse(t)
	noCert := identity.ClientTLS(h.Identity(h.relay), h.writer)
	noCert.GetClientCertificate = nil
	template := func(f func(*x509.Certificate)) *tls.Config {
		return identity.ClientTLS(h.Source(h.relay, meshtest.Template(f)), h.writer)
	}
	for name, cfg := range map[string]*tls.Config{
		"no certificate": noCert,
		"rogue CA":       identity.ClientTLS(h.Source(h.relay, meshtest.IssuedBy(h.Rogue)), h.writer),
		"two URI SANs":   template(func(c *x509.Certificate) { c.URIs = append(c.URIs, h.writer.ID().URL()) }),
		"CA leaf":        template(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign }),
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			h.end.Log.Reset()
			_, err := meshpb.NewMeshServiceClient(h.dial(cfg)).Unary(t.Context(), h.request())
			if status.Code(err) != codes.Unavailable {
				t.Errorf("the call: %v", err)
			}
			if ev := h.refused(); ev.GetReason() != v1.Reason_REASON_PEER_NOT_SVID || ev.GetActor().GetSpiffeId() != "" {
				t.Errorf("record %v", ev)
			}
		})
	}
}

// A revoked agent that comes back with a session cache gets a full handshake and a refusal.
func TestResumptionAfterRemovalIsRefused(t *testing.T) {
	h := newHouse(t)
	cfg := identity.ClientTLS(h.Identity(h.relay), h.writer)
	cfg.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	first := h.dial(cfg)
	if _, err := meshpb.NewMeshServiceClient(first).Unary(t.Context(), h.request()); err != nil {
		t.Fatal(err)
	}
	_ = first.Close()
	h.Registry.Remove(h.relay)
	_, err := meshpb.NewMeshServiceClient(h.dial(cfg)).Unary(t.Context(), h.request())
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("after the removal: %v", err)
	}
}

func TestEnvelopeInMetadata(t *testing.T) {
	h := newHouse(t)
	fresh := func() string {
		env := h.Envelope(h.relay, foreign, "mesh.foreign")
		env.Chain = h.chain
		raw, err := proto.Marshal(env)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	send := func(values ...string) error {
		var pairs []string
		for _, v := range values {
			pairs = append(pairs, enforcegrpc.EnvelopeKey, v)
		}
		ctx := metadata.AppendToOutgoingContext(t.Context(), pairs...)
		_, err := meshpb.NewMeshServiceClient(h.conn).Foreign(ctx, &meshpb.ForeignRequest{})
		return err
	}
	if err := send(fresh()); err != nil {
		t.Errorf("one envelope: %v", err)
	}
	for name, tt := range map[string]struct {
		values []string
		want   codes.Code
	}{
		"none": {nil, codes.PermissionDenied}, "two": {[]string{fresh(), fresh()}, codes.InvalidArgument},
		"garbage": {[]string{"\xff"}, codes.InvalidArgument}, "4097 bytes": {[]string{string(make([]byte, 4097))}, codes.ResourceExhausted},
	} {
		if err := send(tt.values...); status.Code(err) != tt.want {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

func TestHealthNeedsAPeerAndNothingElse(t *testing.T) {
	h := newHouse(t)
	if _, err := healthpb.NewHealthClient(h.conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("Check() = %v", err)
	}
	events := h.end.Log.Events()
	if len(events) != 2 || events[0].GetDecision() != v1.EventDecision_EVENT_DECISION_ALLOW || events[1].GetDecision() != v1.EventDecision_EVENT_DECISION_ALLOW {
		t.Errorf("records of a health check: %v", events)
	}
	ctx, cancel := context.WithCancel(t.Context())
	s, err := healthpb.NewHealthClient(h.conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if err != nil {
		t.Errorf("Watch() = %v", err)
	}
	cancel()
	stranger := h.dial(identity.ClientTLS(h.Source(h.ID("acme", "stranger")), h.writer))
	if _, err := healthpb.NewHealthClient(stranger).Check(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a stranger's health check: %v", err)
	}
}

func TestCarriersGetTheSessionOnly(t *testing.T) {
	h := newHouse(t)
	client := rpcv1.NewExchangeServiceClient(h.conn)
	out, err := client.Deliver(t.Context(), &v1.Envelope{})
	if err != nil || out.GetRecipient() != h.relay.String() {
		t.Errorf("Deliver() = %v, %v", out, err)
	}
	s, err := client.Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Recv()
	if got := status.Convert(err); got.Code() != codes.Internal || got.Message() != "internal error" || len(got.Details()) != 1 {
		t.Errorf("Exchange() = %v", err)
	}
	if _, err := client.Present(t.Context(), &rpcv1.PresentRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("Present() = %v", err)
	}
	if len(h.end.Log.Events()) != 0 {
		t.Errorf("a carrier was recorded as a call: %v", h.end.Log.Events())
	}
}

func TestOpenStream(t *testing.T) {
	h := newHouse(t)
	watch := func(env *v1.Envelope) error {
		s, err := rpcv1.NewAuthorityServiceClient(h.conn).WatchTrust(t.Context(), &rpcv1.WatchTrustRequest{Envelope: env})
		if err != nil {
			return err
		}
		_, err = s.Recv()
		return err
	}
	if err := watch(h.Envelope(h.relay, rpcv1.AuthorityService_WatchTrust_FullMethodName, "")); err != nil {
		t.Errorf("WatchTrust() = %v", err)
	}
	if err := watch(nil); status.Code(err) != codes.PermissionDenied {
		t.Errorf("WatchTrust(no envelope) = %v", err)
	}
}

func TestSessionFromNowhere(t *testing.T) {
	if s, err := enforcegrpc.SessionFrom(context.Background()); s != nil || err != nil {
		t.Errorf("SessionFrom(no peer) = %v, %v", s, err)
	}
}

func TestCredentialsClone(t *testing.T) {
	h := newHouse(t)
	c := enforcegrpc.Credentials(identity.ServerTLS(h.Identity(h.writer)), h.end.Enforcer)
	if got := c.Clone(); got == c || got.Info().SecurityProtocol != "tls" {
		t.Errorf("Clone() = %v", got)
	}
}

func TestStatusLeavesNoForeignText(t *testing.T) {
	own, err := status.New(codes.NotFound, "no such note").WithDetails(&emptypb.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"own", own.Err(), codes.NotFound, "no such note"},
		{"own without a code", status.Error(codes.Unknown, "secret"), codes.Internal, "internal error"},
		{"wrapped own", errors.Join(own.Err(), errors.New("secret")), codes.Internal, "internal error"},
		{"bare", errors.New("secret"), codes.Internal, "internal error"},
		{"public", interceptors.Public(interceptors.CodeAborted, "try again"), codes.Aborted, "try again"},
		{"public without a code", &interceptors.PublicError{Text: "x"}, codes.Internal, "x"},
		{"cancelled", context.Canceled, codes.Canceled, "the call was cancelled"},
		{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded, "the deadline has passed"},
		{"denial", &interceptors.Denial{Code: interceptors.CodeResourceExhausted, Reason: v1.Reason_REASON_RATE, RetryAfter: time.Second, Err: errors.New("secret")}, codes.ResourceExhausted, "over a limit"},
	}
	for _, tt := range tests {
		got := enforcegrpc.Status(tt.err)
		if got.Code() != tt.code || got.Message() != tt.text {
			t.Errorf("%s: Status() = %v, want %s %q", tt.name, got, tt.code, tt.text)
		}
		if want := map[string]int{"denial": 2}[tt.name]; len(got.Details()) != want {
			t.Errorf("%s: %d details, want %d", tt.name, len(got.Details()), want)
		}
	}
	if enforcegrpc.Status(nil) != nil {
		t.Error("Status(nil) is a status")
	}
}

// Methods that no service has: one that nobody knows, one that is known but not served here, and one of the carrier.
func TestUnknownMethods(t *testing.T) {
	h := newHouse(t)
	if err := h.end.Methods().Add(&interceptors.Method{Procedure: "/mesh.v1.Elsewhere/Open", Intent: &v1.MethodIntent{Open: true}}); err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"/mesh.v1.Nobody/Unary", "/mesh.v1.Elsewhere/Open", "/safeconduct.rpc.v1.ExchangeService/Missing"} {
		h.end.Log.Reset()
		err := h.conn.Invoke(t.Context(), method, h.request(), &meshpb.UnaryResponse{})
		info := &errdetails.ErrorInfo{}
		for _, d := range status.Convert(err).Details() {
			if got, ok := d.(*errdetails.ErrorInfo); ok {
				info = got
			}
		}
		if status.Code(err) != codes.Unimplemented || info.GetReason() != "UNKNOWN_METHOD" {
			t.Errorf("%s: %v", method, err)
		}
		if id := info.GetMetadata()["decision_id"]; len(h.end.Log.Decision(id)) == 0 {
			t.Errorf("%s: decision %q is not in the log", method, id)
		}
		if n := len(h.end.Log.Phases()); n > 1 {
			t.Errorf("%s: recorded as %d calls", method, n)
		}
	}
}

// The timeout of the envelope ends a stream's handler, though the client would wait longer.
func TestTimeoutEndsAStream(t *testing.T) {
	h := newHouse(t)
	env := h.Envelope(h.relay, meshpb.MeshService_ServerStream_FullMethodName, "mesh.call")
	env.Chain, env.TimeoutMs = h.chain, 200
	req := &meshpb.ServerStreamRequest{Behave: meshtest.BehaveStall, Resource: []string{"mesh"}, Envelope: env}
	s, err := meshpb.NewMeshServiceClient(h.conn).ServerStream(t.Context(), req)
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the stream: %v", err)
	}
}

// unknown is a compression that no server knows.
type unknown struct{}

func (unknown) Do(w io.Writer, p []byte) error { _, err := w.Write(p); return err }
func (unknown) Type() string                   { return "unknown" }

// grpc ends a call of an unknown compression by itself and tells nobody, whatever the body and whether anybody calls again.
func TestUnknownCompressionIsRecorded(t *testing.T) {
	h := newHouse(t)
	cc, err := grpc.NewClient("passthrough:///"+h.addr, grpc.WithDisableRetry(),
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(h.Identity(h.relay), h.writer))),
		grpc.WithCompressor(unknown{})) //nolint:staticcheck // SA1019: a registered one would be known to the server too.
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	if _, err := meshpb.NewMeshServiceClient(cc).Unary(t.Context(), h.request()); status.Code(err) != codes.Unimplemented {
		t.Fatalf("the call: %v", err)
	}
	h.end.Flush()
	if ev := h.refused(); ev.GetActor().GetSpiffeId() != h.relay.String() || ev.GetReason() != v1.Reason_REASON_TRANSPORT_REFUSED {
		t.Errorf("record %v", ev)
	}
	if n := len(h.end.Log.Events()); n != 1 {
		t.Errorf("%d records", n)
	}
}

// What was seen leaves no record of a refusal behind, however many calls a connection has and however they end.
func TestSeenCallsAreNotRefused(t *testing.T) {
	h := newHouse(t)
	client := meshpb.NewMeshServiceClient(h.conn)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 100 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%10 == 0 {
					go cancel()
				}
				_, _ = client.Unary(ctx, h.request())
				cancel()
			}
		})
	}
	wg.Wait()
	h.end.Flush()
	unseen := 0
	for _, ev := range h.end.Log.Events() {
		if ev.GetKind() == v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED {
			unseen++
		}
	}
	if unseen > 40 {
		t.Errorf("%d refusals, though only 40 calls were cancelled", unseen)
	}
}
