package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/chaintext"
)

// maxCertFile bounds the presenter's certificate; an SVID in PEM takes about 1 KiB.
const maxCertFile = 64 << 10

// errNoBytes is for a chain that a log only describes.
var errNoBytes = errors.New("the log holds the links of the chain and not its bytes, so it cannot be verified; see: safeconduct chain show")

// chainQuestion is what a person asks of a chain.
type chainQuestion struct {
	src                          chainSource
	trust                        []string
	self, presenter, cert        string
	intent, resource, purpose    string
	facts                        []string
	asJSON                       bool
	writeText                    func(*cobra.Command, chaintext.Found, chaintext.Verdict) error
	jsonOf                       func(chaintext.Found, chaintext.Verdict) any
	use, short, long, forExample string
}

func newChainVerify() *cobra.Command {
	return (&chainQuestion{
		use: "verify", short: "Verify a chain with the real verifier",
		long: `Runs the verifier that every endpoint runs. Exit code: 0 allowed, 1 refused, 2 the chain or the question cannot be read. The
recipient is --self, the presenter --presenter; by default those that the last statement names. With --intent, --resource and
--purpose the chain is held against one message too. Revocation, replay, proofs, agent states, labels and the capability
table are not part of a chain: the recipient decides on those.`,
		forExample: `  safeconduct chain verify report.grant
  safeconduct chain verify chain.b64 --trust trust-bundle.pb --trust roots.pem --at 2026-03-01T12:05:00Z --json
  safeconduct chain verify --id 0123456789abcdef0123456789abcdef --intent memory.read --resource notes/today --purpose "weekly report"`,
		writeText: func(cmd *cobra.Command, f chaintext.Found, v chaintext.Verdict) error {
			return chaintext.WriteVerdict(cmd.OutOrStdout(), f, v, wireReason)
		},
		jsonOf: func(_ chaintext.Found, v chaintext.Verdict) any { return verdictOfChain(v) },
	}).command()
}

func newChainExplain() *cobra.Command {
	return (&chainQuestion{
		use: "explain", short: "Go through the verifier's steps and say which fails and why",
		long: `Verifies like "chain verify" and writes the verifier's 17 steps in order: ok, FAILED with what would have had to be different, or
not reached. Where a step fails over who presents, who receives or when, it also says what else is wrong. Exit codes are those
of "chain verify".`,
		forExample: `  safeconduct chain explain report.grant
  safeconduct chain explain chain.b64 --presenter spiffe://acme.test/tenant/blue/agent/thief
  safeconduct chain explain --audit /srv/logs/memory --seq 7 --intent payments.transfer --resource accounts/7 --fact amount=500`,
		writeText: func(cmd *cobra.Command, f chaintext.Found, v chaintext.Verdict) error {
			return chaintext.WriteChecklist(cmd.OutOrStdout(), f, v, wireReason)
		},
		jsonOf: func(f chaintext.Found, v chaintext.Verdict) any {
			return struct {
				chainVerdict
				Steps []chaintext.Step `json:"steps"`
			}{verdictOfChain(v), chaintext.Checklist(f, v)}
		},
	}).command()
}

func (q *chainQuestion) command() *cobra.Command {
	cmd := &cobra.Command{
		Use: q.use + " " + chainArgs, Short: q.short, Long: q.long, Example: q.forExample,
		Args: between(0, 1, "at most one chain"),
		RunE: func(cmd *cobra.Command, args []string) error { return q.run(cmd, args) },
	}
	q.src.flags(cmd)
	trustFlag(cmd, &q.trust)
	f := cmd.Flags()
	f.StringVar(&q.self, "self", "", "SPIFFE ID of the recipient (default: the delegate of the last statement)")
	f.StringVar(&q.presenter, "presenter", "", "SPIFFE ID of who presents the chain (default: the issuer of the last statement)")
	f.StringVar(&q.cert, "presenter-cert", "", "PEM file with the presenter's certificate, for a last hop that does not carry it")
	f.StringVar(&q.intent, "intent", "", "action of the message, as in memory.read")
	f.StringVar(&q.resource, "resource", "", "resource of the message, as in notes/today")
	f.StringVar(&q.purpose, "purpose", "", "purpose of the message")
	f.StringArrayVar(&q.facts, "fact", nil, "KEY=VALUE of the message that conditions are held against; whole numbers are numbers, true and false are flags, the rest and what is in \"quotes\" is text; repeatable")
	f.BoolVar(&q.asJSON, "json", false, "print as JSON")
	return cmd
}

func (q *chainQuestion) run(cmd *cobra.Command, args []string) error {
	r, err := q.src.read(cmd, args)
	if err != nil {
		return err
	}
	if r.Chain == nil {
		return usagef("%w", errNoBytes)
	}
	ask, err := q.ask(cmd, r)
	if err != nil {
		return err
	}
	v, err := chaintext.Verify(r.Found, ask)
	if err != nil {
		return usagef("%w; name it with --self", err)
	}
	if q.asJSON {
		err = writeJSON(cmd, q.jsonOf(r.Found, v))
	} else {
		err = q.writeText(cmd, r.Found, v)
	}
	if err != nil || v.Allowed() {
		return err
	}
	return silent(exitFailed)
}

