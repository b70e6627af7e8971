package enforceconnect_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforceconnect"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb/meshpbconnect"
)

const (
	unary   = "/mesh.v1.MeshService/Unary"
	bidi    = "/mesh.v1.MeshService/Bidi"
	foreign = "/mesh.v1.MeshService/Foreign"
)

// edge is relay as a Connect client of writer.
type edge struct {
	*meshtest.World
	t             *testing.T
	relay, writer identity.AgentID
	end           *meshtest.Endpoint
	addr          string
	client        *meshtest.Client
	chain         *v1.DelegationChain
}

func newEdge(t *testing.T, without meshtest.ConnectParts) *edge {
	t.Helper()
	e := &edge{World: meshtest.New(t), t: t}
	e.relay, e.writer = e.Agent("acme", "relay"), e.Agent("acme", "writer")
	e.Table.Allow("acme", meshtest.DefaultClass, "mesh.call", []string{"mesh"}, false, e.writer.String())
	e.Table.Allow("acme", meshtest.DefaultClass, "mesh.foreign", []string{"agent", "writer"}, false, e.writer.String())
	e.end = e.Enforcer(t, e.writer, meshtest.Methods(t, meshpb.File_mesh_v1_mesh_proto.Services().ByName("MeshService")))
	e.addr = e.ServeConnect(t, e.end, without)
	e.client = e.Dial(t, meshtest.Connect, e.Identity(e.relay), e.writer, e.addr)
	e.chain = e.Chain(t, []identity.AgentID{e.relay, e.writer},
		meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh"), meshtest.Capability("mesh.foreign", "agent", "writer")))
	return e
}

func (e *edge) request(procedure string) *meshpb.UnaryRequest {
	env := e.Envelope(e.relay, procedure, "mesh.call")
	env.Chain = e.chain
	return &meshpb.UnaryRequest{Resource: []string{"mesh"}, Envelope: env}
}

func (e *edge) call() error {
	_, err := e.client.Call(e.t.Context(), meshtest.Unary, unary, e.request(unary))
	return err
}

func (e *edge) wantFailure(err error, code interceptors.Code, reason string) {
	e.t.Helper()
	var f *meshtest.Failure
	if !errors.As(err, &f) || f.Code != code || f.Reason != reason {
		e.t.Fatalf("error %v, want code %d, reason %q", err, code, reason)
	}
	if reason != "" && len(e.end.Log.Decision(f.Decision)) == 0 {
		e.t.Errorf("decision %q is not in the log", f.Decision)
	}
}

// post sends one raw request.
func (e *edge) post(method, path, contentType string, body io.Reader, header ...string) *http.Response {
	e.t.Helper()
	req, err := http.NewRequestWithContext(e.t.Context(), method, "https://"+e.addr+path, body)
	if err != nil {
		e.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := e.client.HTTP().Do(req)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

// refused waits for the record of a refusal before any call and returns it.
func (e *edge) refused() *v1.AuditEvent {
	e.t.Helper()
	events := e.end.Log.Await(e.t, func(events []*v1.AuditEvent) bool { return len(events) > 0 })
	if len(events) != 1 || events[0].GetKind() != v1.EventKind_EVENT_KIND_TRANSPORT_REFUSED {
		e.t.Fatalf("records %v, want one TRANSPORT_REFUSED", events)
	}
	return events[0]
}

func TestWithoutMiddlewareEveryCallIsUnverified(t *testing.T) {
	e := newEdge(t, meshtest.ConnectParts{NoMiddleware: true})
	e.wantFailure(e.call(), interceptors.CodeUnauthenticated, "PEER_UNVERIFIED")
	_, err := e.client.Call(t.Context(), meshtest.Bidi, bidi, e.request(bidi))
	e.wantFailure(err, interceptors.CodeUnauthenticated, "PEER_UNVERIFIED")
}

func TestWithoutConnContextEveryReferenceIsUnknown(t *testing.T) {
	for _, without := range []bool{false, true} {
		e := newEdge(t, meshtest.ConnectParts{NoConnContext: without})
		if err := e.call(); err != nil {
			t.Fatalf("the full chain: %v", err)
		}
		link := e.Leaf(t, e.chain, e.relay, e.writer).Link()
		req := e.request(unary)
		req.Envelope.Chain, req.Envelope.ChainRef = nil, link[:]
		_, err := e.client.Call(t.Context(), meshtest.Unary, unary, req)
		if without {
			e.wantFailure(err, interceptors.CodeFailedPrecondition, "CHAIN_UNKNOWN")
		} else if err != nil {
			t.Errorf("the reference on a connection with ConnContext: %v", err)
		}
	}
}

func TestPlaintextIsUnverified(t *testing.T) {
	e := newEdge(t, meshtest.ConnectParts{})
	mux := http.NewServeMux()
	mux.Handle(meshpbconnect.NewMeshServiceHandler(meshtest.ConnectService{Ran: new(atomic.Int64)}, connect.WithInterceptors(enforceconnect.New(e.end.Enforcer))))
	s := httptest.NewServer(enforceconnect.Middleware(e.end.Enforcer, mux))
	defer s.Close()
	_, err := meshpbconnect.NewMeshServiceClient(s.Client(), s.URL).Unary(t.Context(), e.request(unary))
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("a call without TLS: %v", err)
	}
}

func TestOnlyPost(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodHead, http.MethodOptions} {
		e := newEdge(t, meshtest.ConnectParts{})
		resp := e.post(method, unary+"?message=secret", "", nil)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != http.MethodPost {
			t.Errorf("%s: status %d", method, resp.StatusCode)
		}
		if ev := e.refused(); ev.GetActor().GetSpiffeId() != e.relay.String() || strings.Contains(ev.String(), "secret") {
			t.Errorf("%s: record %v", method, ev)
		}
	}
}

// Connect would serve a GET of a method without side effects: it must not even see one.
func TestNothingButPostReachesTheHandler(t *testing.T) {
	e := newEdge(t, meshtest.ConnectParts{})
	reached := false
	h := enforceconnect.Middleware(e.end.Enforcer, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, unary, nil))
	if reached {
		t.Error("a GET reached the handler")
	}
}

