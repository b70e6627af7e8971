package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
)

func newAuditGraph() *cobra.Command {
	var dot bool
	cmd := &cobra.Command{
		Use: "graph [DIR...]", Short: "Show which agents talked to which",
		Example: "  safeconduct audit graph\n  safeconduct audit graph --dot | dot -Tsvg > graph.svg",
		RunE: func(cmd *cobra.Command, args []string) error {
			dirs, err := logDirs(cmd, args)
			if err != nil {
				return err
			}
			g, err := audit.BuildGraph(readLogs(dirs)...)
			if err != nil {
				return cannotRead(err)
			}
			if dot {
				return g.DOT(cmd.OutOrStdout())
			}
			return g.Text(cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&dot, "dot", false, "write Graphviz DOT")
	return cmd
}

func newAuditExplain() *cobra.Command {
	return &cobra.Command{
		Use: "explain DECISION [DIR...]", Short: "Say why a call was denied or allowed",
		Long: "Says who asked for what on whose behalf, under which authority, label and policy row, and what would have had to be different. DECISION is the id that a refusal carries.",
		Example: `  safeconduct audit explain 0123456789abcdef0123456789abcdef
  safeconduct audit explain 0123456789abcdef0123456789abcdef /srv/logs/memory`,
		Args: between(1, -1, "a decision id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := idArg(args[0])
			if err != nil {
				return err
			}
			dirs, err := logDirs(cmd, args[1:])
			if err != nil {
				return err
			}
			x, err := audit.Explain(audit.Concat(readLogs(dirs)...), id)
			if err != nil {
				return cannotRead(err)
			}
			return x.Text(cmd.OutOrStdout())
		},
	}
}

func newAuditShow() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show DECISION|ENVELOPE [DIR...]", Short: "Show the records of one interaction and what led to it",
		Long: "Shows every record that carries the id as decision, envelope, interaction, conversation or trace, and the tree of calls around it.",
		Example: `  safeconduct audit show 0123456789abcdef0123456789abcdef
  safeconduct audit show 0123456789abcdef0123456789abcdef --json | jq .event.reason`,
		Args: between(1, -1, "an id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := idArg(args[0])
			if err != nil {
				return err
			}
			dirs, err := logDirs(cmd, args[1:])
			if err != nil {
				return err
			}
			return showInteraction(cmd, dirs, id, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the records as lines of JSON, without the tree")
	return cmd
}

// showInteraction prints the records with the id as they are read, and then the tree.
func showInteraction(cmd *cobra.Command, dirs []string, id [16]byte, asJSON bool) error {
	envelope := id
	found := false
	for rec, err := range audit.Concat(readLogs(dirs)...) {
		if err != nil {
			return cannotRead(err)
		}
		ev := rec.Event
		if !carries(ev, id) {
			continue
		}
		found = true
		if string(ev.GetDecisionId()) == string(id[:]) && len(ev.GetEnvelopeId()) == len(envelope) {
			envelope = [16]byte(ev.GetEnvelopeId())
		}
		if err := printRecord(cmd, rec, asJSON); err != nil {
			return err
		}
	}
	if !found {
		return cannotRead(audit.ErrNotFound)
	}
	if asJSON {
		return nil
	}
	tree, err := audit.BuildTree(audit.Selector{Envelope: envelope, Conversation: id, Trace: id}, readLogs(dirs)...)
	if errors.Is(err, audit.ErrNotFound) {
		return nil // an event that is no call
	}
	if err != nil {
		return cannotRead(err)
	}
	if err := say(cmd, ""); err != nil {
		return err
	}
	return tree.Text(cmd.OutOrStdout())
}

func carries(ev *audit.Event, id [16]byte) bool {
	for _, field := range [][]byte{
		ev.GetDecisionId(), ev.GetEnvelopeId(), ev.GetInteractionId(), ev.GetConversationId(), ev.GetTraceId(),
	} {
		if string(field) == string(id[:]) {
			return true
		}
	}
	return false
}

func printRecord(cmd *cobra.Command, rec audit.Record, asJSON bool) error {
	if !asJSON {
		return rec.Text(cmd.OutOrStdout())
	}
	line, err := rec.JSON()
	if err != nil {
		return err
	}
	return say(cmd, "%s", line)
}
