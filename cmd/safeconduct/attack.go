package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/intruder"
	"github.com/safeconduct/safeconduct/runtime"
)

// attackStart bounds what comes before the first call: identity, address.
const attackStart = 15 * time.Second

func newAttack() *cobra.Command {
	var a attack
	var list bool
	cmd := &cobra.Command{
		Use: "attack", Short: "Break the rules at one agent on purpose, and show that it refuses",
		Long: fmt.Sprintf(`Plays an agent that has gone over: with its own certificate and a grant that names it, it breaks the rules of messages and
delegation chains at one agent, one violation after the other, by a raw client. Before each one it makes a valid call of its own,
the control, which must be answered OK; then only a refusal with exactly the expected reason counts:

  REFUSED       every message of the violation came back with its reason and code
  ADMITTED      a message passed: the agent is open
  INCONCLUSIVE  the control failed, or something else came back; it is shown
  NOT RUN       the credentials given cannot express it; why is shown

ROW is the row of the conformance table of package delegation; the rules of envelopes and connections have none.
Exit code 0 when something was tried and everything that was tried was refused, 1 otherwise.

The target is one agent, named by the SPIFFE ID that its certificate must show, at one address; nothing else is dialed. Without
--target the authority of the agent run is asked where --peer serves. The attacker's identity is that of the process, from the
Workload API (start it with "agent run"), or is read from --cert, --key and --bundle. The control is made for real, about a hundred
times: choose a call that is harmless to repeat. The attacker's agent may be held to account for what it does; register one for it,
and attack only what is yours.

The method must be known to this program, or be in --descriptor-set, as "buf build -o FILE" or "protoc --include_imports
--descriptor_set_out=FILE" write it. About 500 calls at no more than 50 a second and one burst at the end, at most %s.`, intruder.MaxRun),
		Example: `  safeconduct grant --principal you@acme.example --to acme/intruder --can hello.greet:agent/greeter --purpose "break in" -o intruder.grant
  safeconduct agent run acme/intruder -- safeconduct attack --peer acme/greeter --grant intruder.grant --purpose "break in" \
    --method /hello.v1.GreeterService/Greet --request '{"name":"Ada"}'
  safeconduct agent run acme/intruder -- safeconduct attack --target 10.0.0.7:7001 --peer spiffe://acme.example/tenant/acme/agent/ledger \
    --grant intruder.grant --purpose "break in" --descriptor-set ledger.binpb --method /ledger.v1.LedgerService/Balance --json
  safeconduct attack --list`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if list {
				return a.list(cmd)
			}
			return a.run(cmd)
		},
	}
	a.flags(cmd)
	cmd.Flags().BoolVar(&list, "list", false, "list the violations and make none")
	return cmd
}

// attack is one command line.
type attack struct {
	target, peer                   string
	grant, closed, stolen, purpose string
	method, request, descriptors   string
	cert, key, bundle              string
	only, skip                     []string
	timeout                        time.Duration
	stuffing                       int
	asJSON                         bool
}

func (a *attack) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.target, "target", "", "HOST:PORT of the agent under attack, exactly one (default: where the authority says that --peer serves)")
	f.StringVar(&a.peer, "peer", "", "SPIFFE ID of the agent under attack, or T/N in the attacker's trust domain")
	f.StringVar(&a.grant, "grant", "", "file of a grant for the attacker, as the command grant writes it")
	f.StringVar(&a.purpose, "purpose", "", "the purpose of the grant")
	f.StringVar(&a.method, "method", "", "full unary method of the control, /pkg.Service/Method")
	f.StringVar(&a.request, "request", "{}", "the request of the control as JSON")
	f.StringVar(&a.descriptors, "descriptor-set", "", "file with the descriptors of the method (default: those that this program knows)")
	f.StringVar(&a.cert, "cert", "", "PEM file of the attacker's certificate chain, instead of the Workload API")
	f.StringVar(&a.key, "key", "", "PEM file of its private key")
	f.StringVar(&a.bundle, "bundle", "", "PEM file of the authorities of its trust domain")
	f.StringVar(&a.closed, "closed-grant", "", "another grant of the attacker whose delegates leave the target out, for closed-delegates")
	f.StringVar(&a.stolen, "stolen", "", "chain of another agent, for captured-chain: a file that the command chain reads")
	f.StringSliceVar(&a.only, "only", nil, "violations to make; repeatable")
	f.StringSliceVar(&a.skip, "skip", nil, "violations to leave out; repeatable")
	f.DurationVar(&a.timeout, "timeout", intruder.DefaultTimeout, "for one call, at most "+intruder.MaxTimeout.String())
	f.IntVar(&a.stuffing, "stuffing", intruder.DefaultStuffing, fmt.Sprintf("random credentials to try, 1 to %d", intruder.MaxStuffing))
	f.BoolVar(&a.asJSON, "json", false, "print one JSON object per line: the target, each violation, the summary")
}

