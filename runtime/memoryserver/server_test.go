package memoryserver_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/bolt"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
	"github.com/safeconduct/safeconduct/runtime/memoryserver"
)

const (
	untrusted = v1.Integrity_INTEGRITY_UNTRUSTED
	attested  = v1.Integrity_INTEGRITY_ATTESTED
	trusted   = v1.Integrity_INTEGRITY_TRUSTED
	canary    = "canary-4711-secret"
)

// actions are what an agent may do with notes.
func actions() []string {
	return []string{"memory.read", "memory.list", "memory.write", "context.resolve"}
}

func notes(below ...string) []string { return append([]string{"shared", "notes"}, below...) }

func path(labels []string) *v1.Path { return &v1.Path{Labels: labels} }

// store is a memory service that writer and reader of acme and visitor of globex may use for shared/notes and everything below.
type store struct {
	*agenttest.World
	t                       *testing.T
	service                 *runtime.Agent
	writer, reader, visitor *user
}

// user is an agent with a grant for memory.
type user struct {
	s       *store
	agent   *runtime.Agent
	ctx     context.Context
	memory  rpcv1.MemoryServiceClient
	context rpcv1.ContextServiceClient
}

func newStore(t *testing.T) *store {
	t.Helper()
	s := &store{World: agenttest.New(t), t: t}
	s.service = s.Service("memory")
	dir := t.TempDir()
	driver, err := bolt.Open(filepath.Join(dir, "memory.db"), bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := driver.Close(); err != nil {
			t.Error(err)
		}
	})
	rec, err := memoryserver.NewRecorder(s.service.Audit(), dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := memory.New(t.Context(), memory.Config{Driver: driver, Recorder: rec, Now: s.Now, Self: s.service.ID()})
	if err != nil {
		t.Fatal(err)
	}
	memoryserver.Register(s.service, m)
	s.Serve(s.service)
	s.writer, s.reader, s.visitor = s.user("writer"), s.user("reader"), s.user("visitor", agenttest.Tenant("globex"))
	return s
}

func (s *store) user(name string, options ...agenttest.AgentOption) *user {
	s.t.Helper()
	u := &user{s: s, agent: s.Agent(name, options...)}
	for _, action := range actions() {
		s.Allow(u.agent, s.service, action, notes()...)
		s.AllowBelow(u.agent, s.service, action, notes()...)
	}
	conn := s.Dial(u.agent, s.service)
	u.memory, u.context = rpcv1.NewMemoryServiceClient(conn), rpcv1.NewContextServiceClient(conn)
	u.again()
	return u
}

// again gives u a conversation that has read nothing.
func (u *user) again() {
	u.s.t.Helper()
	var grant []agenttest.GrantOption
	for _, action := range actions() {
		grant = append(grant, agenttest.Can(action, notes()...), agenttest.CanBelow(action, notes()...))
	}
	u.ctx = u.s.As("alice@acme.example", u.agent, grant...)
}

func put(key, value string) *rpcv1.Put {
	return &rpcv1.Put{Ref: &v1.KeyRef{Key: []byte(key)}, Value: []byte(value), MediaType: "text/plain"}
}

func (u *user) write(p *rpcv1.Put, only *rpcv1.Precondition) (*v1.Entry, error) {
	resp, err := u.memory.Write(u.ctx, &rpcv1.WriteRequest{
		Ns: path(notes()), Ops: []*rpcv1.Op{{Kind: &rpcv1.Op_Put{Put: p}, OnlyIf: only}},
	})
	if err != nil {
		return nil, err
	}
	return resp.GetEntries()[0], nil
}

func (u *user) mustWrite(p *rpcv1.Put) *v1.Entry {
	u.s.t.Helper()
	e, err := u.write(p, nil)
	if err != nil {
		u.s.t.Fatalf("writing %s: %v", p.GetRef().GetKey(), err)
	}
	return e
}

