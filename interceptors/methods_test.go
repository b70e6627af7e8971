package interceptors_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
)

func TestMethodTableRefusals(t *testing.T) {
	input := (&meshpb.UnaryRequest{}).ProtoReflect().Descriptor()
	facts := func(n int) (out []*v1.Fact) {
		for i := range n {
			out = append(out, &v1.Fact{Key: fmt.Sprintf("f%d", i), Field: "amount"})
		}
		return out
	}
	tests := []struct {
		name string
		m    *interceptors.Method
	}{
		{"no option", &interceptors.Method{Procedure: unary}},
		{"no action", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{}}},
		{"action of capitals", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Action: "Mesh.call"}}},
		{"wildcard action", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Action: "mesh.*"}}},
		{"open with an action", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Open: true, Action: "mesh.call"}}},
		{"no slash", &interceptors.Method{Procedure: "mesh.v1.MeshService/Unary", Intent: &v1.MethodIntent{Action: "mesh.call"}}},
		{"long procedure", &interceptors.Method{Procedure: "/" + text(256), Intent: &v1.MethodIntent{Action: "mesh.call"}}},
		{"unknown integrity", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Action: "mesh.call", MinIntegrity: 9}}},
		{"unknown audit class", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Action: "mesh.call", Audit: 9}}},
		{"unknown confidentiality", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Action: "mesh.call", MaxConfidentiality: 9}}},
		{"keyed", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Action: "mesh.call", Idempotency: v1.Idempotency_IDEMPOTENCY_KEYED}}},
		{"depth 9", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Action: "mesh.call", MaxDepth: 9}}},
		{"proof on a stream of requests", &interceptors.Method{Procedure: unary, ClientStream: true, Intent: &v1.MethodIntent{Action: "mesh.call", RequireProof: true}}},
		{"proof on a stream of replies", &interceptors.Method{Procedure: unary, ServerStream: true, Intent: &v1.MethodIntent{Action: "mesh.call", RequireProof: true}}},
		{"receipt on a stream", &interceptors.Method{Procedure: unary, ServerStream: true, Intent: &v1.MethodIntent{Action: "mesh.call", SignedReceipt: true}}},
		{"proof of an open method", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Open: true, RequireProof: true}}},
		{"receipt of an open method", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Open: true, SignedReceipt: true}}},
		{"9 scopes", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Action: "mesh.call", Scopes: repeat(9, "mesh.call")}}},
		{"malformed scope", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Action: "mesh.call", Scopes: []string{"*"}}}},
		{"17 facts", &interceptors.Method{Procedure: unary, Input: input, Intent: &v1.MethodIntent{Action: "mesh.call", Facts: facts(17)}}},
		{"resource field of no message", &interceptors.Method{Procedure: unary, Intent: &v1.MethodIntent{Action: "mesh.call", ResourceField: "resource"}}},
		{"missing resource field", &interceptors.Method{Procedure: unary, Input: input, Intent: &v1.MethodIntent{Action: "mesh.call", ResourceField: "missing"}}},
		{"resource field that is a number", &interceptors.Method{Procedure: unary, Input: input, Intent: &v1.MethodIntent{Action: "mesh.call", ResourceField: "amount"}}},
		{"resource field that is a message", &interceptors.Method{Procedure: unary, Input: input, Intent: &v1.MethodIntent{Action: "mesh.call", ResourceField: "envelope"}}},
		{"resource field below a list", &interceptors.Method{Procedure: unary, Input: input, Intent: &v1.MethodIntent{Action: "mesh.call", ResourceField: "envelope.context.tenant"}}},
		{"resource field below a string", &interceptors.Method{Procedure: unary, Input: input, Intent: &v1.MethodIntent{Action: "mesh.call", ResourceField: "behave.x"}}},
		{"missing fact", &interceptors.Method{Procedure: unary, Input: input, Intent: &v1.MethodIntent{Action: "mesh.call", Facts: []*v1.Fact{{Key: "x", Field: "missing"}}}}},
		{"fact that is a list", &interceptors.Method{Procedure: unary, Input: input, Intent: &v1.MethodIntent{Action: "mesh.call", Facts: []*v1.Fact{{Key: "x", Field: "resource"}}}}},
		{"fact that is bytes", &interceptors.Method{Procedure: unary, Input: input, Intent: &v1.MethodIntent{Action: "mesh.call", Facts: []*v1.Fact{{Key: "x", Field: "envelope.id"}}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var ms interceptors.Methods
			err := ms.Add(tt.m)
			if !errors.Is(err, interceptors.ErrMethod) || !strings.Contains(err.Error(), tt.m.Procedure) {
				t.Errorf("Add() = %v, want ErrMethod that names the method", err)
			}
			if ms.Lookup(tt.m.Procedure) != nil || len(ms.All()) != 0 {
				t.Error("a refused method is in the table")
			}
		})
	}
}

