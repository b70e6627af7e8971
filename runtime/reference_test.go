package runtime_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

const unaryMethod = meshpb.MeshService_Unary_FullMethodName

// newTaped is newScene with the messages on the wire.
func newTaped(t *testing.T, options ...agenttest.AgentOption) (*scene, *tape) {
	t.Helper()
	s, tp := prepareScene(t, options...), &tape{}
	s.Tap(tp.see)
	s.start()
	return s, tp
}

// forms says how each request for Unary carried its chain: "chain", "reference" or what is wrong with it.
func (c *tape) forms() string {
	var out []string
	for _, env := range c.requests(unaryMethod) {
		switch whole, ref := env.GetChain() != nil, len(env.GetChainRef()); {
		case whole && ref == 0:
			out = append(out, "chain")
		case !whole && ref == 32:
			out = append(out, "reference")
		default:
			out = append(out, fmt.Sprintf("%t and %d bytes", whole, ref))
		}
	}
	return strings.Join(out, " ")
}

func (c *tape) wantForms(t *testing.T, want string) {
	t.Helper()
	if got := c.forms(); got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
}

func TestChainGoesOnceThenItsReference(t *testing.T) {
	s, tp := newTaped(t)
	for range 3 {
		s.mustCall(s.ctx)
	}
	s.mustCall(s.grant()) // another chain
	tp.wantForms(t, "chain reference reference chain")
	sent := tp.requests(unaryMethod)
	if !bytes.Equal(sent[1].GetChainRef(), sent[2].GetChainRef()) {
		t.Error("two references to one chain")
	}
	a, b := proto.Size(sent[0]), proto.Size(sent[1])
	if b > a/2 {
		t.Errorf("%d bytes with the chain, %d with its reference", a, b)
	}
	s.wantPairs(s.relay, s.writer)
	for _, evs := range s.calls(s.writer, unaryMethod, v1.EventDirection_EVENT_DIRECTION_INBOUND) {
		if len(evs[0].GetChainId()) != 16 || evs[0].GetDepth() != 1 {
			t.Errorf("the record of a call names chain %x at depth %d", evs[0].GetChainId(), evs[0].GetDepth())
		}
	}
}

// A refusal proves nothing, whatever the callee has seen; an author's own status does.
func TestOnlyAdmissionIsFollowedByAReference(t *testing.T) {
	s, tp := newTaped(t)
	s.Revoke("mesh.call")
	for range 2 {
		_, err := s.call(s.ctx)
		wantReason(t, err, v1.Reason_REASON_POLICY)
	}
	s.Allow(s.relay, s.writer, "mesh.call", "mesh")
	for _, err := range []error{errors.New("plain"), status.Error(codes.Unavailable, "busy"), status.Error(codes.NotFound, "no such note")} {
		s.node.unary = func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) { return nil, err }
		if _, err := s.call(s.ctx); err == nil {
			t.Fatal("the handler's error is lost")
		}
	}
	s.node.unary = nil
	s.mustCall(s.ctx)
	tp.wantForms(t, "chain chain chain chain chain reference")
	s.wantPairs(s.relay, s.writer)
}

