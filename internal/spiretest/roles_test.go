package spiretest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	hellov1 "github.com/safeconduct/safeconduct/examples/hello/gen/hello/v1"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/runtime"
)

const (
	purpose = "say hello"
	// callPause is between two calls of the caller, callWait bounds one.
	callPause = 40 * time.Millisecond
	callWait  = 5 * time.Second
	// tallyPause is between two reports of the caller.
	tallyPause = 250 * time.Millisecond
	// identityWait is how long a probe waits for an identity: SPIRE's agent synchronizes every 5 s.
	identityWait = 12 * time.Second
)

// greeterRole greets, and keeps every greeting in shared memory under the caller's authority: a chain of two hops.
func greeterRole(ctx context.Context, out *reporter) (err error) {
	agent, err := runtime.New(ctx, runtime.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	conn, err := agent.Dial("spiffe://" + agent.ID().TrustDomain().Name() + "/service/memory")
	if err != nil {
		return err
	}
	hellov1.RegisterGreeterServiceServer(agent, &greeter{memory: rpcv1.NewMemoryServiceClient(conn)})
	l, err := agent.Listen(ctx)
	if err != nil {
		return err
	}
	go out.follow(ctx, agent.Source(), l.Addr().String())
	return agent.ServeListener(ctx, l)
}

type greeter struct {
	hellov1.UnimplementedGreeterServiceServer
	memory rpcv1.MemoryServiceClient
}

// Greet implements GreeterServiceServer.
func (g *greeter) Greet(ctx context.Context, req *hellov1.GreetRequest) (*hellov1.GreetResponse, error) {
	text := fmt.Sprintf("hello %s, on behalf of %s", req.GetName(), runtime.Principal(ctx).GetSubject())
	ns := &v1.Path{Labels: []string{"greetings"}}
	put := &rpcv1.Put{Ref: &v1.KeyRef{Ns: ns, Key: []byte("last")}, Value: []byte(text)}
	if _, err := g.memory.Write(ctx, &rpcv1.WriteRequest{Ns: ns, Ops: []*rpcv1.Op{{Kind: &rpcv1.Op_Put{Put: put}}}}); err != nil {
		return nil, err
	}
	return &hellov1.GreetResponse{Text: text}, nil
}

// callerRole calls the greeter under the grant in its argument until its input ends.
func callerRole(ctx context.Context, out *reporter) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	raw, err := os.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	var grant v1.SignedStatement
	if err := proto.Unmarshal(raw, &grant); err != nil {
		return err
	}
	agent, err := runtime.New(ctx, runtime.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	conn, err := agent.Dial(agentID(agent.ID().TrustDomain().Name(), "greeter"))
	if err != nil {
		return err
	}
	go out.follow(ctx, agent.Source(), "")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	call := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callWait) // the last call ends by itself
		defer cancel()
		ctx, err := agent.Act(ctx, &grant, purpose)
		if err != nil {
			return err
		}
		_, err = hellov1.NewGreeterServiceClient(conn).Greet(ctx, &hellov1.GreetRequest{Name: "world"})
		return err
	}
	load(ctx, out, call)
	return nil
}

// load repeats call until ctx ends.
func load(ctx context.Context, out *reporter, call func() error) {
	sum := event{Kind: kindTally}
	tick := time.NewTicker(callPause)
	defer tick.Stop()
	var told time.Time
	for {
		began := time.Now()
		err := call()
		sum.Calls++
		sum.Worst = max(sum.Worst, time.Since(began))
		if err == nil {
			sum.LastOK = time.Now()
		} else {
			sum.Failures++
			out.say(failure(kindFailed, err))
		}
		if time.Since(told) > tallyPause || ctx.Err() != nil {
			out.say(sum)
			told, sum.Worst = time.Now(), 0
		}
		select {
		case <-ctx.Done():
			out.say(sum)
			return
		case <-tick.C:
		}
	}
}

// failure describes err with reason and decision where an enforcement core refused.
func failure(kind string, err error) event {
	e := event{Kind: kind, Text: err.Error()}
	s, _ := status.FromError(err)
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == interceptors.Domain {
			e.Reason, e.Decision = info.GetReason(), info.GetMetadata()["decision_id"]
		}
	}
	return e
}

// strangerRole has an identity and knocks with a client of its own at the authority and the greeter, whose addresses are its
// arguments.
func strangerRole(ctx context.Context, out *reporter) error {
	ctx, cancel := context.WithTimeout(ctx, testWait)
	defer cancel()
	src, err := runtime.WorkloadAPI(ctx, os.Getenv(runtime.EnvWorkloadAPI), "")
	if err != nil {
		return err
	}
	defer src.Close()
	own, err := src.GetX509SVID()
	if err != nil {
		return err
	}
	for i, peer := range []string{"spiffe://" + own.ID.TrustDomain().Name() + "/service/authority", agentID(own.ID.TrustDomain().Name(), "greeter")} {
		id, err := identity.ParseAgent(peer)
		if err != nil {
			return err
		}
		conn, err := grpc.NewClient("passthrough:///"+os.Args[1+i], grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(src, id))))
		if err != nil {
			return err
		}
		if i == 0 {
			_, err = rpcv1.NewAuthorityServiceClient(conn).Locate(ctx, &rpcv1.LocateRequest{SpiffeId: own.ID.String()})
		} else {
			_, err = hellov1.NewGreeterServiceClient(conn).Greet(ctx, &hellov1.GreetRequest{Name: "world"})
		}
		if err == nil {
			return fmt.Errorf("%s answered", peer)
		}
		out.say(failure(kindRefused, err))
		_ = conn.Close()
	}
	return nil
}

// probeRole asks for an identity and does nothing with it.
func probeRole(ctx context.Context, out *reporter) error {
	ctx, cancel := context.WithTimeout(ctx, identityWait)
	defer cancel()
	src, err := runtime.WorkloadAPI(ctx, os.Getenv(runtime.EnvWorkloadAPI), "")
	if err != nil {
		return err
	}
	defer src.Close()
	svid, err := src.GetX509SVID()
	if err == nil {
		out.say(event{Kind: kindReady, Text: svid.ID.String()})
	}
	return err
}
