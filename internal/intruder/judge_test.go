package intruder_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/intruder"
	"github.com/safeconduct/safeconduct/internal/meshtest"
)

func meshPath(ids ...identity.AgentID) []identity.AgentID { return ids }

func admitAll(context.Context, int) error { return nil }

func TestReceiverThatAdmitsEverythingIsFound(t *testing.T) {
	t.Parallel()
	_, cfg := newDouble(t, admitAll)
	results, err := intruder.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(intruder.Attacks()) {
		t.Fatalf("%d results, want %d", len(results), len(intruder.Attacks()))
	}
	for _, r := range results {
		want := "ADMITTED"
		if r.Attack == "sibling-svid" {
			want = "FOREIGN_SVID"
		}
		if r.Refused || r.Inconclusive || !r.TwinAdmitted || r.Got != want {
			t.Errorf("%s = %+v, want not refused, got %s", r.Attack, r, want)
		}
	}
}

func TestUnavailableReceiverIsInconclusive(t *testing.T) {
	t.Parallel()
	_, cfg := newDouble(t, func(context.Context, int) error { return status.Error(codes.Unavailable, "gone") })
	results, err := intruder.Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Refused || !r.Inconclusive || r.TwinAdmitted || !strings.HasPrefix(r.TwinError, "UNAVAILABLE") {
			t.Errorf("%s = %+v, want inconclusive", r.Attack, r)
		}
	}
}

func TestNobodyListensIsInconclusive(t *testing.T) {
	t.Parallel()
	_, cfg := newDouble(t, admitAll)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.TargetAddr = l.Addr().String()
	_ = l.Close()
	results, err := intruder.Run(t.Context(), cfg, "cross-tenant", "forged-id", "no-envelope")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Refused || !r.Inconclusive {
			t.Errorf("%s = %+v, want inconclusive", r.Attack, r)
		}
	}
}

