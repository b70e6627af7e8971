package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func newAgent() *cobra.Command {
	return group("agent", "Register, list and start agents",
		"An agent is known by its SPIFFE ID, spiffe://TRUST-DOMAIN/tenant/T/agent/N, or T/N for short.",
		`  safeconduct agent register planner --tenant acme --class planner --owner ops@acme.example --purpose "plans work"
  safeconduct agent run acme/planner -- ./planner`,
		newAgentRegister(), newAgentList(), newAgentRun(), newAgentTLS(), newAgentEnvelope())
}

func newAgentRegister() *cobra.Command {
	var tenant, class, owner, purpose, integrity string
	var asJSON, single bool
	cmd := &cobra.Command{
		Use: "register NAME", Short: "Register an agent",
		Long: "Registers an agent, active at once. The same content again changes nothing; other content under the same name is refused.",
		Example: `  safeconduct agent register planner --tenant acme --class planner --owner ops@acme.example --purpose "plans work" --integrity attested
  safeconduct agent register scraper --tenant acme --class scraper --owner ops@acme.example --purpose "reads the web"`,
		Args: exactly(1, "the agent's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "tenant", "class", "owner", "purpose"); err != nil {
				return err
			}
			limit, ok := integrityCaps[integrity]
			if !ok {
				return usagef("--integrity %q: want untrusted or attested", integrity)
			}
			s, err := connect(cmd)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // nothing is lost with it
			id, err := s.up.agentID(tenant + "/" + args[0])
			if err != nil {
				return err
			}
			r, err := s.RegisterAgent(cmd.Context(), &rpcv1.RegisterAgentRequest{Agent: &v1.Agent{
				SpiffeId: id.String(), AgentClass: class, Owner: owner, Purpose: purpose, IntegrityCap: limit, SingleProcess: single,
			}})
			if err != nil {
				return err
			}
			if asJSON {
				return sayProto(cmd, r.GetAgent())
			}
			return say(cmd, "%s", r.GetAgent().GetSpiffeId())
		},
	}
	f := cmd.Flags()
	f.StringVar(&tenant, "tenant", "", "tenant, a DNS label")
	f.StringVar(&class, "class", "", "class that the capability table speaks of, a DNS label")
	f.StringVar(&owner, "owner", "", "the accountable person or team")
	f.StringVar(&purpose, "purpose", "", "what it is for, in a sentence")
	f.StringVar(&integrity, "integrity", "untrusted", "what it says is trusted at most so far: untrusted or attested")
	f.BoolVar(&single, "single-process", false, "refuse a second process of this agent while one is live; otherwise it is recorded only")
	f.BoolVar(&asJSON, "json", false, "print the record as JSON")
	return cmd
}

var integrityCaps = map[string]v1.Integrity{
	"untrusted": v1.Integrity_INTEGRITY_UNTRUSTED,
	"attested":  v1.Integrity_INTEGRITY_ATTESTED,
}

func newAgentList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List registered agents",
		Example: "  safeconduct agent list\n  safeconduct agent list --json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := connect(cmd)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // nothing is lost with it
			r, err := s.ListAgents(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return sayProtos(cmd, r.GetAgents())
			}
			rows := make([][]string, 0, len(r.GetAgents()))
			for _, a := range r.GetAgents() {
				rows = append(rows, []string{
					a.GetSpiffeId(), a.GetAgentClass(), word(a.GetState().String(), "AGENT_STATE_"),
					word(a.GetIntegrityCap().String(), "INTEGRITY_"), processes(a), audit.Visible(a.GetOwner()), audit.Visible(a.GetPurpose()),
				})
			}
			return columns(cmd.OutOrStdout(), []string{"SPIFFE ID", "CLASS", "STATE", "INTEGRITY", "PROCESSES", "OWNER", "PURPOSE"}, rows)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all records as JSON")
	return cmd
}

// processes says how many processes may be the agent at a time.
func processes(a *v1.Agent) string {
	if a.GetSingleProcess() {
		return "single"
	}
	return "any"
}

// word is an enum value for people.
func word(s, prefix string) string { return strings.ToLower(strings.TrimPrefix(s, prefix)) }