func TestConcurrentFirstCallsCarryTheChain(t *testing.T) {
	s, tp := newTaped(t)
	const n = 8
	var in, wg sync.WaitGroup
	in.Add(n)
	s.node.unary = func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		in.Done()
		in.Wait()
		return &meshpb.UnaryResponse{}, nil
	}
	for range n {
		wg.Go(func() {
			if _, err := s.call(within(t, s.ctx)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s.node.unary = nil
	s.mustCall(s.ctx)
	tp.wantForms(t, strings.Repeat("chain ", n)+"reference")
}

// A connection that was seen to end takes the belief with it: nothing is tried on the next one.
func TestReferenceIsNotSentOnANewConnection(t *testing.T) {
	s, tp := newTaped(t)
	s.mustCall(s.ctx)
	s.mustCall(s.ctx)
	s.Kill(s.writer)
	_, err := s.call(s.ctx)
	wantCode(t, err, codes.Unavailable)
	s.again()
	if _, err := s.call(within(t, s.ctx), runtime.WaitForReady()); err != nil {
		t.Fatal(err)
	}
	s.mustCall(s.ctx)
	if got := tp.forms(); !strings.HasPrefix(got, "chain reference ") || !strings.HasSuffix(got, "chain reference") {
		t.Errorf("sent %q, want the chain again after the restart", got)
	}
	for _, ev := range s.Records(s.writer) {
		if ev.GetReason() == v1.Reason_REASON_CHAIN_UNKNOWN {
			t.Errorf("refused first: %v", ev)
		}
	}
	s.wantPairs(s.relay, s.writer)
}

func TestUnknownReferenceIsFollowedByTheChainOnce(t *testing.T) {
	f, s := newForgetful(t, 0)
	s.mustCall(s.ctx)
	f.unknown.Store(1)
	s.mustCall(s.ctx)
	s.mustCall(s.ctx)
	got := f.delivered()
	if len(got) != 4 {
		t.Fatalf("%d messages, want 4", len(got))
	}
	for i, whole := range []bool{true, false, true, false} {
		if (got[i].GetChain() != nil) != whole || (len(got[i].GetChainRef()) == 32) == whole {
			t.Errorf("message %d carries chain %t and a reference of %d bytes", i, got[i].GetChain() != nil, len(got[i].GetChainRef()))
		}
	}
	if !bytes.Equal(got[1].GetId(), got[2].GetId()) || !bytes.Equal(got[1].GetPayload(), got[2].GetPayload()) {
		t.Error("the second try is another message")
	}
	if bytes.Equal(got[0].GetId(), got[1].GetId()) {
		t.Error("two calls with one id")
	}
	s.wantPairs(s.relay) // one pair for each call, however often it was sent
	if calls := s.calls(s.relay, unaryMethod, v1.EventDirection_EVENT_DIRECTION_OUTBOUND); len(calls) != 3 {
		t.Errorf("%d calls recorded, want 3", len(calls))
	}
}

func TestSecondUnknownIsFinal(t *testing.T) {
	f, s := newForgetful(t, 0)
	s.mustCall(s.ctx)
	f.unknown.Store(100)
	_, err := s.call(s.ctx)
	wantReason(t, err, v1.Reason_REASON_CHAIN_UNKNOWN)
	if n := len(f.delivered()); n != 3 {
		t.Errorf("%d messages, want 3: the first call, the reference, the chain", n)
	}
	_, err = s.call(s.ctx) // the chain at once
	wantReason(t, err, v1.Reason_REASON_CHAIN_UNKNOWN)
	if n := len(f.delivered()); n != 4 {
		t.Errorf("%d messages, want one more", n)
	}
	s.wantPairs(s.relay)
}

// renewing is a trust whose keys can be said to have changed.
type renewing struct {
	runtime.Trust
	more *atomic.Uint64
}

func (r renewing) Keys() delegation.KeyView { return renewedKeys{r.Trust.Keys(), r.more} }

type renewedKeys struct {
	delegation.KeyView
	more *atomic.Uint64
}

func (r renewedKeys) Generation() uint64 { return r.KeyView.Generation() + r.more.Load() }

// New keys at the callee make every reference unknown there, on a connection that lives on.
func TestUnknownReferenceHasOneEffect(t *testing.T) {
	var more atomic.Uint64
	s, tp := newTaped(t, agenttest.Config(func(c *runtime.Config) { c.Trust = renewing{c.Trust, &more} }))
	var effects atomic.Int32
	s.node.unary = func(context.Context, *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		effects.Add(1)
		return &meshpb.UnaryResponse{}, nil
	}
	s.mustCall(s.ctx)
	more.Add(1)
	s.mustCall(s.ctx)
	s.mustCall(s.ctx)
	tp.wantForms(t, "chain reference chain reference")
	if n := effects.Load(); n != 3 {
		t.Errorf("%d effects of 3 calls", n)
	}
	refused := 0
	for _, evs := range s.calls(s.writer, unaryMethod, v1.EventDirection_EVENT_DIRECTION_INBOUND) {
		if evs[0].GetDecision() == v1.EventDecision_EVENT_DECISION_DENY {
			refused++
			if evs[0].GetReason() != v1.Reason_REASON_CHAIN_UNKNOWN {
				t.Errorf("refused with %s", evs[0].GetReason())
			}
		}
	}
	if refused != 1 {
		t.Errorf("writer's log shows %d refused tries, want the one", refused)
	}
	s.wantPairs(s.relay, s.writer)
	if calls := s.calls(s.relay, unaryMethod, v1.EventDirection_EVENT_DIRECTION_OUTBOUND); len(calls) != 3 {
		t.Errorf("relay's log shows %d calls, want 3", len(calls))
	}
}

// deliverRaw sends the bytes of an Envelope as they are.
func deliverRaw(ctx context.Context, cc *grpc.ClientConn, raw []byte) error {
	return cc.Invoke(ctx, rpcv1.ExchangeService_Deliver_FullMethodName, raw, nil, grpc.ForceCodecV2(bytesCodec{}))
}

// The fast codec does not look at UTF-8. Every string of an Envelope that is none must be refused with a reason, and the process go on.
func TestTextThatIsNotUTF8IsRefused(t *testing.T) {
	s := newScene(t)
	cc := s.raw(s.relay, s.writer)
	good := s.envelope(s.ctx)
	fields := 0
	var walk func(d protoreflect.MessageDescriptor, path string, wrap func([]byte) []byte)
	walk = func(d protoreflect.MessageDescriptor, path string, wrap func([]byte) []byte) {
		for i := range d.Fields().Len() {
			fd := d.Fields().Get(i)
			at := path + "." + string(fd.Name())
			field := func(b []byte) []byte {
				return wrap(protowire.AppendBytes(protowire.AppendTag(nil, fd.Number(), protowire.BytesType), b))
			}
			if fd.Message() != nil {
				walk(fd.Message(), at, field)
			}
			if fd.Kind() != protoreflect.StringKind {
				continue
			}
			fields++
			good = s.envelope(s.ctx)
			raw, err := proto.Marshal(good)
			if err != nil {
				t.Fatal(err)
			}
			want := v1.Reason_REASON_MALFORMED
			if at == ".method" {
				want = v1.Reason_REASON_UNKNOWN_METHOD // looked up before anything else is read
			}
			err = deliverRaw(ctx0(t), cc, append(raw, field([]byte("a\xffb"))...)) // the last value of a field counts, messages merge
			if got := reasonIn(err); got != want {
				t.Errorf("%s: %v, want %s", at, err, want)
			}
		}
	}
	walk(good.ProtoReflect().Descriptor(), "", func(b []byte) []byte { return b })
	if fields < 20 {
		t.Errorf("only %d strings found", fields)
	}
	s.mustCall(s.ctx)
	s.wantPairs(s.writer)
}
