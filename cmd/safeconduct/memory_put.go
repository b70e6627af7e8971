package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/runtime"
)

func newMemoryPut() *cobra.Command {
	var who actor
	var untrusted, absent, asJSON bool
	var version uint64
	var media string
	cmd := &cobra.Command{
		Use: "put NS KEY [FILE|-]", Short: "Write one entry",
		Long: fmt.Sprintf(`Writes one entry of at most %d bytes, from FILE or standard input, and prints its version once it is durable. What is written
counts as the words of the agent, at most attested; content that comes from elsewhere, such as a web page, is --untrusted.`, memory.MaxValueBytes),
		Example: `  echo hello | safeconduct memory put notes today --as acme/planner --grant report.grant --purpose report
  safeconduct memory put notes page page.html --untrusted --as acme/planner --grant report.grant --purpose report
  safeconduct memory put notes today new.txt --if-version 3 --as acme/planner --grant report.grant --purpose report`,
		Args: between(2, 3, "namespace, key and at most one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ns, err := namespaceArg(args[0])
			if err != nil {
				return err
			}
			ref, err := keyRef(ns, args[1], 0)
			if err != nil {
				return err
			}
			op := &rpcv1.Op{OnlyIf: onlyIf(cmd, version, absent)}
			if absent && cmd.Flags().Changed("if-version") {
				return usagef("--if-version and --if-absent contradict each other")
			}
			file := "-"
			if len(args) > 2 {
				file = args[2]
			}
			return who.call(cmd, args, func(ctx context.Context, c rpcv1.MemoryServiceClient) error {
				value, err := readValue(cmd, file)
				if err != nil {
					return err
				}
				op.Kind = &rpcv1.Op_Put{Put: &rpcv1.Put{Ref: ref, Value: value, MediaType: media}}
				if untrusted {
					runtime.Taint(ctx, untrustedContent)
				}
				r, err := c.Write(ctx, &rpcv1.WriteRequest{Ns: ns, Ops: []*rpcv1.Op{op}})
				if err != nil {
					return err
				}
				if len(r.GetEntries()) != 1 {
					return fmt.Errorf("memory answered with %d entries, want 1", len(r.GetEntries()))
				}
				if asJSON {
					return sayProto(cmd, r.GetEntries()[0])
				}
				return say(cmd, "version %d, revision %d", r.GetEntries()[0].GetRef().GetVersion(), r.GetRevision())
			})
		},
	}
	f := cmd.Flags()
	who.flags(cmd)
	f.BoolVar(&untrusted, "untrusted", false, "the content comes from elsewhere: label it UNTRUSTED")
	f.Uint64Var(&version, "if-version", 0, "write only when this is the live version")
	f.BoolVar(&absent, "if-absent", false, "write only when there is no live version")
	f.StringVar(&media, "media-type", "", "media type of the content")
	f.BoolVar(&asJSON, "json", false, "print the header as JSON")
	return cmd
}

// untrustedContent lowers the integrity of a conversation and leaves who may read it alone.
var untrustedContent = policy.Label{
	Integrity: v1.Integrity_INTEGRITY_UNTRUSTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_PUBLIC, AnyReader: true,
}

func onlyIf(cmd *cobra.Command, version uint64, absent bool) *rpcv1.Precondition {
	switch {
	case absent:
		return &rpcv1.Precondition{Kind: &rpcv1.Precondition_MustNotExist{MustNotExist: true}}
	case cmd.Flags().Changed("if-version"):
		return &rpcv1.Precondition{Kind: &rpcv1.Precondition_VersionIs{VersionIs: version}}
	}
	return nil
}

// readValue reads at most what one entry holds.
func readValue(cmd *cobra.Command, file string) (value []byte, err error) {
	if file == "-" {
		value, err = readAll(cmd.InOrStdin(), "standard input", memory.MaxValueBytes)
	} else {
		value, err = readBounded(file, memory.MaxValueBytes)
	}
	switch {
	case errors.Is(err, errTooLarge):
		return nil, fmt.Errorf("%w (64 KiB), the most that one entry holds; split it over several keys", err)
	case errors.Is(err, os.ErrNotExist):
		return nil, usagef("%w", err)
	}
	return value, err
}