func (u *user) get(keys ...string) (*rpcv1.GetResponse, error) {
	req := &rpcv1.GetRequest{Ns: path(notes())}
	for _, k := range keys {
		req.Refs = append(req.Refs, &v1.KeyRef{Key: []byte(k)})
	}
	return u.memory.Get(u.ctx, req)
}

// reference is what an agent hands to another one.
func reference(s *store, e *v1.Entry, size int) *v1.ContextRef {
	return &v1.ContextRef{
		Store: s.service.ID().String(), Tenant: "acme", Ref: e.GetRef(), Commitment: e.GetCommitment(), Size: uint64(size),
		MediaType: "text/plain", Label: e.GetLabel(),
	}
}

// wantRefusal checks what the caller sees and what the service recorded.
func (s *store) wantRefusal(err error, wire, precise v1.Reason) {
	s.t.Helper()
	var r *runtime.Refusal
	if !errors.As(err, &r) {
		s.t.Errorf("error %v, want a refusal with reason %s", err, wire)
		return
	}
	if r.Reason != wire {
		s.t.Errorf("refusal %s, want %s", r.Reason, wire)
	}
	var recorded []v1.Reason
	for _, ev := range s.Records(s.service) {
		if bytes.Equal(ev.GetDecisionId(), r.DecisionID) && ev.GetKind() == v1.EventKind_EVENT_KIND_CALL && ev.GetPhase() == v1.EventPhase_EVENT_PHASE_OUTCOME {
			recorded = append(recorded, ev.GetReason())
		}
	}
	if len(recorded) != 1 || recorded[0] != precise {
		s.t.Errorf("recorded %v, want %s", recorded, precise)
	}
}

