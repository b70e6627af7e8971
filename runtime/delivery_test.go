package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/runtime/agenttest"
)

// The memory of a payload is used for the next call while handlers, and what they leave behind, still hold the request that was decoded
// from it. Nobody may find another call's bytes, and the race detector must find nobody else in that memory.
func TestPayloadMemoryIsNotSharedBetweenCalls(t *testing.T) {
	s := newScene(t, agenttest.Config(roomy))
	const callers, calls = 8, 40
	var mu sync.Mutex
	kept := map[*meshpb.UnaryRequest]string{}
	var behind sync.WaitGroup
	s.node.unary = func(ctx context.Context, req *meshpb.UnaryRequest) (*meshpb.UnaryResponse, error) {
		in, ok := interceptors.From(ctx)
		if !ok || in.Envelope().GetPayload() != nil {
			return nil, errors.New("the handler finds the payload")
		}
		mu.Lock()
		kept[req] = strings.Clone(req.GetBehave())
		mu.Unlock()
		behind.Go(func() { // goes on when the call is over
			<-ctx.Done()
			if err := ctx.Err(); err == nil || in.Envelope().GetPayload() != nil || len(in.Envelope().GetId()) != 16 {
				t.Errorf("after the call: %v, %v", err, in.Envelope())
			}
		})
		return &meshpb.UnaryResponse{Text: req.GetBehave()}, nil
	}
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range calls {
				want := strings.Repeat(fmt.Sprintf("%d/%d ", caller, i), 1+(i*37)%400)
				got, err := s.client.Unary(within(t, s.ctx), &meshpb.UnaryRequest{Resource: mesh(), Behave: want})
				if err != nil || got.GetText() != want {
					t.Errorf("%d/%d: %.20q of %d bytes, error %v", caller, i, got.GetText(), len(got.GetText()), err)
					return
				}
			}
		})
	}
	wg.Wait()
	behind.Wait()
	mu.Lock()
	defer mu.Unlock()
	for req, want := range kept {
		if req.GetBehave() != want {
			t.Errorf("a kept request became %.20q, was %.20q", req.GetBehave(), want)
		}
	}
	if len(kept) != callers*calls {
		t.Errorf("%d calls handled", len(kept))
	}
}