// run attacks and prints how it went.
func (a *attack) run(cmd *cobra.Command) (err error) {
	if err := a.check(cmd); err != nil {
		return err
	}
	e, err := a.endpoint(cmd)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	start, cancel := context.WithTimeout(ctx, attackStart)
	defer cancel()
	if e.Source, err = a.source(start); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Source.Close()) }()
	svid, err := e.Source.GetX509SVID()
	if err != nil {
		return fmt.Errorf("own certificate: %w", err)
	}
	if e.Target, err = peerOf(a.peer, svid.ID.TrustDomain().Name()); err != nil {
		return err
	}
	if e.Address, err = a.locate(start, e.Source, e.Target); err != nil {
		return err
	}
	if err := intruder.Check(e, a.only, a.skip); err != nil {
		return usagef("%w", err)
	}
	out := attackPrinter{cmd: cmd, json: a.asJSON}
	if err := out.begin(e, svid.ID.String(), a.method); err != nil {
		return err
	}
	tally, err := intruder.Fire(ctx, e, a.only, a.skip, out.outcome)
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return errors.Join(out.end(tally), err, out.failed)
}

// check refuses a command line that names too little, or more than one target.
func (a *attack) check(cmd *cobra.Command) error {
	if err := need(cmd, "peer", "grant", "purpose", "method"); err != nil {
		return err
	}
	files := 0
	for _, name := range []string{a.cert, a.key, a.bundle} {
		if name != "" {
			files++
		}
	}
	switch {
	case files != 0 && files != 3:
		return usagef("--cert, --key and --bundle go together")
	case files == 0 && os.Getenv(runtime.EnvWorkloadAPI) == "":
		return usagef("no identity to attack with: start this command by \"safeconduct agent run ID --\", or give --cert, --key and --bundle")
	case a.stuffing < 1:
		return usagef("--stuffing %d: want 1 to %d", a.stuffing, intruder.MaxStuffing)
	case a.timeout <= 0:
		return usagef("--timeout %s: want up to %s", a.timeout, intruder.MaxTimeout)
	case a.target == "" && os.Getenv(runtime.EnvAuthority) == "":
		return usagef("say where the agent is with --target HOST:PORT; only under \"safeconduct agent run\" there is an authority to ask")
	case a.target != "":
		if err := intruder.CheckAddress(a.target); err != nil {
			return usagef("--target: %w", err)
		}
	}
	return nil
}

// endpoint reads what the command line names, all but the identity and the address.
func (a *attack) endpoint(cmd *cobra.Command) (e intruder.Endpoint, err error) {
	e = intruder.Endpoint{Purpose: a.purpose, Timeout: a.timeout, Stuffing: a.stuffing}
	if e.Method, e.Request, err = callOf(a.method, a.request, a.descriptors); err != nil {
		return e, err
	}
	g, err := readGrant(a.grant)
	if err != nil {
		return e, err
	}
	e.Grant = g.statement
	if a.closed != "" {
		g, err := readGrant(a.closed)
		if err != nil {
			return e, err
		}
		e.ClosedGrant = g.statement
	}
	if a.stolen != "" {
		found, err := readChain(cmd, a.stolen)
		if err != nil {
			return e, err
		}
		e.StolenChain = found.Chain
	}
	return e, nil
}

// source is the attacker's identity.
func (a *attack) source(ctx context.Context) (identity.Source, error) {
	if a.cert == "" {
		return runtime.WorkloadAPI(ctx, os.Getenv(runtime.EnvWorkloadAPI), "")
	}
	var pems [3][]byte
	for i, name := range []string{a.cert, a.key, a.bundle} {
		var err error
		if pems[i], err = readBounded(name, maxPEM); err != nil {
			return nil, usagef("%w", err)
		}
	}
	src, err := intruder.Files(pems[0], pems[1], pems[2])
	if err != nil {
		return nil, usagef("%w", err)
	}
	return src, nil
}

// maxPEM bounds a file of certificates.
const maxPEM = 1 << 20

// peerOf reads "spiffe://…" or the short form tenant/name. A service can be attacked as well.
func peerOf(s, trustDomain string) (identity.AgentID, error) {
	full := s
	if tenant, name, short := strings.Cut(s, "/"); short && !strings.Contains(s, ":") {
		full = "spiffe://" + trustDomain + "/tenant/" + tenant + "/agent/" + name
	}
	id, err := identity.ParseAgent(full)
	if err != nil {
		return id, usagef("--peer %s: want one SPIFFE ID of an agent, or T/N", quote(s))
	}
	return id, nil
}

// locate returns one address of one host: a name is looked up once, so that every connection goes to the same machine.
func (a *attack) locate(ctx context.Context, src identity.Source, peer identity.AgentID) (string, error) {
	addr := a.target
	if addr == "" {
		var err error
		if addr, err = intruder.Locate(ctx, src, os.Getenv(runtime.EnvAuthority), peer); err != nil {
			return "", err
		}
		if err := intruder.CheckAddress(addr); err != nil {
			return "", fmt.Errorf("%s announced no single address: %w", peer, err)
		}
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", usagef("--target: %w", err)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", fmt.Errorf("looking up %s: %w", host, err)
	}
	return net.JoinHostPort(ips[0].Unmap().String(), port), nil
}