func wantIntegrity(t *testing.T, ctx context.Context, want v1.Integrity) {
	t.Helper()
	if got := runtime.Label(ctx).Integrity; got != want {
		t.Errorf("integrity of the conversation = %s, want %s", got, want)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	s := newStore(t)
	one := s.writer.mustWrite(put("a", "first"))
	s.writer.mustWrite(put("b", "second"))
	resp, err := s.reader.get("a", "absent", "b")
	if err != nil {
		t.Fatal(err)
	}
	values := []string{}
	for _, e := range resp.GetEntries() {
		values = append(values, string(e.GetValue()))
	}
	if len(values) != 3 || values[0] != "first" || values[1] != "" || resp.GetEntries()[1].GetRef() != nil || values[2] != "second" {
		t.Errorf("Get() = %q", values)
	}
	if p := resp.GetEntries()[0].GetProvenance(); p.GetAuthor() != s.writer.agent.ID().String() || !bytes.Contains([]byte(p.GetPrincipal()), []byte("alice")) {
		t.Errorf("provenance %v", p)
	}
	list, err := s.reader.memory.List(s.reader.ctx, &rpcv1.ListRequest{Ns: path(notes()), Subtree: true})
	if err != nil || len(list.GetHeaders()) != 2 || len(list.GetHeaders()[0].GetValue()) != 0 {
		t.Errorf("List() = %v, %v, want two headers without values", list, err)
	}
	got, err := s.reader.context.Resolve(s.reader.ctx, &rpcv1.ResolveRequest{Ref: reference(s, one, len("first"))})
	if err != nil || string(got.GetEntry().GetValue()) != "first" {
		t.Errorf("Resolve() = %v, %v", got, err)
	}
	s.writer.mustWrite(put("a", "changed"))
	// The reference pins its version.
	got, err = s.reader.context.Resolve(s.reader.ctx, &rpcv1.ResolveRequest{Ref: reference(s, one, len("first"))})
	if err != nil || string(got.GetEntry().GetValue()) != "first" {
		t.Errorf("Resolve() of the old version = %v, %v", got, err)
	}
}

func TestPreconditions(t *testing.T) {
	s := newStore(t)
	version := func(n uint64) *rpcv1.Precondition {
		return &rpcv1.Precondition{Kind: &rpcv1.Precondition_VersionIs{VersionIs: n}}
	}
	missing := &rpcv1.Precondition{Kind: &rpcv1.Precondition_MustNotExist{MustNotExist: true}}
	e, err := s.writer.write(put("cas", "1"), missing)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.writer.write(put("cas", "2"), missing)
	s.wantRefusal(err, v1.Reason_REASON_CONFLICT, v1.Reason_REASON_CONFLICT)
	if _, err = s.writer.write(put("cas", "2"), version(e.GetRef().GetVersion())); err != nil {
		t.Errorf("write on the version that was read: %v", err)
	}
	_, err = s.writer.write(put("cas", "3"), version(e.GetRef().GetVersion()))
	s.wantRefusal(err, v1.Reason_REASON_CONFLICT, v1.Reason_REASON_CONFLICT)
	for name, only := range map[string]*rpcv1.Precondition{
		"empty":              {},
		"exists":             {Kind: &rpcv1.Precondition_MustNotExist{}},
		"a short commitment": {Kind: &rpcv1.Precondition_CommitmentIs{CommitmentIs: []byte{1}}},
	} {
		if _, err := s.writer.write(put("cas", "4"), only); err == nil {
			t.Errorf("precondition %s was accepted", name)
		} else {
			s.wantRefusal(err, v1.Reason_REASON_MALFORMED, v1.Reason_REASON_MALFORMED)
		}
	}
}

func TestForeignNamespaces(t *testing.T) {
	s := newStore(t)
	outside := []string{"shared", "secrets"}
	_, err := s.reader.memory.Get(s.reader.ctx, &rpcv1.GetRequest{Ns: path(outside), Refs: []*v1.KeyRef{{Key: []byte("a")}}})
	s.wantRefusal(err, v1.Reason_REASON_SCOPE, v1.Reason_REASON_CHAIN_INTERSECTION)
	// The request is for a namespace that is allowed, a reference in it for another one.
	_, err = s.reader.memory.Get(s.reader.ctx, &rpcv1.GetRequest{
		Ns: path(notes()), Refs: []*v1.KeyRef{{Ns: path(outside), Key: []byte("a")}},
	})
	s.wantRefusal(err, v1.Reason_REASON_NOT_FOUND, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE)
	_, err = s.writer.memory.Write(s.writer.ctx, &rpcv1.WriteRequest{Ns: path(notes()), Ops: []*rpcv1.Op{{Kind: &rpcv1.Op_Put{Put: &rpcv1.Put{
		Ref: &v1.KeyRef{Ns: path(outside), Key: []byte("a")}, Value: []byte("x"),
	}}}}})
	s.wantRefusal(err, v1.Reason_REASON_NOT_FOUND, v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE)
	for name, labels := range map[string][]string{"none": nil, "dots": {"shared", ".."}, "an empty label": {"shared", ""}} {
		_, err := s.reader.memory.Get(s.reader.ctx, &rpcv1.GetRequest{Ns: path(labels)})
		var r *runtime.Refusal
		if !errors.As(err, &r) {
			t.Errorf("namespace of %s: %v, want a refusal", name, err)
		}
	}
}

// Tenants never meet: the same labels and keys are other entries, and a reference from another tenant is not found, whatever it
// says of itself.
func TestAnotherTenantsReference(t *testing.T) {
	s := newStore(t)
	e := s.writer.mustWrite(put("a", canary))
	_, err := s.visitor.get("a")
	s.wantRefusal(err, v1.Reason_REASON_NOT_FOUND, v1.Reason_REASON_MEMORY_ABSENT)
	list, err := s.visitor.memory.List(s.visitor.ctx, &rpcv1.ListRequest{Ns: path(notes()), Subtree: true})
	if err != nil || len(list.GetHeaders()) != 0 {
		t.Errorf("another tenant's List() = %v, %v, want nothing", list, err)
	}
	for _, tt := range []struct {
		name    string
		claim   string
		precise v1.Reason
	}{
		{"as it is", "acme", v1.Reason_REASON_MEMORY_OUTSIDE_SCOPE},
		{"relabelled as its own", "globex", v1.Reason_REASON_MEMORY_ABSENT},
	} {
		for _, opaque := range []bool{false, true} {
			ref := reference(s, e, len(canary))
			ref.Tenant = tt.claim
			_, err := s.visitor.context.Resolve(s.visitor.ctx, &rpcv1.ResolveRequest{Ref: ref, Opaque: opaque})
			s.wantRefusal(err, v1.Reason_REASON_NOT_FOUND, tt.precise)
		}
	}
}

func TestTamperedReference(t *testing.T) {
	s := newStore(t)
	e := s.writer.mustWrite(put("a", "first"))
	for name, change := range map[string]func(*v1.ContextRef){
		"commitment": func(r *v1.ContextRef) { r.Commitment = make([]byte, 32) },
		"size":       func(r *v1.ContextRef) { r.Size++ },
	} {
		ref := proto.CloneOf(reference(s, e, len("first")))
		change(ref)
		_, err := s.reader.context.Resolve(s.reader.ctx, &rpcv1.ResolveRequest{Ref: ref})
		var r *runtime.Refusal
		if !errors.As(err, &r) || r.Reason != v1.Reason_REASON_NOT_FOUND {
			t.Errorf("tampered %s: %v, want NOT_FOUND", name, err)
		}
	}
	ref := reference(s, e, len("first"))
	ref.Ref.Version++
	_, err := s.reader.context.Resolve(s.reader.ctx, &rpcv1.ResolveRequest{Ref: ref})
	s.wantRefusal(err, v1.Reason_REASON_NOT_FOUND, v1.Reason_REASON_MEMORY_ABSENT)
}

func TestLabelsOfEntriesTaintTheirReader(t *testing.T) {
	s := newStore(t)
	worse := put("untrusted", canary)
	worse.Raise = &v1.Label{Integrity: untrusted, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL, AnyReader: true}
	e := s.writer.mustWrite(worse)
	s.writer.mustWrite(put("plain", "words"))
	ref := reference(s, e, len(canary))
	tests := []struct {
		name string
		do   func() error
		want v1.Integrity
	}{
		{"get of an attested entry", func() error { _, err := s.reader.get("plain"); return err }, attested},
		{"get of an absent entry", func() error { _, err := s.reader.get("plain", "absent"); return err }, attested},
		{"get", func() error { _, err := s.reader.get("untrusted"); return err }, untrusted},
		{"list", func() error {
			_, err := s.reader.memory.List(s.reader.ctx, &rpcv1.ListRequest{Ns: path(notes())})
			return err
		}, untrusted},
		{"list of what is trusted enough", func() error {
			_, err := s.reader.memory.List(s.reader.ctx, &rpcv1.ListRequest{Ns: path(notes()), MinIntegrity: attested})
			return err
		}, attested},
		{"resolve", func() error {
			_, err := s.reader.context.Resolve(s.reader.ctx, &rpcv1.ResolveRequest{Ref: ref})
			return err
		}, untrusted},
		{"opaque resolve", func() error {
			_, err := s.reader.context.Resolve(s.reader.ctx, &rpcv1.ResolveRequest{Ref: ref, Opaque: true})
			return err
		}, attested},
		{"a refusal", func() error {
			if _, err := s.reader.memory.Get(s.reader.ctx, &rpcv1.GetRequest{Ns: path(notes()), Refs: []*v1.KeyRef{{Ns: path([]string{"x"})}}}); err == nil {
				return errors.New("accepted")
			}
			return nil
		}, attested},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.reader.again()
			if err := tt.do(); err != nil {
				t.Fatal(err)
			}
			wantIntegrity(t, s.reader.ctx, tt.want)
		})
	}
}

