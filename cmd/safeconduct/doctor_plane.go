package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"time"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/operator"
)

const (
	notRunning = "needs a running control plane"
	noOperator = "needs the operator socket"
	restart    = "end safeconduct up and start it again"
	restartNow = "End safeconduct up and start it again"
	// clockSlack is how far clocks may be apart unnoticed.
	clockSlack = time.Minute
)

// patient is what the checks before found out.
type patient struct {
	doctor
	up      *upState // nil: nothing runs
	client  *operator.Client
	status  *rpcv1.StatusResponse
	leaf    *x509.Certificate // of the authority
	session *session
}

func (p *patient) close() {
	if p.client != nil {
		_ = p.client.Close() // nothing is lost with it
	}
}

func (p *patient) folder() finding {
	const check = "state folder"
	info, err := os.Stat(p.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return broken(check, p.dir+" does not exist", "Make it with: safeconduct up --dir "+quote(p.dir))
	case err != nil:
		return broken(check, err.Error(), "Make it readable for this user, or name another one with --dir.")
	case !info.IsDir():
		return broken(check, p.dir+" is no folder", "Name another one with --dir.")
	case info.Mode().Perm() != 0o700:
		return broken(check, fmt.Sprintf("%s has mode %#o", p.dir, info.Mode().Perm()), "Close it to others with: chmod 700 "+quote(p.dir))
	}
	return fine(check, "%s is private", p.dir)
}

func (p *patient) process() finding {
	const check = "control plane"
	start := "Start it with: safeconduct up --dir " + quote(p.dir)
	u, err := readUp(p.dir)
	switch {
	case errors.Is(err, errNotUp):
		return broken(check, "there is no "+upName, start)
	case err != nil:
		return broken(check, err.Error(), restartNow+".")
	case !u.alive():
		return broken(check, fmt.Sprintf("process %d has ended without removing %s", u.PID, upName), start)
	}
	p.up = &u
	return fine(check, "process %d serves trust domain %s", u.PID, u.TrustDomain)
}

func (p *patient) operatorSocket(ctx context.Context) finding {
	const check = "operator socket"
	if p.up == nil {
		return skipped(check, notRunning)
	}
	var err error
	if p.client, err = operator.Dial(p.up.OperatorSocket); err != nil {
		return broken(check, err.Error(), "Name a shorter state folder with --dir.")
	}
	st, err := p.client.Status(ctx)
	var refused *operator.Error
	switch {
	case errors.As(err, &refused):
		return broken(check, "it refuses: "+err.Error(), "Run doctor as the user of safeconduct up, and not from a process that is an agent.")
	case err != nil:
		return broken(check, err.Error(), restartNow+", which makes its sockets anew.")
	case int(st.GetPid()) != p.up.PID:
		return broken(check, fmt.Sprintf("process %d answers, %s names %d", st.GetPid(), upName, p.up.PID), restartNow+".")
	}
	p.status = st
	p.session = &session{Client: p.client, dir: p.dir, up: *p.up}
	return fine(check, "%d agents, %d processes admitted", st.GetAgents(), st.GetWorkloads())
}

func (p *patient) workloadSocket(ctx context.Context) finding {
	const check = "Workload API"
	if p.up == nil {
		return skipped(check, notRunning)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", p.up.WorkloadSocket)
	if err != nil {
		return broken(check, err.Error(), restartNow+", which makes its sockets anew; agents then connect again.")
	}
	_ = conn.Close() // nothing is lost with it
	return fine(check, "unix://%s is reachable", p.up.WorkloadSocket)
}

func (p *patient) authority(ctx context.Context) finding {
	const check = "authority"
	if p.up == nil {
		return skipped(check, notRunning)
	}
	want := "spiffe://" + p.up.TrustDomain + "/service/authority"
	cure := fmt.Sprintf("Check that nothing else holds %s, then %s.", p.up.Authority, restart)
	// This process has no identity to verify the authority with; agents do. Who answers is read from the certificate only to
	// find a wrong address. In TLS 1.3 a client hears of a refused certificate after the handshake, so having none is no failure.
	d := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, InsecureSkipVerify: true, //nolint:gosec // G402: nothing is sent
	}}
	conn, err := d.DialContext(ctx, "tcp", p.up.Authority)
	if err != nil {
		return broken(check, p.up.Authority+" does not accept TLS: "+err.Error(), cure)
	}
	defer conn.Close() //nolint:errcheck // nothing is lost with it
	tc, ok := conn.(*tls.Conn)
	if !ok || len(tc.ConnectionState().PeerCertificates) == 0 {
		return broken(check, p.up.Authority+" shows no certificate", cure)
	}
	leaf := tc.ConnectionState().PeerCertificates[0]
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != want {
		return broken(check, fmt.Sprintf("%s is %v, want %s", p.up.Authority, leaf.URIs, want), cure)
	}
	p.leaf = leaf
	return fine(check, "%s accepts TLS as %s", p.up.Authority, want)
}

