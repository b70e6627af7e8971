package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/safeconduct/safeconduct/runtime"
)

var errUsage = errors.New("usage: hello | hello serve | hello call GRANT (the last two as an agent, under safeconduct agent run)")

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdin, os.Stdout); err != nil {
		_, _ = os.Stderr.WriteString("hello: " + err.Error() + "\n")
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if os.Getenv(envStarted) != "" {
		if err := await(in, cancel); err != nil {
			return err
		}
	}
	switch {
	case len(args) == 0 && os.Getenv(runtime.EnvWorkloadAPI) == "":
		return demo(ctx, out)
	case len(args) == 0, len(args) == 1 && args[0] == "serve":
		return serve(ctx)
	case len(args) == 2 && args[0] == "call":
		return call(ctx, args[1], out)
	}
	return errUsage
}