// What an agent has read stays with what it writes, and nobody's words are TRUSTED for being unlabelled.
func TestWrittenLabelsAreThoseOfTheWriter(t *testing.T) {
	s := newStore(t)
	e := s.writer.mustWrite(put("own", "words"))
	if got := e.GetLabel().GetIntegrity(); got != attested {
		t.Errorf("unlabelled entry of a fresh conversation is %s, want %s", got, attested)
	}
	better := put("better", "words")
	better.Raise = &v1.Label{Integrity: trusted, AnyReader: true}
	if e, err := s.writer.write(better, nil); err == nil && e.GetLabel().GetIntegrity() > attested {
		t.Errorf("an entry was raised to %s", e.GetLabel().GetIntegrity())
	}
	worse := put("bad", canary)
	worse.Raise = &v1.Label{Integrity: untrusted, AnyReader: true, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL}
	s.writer.mustWrite(worse)
	if _, err := s.reader.get("bad"); err != nil {
		t.Fatal(err)
	}
	if e := s.reader.mustWrite(put("made from it", "summary")); e.GetLabel().GetIntegrity() != untrusted {
		t.Errorf("what was made from an untrusted entry is %s", e.GetLabel().GetIntegrity())
	}
}

// An entry that its label keeps from a reader is to that reader an entry that is not there.
func TestEntryForOtherReadersIsNotFound(t *testing.T) {
	s := newStore(t)
	secret := put("for writer", canary)
	secret.Raise = &v1.Label{
		Integrity: attested, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL, Readers: []string{s.writer.agent.ID().String()},
	}
	ref := reference(s, s.writer.mustWrite(secret), len(canary))
	if got, err := s.writer.context.Resolve(s.writer.ctx, &rpcv1.ResolveRequest{Ref: ref}); err != nil || string(got.GetEntry().GetValue()) != canary {
		t.Errorf("its own reader: %v, %v", got, err)
	}
	_, err := s.reader.context.Resolve(s.reader.ctx, &rpcv1.ResolveRequest{Ref: ref})
	s.wantRefusal(err, v1.Reason_REASON_NOT_FOUND, v1.Reason_REASON_MEMORY_ABSENT)
	_, err = s.reader.get("for writer")
	s.wantRefusal(err, v1.Reason_REASON_NOT_FOUND, v1.Reason_REASON_MEMORY_ABSENT)
	precise := 0
	for _, ev := range s.Records(s.service) {
		if ev.GetKind() == v1.EventKind_EVENT_KIND_MEMORY && ev.GetReason() == v1.Reason_REASON_CONFIDENTIALITY_TOO_HIGH {
			precise++
		}
	}
	if precise != 1 {
		t.Errorf("%d access records say that the label refused, want 1", precise)
	}
}

