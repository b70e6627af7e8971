// Package runtime is what the author of an agent imports.
//
// An [Agent] serves ordinary generated gRPC services and free-form intents behind the enforcement core; a [Conn] calls other
// agents through ordinary generated stubs. Identity, delegation chain, conversation, deadline and trace flow from an incoming
// call to the outgoing ones through context.Context; the author does nothing for it and can only narrow.
//
//	agent, err := runtime.New(ctx, runtime.Config{AuditDir: dir})
//	greetv1.RegisterGreeterServer(agent, &greeter{})
//	err = agent.Run(ctx) // serves until ctx ends or SIGTERM, then drains
//
// Unary calls travel as Envelopes through ExchangeService.Deliver; streaming calls are guarded gRPC streams after Present. A
// process gets its X.509-SVID from the SPIFFE Workload API and never writes a private key.
package runtime