func (p *patient) clock() finding {
	const check = "clock"
	if p.leaf == nil {
		return skipped(check, "needs the authority's certificate")
	}
	now := p.now()
	cure := fmt.Sprintf("Set the system clock (it says %s), then %s.", now.UTC().Format(time.RFC3339), restart)
	if now.Before(p.leaf.NotBefore) || now.After(p.leaf.NotAfter) {
		return broken(check, fmt.Sprintf("the authority's certificate is valid from %s to %s",
			p.leaf.NotBefore.UTC().Format(time.RFC3339), p.leaf.NotAfter.UTC().Format(time.RFC3339)), cure)
	}
	trust, err := readTrust(p.dir)
	if err != nil {
		return broken(check, err.Error(), restartNow+".")
	}
	if issued := time.UnixMilli(trust.GetIssuedAtMs()); issued.After(now.Add(clockSlack)) {
		return broken(check, "the trust bundle is of "+issued.UTC().Format(time.RFC3339)+", which is to come", cure)
	}
	return fine(check, "agrees with certificate and trust bundle")
}

func (p *patient) table(ctx context.Context) finding {
	const check = "capability table"
	if p.status == nil {
		return skipped(check, noOperator)
	}
	trust, err := p.session.trust(ctx)
	switch {
	case err != nil:
		return broken(check, err.Error(), restartNow+".")
	case len(trust.table.GetRows()) == 0:
		return broken(check, "no table is in force, so every call is denied", "Add a row with: safeconduct table allow")
	}
	return fine(check, "serial %d with %d rows is in force", trust.table.GetSerial(), len(trust.table.GetRows()))
}

// classes wants every agent in the table: its class may do something, or others may ask it.
func (p *patient) classes(ctx context.Context) finding {
	const check = "agent classes"
	if p.status == nil {
		return skipped(check, noOperator)
	}
	agents, err := p.client.ListAgents(ctx)
	if err != nil {
		return broken(check, err.Error(), restartNow+".")
	}
	trust, err := p.session.trust(ctx)
	if err != nil {
		return skipped(check, "needs the capability table")
	}
	known := map[string]bool{}
	for _, row := range trust.table.GetRows() {
		known[row.GetTenant()+"/"+row.GetAgentClass()] = true
	}
	var without []string
	for _, a := range agents.GetAgents() {
		if class := a.GetTenant() + "/" + a.GetAgentClass(); !known[class] && !asked(trust.table, a.GetSpiffeId()) {
			without = append(without, fmt.Sprintf("%s (class %s of tenant %s)", a.GetSpiffeId(), a.GetAgentClass(), a.GetTenant()))
		}
	}
	if len(without) > 0 {
		return broken(check, "no row lets these do anything or be asked: "+strings.Join(without, ", "),
			"Add a row for each class with: safeconduct table allow ID --tenant T --class C --action A --resource R --peer P")
	}
	return fine(check, "every agent may do something or be asked (%d agents)", len(agents.GetAgents()))
}

// asked reports whether a row lets somebody ask this agent.
func asked(table *v1.CapabilityTable, agent string) bool {
	id, err := identity.ParseAgent(agent)
	if err != nil {
		return false
	}
	for _, row := range table.GetRows() {
		for _, peer := range row.GetPeers() {
			if identity.MatchDelegate(peer, id) {
				return true
			}
		}
	}
	return false
}
