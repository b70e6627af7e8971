package runtime

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// dialed makes a connection of l and returns what ends it.
func dialed(t *testing.T, c credentials.TransportCredentials) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { _ = far.Close() })
	conn, _, err := c.Clone().ClientHandshake(t.Context(), "peer", near)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestLineNumbersConnections(t *testing.T) {
	l := new(line)
	c := l.credentials(insecure.NewCredentials())
	want := func(what string, state uint64) {
		t.Helper()
		if got := l.state.Load(); got != state {
			t.Errorf("%s: state %b, want %b", what, got, state)
		}
	}
	want("before the first", 0)
	first := dialed(t, c)
	want("the first", 1<<1|1)
	second := dialed(t, c)
	want("the second beside it", 2<<1|1)
	_ = first.Close()
	want("the first ends late", 2<<1|1)
	_ = second.Close()
	_ = second.Close()
	want("the second ends", 2<<1)
	third := dialed(t, c)
	want("the third", 3<<1|1)
	_ = third.Close()
	failing := l.credentials(refusingCredentials{insecure.NewCredentials()})
	if _, _, err := failing.ClientHandshake(t.Context(), "peer", nil); err == nil {
		t.Error("a failed handshake succeeds")
	}
	want("a failed handshake", 3<<1)
}

type refusingCredentials struct {
	credentials.TransportCredentials
}

func (refusingCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, status.Error(codes.Unavailable, "no")
}

// A call proves something about the connection that it went over, and it is known which one that was only when there was one choice.
func TestOnlyTheConnectionOfTheCallIsBelieved(t *testing.T) {
	open := func(n uint64) uint64 { return n<<1 | 1 }
	ended := func(n uint64) uint64 { return n << 1 }
	for _, tt := range []struct {
		name          string
		before, after uint64
		want          bool
	}{
		{"the same all the time", open(1), open(1), true},
		{"the first of all", ended(0), open(1), true},
		{"the next after a pause", ended(1), open(2), true},
		{"replaced meanwhile", open(1), open(2), false},
		{"two opened meanwhile", ended(1), open(3), false},
		{"ended meanwhile", open(1), ended(1), false},
		{"never open", ended(0), ended(0), false},
	} {
		var l line
		h := &signedHop{}
		l.state.Store(tt.after)
		l.note(h, tt.before)
		if got := l.knows(h, tt.after); got != tt.want {
			t.Errorf("%s: believed %t, want %t", tt.name, got, tt.want)
		}
		if l.knows(h, open(9)) || l.knows(h, ended(tt.after>>1)) {
			t.Errorf("%s: believed of another connection", tt.name)
		}
	}
}

// The callee remembers so many chains of a connection, the oldest goes first, and the caller counts along.
func TestForgottenChainIsNotReferredTo(t *testing.T) {
	var l line
	const state = 1<<1 | 1
	l.state.Store(state)
	first := &signedHop{}
	l.note(first, state)
	for range delegation.MaxRemembered - 1 {
		l.note(&signedHop{}, state)
		l.note(first, state) // known already: it does not become younger
	}
	if !l.knows(first, state) {
		t.Error("forgotten too early")
	}
	l.note(&signedHop{}, state)
	if l.knows(first, state) {
		t.Errorf("believed to be remembered behind %d others", delegation.MaxRemembered)
	}
	l.note(first, state) // sent in full again
	if !l.knows(first, state) {
		t.Error("sent again and not believed")
	}
}

func TestWhatProvesAdmission(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, true},
		{status.Error(codes.NotFound, "no such note"), true},
		{status.Error(codes.FailedPrecondition, "closed"), true},
		{status.Error(codes.Unavailable, "connection lost"), false},
		{status.Error(codes.DeadlineExceeded, ""), false},
		{status.Error(codes.Internal, ""), false},
		{context.Canceled, false},
		{&Refusal{Reason: v1.Reason_REASON_POLICY, status: status.New(codes.PermissionDenied, "")}, false},
		{&Refusal{Reason: v1.Reason_REASON_CHAIN_UNKNOWN, status: status.New(codes.FailedPrecondition, "")}, false},
	} {
		if got := provesAdmission(tt.err); got != tt.want {
			t.Errorf("provesAdmission(%v) = %t", tt.err, got)
		}
	}
}
