package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"google.golang.org/protobuf/proto"

	hellov1 "github.com/safeconduct/safeconduct/examples/hello/gen/hello/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/runtime"
)

// purpose is what the grant is for.
const purpose = "say hello"

// call asks the greeter of this agent's tenant, under the grant in file.
func call(ctx context.Context, file string, out io.Writer) error {
	raw, err := os.ReadFile(file) //nolint:gosec // G304: the user names the file.
	if err != nil {
		return err
	}
	var grant v1.SignedStatement
	if err := proto.Unmarshal(raw, &grant); err != nil {
		return fmt.Errorf("%s is no grant: %w", file, err)
	}
	agent, err := runtime.New(ctx, runtime.Config{})
	if err != nil {
		return err
	}
	defer agent.Close() //nolint:errcheck // the call's own error counts
	if ctx, err = agent.Act(ctx, &grant, purpose); err != nil {
		return err
	}
	conn, err := agent.Dial("spiffe://" + agent.ID().TrustDomain().Name() + "/tenant/" + agent.ID().Tenant().Name() + "/agent/greeter")
	if err != nil {
		return err
	}
	resp, err := hellov1.NewGreeterServiceClient(conn).Greet(ctx, &hellov1.GreetRequest{Name: "Ada"}, runtime.WaitForReady())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, resp.GetText())
	return err
}
