package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// newRoot returns the command line. demo and others are added to it by AddCommand.
func newRoot() *cobra.Command {
	root := group("safeconduct", "Safe conduct for messages between agents",
		"Runs a development control plane and works with it: agents, capability table, grants, shared memory, audit logs.",
		`  safeconduct up
  safeconduct agent register planner --tenant acme --class planner --owner ops@acme.example --purpose "plans work"
  safeconduct doctor`,
		newUp(), newAgent(), newTable(), newGrant(), newMemory(), newAudit(), newAttack(), newChain(), newProto(), newVersion(), newDoctor(), newDemo(), newDemoRole())
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.PersistentFlags().String("dir", "", "state folder (default $SAFECONDUCT_DIR, $XDG_STATE_HOME/safeconduct or ~/.local/state/safeconduct)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usagef("%w", err) })
	return root
}

// group is a command that only holds others.
func group(use, short, long, example string, subs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example,
		// Without this cobra answers an unknown command with help and success.
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usagef("no command %q; there are: %s", args[0], strings.Join(names(cmd), ", "))
		},
	}
	cmd.AddCommand(subs...)
	return cmd
}

func names(cmd *cobra.Command) []string {
	var out []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			out = append(out, c.Name())
		}
	}
	return out
}

// exactly wants n arguments and names them when they are not there.
func exactly(n int, what string) cobra.PositionalArgs {
	return between(n, n, what)
}

// between wants low to high arguments; a negative high is no bound.
func between(low, high int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < low || high >= 0 && len(args) > high {
			if what == "" {
				return usagef("takes no arguments, got %d", len(args))
			}
			return usagef("want %s, got %d arguments", what, len(args))
		}
		return nil
	}
}

// need wants flags that have no sensible default.
func need(cmd *cobra.Command, flags ...string) error {
	var missing []string
	for _, name := range flags {
		if !cmd.Flags().Changed(name) {
			missing = append(missing, "--"+name)
		}
	}
	if len(missing) > 0 {
		return usagef("required: %s", strings.Join(missing, ", "))
	}
	return nil
}

// say writes a line for the person who ran the command.
func say(cmd *cobra.Command, format string, args ...any) error {
	if _, err := fmt.Fprintf(cmd.OutOrStdout(), format+"\n", args...); err != nil {
		return fmt.Errorf("writing the answer: %w", err)
	}
	return nil
}

// note writes a line that is no part of the answer.
func note(cmd *cobra.Command, format string, args ...any) {
	_, _ = fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) // nobody is there to be told
}