func TestMethodTable(t *testing.T) {
	ms := meshMethods(t)
	if n := len(ms.All()); n != 6 {
		t.Errorf("%d methods, want 6", n)
	}
	m := ms.Lookup("/mesh.v1.MeshService/Bidi")
	if m == nil || !m.ClientStream || !m.ServerStream || m.Intent.GetAction() != "mesh.call" {
		t.Errorf("Lookup(Bidi) = %+v", m)
	}
	for _, name := range []string{"", "/", "/mesh.v1.MeshService/unary", "mesh.v1.MeshService/Unary", "/mesh.v1.MeshService/Unary/"} {
		if ms.Lookup(name) != nil {
			t.Errorf("Lookup(%q) finds a method", name)
		}
	}
	sd := meshpb.File_mesh_v1_mesh_proto.Services().ByName("MeshService")
	if err := ms.AddService(sd); !errors.Is(err, interceptors.ErrMethod) || !strings.Contains(err.Error(), "twice") {
		t.Errorf("AddService(again) = %v", err)
	}
	exchange := rpcv1.File_safeconduct_rpc_v1_exchange_proto.Services().ByName("ExchangeService")
	var empty interceptors.Methods
	if err := empty.AddService(exchange); !errors.Is(err, interceptors.ErrMethod) || !strings.Contains(err.Error(), "/safeconduct.rpc.v1.ExchangeService/") {
		t.Errorf("AddService(no options) = %v", err)
	}
	for _, sd := range []protoreflect.ServiceDescriptor{
		rpcv1.File_safeconduct_rpc_v1_memory_proto.Services().ByName("MemoryService"),
		rpcv1.File_safeconduct_rpc_v1_memory_proto.Services().ByName("ContextService"),
		rpcv1.File_safeconduct_rpc_v1_authority_proto.Services().ByName("AuthorityService"),
	} {
		if err := empty.AddService(sd); err != nil {
			t.Errorf("AddService(%s) = %v", sd.FullName(), err)
		}
	}
}

func TestResourceOf(t *testing.T) {
	fallback := []string{"agent", "writer"}
	input := (&meshpb.UnaryRequest{}).ProtoReflect().Descriptor()
	add := func(field string) *interceptors.Method {
		var ms interceptors.Methods
		m := &interceptors.Method{Procedure: unary, Input: input, Intent: &v1.MethodIntent{Action: "mesh.call", ResourceField: field}}
		if err := ms.Add(m); err != nil {
			t.Fatal(err)
		}
		return ms.Lookup(unary)
	}
	tests := []struct {
		name, field string
		req         proto.Message
		want        []string
		fails       bool
	}{
		{"none declared", "", &meshpb.UnaryRequest{Resource: []string{"x"}}, fallback, false},
		{"a list", "resource", &meshpb.UnaryRequest{Resource: []string{"a", "b"}}, []string{"a", "b"}, false},
		{"a string", "behave", &meshpb.UnaryRequest{Behave: "a/b"}, []string{"a/b"}, false},
		{"an absent list", "resource", &meshpb.UnaryRequest{}, []string{}, false},
		{"below a message", "envelope.tenant", &meshpb.UnaryRequest{Envelope: &v1.Envelope{Tenant: "t"}}, []string{"t"}, false},
		{"below an absent message", "envelope.tenant", &meshpb.UnaryRequest{}, []string{""}, false},
		{"a request of another type", "resource", &meshpb.BidiRequest{Resource: []string{"a"}}, nil, true},
		{"no request", "resource", nil, nil, true},
		{"18 segments", "resource", &meshpb.UnaryRequest{Resource: repeat(18, "x")}, nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := add(tt.field).ResourceOf(tt.req, fallback)
			if (err != nil) != tt.fails || !slices.Equal(got, tt.want) {
				t.Errorf("ResourceOf() = %q, %v, want %q", got, err, tt.want)
			}
		})
	}
	w := meshtest.New(t)
	if got := interceptors.DefaultResource(w.ID("acme", "writer")); !slices.Equal(got, fallback) {
		t.Errorf("DefaultResource(agent) = %q", got)
	}
	if got := interceptors.DefaultResource(w.Service("memory")); !slices.Equal(got, []string{"service", "memory"}) {
		t.Errorf("DefaultResource(service) = %q", got)
	}
}

