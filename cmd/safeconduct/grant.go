package main

import (
	"encoding/base64"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
)

const (
	// defaultDepth is the authority's own default.
	defaultDepth = 4
	devIssuer    = "development issuer: the grant names a principal that nobody has authenticated"
)

func newGrant() *cobra.Command {
	r := &rpcv1.IssueGrantRequest{}
	var can []string
	var to, out string
	var ttl time.Duration
	var reach uint32
	var asJSON bool
	cmd := &cobra.Command{
		Use: "grant", Short: "Issue a grant: the authority an agent acts under for a person",
		Long: `Issues the root of a delegation chain through the operator socket: for a person, to one agent, for a purpose, for at most 15
minutes. The capability table must allow the tenant what the grant holds. A resource covers exactly itself, one that ends in
/* everything below; for both name both: --can memory.read:notes,notes/*.`,
		Example: `  safeconduct grant --principal alice@acme.example --to acme/planner --can memory.write:notes --can memory.read:notes,notes/* --purpose "weekly report" -o report.grant
  safeconduct grant --principal alice@acme.example --to acme/planner --can memory.read:notes --purpose "weekly report" --ttl 5m --json`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := need(cmd, "principal", "to", "can", "purpose"); err != nil {
				return err
			}
			if out == "" && !asJSON {
				return usagef("say where the grant goes: -o FILE, -o - for standard output, or --json")
			}
			if out == "-" && !asJSON && isTerminal(cmd.OutOrStdout()) {
				return usagef("a grant is binary and does not go to a terminal; use -o FILE or --json")
			}
			if ttl < time.Second || ttl%time.Second != 0 {
				return usagef("--ttl %s: want whole seconds, at most 15m", ttl)
			}
			if !cmd.Flags().Changed("reach") {
				reach = r.GetMaxDepth()
			}
			var err error
			if r.Capabilities, err = parseCapabilities(can, reach); err != nil {
				return err
			}
			r.TtlS = int64(ttl / time.Second)
			s, err := connect(cmd)
			if err != nil {
				return err
			}
			defer s.Close() //nolint:errcheck // nothing is lost with it
			id, err := s.up.agentID(to)
			if err != nil {
				return err
			}
			r.Delegate = id.String()
			answer, err := s.IssueGrant(cmd.Context(), r)
			if err != nil {
				return err
			}
			return deliverGrant(cmd, answer, out, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Principal, "principal", "", "stable id of the person on whose behalf the agent acts")
	f.StringVar(&to, "to", "", "agent that gets the grant")
	f.StringArrayVar(&can, "can", nil, "ACTION:RESOURCE[,RESOURCE...]; repeatable")
	f.StringVar(&r.Purpose, "purpose", "", "what the grant is for; every call under it states the same text")
	f.DurationVar(&ttl, "ttl", 15*time.Minute, "lifetime, at most 15m; the agent renews it by itself, each time for no longer than this, for up to 8h in all")
	f.Uint32Var(&r.MaxDepth, "max-depth", defaultDepth, "hops that the chain may have, at most 8")
	f.Uint32Var(&reach, "reach", 0, "deepest hop that may carry the capabilities (default --max-depth)")
	f.StringSliceVar(&r.Delegates, "delegate", nil, "who may appear further down: SPIFFE IDs or patterns that end in /*; repeatable (default: all agents of the tenant, and memory)")
	f.StringVar(&r.TaskId, "task", "", "id of the task, for the audit log")
	f.StringVarP(&out, "output", "o", "", "file to write, - is standard output")
	f.BoolVar(&asJSON, "json", false, "print base64 of the grant and its expiry as JSON")
	return cmd
}

// deliverGrant writes the serialized SignedStatement.
func deliverGrant(cmd *cobra.Command, answer *rpcv1.IssueGrantResponse, out string, asJSON bool) error {
	raw, err := proto.Marshal(answer.GetGrant())
	if err != nil {
		return fmt.Errorf("encoding the grant: %w", err)
	}
	expires := time.UnixMilli(answer.GetExpiresAtMs()).UTC()
	if out != "" && out != "-" {
		if err := replaceFile(out, raw); err != nil {
			return err
		}
	}
	switch {
	case asJSON:
		note(cmd, "safeconduct: %s", devIssuer)
		return writeJSON(cmd, struct {
			Grant     string    `json:"grant"`
			ChainID   string    `json:"chain_id"`
			ExpiresAt time.Time `json:"expires_at"`
		}{base64.StdEncoding.EncodeToString(raw), fmt.Sprintf("%x", answer.GetChainId()), expires})
	case out == "-":
		note(cmd, "safeconduct: %s", devIssuer)
		if _, err := cmd.OutOrStdout().Write(raw); err != nil {
			return fmt.Errorf("writing the grant: %w", err)
		}
		return nil
	}
	note(cmd, "safeconduct: %s", devIssuer)
	return say(cmd, "%s: chain %x, until %s", out, answer.GetChainId(), expires.Format(time.RFC3339))
}
