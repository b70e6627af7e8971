package enforcegrpc

import (
	"context"
	"sync/atomic"

	"google.golang.org/grpc/stats"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
)

// refusals records the calls that ended in grpc-go itself, before any interceptor saw them: bodies that do not decode or are too
// large.
type refusals struct{ e *interceptors.Enforcer }

type seenKey struct{}

// markSeen notes that an interceptor has taken the call over.
func markSeen(ctx context.Context) {
	if seen, ok := ctx.Value(seenKey{}).(*atomic.Bool); ok {
		seen.Store(true)
	}
}

// TagRPC implements stats.Handler.
func (*refusals) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, seenKey{}, new(atomic.Bool))
}

// HandleRPC implements stats.Handler.
func (r *refusals) HandleRPC(ctx context.Context, s stats.RPCStats) {
	end, ok := s.(*stats.End)
	if !ok || end.Error == nil {
		return
	}
	if seen, ok := ctx.Value(seenKey{}).(*atomic.Bool); !ok || seen.Load() {
		return
	}
	who := ""
	if session, _ := SessionFrom(ctx); session != nil {
		who = session.Peer().ID.String()
	}
	_ = r.e.RefuseTransport(who, interceptors.Refuse(v1.Reason_REASON_TRANSPORT_REFUSED, end.Error))
}

// TagConn implements stats.Handler.
func (*refusals) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (*refusals) HandleConn(context.Context, stats.ConnStats) {}
