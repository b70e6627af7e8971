package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/runtime"
)

func newMemoryGet() *cobra.Command {
	var who actor
	var version uint64
	var header, asJSON bool
	cmd := &cobra.Command{
		Use: "get NS KEY", Short: "Read one entry",
		Long: "Prints the value as it was written; on a terminal, control characters in it are made visible. What the caller may not read looks like what is absent.",
		Example: `  safeconduct memory get notes today --as acme/planner --grant report.grant --purpose report
  safeconduct memory get notes today --version 2 --header --as acme/planner --grant report.grant --purpose report`,
		Args: exactly(2, "namespace and key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ns, err := namespaceArg(args[0])
			if err != nil {
				return err
			}
			ref, err := keyRef(ns, args[1], version)
			if err != nil {
				return err
			}
			return who.call(cmd, args, func(ctx context.Context, c rpcv1.MemoryServiceClient) error {
				r, err := c.Get(ctx, &rpcv1.GetRequest{Ns: ns, Refs: []*v1.KeyRef{ref}, HeaderOnly: header})
				if isAbsent(err) {
					return fmt.Errorf("nothing at %s %s that this agent may read: %w", args[0], args[1], err)
				}
				if err != nil {
					return err
				}
				if len(r.GetEntries()) != 1 || r.GetEntries()[0].GetRef() == nil {
					return fmt.Errorf("nothing at %s %s", args[0], args[1])
				}
				return sayEntry(cmd, r.GetEntries()[0], header, asJSON)
			})
		},
	}
	f := cmd.Flags()
	who.flags(cmd)
	f.Uint64Var(&version, "version", 0, "version to read (default the live one)")
	f.BoolVar(&header, "header", false, "print version, label and author instead of the value")
	f.BoolVar(&asJSON, "json", false, "print the entry as JSON, its value in base64")
	return cmd
}

func isAbsent(err error) bool {
	var r *runtime.Refusal
	return errors.As(err, &r) && r.Reason == v1.Reason_REASON_NOT_FOUND
}

func sayEntry(cmd *cobra.Command, e *v1.Entry, header, asJSON bool) error {
	switch {
	case asJSON:
		return sayProto(cmd, e)
	case header:
		return columns(cmd.OutOrStdout(), headerColumns, [][]string{headerRow(e)})
	case isTerminal(cmd.OutOrStdout()):
		return say(cmd, "%s", visibleLines(string(e.GetValue())))
	}
	if _, err := cmd.OutOrStdout().Write(e.GetValue()); err != nil {
		return fmt.Errorf("writing the value: %w", err)
	}
	return nil
}

// visibleLines is s with everything but line ends made visible.
func visibleLines(s string) string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	for i, l := range lines {
		lines[i] = audit.Visible(l)
	}
	return strings.Join(lines, "\n")
}
