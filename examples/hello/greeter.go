package main

import (
	"context"
	"fmt"

	hellov1 "github.com/safeconduct/safeconduct/examples/hello/gen/hello/v1"
	"github.com/safeconduct/safeconduct/runtime"
)

type greeter struct {
	hellov1.UnimplementedGreeterServiceServer
}

// Greet implements hellov1.GreeterServiceServer. Who calls, and for whom, is verified before it runs.
func (greeter) Greet(ctx context.Context, req *hellov1.GreetRequest) (*hellov1.GreetResponse, error) {
	peer, _ := runtime.Peer(ctx)
	text := fmt.Sprintf("Hello, %s! %s asked me, for %s.", req.GetName(), peer.Name(), runtime.Principal(ctx).GetSubject())
	return &hellov1.GreetResponse{Text: text}, nil
}

// serve is the whole agent: it runs until ctx ends or SIGTERM, then drains.
func serve(ctx context.Context) error {
	agent, err := runtime.New(ctx, runtime.Config{})
	if err != nil {
		return err
	}
	hellov1.RegisterGreeterServiceServer(agent, greeter{})
	return agent.Run(ctx)
}