func TestBodiesThatNoInterceptorSees(t *testing.T) {
	big := make([]byte, 2<<20)
	tests := []struct {
		name, contentType string
		body              []byte
		status            int
	}{
		{"malformed", "application/proto", []byte{0xff, 0xff}, http.StatusBadRequest},
		{"malformed JSON", "application/json", []byte("{"), http.StatusBadRequest},
		{"two mebibytes", "application/proto", big, http.StatusTooManyRequests},
		{"unknown content type", "text/plain", nil, http.StatusUnsupportedMediaType},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := newEdge(t, meshtest.ConnectParts{})
			resp := e.post(http.MethodPost, unary, tt.contentType, bytes.NewReader(tt.body))
			defer resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
			if ev := e.refused(); ev.GetActor().GetSpiffeId() != e.relay.String() || ev.GetReason() != v1.Reason_REASON_TRANSPORT_REFUSED {
				t.Errorf("record %v", ev)
			}
			e.end.Log.Reset()
			if err := e.call(); err != nil {
				t.Errorf("the connection afterwards: %v", err)
			}
		})
	}
}

func TestUnknownPaths(t *testing.T) {
	e := newEdge(t, meshtest.ConnectParts{})
	resp := e.post(http.MethodPost, "/admin", "text/html", nil)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("an unknown path: status %d", resp.StatusCode)
	}
	events := e.end.Log.Events()
	if len(events) != 2 || events[1].GetReason() != v1.Reason_REASON_UNKNOWN_METHOD {
		t.Errorf("records %v", events)
	}
}

func TestEnvelopeInAHeader(t *testing.T) {
	e := newEdge(t, meshtest.ConnectParts{})
	send := func(values ...string) (int, string) {
		var header []string
		for _, v := range values {
			header = append(header, enforceconnect.EnvelopeKey, v)
		}
		resp := e.post(http.MethodPost, foreign, "application/proto", bytes.NewReader(nil), header...)
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	fresh := func() string {
		env := e.Envelope(e.relay, foreign, "mesh.foreign")
		env.Chain = e.chain
		raw, err := proto.Marshal(env)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawStdEncoding.EncodeToString(raw)
	}
	if status, body := send(fresh()); status != http.StatusOK {
		t.Errorf("one envelope: %d %s", status, body)
	}
	if status, body := send(fresh() + "=="); status != http.StatusOK && !strings.Contains(body, "MALFORMED") {
		t.Errorf("a padded envelope: %d %s", status, body)
	}
	if _, body := send(fresh(), fresh()); !strings.Contains(body, "\"invalid_argument\"") {
		t.Errorf("two envelopes: %s", body)
	}
	for name, values := range map[string][]string{"none": nil, "two": {fresh(), fresh()}, "not base64": {"!"}, "not an envelope": {"/////w"}} {
		if status, _ := send(values...); status == http.StatusOK {
			t.Errorf("%s: admitted", name)
		}
	}
}

// A client that stalls a stream and never closes it: the deadline releases the blocked Receive and the outcome is recorded.
func TestStalledStreamsAreRecorded(t *testing.T) {
	const streams = 18
	for _, tt := range []struct {
		name, contentType string
		header            [2]string
	}{
		{"connect", "application/connect+proto", [2]string{"Connect-Timeout-Ms", "300"}},
		{"grpc", "application/grpc+proto", [2]string{"Grpc-Timeout", "300m"}},
		{"grpc-web", "application/grpc-web+proto", [2]string{"Grpc-Timeout", "300m"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newEdge(t, meshtest.ConnectParts{})
			var wg sync.WaitGroup
			defer wg.Wait()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			for range streams {
				msg := e.request(bidi)
				msg.Behave = meshtest.BehaveStall
				raw, err := proto.Marshal(msg)
				if err != nil {
					t.Fatal(err)
				}
				body, feed := io.Pipe()
				defer func() { _ = feed.Close() }()
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+e.addr+bidi, body)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", tt.contentType)
				req.Header.Set("Te", "trailers")
				req.Header.Set(tt.header[0], tt.header[1])
				wg.Go(func() {
					resp, err := e.client.HTTP().Do(req)
					if err == nil {
						_, _ = io.Copy(io.Discard, resp.Body)
						_ = resp.Body.Close()
					}
				})
				wg.Go(func() { _, _ = feed.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(raw))), raw...)) })
			}
			events := e.end.Log.Await(t, func(events []*v1.AuditEvent) bool { return len(events) >= 2*streams })
			for id, phases := range e.end.Log.Phases() {
				if len(phases) != 2 {
					t.Errorf("interaction %x has %v", id, phases)
				}
			}
			for _, ev := range events {
				if ev.GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME && ev.GetOutcome().GetCode() == 0 {
					t.Errorf("a stalled stream ended well: %v", ev)
				}
			}
		})
	}
}