// after answers the first n calls, which are twins, with OK and the others with err.
func after(n int, err error) func(context.Context, int) error {
	return func(_ context.Context, call int) error {
		if call < n {
			return nil
		}
		return err
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context, call int) error {
		if call == 0 {
			return nil
		}
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}
	mesh := func(reason string) error { return refuse(codes.PermissionDenied, "safeconduct", reason) }
	embedded, err := proto.Marshal(&spb.Status{Code: int32(codes.PermissionDenied)})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, attack string
		answer       func(context.Context, int) error
		frame        *v1.Envelope
		want         intruder.Result
	}{
		{
			name: "expected reason", attack: "cross-tenant", answer: after(1, mesh("TENANT_MISMATCH")),
			want: intruder.Result{Got: "TENANT_MISMATCH", TwinAdmitted: true, Refused: true, DecisionID: "000102030405060708090a0b0c0d0e0f"},
		},
		{
			name: "another reason", attack: "cross-tenant", answer: after(1, mesh("SCOPE")),
			want: intruder.Result{Got: "SCOPE", TwinAdmitted: true, DecisionID: "000102030405060708090a0b0c0d0e0f"},
		},
		{
			name: "expected reason of another domain", attack: "cross-tenant",
			answer: after(1, refuse(codes.PermissionDenied, "elsewhere", "TENANT_MISMATCH")),
			want:   intruder.Result{Got: "PERMISSION_DENIED", TwinAdmitted: true},
		},
		{
			name: "expected reason in the text only", attack: "cross-tenant",
			answer: after(1, status.Error(codes.PermissionDenied, "TENANT_MISMATCH")),
			want:   intruder.Result{Got: "PERMISSION_DENIED", TwinAdmitted: true},
		},
		{
			name: "expected reason from a receiver that is unavailable", attack: "cross-tenant",
			answer: after(1, refuse(codes.Unavailable, "safeconduct", "TENANT_MISMATCH")),
			want: intruder.Result{
				Got: "TENANT_MISMATCH", TwinAdmitted: true, Inconclusive: true, DecisionID: "000102030405060708090a0b0c0d0e0f",
			},
		},
		{
			name: "internal error", attack: "cross-tenant", answer: after(1, status.Error(codes.Internal, "bug")),
			want: intruder.Result{Got: "INTERNAL", TwinAdmitted: true, Inconclusive: true},
		},
		{
			name: "unknown method", attack: "cross-tenant", answer: after(1, status.Error(codes.Unimplemented, "")),
			want: intruder.Result{Got: "UNIMPLEMENTED", TwinAdmitted: true},
		},
		{
			name: "no answer", attack: "cross-tenant", answer: hang,
			want: intruder.Result{Got: "DEADLINE_EXCEEDED", TwinAdmitted: true, Inconclusive: true},
		},
		{
			name: "twin refused with the expected reason", attack: "cross-tenant", answer: after(0, mesh("TENANT_MISMATCH")),
			want: intruder.Result{TwinError: "TENANT_MISMATCH: not permitted", Inconclusive: true},
		},
		{
			name: "twin answered with another frame", attack: "cross-tenant", answer: admitAll,
			frame: &v1.Envelope{Kind: v1.FrameKind_FRAME_KIND_GOAWAY},
			want:  intruder.Result{TwinError: "INTERNAL: the reply is a frame FRAME_KIND_GOAWAY", Inconclusive: true},
		},
		{
			name: "twin refused inside the result", attack: "cross-tenant", answer: admitAll,
			frame: &v1.Envelope{Kind: v1.FrameKind_FRAME_KIND_RESULT, Status: embedded},
			want:  intruder.Result{TwinError: "PERMISSION_DENIED", Inconclusive: true},
		},
		{
			name: "replay refused once and admitted on the second connection", attack: "replay",
			answer: func(_ context.Context, call int) error {
				if call == 1 {
					return mesh("REPLAYED")
				}
				return nil
			},
			want: intruder.Result{Got: "ADMITTED", TwinAdmitted: true},
		},
		{
			name: "replay refused on one route and admitted on the other", attack: "replay",
			answer: func(_ context.Context, call int) error {
				if call == 1 || call == 2 {
					return mesh("REPLAYED")
				}
				return nil
			},
			want: intruder.Result{Got: "ADMITTED", TwinAdmitted: true},
		},
		{
			name: "one of the spliced chains is no good by itself", attack: "spliced-chain", answer: after(1, mesh("CHAIN_INVALID")),
			want: intruder.Result{TwinError: "CHAIN_INVALID: not permitted", Inconclusive: true},
		},
		{
			name: "operator refuses and the Workload API fails", attack: "sibling-svid",
			answer: func(_ context.Context, call int) error {
				switch call {
				case 0:
					return nil
				case 1:
					return mesh("PEER_UNVERIFIED")
				}
				return status.Error(codes.PermissionDenied, "no identity issued")
			},
			want: intruder.Result{Got: "UNAVAILABLE", TwinAdmitted: true, Inconclusive: true},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			d, cfg := newDouble(t, tc.answer)
			if tc.frame != nil {
				d.frame.Kind, d.frame.Status = tc.frame.GetKind(), tc.frame.GetStatus()
			}
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			if tc.want.Got == "DEADLINE_EXCEEDED" {
				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
			}
			defer cancel()
			results, err := intruder.Run(ctx, cfg, tc.attack)
			if err != nil && !errors.Is(err, context.DeadlineExceeded) || len(results) != 1 {
				t.Fatalf("Run(%s) = %v, %v", tc.attack, results, err)
			}
			got := results[0]
			if got.Took <= 0 || got.Attack != tc.attack {
				t.Errorf("result = %+v, want one of %s that took time", got, tc.attack)
			}
			got.Took, got.Attack, got.Want, got.Note = 0, "", "", ""
			if got != tc.want {
				t.Errorf("Run(%s) = %+v, want %+v", tc.attack, got, tc.want)
			}
		})
	}
}

// dropping closes connections whose certificate is not of the World's own CA, without a word.
type dropping struct {
	credentials.TransportCredentials
	w *meshtest.World
}

func (d dropping) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := d.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	tlsInfo, _ := info.(credentials.TLSInfo)
	if tlsInfo.State.PeerCertificates[0].CheckSignatureFrom(d.w.CA.Certificate()) != nil {
		_ = raw.Close()
		return nil, nil, io.ErrUnexpectedEOF
	}
	return conn, info, nil
}

func (d dropping) Clone() credentials.TransportCredentials { return d }

func TestHandshakeThatEndsWithoutAnAlertIsInconclusive(t *testing.T) {
	t.Parallel()
	_, cfg := newDouble(t, admitAll, func(w *meshtest.World, c credentials.TransportCredentials) credentials.TransportCredentials {
		return dropping{c, w}
	})
	results, err := intruder.Run(t.Context(), cfg, "forged-id")
	if err != nil {
		t.Fatal(err)
	}
	if r := results[0]; r.Refused || !r.Inconclusive || !r.TwinAdmitted || r.Got != "UNAVAILABLE" {
		t.Errorf("result = %+v, want inconclusive after a good twin", r)
	}
}

