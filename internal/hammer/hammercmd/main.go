// Command hammercmd measures an enforced call beside a raw one; see package hammer.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/safeconduct/safeconduct/internal/hammer"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exe, err := os.Executable()
	if err != nil {
		_, _ = fmt.Fprintf(os.Stderr, "hammer: %v\n", err)
		return hammer.ExitFailed
	}
	return hammer.Main(ctx, []string{exe}, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}
