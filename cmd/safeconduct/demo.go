package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/examples/incident"
)

// roleCommand starts one agent of the demo; it is hidden, because only the demo uses it.
const roleCommand = "demo-role"

func newDemo() *cobra.Command {
	var o incident.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Work an incident with seven agents, and let ten intruders try",
		Long: "Starts a control plane and seven agents as processes of their own, in a temporary folder on loopback, and works an\n" +
			"incident from a log: an analyst finds, a planner proposes, an executor applies. An order that an attacker wrote into the\n" +
			"log is refused, the planner is killed in the middle of a call, ten intruders are refused, and the audit logs prove it.\n" +
			"Exit code 1 names whatever got through.",
		Example: "  safeconduct demo\n  safeconduct demo --log /var/log/dpkg.log\n  journalctl -o short-iso | safeconduct demo --log -\n  safeconduct demo --json | jq .attacks",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			o.Stdin, o.Out, o.Exe, o.Name, o.Args = cmd.InOrStdin(), cmd.OutOrStdout(), exe, os.Args[0], []string{roleCommand}
			o.Color = paint(o.Out, green, "x") != "x"
			return incident.Run(ctx, o)
		},
	}
	cmd.Flags().StringVar(&o.Log, "log", "", "text log to work on, plain or gzip, or - for standard input (default: the sample that ships with the demo)")
	cmd.Flags().BoolVar(&o.JSON, "json", false, "print one JSON object instead of the story")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave everything running afterwards and print how to call it; Ctrl-C ends it")
	cmd.Flags().StringVar(&o.ModelURL, "model-url", "", "OpenAI-compatible endpoint that the planner asks (default: its own rules; no model is needed)")
	cmd.Flags().StringVar(&o.Model, "model", "", "name of the model at --model-url")
	cmd.Flags().StringVar(&o.ModelKeyEnv, "model-key-env", "", "environment variable that holds the key for --model-url")
	return cmd
}

func newDemoRole() *cobra.Command {
	return &cobra.Command{
		Use: roleCommand + " ROLE", Hidden: true, Args: exactly(1, "ROLE"),
		Short: "One agent of the demo",
		RunE: func(cmd *cobra.Command, args []string) error {
			return incident.Role(cmd.Context(), args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}