func TestKnockOnServerThatWaitsForThePreface(t *testing.T) {
	t.Parallel()
	w := meshtest.New(t)
	svid, err := w.Source(w.Service("memory")).GetX509SVID()
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{svid.Certificates[0].Raw}, PrivateKey: svid.PrivateKey}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil && strings.HasPrefix(line, "PRI * HTTP/2.0") {
			_, _ = conn.Write([]byte{0})
		}
	}()
	mallory := w.Source(w.Agent("acme", "mallory"))
	if got := intruder.Knock(t.Context(), l.Addr().String(), identity.ClientTLS(mallory, w.Service("memory"))); got != "ADMITTED" {
		t.Errorf("Knock = %s, want ADMITTED", got)
	}
}

func TestInputs(t *testing.T) {
	t.Parallel()
	d, good := newDouble(t, admitAll)
	tests := []struct {
		name, attack string
		spoil        func(*intruder.Config)
	}{
		{"no such attack", "phishing", func(*intruder.Config) {}},
		{"no identity", "replay", func(c *intruder.Config) { c.Self = identity.AgentID{} }},
		{"no source", "replay", func(c *intruder.Config) { c.Source = nil }},
		{"source of another agent", "replay", func(c *intruder.Config) { c.Self = c.Sibling }},
		{"no target", "replay", func(c *intruder.Config) { c.TargetAddr = "" }},
		{"no namespace", "replay", func(c *intruder.Config) { c.Namespace = nil }},
		{"no purpose", "replay", func(c *intruder.Config) { c.Purpose = "" }},
		{"no grant", "no-envelope", func(c *intruder.Config) { c.Grant = nil }},
		{"grant for another purpose", "replay", func(c *intruder.Config) { c.Purpose = "another" }},
		{"grant that does not reach the namespace", "replay", func(c *intruder.Config) { c.Namespace = []string{"elsewhere"} }},
		{"no other tenant", "cross-tenant", func(c *intruder.Config) { c.OtherTenant = "" }},
		{"own tenant as the other one", "cross-tenant", func(c *intruder.Config) { c.OtherTenant = "acme" }},
		{"no foreign namespace", "widened-scope", func(c *intruder.Config) { c.Foreign = nil }},
		{"foreign namespace that the grant reaches", "foreign-namespace", func(c *intruder.Config) { c.Foreign = c.Namespace }},
		{"no stolen chain", "stolen-chain", func(c *intruder.Config) { c.StolenChain = nil }},
		{"stolen chain that is a grant alone", "stolen-chain", func(c *intruder.Config) { c.StolenChain = &v1.DelegationChain{Grant: c.Grant} }},
		{"own chain as the stolen one", "stolen-chain", func(c *intruder.Config) {
			chain, err := intruder.OwnChain(*c, c.Grant)
			if err != nil {
				t.Fatal(err)
			}
			c.StolenChain = chain
		}},
		{"no short grant", "expired-grant", func(c *intruder.Config) { c.ShortGrant = nil }},
		{"short grant that lives long", "expired-grant", func(c *intruder.Config) { c.ShortGrant = c.Grant }},
		{"short grant that has ended", "expired-grant", func(c *intruder.Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Hour) }
		}},
		{"no other grant", "spliced-chain", func(c *intruder.Config) { c.OtherGrant = nil }},
		{"the same grant twice", "spliced-chain", func(c *intruder.Config) { c.OtherGrant = c.Grant }},
		{"no sibling", "forged-id", func(c *intruder.Config) { c.Sibling = identity.AgentID{} }},
		{"itself as the sibling", "sibling-svid", func(c *intruder.Config) { c.Sibling = c.Self }},
		{"no operator socket", "sibling-svid", func(c *intruder.Config) { c.OperatorSocket = "" }},
		{"no workload socket", "sibling-svid", func(c *intruder.Config) { c.WorkloadSocket = "" }},
	}
	for _, tc := range tests {
		cfg := good
		tc.spoil(&cfg)
		before := d.asked.Load()
		results, err := intruder.Run(t.Context(), cfg, "no-envelope", tc.attack)
		if !errors.Is(err, intruder.ErrInput) || results != nil {
			t.Errorf("%s: Run(%s) = %v, %v, want %v", tc.name, tc.attack, results, err, intruder.ErrInput)
		}
		if d.asked.Load() != before {
			t.Errorf("%s: Run(%s) sent something before it refused", tc.name, tc.attack)
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	_, cfg := newDouble(t, admitAll)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	results, err := intruder.Run(ctx, cfg, "replay", "expired-grant", "forged-id", "sibling-svid")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want %v", err, context.Canceled)
	}
	for _, r := range results {
		if r.Refused || !r.Inconclusive {
			t.Errorf("%s = %+v, want inconclusive", r.Attack, r)
		}
	}
}