// Certificates that name nobody end the handshake on this side too.
func TestBadCertificatesDoNotConnect(t *testing.T) {
	e := newEdge(t, meshtest.ConnectParts{})
	for name, opt := range map[string]meshtest.SourceOption{
		"rogue CA":     meshtest.IssuedBy(e.Rogue),
		"two URI SANs": meshtest.Template(func(c *x509.Certificate) { c.URIs = append(c.URIs, e.writer.ID().URL()) }),
		"CA leaf":      meshtest.Template(func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign }),
	} {
		client := e.Dial(t, meshtest.Connect, e.Source(e.relay, opt), e.writer, e.addr)
		if _, err := client.Call(t.Context(), meshtest.Unary, unary, e.request(unary)); err == nil {
			t.Errorf("%s: the call succeeds", name)
		}
	}
	if n := len(e.end.Log.Phases()); n != 0 {
		t.Errorf("%d calls were opened", n)
	}
}

func TestErrorLeavesNoForeignText(t *testing.T) {
	own := connect.NewError(connect.CodeNotFound, errors.New("no such note"))
	if detail, err := connect.NewErrorDetail(&v1.Envelope{}); err == nil {
		own.AddDetail(detail)
	}
	tests := []struct {
		name string
		err  error
		code connect.Code
		text string
	}{
		{"own", own, connect.CodeNotFound, "no such note"},
		{"own without a code", connect.NewError(connect.CodeUnknown, errors.New("secret")), connect.CodeInternal, "internal error"},
		{"wrapped own", errors.Join(own, errors.New("secret")), connect.CodeInternal, "internal error"},
		{"bare", errors.New("secret"), connect.CodeInternal, "internal error"},
		{"public", interceptors.Public(interceptors.CodeAborted, "try again"), connect.CodeAborted, "try again"},
		{"public without a code", &interceptors.PublicError{Text: "x"}, connect.CodeInternal, "x"},
		{"cancelled", context.Canceled, connect.CodeCanceled, "the call was cancelled"},
		{"deadline", context.DeadlineExceeded, connect.CodeDeadlineExceeded, "the deadline has passed"},
		{"denial", &interceptors.Denial{Code: interceptors.CodeResourceExhausted, Reason: v1.Reason_REASON_RATE, RetryAfter: time.Second, Err: errors.New("secret")}, connect.CodeResourceExhausted, "over a limit"},
	}
	for _, tt := range tests {
		var got *connect.Error
		if err := enforceconnect.Error(tt.err); !errors.As(err, &got) || got.Code() != tt.code || got.Message() != tt.text {
			t.Errorf("%s: Error() = %v, want %s %q", tt.name, err, tt.code, tt.text)
		}
		if want := map[string]int{"denial": 2}[tt.name]; len(got.Details()) != want {
			t.Errorf("%s: %d details, want %d", tt.name, len(got.Details()), want)
		}
	}
	if enforceconnect.Error(nil) != nil {
		t.Error("Error(nil) is an error")
	}
}

func TestClientsAreLeftAlone(t *testing.T) {
	e := newEdge(t, meshtest.ConnectParts{})
	client := meshpbconnect.NewMeshServiceClient(e.client.HTTP(), "https://"+e.addr, connect.WithInterceptors(enforceconnect.New(e.end.Enforcer)))
	if _, err := client.Unary(t.Context(), e.request(unary)); err != nil {
		t.Errorf("a unary call of a client with the interceptor: %v", err)
	}
	s, err := client.Bidi(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.CloseRequest(), s.CloseResponse()); err != nil {
		t.Errorf("a stream of a client with the interceptor: %v", err)
	}
}

// The timeout of the envelope ends a stream's handler, though the client would wait longer.
func TestTimeoutEndsAStream(t *testing.T) {
	const stream = "/mesh.v1.MeshService/ServerStream"
	e := newEdge(t, meshtest.ConnectParts{})
	req := e.request(stream)
	req.Behave, req.Envelope.TimeoutMs = meshtest.BehaveStall, 200
	_, err := e.client.Call(t.Context(), meshtest.ServerStream, stream, req)
	e.wantFailure(err, interceptors.CodeDeadlineExceeded, "")
}
