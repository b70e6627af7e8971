package meshtest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
)

const service = "/mesh.v1.MeshService/"

// routes are the ways by which a plain guarded service is reached.
var routes = []struct {
	client     meshtest.Protocol
	serverGRPC bool
}{
	{meshtest.GRPC, true},
	{meshtest.ConnectGRPC, true},
	{meshtest.Connect, false},
	{meshtest.ConnectGRPC, false},
	{meshtest.GRPCWeb, false},
	{meshtest.GRPC, false},
}

// route is one client in front of one server.
type route struct {
	*meshtest.World
	t             *testing.T
	relay, writer identity.AgentID
	end           *meshtest.Endpoint
	addr          string
	protocol      meshtest.Protocol
	client        *meshtest.Client
	chain         *v1.DelegationChain
	expired       *v1.DelegationChain
}

func newRoute(t *testing.T, p meshtest.Protocol, serverGRPC bool) *route {
	t.Helper()
	r := &route{World: meshtest.New(t), t: t, protocol: p}
	r.relay, r.writer = r.Agent("acme", "relay"), r.Agent("acme", "writer")
	r.Table.Allow("acme", meshtest.DefaultClass, "mesh.call", []string{"mesh"}, false, r.writer.String())
	r.end = r.Enforcer(t, r.writer, meshtest.Methods(t, meshpb.File_mesh_v1_mesh_proto.Services().ByName("MeshService")))
	if serverGRPC {
		r.addr = r.ServeGRPC(t, r.end)
	} else {
		r.addr = r.ServeConnect(t, r.end, meshtest.ConnectParts{})
	}
	r.client = r.Dial(t, p, r.Identity(r.relay), r.writer, r.addr)
	r.expired = r.newChain()
	r.Advance(meshtest.DefaultLife + time.Minute)
	r.chain = r.newChain()
	return r
}