func TestEveryAccessIsRecordedWithoutContent(t *testing.T) {
	s := newStore(t)
	s.writer.mustWrite(put("key-"+canary, canary))
	if _, err := s.reader.get("key-" + canary); err != nil {
		t.Fatal(err)
	}
	accesses := 0
	for _, ev := range s.Records(s.service) {
		raw, err := proto.Marshal(ev)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(raw, []byte(canary)) {
			t.Errorf("content in the audit log: %v", ev)
		}
		if ev.GetKind() == v1.EventKind_EVENT_KIND_MEMORY {
			accesses++
			if len(ev.GetTouched()) != 1 || len(ev.GetTouched()[0].GetKeyHmac()) != 32 || ev.GetTenant() != "acme" {
				t.Errorf("access %v", ev)
			}
		}
	}
	if accesses != 2 {
		t.Errorf("%d accesses recorded, want 2", accesses)
	}
}

func TestMalformedOperations(t *testing.T) {
	s := newStore(t)
	for name, op := range map[string]*rpcv1.Op{
		"neither put nor delete": {},
		"an unknown label":       {Kind: &rpcv1.Op_Put{Put: &rpcv1.Put{Ref: &v1.KeyRef{Key: []byte("a")}, Raise: &v1.Label{Integrity: 77}}}},
	} {
		_, err := s.writer.memory.Write(s.writer.ctx, &rpcv1.WriteRequest{Ns: path(notes()), Ops: []*rpcv1.Op{op}})
		var r *runtime.Refusal
		if !errors.As(err, &r) || r.Reason != v1.Reason_REASON_MALFORMED {
			t.Errorf("%s: %v, want MALFORMED", name, err)
		}
	}
}
