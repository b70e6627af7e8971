// Package agenttest tests an agent in its own process, with nothing faked: mTLS on loopback, chains of signed hops, the policy
// engine, audit logs on disk. Nothing is permitted until the test says so.
//
//	w := agenttest.New(t)
//	greeter, caller := w.Agent("greeter"), w.Agent("caller")
//	hellov1.RegisterGreeterServiceServer(greeter, impl)
//	w.Serve(greeter)
//	w.Allow(caller, greeter, "hello.greet")                                                // the organisation's rule
//	ctx := w.As("alice@acme.example", caller, agenttest.Can("hello.greet", "agent", "greeter")) // alice's grant
//	resp, err := hellov1.NewGreeterServiceClient(w.Dial(caller, greeter)).Greet(ctx, req)
//
// Everything is closed when the test ends. The package imports testing: only tests import it.
package agenttest