func (r *route) newChain() *v1.DelegationChain {
	return r.Chain(r.t, []identity.AgentID{r.relay, r.writer},
		meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh"), meshtest.Capability("mesh.foreign", "agent", "writer")))
}

// request is one good request for a method; the case spoils it.
func (r *route) request(procedure string) *meshpb.UnaryRequest {
	e := r.Envelope(r.relay, procedure, "mesh.call")
	e.Chain = r.chain
	return &meshpb.UnaryRequest{Resource: []string{"mesh"}, Envelope: e}
}

// cases are what happens to a call on every route, in every shape.
var cases = []struct {
	name   string
	spoil  func(*route, *meshpb.UnaryRequest)
	before func(r *route, shape meshtest.Shape, procedure string, req *meshpb.UnaryRequest)
	method string // instead of the shape's
	code   interceptors.Code
	reason string
	text   string
	audit  v1.Reason
}{
	{name: "allowed"},
	{name: "wrong tenant", spoil: func(_ *route, q *meshpb.UnaryRequest) { q.Envelope.Tenant = "globex" }, code: 7, reason: "TENANT_MISMATCH", audit: v1.Reason_REASON_TENANT_MISMATCH},
	{name: "no envelope", spoil: func(_ *route, q *meshpb.UnaryRequest) { q.Envelope = nil }, code: 7, reason: "NO_ENVELOPE", audit: v1.Reason_REASON_NO_ENVELOPE},
	{name: "malformed envelope", spoil: func(_ *route, q *meshpb.UnaryRequest) { q.Envelope.Id = nil }, code: 3, reason: "MALFORMED", audit: v1.Reason_REASON_MALFORMED},
	{
		name: "replayed", code: 6, reason: "REPLAYED", audit: v1.Reason_REASON_REPLAYED,
		before: func(r *route, _ meshtest.Shape, _ string, q *meshpb.UnaryRequest) {
			r.end.Admitted(r.relay, q.GetEnvelope().GetId())
		},
	},
	{name: "missing scope", spoil: func(_ *route, q *meshpb.UnaryRequest) { q.Resource = []string{"other"} }, code: 7, reason: "SCOPE", audit: v1.Reason_REASON_CHAIN_INTERSECTION},
	{name: "integrity too low", spoil: func(_ *route, q *meshpb.UnaryRequest) { q.Envelope.Control = nil }, code: 9, reason: "INTEGRITY_TOO_LOW", audit: v1.Reason_REASON_INTEGRITY_FLOOR},
	{name: "unknown method", method: service + "Missing", code: 12, reason: "UNKNOWN_METHOD", audit: v1.Reason_REASON_UNKNOWN_METHOD},
	{name: "unknown service", method: "/mesh.v1.Nobody/Unary", code: 12, reason: "UNKNOWN_METHOD", audit: v1.Reason_REASON_UNKNOWN_METHOD},
	{name: "expired chain", spoil: func(r *route, q *meshpb.UnaryRequest) { q.Envelope.Chain = r.expired }, code: 7, reason: "CHAIN_EXPIRED", audit: v1.Reason_REASON_CHAIN_TIME},
	{name: "unknown reference", spoil: func(_ *route, q *meshpb.UnaryRequest) { q.Envelope.Chain, q.Envelope.ChainRef = nil, make([]byte, 32) }, code: 9, reason: "CHAIN_UNKNOWN", audit: v1.Reason_REASON_CHAIN_UNKNOWN},
	{name: "forged chain", spoil: func(_ *route, q *meshpb.UnaryRequest) {
		q.Envelope.Chain = proto.CloneOf(q.GetEnvelope().GetChain())
		q.Envelope.Chain.Hops[0].Signature[7] ^= 1
	}, code: 7, reason: "CHAIN_INVALID", audit: v1.Reason_REASON_CHAIN_BAD_SIGNATURE},
	{name: "author's own status", spoil: func(_ *route, q *meshpb.UnaryRequest) { q.Behave = meshtest.BehaveStatus }, code: 5, text: meshtest.AuthorText},
	{name: "bare error", spoil: func(_ *route, q *meshpb.UnaryRequest) { q.Behave = meshtest.BehaveBare }, code: 13},
	{name: "panic", spoil: func(_ *route, q *meshpb.UnaryRequest) { q.Behave = meshtest.BehavePanic }, code: 13, reason: "INTERNAL", audit: v1.Reason_REASON_HANDLER_PANIC},
}

var shapes = []meshtest.Shape{meshtest.Unary, meshtest.ServerStream, meshtest.ClientStream, meshtest.Bidi}

// Every route answers every case with the same code and reason, and with a decision id that the log knows.
func TestRouteTable(t *testing.T) {
	for _, rt := range routes {
		server := "connect"
		if rt.serverGRPC {
			server = "grpc"
		}
		t.Run(string(rt.client)+" to "+server, func(t *testing.T) {
			r := newRoute(t, rt.client, rt.serverGRPC)
			for _, shape := range shapes {
				for _, c := range cases {
					t.Run(string(shape)+" "+c.name, func(t *testing.T) {
						r.t = t
						r.end.Log.Reset()
						r.end.Handled.Store(0)
						procedure := service + string(shape)
						if c.method != "" {
							procedure = c.method
						}
						req := r.request(procedure)
						if c.spoil != nil {
							c.spoil(r, req)
						}
						if c.before != nil {
							c.before(r, shape, procedure, req)
						}
						text, err := r.client.Call(t.Context(), shape, procedure, req, &meshpb.UnaryRequest{Behave: req.GetBehave(), Resource: req.GetResource()})
						if c.code == 0 {
							if err != nil || text != "done" {
								t.Fatalf("Call() = %q, %v", text, err)
							}
						} else {
							r.wantFailure(err, c.code, c.reason, c.text, c.audit)
						}
						reached := c.reason == "" || c.audit == v1.Reason_REASON_HANDLER_PANIC
						if n := r.end.Handled.Load(); reached != (n > 0) {
							t.Errorf("%d messages reached the handler", n)
						}
						r.wantOnePair(c.code)
					})
				}
			}
		})
	}
}

func (r *route) wantFailure(err error, code interceptors.Code, reason, text string, audit v1.Reason) {
	r.t.Helper()
	var f *meshtest.Failure
	if !errors.As(err, &f) {
		r.t.Fatalf("Call() = %v, want a failure", err)
	}
	if f.Code != code || f.Reason != reason {
		r.t.Errorf("code %d, reason %q, want %d, %q; %s", f.Code, f.Reason, code, reason, f.Raw)
	}
	if strings.Contains(f.Raw, "canary") {
		r.t.Errorf("the canary reached the peer: %s", f.Raw)
	}
	if text != "" && f.Message != text {
		r.t.Errorf("message %q, want %q", f.Message, text)
	}
	if reason == "" {
		if f.Infos != 0 {
			r.t.Errorf("an error of the author carries %d ErrorInfos", f.Infos)
		}
		return
	}
	events := r.end.Log.Decision(f.Decision)
	if len(f.Decision) != 32 || len(events) == 0 {
		r.t.Fatalf("decision id %q is not in the log", f.Decision)
	}
	if got := events[len(events)-1].GetReason(); got != audit {
		r.t.Errorf("audit reason %s, want %s", got, audit)
	}
}

// wantOnePair waits for the outcome, which the server writes before it answers, and holds the records against the code.
func (r *route) wantOnePair(code interceptors.Code) {
	r.t.Helper()
	for id, phases := range r.end.Log.Phases() {
		if len(phases) != 2 || phases[0] != v1.EventPhase_EVENT_PHASE_INTENT || phases[1] != v1.EventPhase_EVENT_PHASE_OUTCOME {
			r.t.Errorf("interaction %x has the phases %v", id, phases)
		}
	}
	if n := len(r.end.Log.Phases()); n != 1 {
		r.t.Fatalf("%d calls recorded, want 1", n)
	}
	for _, e := range r.end.Log.Events() {
		if e.GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME && e.GetOutcome().GetCode() != uint32(code) {
			r.t.Errorf("the log says code %d, the peer saw %d", e.GetOutcome().GetCode(), code)
		}
	}
}

// A peer whose certificate verifies but who is not registered learns it on each call, with a decision id.
func TestRouteUnregisteredPeer(t *testing.T) {
	for _, rt := range routes {
		r := newRoute(t, rt.client, rt.serverGRPC)
		stranger := r.ID("acme", "stranger")
		client := r.Dial(t, rt.client, r.Source(stranger), r.writer, r.addr)
		for _, shape := range shapes {
			t.Run(string(rt.client)+" "+string(shape), func(t *testing.T) {
				r.t = t
				_, err := client.Call(t.Context(), shape, service+string(shape), r.request(service+string(shape)))
				r.wantFailure(err, interceptors.CodeUnauthenticated, "PEER_UNVERIFIED", "", v1.Reason_REASON_PEER_UNREGISTERED)
			})
		}
	}
}

// References work on the connection that presented the chain, on every route.
func TestRouteReferences(t *testing.T) {
	for _, rt := range routes {
		t.Run(string(rt.client), func(t *testing.T) {
			r := newRoute(t, rt.client, rt.serverGRPC)
			req := r.request(service + "Unary")
			if _, err := r.client.Call(t.Context(), meshtest.Unary, service+"Unary", req); err != nil {
				t.Fatalf("the full chain: %v", err)
			}
			link := r.Leaf(t, r.chain, r.relay, r.writer).Link()
			byRef := r.request(service + "Unary")
			byRef.Envelope.Chain, byRef.Envelope.ChainRef = nil, link[:]
			if _, err := r.client.Call(t.Context(), meshtest.Unary, service+"Unary", byRef); err != nil {
				t.Errorf("the reference: %v", err)
			}
			other := r.Dial(t, rt.client, r.Identity(r.relay), r.writer, r.addr)
			byRef = proto.CloneOf(byRef)
			byRef.Envelope.Id = r.request("").GetEnvelope().GetId()
			_, err := other.Call(t.Context(), meshtest.Unary, service+"Unary", byRef)
			r.wantFailure(err, interceptors.CodeFailedPrecondition, "CHAIN_UNKNOWN", "", v1.Reason_REASON_CHAIN_UNKNOWN)
			byRef.Envelope.Chain, byRef.Envelope.ChainRef = r.chain, nil
			if _, err := other.Call(t.Context(), meshtest.Unary, service+"Unary", byRef); err != nil {
				t.Errorf("the full chain with the id of the refused message: %v", err)
			}
		})
	}
}

// A stream that is half closed before its first message is on nobody's authority: the handler does not run.
func TestRouteStreamWithoutAMessage(t *testing.T) {
	for _, rt := range routes {
		r := newRoute(t, rt.client, rt.serverGRPC)
		for _, shape := range []meshtest.Shape{meshtest.ClientStream, meshtest.Bidi} {
			t.Run(string(rt.client)+" "+string(shape), func(t *testing.T) {
				r.t = t
				_, err := r.client.Call(t.Context(), shape, service+string(shape))
				r.wantFailure(err, interceptors.CodePermissionDenied, "NO_ENVELOPE", "", v1.Reason_REASON_NO_ENVELOPE)
				if n := r.end.Handled.Load(); n != 0 {
					t.Errorf("the handler was reached %d times", n)
				}
			})
		}
	}
}

// A suspension reaches an open connection with its next call.
func TestRouteSuspension(t *testing.T) {
	for _, rt := range routes {
		t.Run(string(rt.client), func(t *testing.T) {
			r := newRoute(t, rt.client, rt.serverGRPC)
			call := func() error {
				_, err := r.client.Call(t.Context(), meshtest.Unary, service+"Unary", r.request(service+"Unary"))
				return err
			}
			if err := call(); err != nil {
				t.Fatal(err)
			}
			r.Registry.SetState(r.relay, identity.StateSuspended)
			r.wantFailure(call(), interceptors.CodePermissionDenied, "AGENT_STATE", "", v1.Reason_REASON_AGENT_SUSPENDED)
			r.Registry.SetState(r.relay, identity.StateActive)
			if err := call(); err != nil {
				t.Errorf("after the suspension: %v", err)
			}
		})
	}
}

// A client that goes away leaves an outcome on every route and in every shape.
func TestRouteCancellation(t *testing.T) {
	for _, rt := range routes {
		r := newRoute(t, rt.client, rt.serverGRPC)
		for _, shape := range shapes {
			t.Run(string(rt.client)+" "+string(shape), func(t *testing.T) {
				r.t = t
				r.end.Log.Reset()
				req := r.request(service + string(shape))
				req.Behave = meshtest.BehaveStall
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				done := make(chan error, 1)
				go func() {
					_, err := r.client.Call(ctx, shape, service+string(shape), req, &meshpb.UnaryRequest{Resource: []string{"mesh"}, Behave: meshtest.BehaveStall})
					done <- err
				}()
				if shape != meshtest.Bidi { // a stalled bidi handler ends with its requests
					r.end.Log.Await(t, func(e []*v1.AuditEvent) bool { return len(e) > 0 })
					cancel()
				}
				if err := <-done; err == nil && shape != meshtest.Bidi {
					t.Error("a cancelled call succeeds")
				}
				r.end.Log.Await(t, func(events []*v1.AuditEvent) bool {
					return len(events) == 2 && events[1].GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME
				})
			})
		}
	}
}
