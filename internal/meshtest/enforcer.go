package meshtest

import (
	"crypto/rand"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
)

// Endpoint is an enforcer with the log that it writes.
type Endpoint struct {
	*interceptors.Enforcer
	Log *Recorder
	// Handled counts how often a handler of ServeGRPC or ServeConnect was reached.
	Handled atomic.Int64
}

// Enforcer returns an enforcer of self with a log of its own. change may alter its configuration.
func (w *World) Enforcer(tb testing.TB, self identity.AgentID, methods *interceptors.Methods, change ...func(*interceptors.Config)) *Endpoint {
	tb.Helper()
	log := &Recorder{}
	cfg := interceptors.Config{
		Self: self, Registry: w.Registry, Verifier: w.Verifier(self), Engine: w.Engine(self), Audit: log, Methods: methods, Now: w.Now,
	}
	for _, f := range change {
		f(&cfg)
	}
	e, err := interceptors.New(cfg)
	if err != nil {
		tb.Fatalf("enforcer of %s: %v", self, err)
	}
	return &Endpoint{Enforcer: e, Log: log}
}

// Methods returns a method table with the services.
func Methods(tb testing.TB, services ...protoreflect.ServiceDescriptor) *interceptors.Methods {
	tb.Helper()
	var m interceptors.Methods
	for _, sd := range services {
		if err := m.AddService(sd); err != nil {
			tb.Fatalf("method table: %v", err)
		}
	}
	return &m
}

// Session opens a session of peer at e.
func (w *World) Session(tb testing.TB, e *Endpoint, peer identity.AgentID) *interceptors.Session {
	tb.Helper()
	s, err := e.Accept(w.Peer(peer))
	if err != nil {
		tb.Fatalf("session of %s: %v", peer, err)
	}
	return s
}

// Envelope returns an envelope that stands beside a typed request of peer: everything set that admission asks for, but the chain.
func (w *World) Envelope(peer identity.AgentID, procedure, action string, resource ...string) *v1.Envelope {
	id := newID()
	return &v1.Envelope{
		Id: id[:], Method: procedure, Tenant: peer.Tenant().Name(),
		Intent:         &v1.Intent{Action: action, Resource: resource, Purpose: DefaultPurpose},
		Control:        &v1.Label{Integrity: v1.Integrity_INTEGRITY_ATTESTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL, AnyReader: true},
		DeadlineUnixMs: w.Now().Add(30 * time.Second).UnixMilli(),
	}
}

func newID() (id [16]byte) {
	_, _ = rand.Read(id[:])
	return id
}
