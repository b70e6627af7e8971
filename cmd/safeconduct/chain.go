package main

import (
	"crypto/ed25519"
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/chaintext"
)

func newChain() *cobra.Command {
	return group("chain", "Read, verify and explain delegation chains",
		`A chain is read from a file, from standard input with -, from text on the command line, or out of an audit log: protobuf, base64,
hex, PEM or JSON of a chain, of a grant, of an envelope, or of an audit record.`,
		`  safeconduct chain show report.grant
  safeconduct chain verify --audit /srv/logs/memory --id 0123456789abcdef0123456789abcdef
  safeconduct chain explain chain.b64 --intent memory.read --resource notes/today --purpose "weekly report"`,
		newChainShow(), newChainVerify(), newChainExplain())
}

// chainSource is where a chain comes from.
type chainSource struct {
	audit []string
	id    string
	seq   int64
	at    string
}

// chainArgs is the argument of every chain command.
const chainArgs = "[FILE | - | TEXT]"

func (s *chainSource) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&s.audit, "audit", nil, "folder of an audit log that holds the chain; repeatable (default with --id: every log below the state folder)")
	f.StringVar(&s.id, "id", "", "decision, envelope, interaction or conversation id of the record")
	f.Int64Var(&s.seq, "seq", -1, "number of the record; needs one --audit")
	f.StringVar(&s.at, "at", "", "the time to judge by, RFC 3339 (default: now, or when the record was made)")
}

// reading is a chain and when it is judged.
type reading struct {
	chaintext.Found
	at    time.Time
	atWhy string
	// links are what a log says of a chain whose bytes it does not hold; Found.Chain is nil then.
	links []*v1.ChainLink
}

// read finds the chain.
func (s *chainSource) read(cmd *cobra.Command, args []string) (reading, error) {
	fromLog := len(s.audit) > 0 || s.id != "" || s.seq >= 0
	var r reading
	var err error
	switch {
	case fromLog && len(args) > 0:
		return r, usagef("give a chain or a record, not both")
	case fromLog:
		r, err = s.readRecord(cmd)
		r.atWhy = "when the record was made"
	case len(args) == 0:
		return r, usagef("name a file, - for standard input, or a record with --id or --audit DIR --seq N")
	default:
		r.at, r.atWhy = time.Now(), "now"
		r.Found, err = readChain(cmd, args[0])
	}
	if err != nil || s.at == "" {
		return r, err
	}
	r.atWhy = "as asked"
	if r.at, err = time.Parse(time.RFC3339, s.at); err != nil {
		return r, usagef("--at %s: want a time such as 2026-03-01T12:00:00Z", quote(s.at))
	}
	return r, nil
}

// readChain reads a file or standard input. An argument that is no file may be the chain itself.
func readChain(cmd *cobra.Command, arg string) (chaintext.Found, error) {
	var raw []byte
	var err error
	if arg == "-" {
		raw, err = readAll(cmd.InOrStdin(), "standard input", chaintext.MaxInput)
	} else {
		raw, err = readBounded(arg, chaintext.MaxInput)
	}
	var noFile *os.PathError
	if errors.As(err, &noFile) {
		if f, textErr := chaintext.Read([]byte(arg)); textErr == nil {
			return f, nil
		}
	}
	if err != nil {
		return chaintext.Found{}, usagef("%w", err)
	}
	f, err := chaintext.Read(raw)
	if err != nil {
		return f, usagef("%s: %w", arg, err)
	}
	return f, nil
}

func newChainShow() *cobra.Command {
	var src chainSource
	var purpose string
	var trust []string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show " + chainArgs, Short: "Show what a chain claims: who acts for whom, how far, until when",
		Long: `Writes every statement of a chain: who gave what to whom, and what that is less than the statement before. Nothing is verified.
The signs before a capability: = as before, < less than before, ! more than before (a verifier refuses it), - not passed on.`,
		Example: `  safeconduct chain show report.grant --purpose "weekly report"
  safeconduct grant --principal alice@acme.example --to acme/planner --can memory.read:notes --purpose report --json | safeconduct chain show -
  safeconduct chain show --id 0123456789abcdef0123456789abcdef --json`,
		Args: between(0, 1, "at most one chain"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := src.read(cmd, args)
			if err != nil {
				return err
			}
			if r.Chain == nil {
				return showLinks(cmd, r, asJSON)
			}
			o := chaintext.Options{At: r.at}
			if cmd.Flags().Changed("purpose") {
				o.Purpose = &purpose
			}
			t, err := readChainTrust(cmd, trust)
			switch {
			case err == nil:
				o.GrantKey = func(issuer, keyID string) (ed25519.PublicKey, bool) { return t.GrantKey(issuer, keyID, r.at) }
			case len(trust) > 0: // without it, only the reference is not known
				return err
			}
			v := chaintext.Describe(r.Found, o)
			if asJSON {
				return writeJSON(cmd, v)
			}
			return v.Text(cmd.OutOrStdout())
		},
	}
	src.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&purpose, "purpose", "", "compare the purpose digest with that of this text")
	trustFlag(cmd, &trust)
	f.BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}

// showLinks prints what a log says of a chain whose bytes it does not hold.
func showLinks(cmd *cobra.Command, r reading, asJSON bool) error {
	if !asJSON {
		return chaintext.WriteLinks(cmd.OutOrStdout(), r.Reference, r.links)
	}
	links, err := protoList(r.links)
	if err != nil {
		return err
	}
	return writeJSON(cmd, map[string]any{"verified": false, "form": "links of an audit record", "links": links})
}

// wireReason is what a caller is told for a reason.
func wireReason(r v1.Reason) string { return (&interceptors.Denial{Reason: r}).WireName() }
