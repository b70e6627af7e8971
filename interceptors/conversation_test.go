package interceptors_test

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/policy"
)

func label(t *testing.T, p *v1.Label) policy.Label {
	t.Helper()
	l, err := policy.LabelFromProto(p)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestConversationsOnlyWorsen(t *testing.T) {
	s := newScene(t)
	alices, bobs := s.newChain(meshtest.User("alice")), s.newChain(meshtest.User("bob"))
	c1, c2 := make([]byte, 16), []byte("0123456789abcdef")
	talk := func(chain *v1.DelegationChain, conversation []byte, control *v1.Label, taint *v1.Label) (out policy.Label) {
		t.Helper()
		e := s.envelope()
		e.Chain, e.Conversation, e.Control = chain, conversation, control
		err := s.serve(t.Context(), s.call(), request(e), func(ctx context.Context) (proto.Message, error) {
			in, _ := interceptors.From(ctx)
			if taint != nil {
				in.Conversation().Taint(label(t, taint))
			}
			if want := conversation; len(want) > 0 && string(in.Conversation().ID()) != string(want) {
				t.Errorf("conversation %x, want %x", in.Conversation().ID(), want)
			}
			out = in.Conversation().Label()
			return succeed(ctx)
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	clean := &v1.Label{Integrity: 2, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL, AnyReader: true}
	dirty := &v1.Label{Integrity: 1, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_RESTRICTED, AnyReader: true, Tags: []string{"pii"}}
	if got := talk(alices, c1, clean, nil); !got.Equal(label(t, clean)) {
		t.Errorf("a new conversation starts at %s", got)
	}
	if got := talk(alices, c1, clean, dirty); !got.Equal(label(t, dirty)) {
		t.Errorf("after reading dirty content it is %s", got)
	}
	if got := talk(alices, c1, clean, nil); !got.Equal(label(t, dirty)) {
		t.Errorf("a clean message cleaned it: %s", got)
	}
	if got := talk(alices, c1, &v1.Label{Integrity: 3, Confidentiality: 1, AnyReader: true}, nil); !got.Equal(label(t, dirty)) {
		t.Errorf("a claim of TRUSTED cleaned it: %s", got)
	}
	if got := talk(alices, c2, clean, nil); !got.Equal(label(t, clean)) {
		t.Errorf("another conversation of the principal is %s", got)
	}
	if got := talk(bobs, c1, clean, nil); !got.Equal(label(t, clean)) {
		t.Errorf("another principal's conversation of the same id is %s", got)
	}
	// Without an id, the chain is the conversation.
	if got := talk(alices, nil, clean, dirty); !got.Equal(label(t, dirty)) {
		t.Errorf("the chain's conversation is %s", got)
	}
	if got := talk(alices, nil, clean, nil); !got.Equal(label(t, dirty)) {
		t.Errorf("the chain's conversation was cleaned: %s", got)
	}
	if got := talk(bobs, nil, clean, nil); !got.Equal(label(t, clean)) {
		t.Errorf("another chain's conversation is %s", got)
	}
	// A claim above the cap counts as the cap.
	s.Registry.SetCap(s.relay, v1.Integrity_INTEGRITY_ATTESTED)
	if got := talk(bobs, c2, &v1.Label{Integrity: 4, Confidentiality: 1, AnyReader: true}, nil); got.Integrity != v1.Integrity_INTEGRITY_ATTESTED {
		t.Errorf("a claim of SYSTEM by an agent capped at ATTESTED gives %s", got)
	}
}

// A service answers many agents in one conversation: what one of them made it read does not taint the others, but within one call
// labels only worsen.
func TestServicesKeepNoConversation(t *testing.T) {
	w := meshtest.New(t)
	service, relay := w.Service("memory"), w.Agent("acme", "relay")
	w.Table.Allow("acme", meshtest.DefaultClass, "mesh.call", []string{"mesh"}, false, service.String())
	end := w.Enforcer(t, service, meshMethods(t))
	s := &scene{World: w, t: t, relay: relay, writer: service, end: end, session: w.Session(t, end, relay)}
	s.chain = w.Chain(t, []identity.AgentID{relay, service}, meshtest.Capabilities(meshtest.Capability("mesh.call", "mesh")))
	dirty := policy.Label{}
	conversation := make([]byte, 16)
	for range 2 {
		st := s.openStream()
		e := s.envelope()
		e.Conversation = conversation
		wantReason(t, "the first message", st.admit(request(e)), 0)
		if st.in.Conversation().Label().Equal(dirty) {
			t.Error("one call tainted another")
		}
		st.in.Conversation().Taint(dirty)
		wantReason(t, "the second message", st.admit(request(nil)), 0)
		if !st.in.Conversation().Label().Equal(dirty) {
			t.Error("a later message cleaned the call")
		}
	}
}

func TestRootStartsAConversation(t *testing.T) {
	s := newScene(t)
	leaf := s.Root(t, s.writer)
	l := policy.OwnWords(v1.Integrity_INTEGRITY_ATTESTED, "agent:writer")
	ctx, in := s.end.Root(t.Context(), leaf, "nightly run", l)
	if got, ok := interceptors.From(ctx); !ok || got != in || in.Leaf() != leaf || in.Purpose() != "nightly run" || !in.Conversation().Label().Equal(l) {
		t.Errorf("Root() = %+v", in)
	}
	if _, ok := interceptors.PermitFrom(ctx); ok {
		t.Error("a root has a Permit")
	}
	if _, ok := interceptors.PeerFrom(ctx); ok {
		t.Error("a root has a peer")
	}
	_, other := s.end.Root(t.Context(), leaf, "nightly run", l)
	if string(other.Conversation().ID()) == string(in.Conversation().ID()) {
		t.Error("two roots share a conversation")
	}
}
