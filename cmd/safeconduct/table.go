package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func newTable() *cobra.Command {
	return group("table", "Show and edit the capability table",
		"The capability table says what agents of a class may do to which resources at which peers. What it does not list is denied.",
		`  safeconduct table allow planner-writes --tenant acme --class planner --action memory.write --resource notes/* --peer spiffe://safeconduct.local/service/memory
  safeconduct table show
  safeconduct table deny planner-writes`,
		newTableShow(), newTableAllow(), newTableDeny())
}

func newTableShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show", Short: "Show the capability table in force",
		Example: "  safeconduct table show\n  safeconduct table show --json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := connect(cmd)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // nothing is lost with it
			trust, err := s.trust(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return sayProto(cmd, trust.table)
			}
			if err := say(cmd, "serial %d, %d rows", trust.table.GetSerial(), len(trust.table.GetRows())); err != nil {
				return err
			}
			var rows [][]string
			for _, r := range trust.table.GetRows() {
				c := r.GetCapability()
				rows = append(rows, []string{
					r.GetId(), r.GetTenant(), r.GetAgentClass(), c.GetAction(),
					audit.Visible(resourceText(c.GetResource(), c.GetSubtree())), strings.Join(r.GetPeers(), " "),
				})
			}
			if len(rows) == 0 {
				return say(cmd, "Nothing is allowed. Add a row with: safeconduct table allow")
			}
			return columns(cmd.OutOrStdout(), []string{"ID", "TENANT", "CLASS", "ACTION", "RESOURCE", "PEERS"}, rows)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the table as JSON")
	return cmd
}

func newTableAllow() *cobra.Command {
	var tenant, class, action, resource string
	var peers []string
	cmd := &cobra.Command{
		Use: "allow ID", Short: "Add a row to the capability table",
		Long: `Adds a row under a name of its own and puts the table in force. A resource is segments joined by "/": notes/today is exactly
that, notes/* is everything below notes and not notes itself. A peer is a SPIFFE ID, or one that ends in "/*" for all agents of
a tenant; services are named exactly.`,
		Example: `  safeconduct table allow planner-writes --tenant acme --class planner --action memory.write --resource notes --peer spiffe://safeconduct.local/service/memory
  safeconduct table allow planner-asks --tenant acme --class planner --action agent.invoke --resource agent/helper --peer 'spiffe://safeconduct.local/tenant/acme/agent/*'`,
		Args: exactly(1, "the row's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "tenant", "class", "action", "resource", "peer"); err != nil {
				return err
			}
			path, subtree, err := parseResource(resource)
			if err != nil {
				return err
			}
			row := &v1.CapabilityRow{
				Id: args[0], Tenant: tenant, AgentClass: class, Peers: peers,
				Capability: &v1.Capability{Action: action, Resource: path, Subtree: subtree},
			}
			return editTable(cmd, &rpcv1.EditTableRequest{Add: []*v1.CapabilityRow{row}})
		},
	}
	f := cmd.Flags()
	f.StringVar(&tenant, "tenant", "", "tenant of the agents")
	f.StringVar(&class, "class", "", "class of the agents")
	f.StringVar(&action, "action", "", "action, for example memory.write")
	f.StringVar(&resource, "resource", "", "resource: a/b, or a/b/* for everything below a/b")
	f.StringSliceVar(&peers, "peer", nil, "who may be asked; repeatable, at most 16")
	return cmd
}

func newTableDeny() *cobra.Command {
	return &cobra.Command{
		Use: "deny ID...", Short: "Remove rows from the capability table",
		Example: "  safeconduct table deny planner-writes",
		Args:    between(1, -1, "names of rows"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return editTable(cmd, &rpcv1.EditTableRequest{Remove: args})
		},
	}
}

func editTable(cmd *cobra.Command, r *rpcv1.EditTableRequest) error {
	s, err := connect(cmd)
	if err != nil {
		return err
	}
	defer s.Close() //nolint:errcheck // nothing is lost with it
	answer, err := s.EditTable(cmd.Context(), r)
	if err != nil {
		return err
	}
	return say(cmd, "capability table %d is in force", answer.GetSerial())
}
