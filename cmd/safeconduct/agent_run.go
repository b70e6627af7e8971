package main

import (
	"os/exec"

	"github.com/spf13/cobra"
)

func newAgentRun() *cobra.Command {
	return &cobra.Command{
		Use: "run ID -- CMD [ARGS]", Short: "Start a program as an agent",
		Long: `Starts CMD, ties its process to the registered agent ID before it runs its first instruction, and waits for it. CMD finds the
Workload API, the authority and its audit folder in its environment (SPIFFE_ENDPOINT_SOCKET, SAFECONDUCT_AUTHORITY,
SAFECONDUCT_AUDIT_DIR). Signals are passed on; the exit code is that of CMD. The identity belongs to this one process and this
one executable: a program that replaces itself by another one loses it.`,
		Example: `  safeconduct agent run acme/planner -- ./planner --verbose
  safeconduct agent run spiffe://safeconduct.local/tenant/acme/agent/planner -- go-agent`,
		Args: between(2, -1, "an agent and a command"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := connect(cmd)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // nothing is lost with it
			id, err := s.up.agentID(args[0])
			if err != nil {
				return err
			}
			child := standard(cmd, exec.Command(args[1], args[2:]...)) //nolint:gosec // G204: the operator names the program
			child.Env = s.env(id)
			return s.launch(cmd.Context(), id, child)
		},
	}
}