// ask reads the question from the flags.
func (q *chainQuestion) ask(cmd *cobra.Command, r reading) (chaintext.Question, error) {
	out := chaintext.Question{At: r.at, AtWhy: r.atWhy}
	var err error
	for flag, in := range map[string]struct {
		text string
		id   *identity.AgentID
	}{"--self": {q.self, &out.Self}, "--presenter": {q.presenter, &out.Presenter}} {
		if in.text == "" {
			continue
		}
		if *in.id, err = identity.ParseAgent(in.text); err != nil {
			return out, usagef("%s: %w", flag, err)
		}
	}
	if err := q.readCert(&out); err != nil {
		return out, err
	}
	if out.Intent, err = q.message(cmd); err != nil {
		return out, err
	}
	t, err := readChainTrust(cmd, q.trust)
	if err != nil {
		return out, err
	}
	if len(r.Chain.GetHops()) > 0 && !t.HasRoots() {
		return out, usagef("no trust file holds an X.509 root, and the chain has hops; add one in PEM: --trust FILE")
	}
	out.Keys, out.Bundles = t, t
	return out, nil
}

// readCert reads the presenter's certificate, which names the presenter unless --presenter does.
func (q *chainQuestion) readCert(out *chaintext.Question) error {
	if q.cert == "" {
		return nil
	}
	raw, err := readBounded(q.cert, maxCertFile)
	if err != nil {
		return usagef("%w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil || block.Type != chaintext.PEMCertificate {
		return usagef("--presenter-cert %s: no certificate in PEM", q.cert)
	}
	if out.Cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		return usagef("--presenter-cert %s: %w", q.cert, err)
	}
	peer, err := identity.PeerFromLeaf(out.Cert)
	switch {
	case err != nil:
		return usagef("--presenter-cert %s: %w", q.cert, err)
	case out.Presenter.IsZero():
		out.Presenter = peer.Agent
	case out.Presenter != peer.Agent:
		return usagef("--presenter-cert %s is %s, not the --presenter", q.cert, peer.Agent)
	}
	return nil
}

// message is nil when no part of one is given.
func (q *chainQuestion) message(cmd *cobra.Command) (*delegation.Intent, error) {
	given := cmd.Flags().Changed
	if !given("intent") && !given("resource") && !given("purpose") && len(q.facts) == 0 {
		return nil, nil //nolint:nilnil // nothing was asked, which is no error
	}
	if err := need(cmd, "intent", "resource", "purpose"); err != nil {
		return nil, err
	}
	path, subtree, err := parseResource(q.resource)
	if err != nil {
		return nil, err
	}
	if subtree {
		return nil, usagef("--resource %s: a message is about one resource, not about everything below it", quote(q.resource))
	}
	in := &delegation.Intent{Action: q.intent, Resource: path, Purpose: q.purpose}
	for _, f := range q.facts {
		key, value, ok := strings.Cut(f, "=")
		if !ok || key == "" {
			return nil, usagef("--fact %s: want KEY=VALUE", quote(f))
		}
		in.Facts = append(in.Facts, delegation.Fact{Key: key, Value: factValue(value)})
	}
	return in, nil
}

// factValue gives a value the kind that it looks like.
func factValue(s string) *v1.Value {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return &v1.Value{Kind: &v1.Value_Number{Number: n}}
	}
	if s == "true" || s == "false" {
		return &v1.Value{Kind: &v1.Value_Flag{Flag: s == "true"}}
	}
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	return &v1.Value{Kind: &v1.Value_Text{Text: s}}
}

// chainVerdict is a verdict for scripts.
type chainVerdict struct {
	Verdict    string       `json:"verdict"` // allowed or refused
	Reason     string       `json:"reason,omitempty"`
	WireReason string       `json:"wire_reason,omitempty"`
	Depth      *int         `json:"depth,omitempty"` // of the statement: 0 is the grant, -1 the chain as a whole
	Cause      string       `json:"cause,omitempty"`
	Step       int          `json:"step,omitempty"`
	Otherwise  string       `json:"otherwise,omitempty"`
	Also       []chainFault `json:"also,omitempty"`
	Self       string       `json:"self"`
	Presenter  string       `json:"presenter"`
	At         time.Time    `json:"at"`
	Message    bool         `json:"message"` // whether the chain was held against one
	ChainID    string       `json:"chain_id,omitempty"`
	Reference  string       `json:"reference,omitempty"`
	ExpiresAt  *time.Time   `json:"expires_at,omitempty"`
	NotAsked   []string     `json:"not_asked"` // what the verdict is not about
}

// chainFault is what is wrong besides.
type chainFault struct {
	Reason string `json:"reason"`
	Depth  int    `json:"depth"`
	Cause  string `json:"cause,omitempty"`
	Step   int    `json:"step"`
}

func verdictOfChain(v chaintext.Verdict) chainVerdict {
	out := chainVerdict{
		Verdict: "allowed", Self: v.Question.Self.String(), Presenter: v.Question.Presenter.String(), At: v.Question.At.UTC(),
		Message: v.Question.Intent != nil, NotAsked: chaintext.NotAsked(),
	}
	if v.Allowed() {
		out.ChainID, out.Reference, out.ExpiresAt = fmt.Sprintf("%x", v.ChainID), fmt.Sprintf("%x", v.Reference), &v.Expires
		return out
	}
	x := v.Failures[0]
	out.Verdict, out.Reason, out.WireReason = "refused", chaintext.ReasonName(x.Reason), wireReason(x.Reason)
	out.Depth, out.Cause, out.Step, out.Otherwise = &x.Depth, x.Cause, x.Step, chaintext.Otherwise(x.Reason)
	for _, more := range v.Failures[1:] {
		out.Also = append(out.Also, chainFault{chaintext.ReasonName(more.Reason), more.Depth, more.Cause, more.Step})
	}
	return out
}