// Facts of the request meet the constraints of the chain; a fact that the method does not declare meets none.
func TestFactsAndScopes(t *testing.T) {
	s := newScene(t)
	input := (&meshpb.UnaryRequest{}).ProtoReflect().Descriptor()
	number := func(n int64) *v1.Value { return &v1.Value{Kind: &v1.Value_Number{Number: n}} }
	bounded := func(key string) *v1.DelegationChain {
		c := meshtest.Capability("mesh.call", "mesh")
		c.Constraints = []*v1.Constraint{{Key: key, Rule: &v1.Constraint_Range{Range: &v1.Range{Max: proto.Int64(100)}}}}
		if key == "name" {
			c.Constraints[0].Rule = &v1.Constraint_Prefix{Prefix: "ok/"}
		}
		if key == "seven" {
			c.Constraints[0].Rule = &v1.Constraint_Eq{Eq: number(7)}
		}
		return s.Chain(t, []identity.AgentID{s.relay, s.writer}, meshtest.Capabilities(c))
	}
	serve := func(chain *v1.DelegationChain, intent *v1.MethodIntent, req *meshpb.UnaryRequest) error {
		t.Helper()
		intent.Action, intent.ResourceField = "mesh.call", "resource"
		var ms interceptors.Methods
		if err := ms.Add(&interceptors.Method{Procedure: unary, Input: input, Intent: intent}); err != nil {
			t.Fatal(err)
		}
		s.end = s.Enforcer(t, s.writer, &ms)
		s.session = s.Session(t, s.end, s.relay)
		e := s.envelope()
		e.Chain, req.Envelope, req.Resource = chain, e, []string{"mesh"}
		return s.serve(t.Context(), s.call(), req, succeed)
	}
	declared := func() *v1.MethodIntent {
		return &v1.MethodIntent{Facts: []*v1.Fact{
			{Key: "amount", Field: "amount"}, {Key: "name", Field: "behave"}, {Key: "seven", Field: "envelope.timeout_ms"}, {Key: "flag", Field: "envelope.half_close"},
		}}
	}
	unmet := v1.Reason_REASON_CHAIN_CONSTRAINT_UNMET
	wantReason(t, "100 of 100", serve(bounded("amount"), declared(), &meshpb.UnaryRequest{Amount: 100}), 0)
	wantReason(t, "101 of 100", serve(bounded("amount"), declared(), &meshpb.UnaryRequest{Amount: 101}), unmet)
	wantReason(t, "a prefix that fits", serve(bounded("name"), declared(), &meshpb.UnaryRequest{Behave: "ok/x"}), 0)
	wantReason(t, "a prefix that does not", serve(bounded("name"), declared(), &meshpb.UnaryRequest{Behave: "okx"}), unmet)
	wantReason(t, "a number that is not 7", serve(bounded("seven"), declared(), &meshpb.UnaryRequest{}), unmet)
	wantReason(t, "an undeclared fact", serve(bounded("amount"), &v1.MethodIntent{}, &meshpb.UnaryRequest{Amount: 1}), unmet)

	chain := s.Chain(t, []identity.AgentID{s.relay, s.writer}, meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh"), meshtest.Capability("mesh.audit", "mesh")))
	wantReason(t, "all scopes", serve(chain, &v1.MethodIntent{Scopes: []string{"mesh.audit", "mesh.call"}}, &meshpb.UnaryRequest{}), 0)
	wantReason(t, "a scope missing", serve(chain, &v1.MethodIntent{Scopes: []string{"mesh.audit", "mesh.admin"}}, &meshpb.UnaryRequest{}), v1.Reason_REASON_SCOPE_MISSING)
}

// A message that has none of the declared facts cannot be held against the constraints of the chain.
func TestFactsOfAnotherMessageAreRefused(t *testing.T) {
	s := newScene(t)
	var ms interceptors.Methods
	if err := ms.Add(&interceptors.Method{
		Procedure: unary, Input: (&meshpb.UnaryRequest{}).ProtoReflect().Descriptor(),
		Intent: &v1.MethodIntent{Action: "mesh.foreign", Facts: []*v1.Fact{{Key: "amount", Field: "amount"}}},
	}); err != nil {
		t.Fatal(err)
	}
	s.end = s.Enforcer(t, s.writer, &ms)
	s.session = s.Session(t, s.end, s.relay)
	for name, req := range map[string]proto.Message{"nothing": nil, "another type": &meshpb.ForeignRequest{}, "the type declared": request(nil)} {
		c, e := s.call(), s.envelope()
		e.Intent.Action = "mesh.foreign"
		raw, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		c.Metadata = raw
		want := malformed
		if name == "the type declared" {
			want = 0
		}
		wantReason(t, name, s.serve(t.Context(), c, req, succeed), want)
	}
}

// A chain in which anyone widened anything is refused before the policy is asked.
func TestWidenedChainsAreRefused(t *testing.T) {
	s := newScene(t)
	leaf := s.Root(t, s.relay, meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh")), meshtest.MaxDepth(2))
	svid, _ := s.Identity(s.relay).GetX509SVID()
	signer, err := delegation.NewSigner(svid)
	if err != nil {
		t.Fatal(err)
	}
	for name, spec := range map[string]delegation.HopSpec{
		"scope": {Delegate: s.writer, Capabilities: []*v1.Capability{meshtest.Below("mesh.call", "mesh")}},
		"depth": {Delegate: s.writer, MaxDepth: 5},
	} {
		if _, err := delegation.Append(leaf, spec, signer, s.Now()); delegation.ReasonOf(err) == 0 {
			t.Errorf("%s: Append() = %v", name, err)
		}
	}
	e := s.envelope()
	e.Chain = s.newChain()
	e.Chain.Hops[0].Signature[10] ^= 1
	wantReason(t, "a signature changed", s.send(e), v1.Reason_REASON_CHAIN_BAD_SIGNATURE)
	e = s.envelope()
	e.Chain = s.Chain(t, []identity.AgentID{s.relay, s.Agent("acme", "other")}, meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh")))
	wantReason(t, "a chain for another callee", s.send(e), v1.Reason_REASON_CHAIN_AUDIENCE)
	thief := s.Agent("acme", "thief")
	s.session = s.Session(t, s.end, thief)
	wantReason(t, "a stolen chain", s.send(s.envelope()), v1.Reason_REASON_CHAIN_PRESENTER)
}

// Several callers learn a service at once: the one that comes second finds all of it.
func TestAServiceIsAddedAsAWhole(t *testing.T) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName("mesh.v1.MeshService")
	if err != nil {
		t.Fatal(err)
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		t.Fatalf("%T is no service", d)
	}
	last := "/mesh.v1.MeshService/" + string(sd.Methods().Get(sd.Methods().Len()-1).Name())
	for range 50 {
		var methods interceptors.Methods
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := methods.AddService(sd); err != nil && methods.Lookup(last) == nil {
					t.Errorf("%v, and %s is not there", err, last)
				}
			})
		}
		wg.Wait()
	}
	bad := &interceptors.Method{Procedure: "/mesh.v1.Other/Bad", Intent: &v1.MethodIntent{}}
	good := &interceptors.Method{Procedure: "/mesh.v1.Other/Good", Intent: &v1.MethodIntent{Action: "mesh.call"}}
	var methods interceptors.Methods
	if err := methods.Add(good, bad); !errors.Is(err, interceptors.ErrMethod) || methods.Lookup(good.Procedure) != nil {
		t.Errorf("a refused service left a part behind: %v", err)
	}
	if err := methods.Add(good, good); !errors.Is(err, interceptors.ErrMethod) {
		t.Errorf("the same method twice in one service: %v", err)
	}
}
