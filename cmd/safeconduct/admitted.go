package main

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/safeconduct/safeconduct/identity"
)

// flagAdmitted marks the process that acts as an agent. The authority lets nobody admit itself, so a command that acts as an agent
// starts itself once more and admits that process. Given by hand it gains nothing: the Workload API knows no such process.
const flagAdmitted = "admitted"

func addAdmitted(cmd *cobra.Command) {
	cmd.Flags().Bool(flagAdmitted, false, "this process acts as the agent")
	_ = cmd.Flags().MarkHidden(flagAdmitted) // the flag exists
}

// actAs runs act in a process that stands for agent: in this one when it is that process, otherwise in one that it starts with the
// same command line after check agrees.
func actAs(cmd *cobra.Command, args []string, agent string, check func(identity.AgentID) error, act func(*session, identity.AgentID) error) error {
	s, err := connect(cmd)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // nothing is lost with it
	id, err := s.up.agentID(agent)
	if err != nil {
		return err
	}
	if err := check(id); err != nil {
		return err
	}
	admitted, err := cmd.Flags().GetBool(flagAdmitted)
	if err != nil {
		return err
	}
	if admitted {
		return act(s, id)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	child := standard(cmd, exec.Command(self)) //nolint:gosec // G204: this program
	child.Args = append([]string{os.Args[0]}, againArgs(cmd, args)...)
	child.Env = s.env(id)
	return s.launch(cmd.Context(), id, child)
}

// againArgs is the command line of cmd for its admitted twin.
func againArgs(cmd *cobra.Command, args []string) []string {
	var path []string
	for c := cmd; c.HasParent(); c = c.Parent() {
		path = append([]string{c.Name()}, path...)
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if f.Name != "dir" { // is in the environment, as an absolute path
			path = append(path, "--"+f.Name+"="+f.Value.String())
		}
	})
	return append(append(path, "--"+flagAdmitted, "--"), args...)
}
