package main

import (
	"context"

	"github.com/spf13/cobra"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func newMemoryList() *cobra.Command {
	var who actor
	var subtree, asJSON bool
	var prefix string
	cmd := &cobra.Command{
		Use: "list NS", Short: "List the entries of a namespace",
		Long: "Lists live entries without their values. With --subtree everything below the namespace is listed too, which needs memory.list on both.",
		Example: `  safeconduct memory list notes --as acme/planner --grant report.grant --purpose report
  safeconduct memory list notes --subtree --json --as acme/planner --grant report.grant --purpose report`,
		Args: exactly(1, "a namespace"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ns, err := namespaceArg(args[0])
			if err != nil {
				return err
			}
			return who.call(cmd, args, func(ctx context.Context, c rpcv1.MemoryServiceClient) error {
				req := &rpcv1.ListRequest{Ns: ns, Subtree: subtree, KeyPrefix: []byte(prefix)}
				var entries []*v1.Entry
				for {
					page, err := c.List(ctx, req)
					if err != nil {
						return err
					}
					entries = append(entries, page.GetHeaders()...)
					if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
						return sayEntries(cmd, entries, asJSON)
					}
				}
			})
		},
	}
	f := cmd.Flags()
	who.flags(cmd)
	f.BoolVar(&subtree, "subtree", false, "list everything below the namespace too")
	f.StringVar(&prefix, "prefix", "", "list only keys that begin with this")
	f.BoolVar(&asJSON, "json", false, "print the headers as JSON")
	return cmd
}

func sayEntries(cmd *cobra.Command, entries []*v1.Entry, asJSON bool) error {
	if asJSON {
		return sayProtos(cmd, entries)
	}
	rows := make([][]string, 0, len(entries))
	for _, e := range entries {
		rows = append(rows, headerRow(e))
	}
	return columns(cmd.OutOrStdout(), headerColumns, rows)
}
