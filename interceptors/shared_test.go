package interceptors_test

import (
	"context"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
)

// What a method acts on that names nothing else is the same for all of its calls: a handler that writes into what it is told changes
// nothing for the next one, nor what it may do itself.
func TestHandlerCannotMoveTheResourceOfACall(t *testing.T) {
	s := newScene(t)
	for range 2 {
		e := s.Envelope(s.relay, foreign, "mesh.foreign")
		e.Chain = s.chain
		raw, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		c := &interceptors.Call{Session: s.session, Procedure: foreign, Transport: interceptors.TransportGRPC, Metadata: raw}
		err = s.serve(context.Background(), c, &meshpb.ForeignRequest{}, func(ctx context.Context) (proto.Message, error) {
			p, _ := interceptors.PermitFrom(ctx)
			if !p.Allows("mesh.foreign", []string{"agent", "writer"}) {
				t.Error("the permit is not for the agent")
			}
			p.Resource()[1] = "other"
			if p.Allows("mesh.foreign", []string{"agent", "other"}) {
				t.Error("a handler has widened its own permit")
			}
			return &meshpb.ForeignResponse{}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
