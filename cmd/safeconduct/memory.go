package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/runtime"
)

const (
	// memoryTimeout bounds one command: identity, trust bundle and call take a fraction of a second.
	memoryTimeout = 30 * time.Second
	// lockWait is how long a command waits for another one that acts as the same agent: they share an audit log.
	lockWait = 10 * time.Second
	lockPoll = 20 * time.Millisecond
)

func newMemory() *cobra.Command {
	return group("memory", "Read and write shared memory as an agent",
		`Each command becomes a registered agent, acts under a grant for its purpose, and writes that agent's audit log
(DIR/audit/tenant-name-cli). A namespace is labels joined by "/".`,
		`  safeconduct grant --principal alice@acme.example --to acme/planner --can memory.write:notes --can memory.read:notes --can memory.list:notes --purpose report -o report.grant
  echo hello | safeconduct memory put notes today --as acme/planner --grant report.grant --purpose report
  safeconduct memory get notes today --as acme/planner --grant report.grant --purpose report`,
		newMemoryPut(), newMemoryGet(), newMemoryList())
}

// actor is how a memory command becomes an agent.
type actor struct{ as, grant, purpose string }

func (a *actor) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.as, "as", "", "agent to act as")
	f.StringVar(&a.grant, "grant", "", "file of a grant for that agent")
	f.StringVar(&a.purpose, "purpose", "", "the purpose of the grant")
	addAdmitted(cmd)
}

// call runs fn as the agent.
func (a *actor) call(cmd *cobra.Command, args []string, fn func(context.Context, rpcv1.MemoryServiceClient) error) error {
	if err := need(cmd, "as", "grant", "purpose"); err != nil {
		return err
	}
	grant, err := readGrant(a.grant)
	if err != nil {
		return err
	}
	return actAs(cmd, args, a.as, func(id identity.AgentID) error {
		return grant.check(id, a.purpose, time.Now())
	}, func(s *session, id identity.AgentID) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), memoryTimeout)
		defer cancel()
		return s.withMemory(ctx, id, grant.statement, a.purpose, fn)
	})
}

// withMemory runs fn with a client of shared memory, as the agent that this process was admitted as.
func (s *session) withMemory(
	ctx context.Context, id identity.AgentID, grant *v1.SignedStatement, purpose string,
	fn func(context.Context, rpcv1.MemoryServiceClient) error,
) error {
	return s.withConn(ctx, id, grant, purpose, s.memoryID(), func(ctx context.Context, conn *runtime.Conn) error {
		return fn(ctx, rpcv1.NewMemoryServiceClient(conn))
	})
}

func (s *session) memoryID() string { return "spiffe://" + s.up.TrustDomain + "/service/memory" }

// withConn runs fn with a connection to peer, as the agent that this process was admitted as.
func (s *session) withConn(
	ctx context.Context, id identity.AgentID, grant *v1.SignedStatement, purpose, peer string,
	fn func(context.Context, *runtime.Conn) error,
) (err error) {
	log, err := openLog(ctx, auditDir(s.dir, id)+"-cli", runtime.LogOrigin(id))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	agent, err := runtime.New(ctx, runtime.Config{
		WorkloadAPI: "unix://" + s.up.WorkloadSocket, ID: id.String(), Authority: s.up.Authority, Audit: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.Close()) }() // Close drains on its own time
	if ctx, err = agent.Act(ctx, grant, purpose); err != nil {
		return err
	}
	conn, err := agent.Dial(peer)
	if err != nil {
		return err
	}
	return fn(ctx, conn)
}

// openLog opens an audit log, waiting for another command of the same agent to be done with it.
func openLog(ctx context.Context, dir, origin string) (*audit.Log, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		log, err := audit.Open(dir, audit.Config{Origin: origin}) // repairing a log is not to be cut short
		if !errors.Is(err, audit.ErrLocked) {
			return log, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w; another command acts as this agent for over %s", err, lockWait)
		case <-tick.C:
		}
	}
}

// namespaceArg reads a namespace: labels joined by "/".
func namespaceArg(s string) (*v1.Path, error) {
	ns, err := memory.NewNamespace(strings.Split(s, "/")...)
	if err != nil {
		return nil, usagef("namespace %q: want 1 to %d labels of A-Z a-z 0-9 . _ ~ @ : + - joined by /", s, memory.MaxLabels)
	}
	return ns.Proto(), nil
}

// keyRef names a key of a namespace.
func keyRef(ns *v1.Path, key string, version uint64) (*v1.KeyRef, error) {
	if key == "" || len(key) > memory.MaxKeyBytes {
		return nil, usagef("key of %d bytes: want 1 to %d", len(key), memory.MaxKeyBytes)
	}
	return &v1.KeyRef{Ns: ns, Key: []byte(key), Version: version}, nil
}

// headerRow is an entry without its value, for a table.
func headerRow(e *v1.Entry) []string {
	l := e.GetLabel()
	return []string{
		audit.Visible(strings.Join(e.GetRef().GetNs().GetLabels(), "/")), audit.Visible(string(e.GetRef().GetKey())),
		fmt.Sprint(e.GetRef().GetVersion()), word(l.GetIntegrity().String(), "INTEGRITY_"),
		word(l.GetConfidentiality().String(), "CONFIDENTIALITY_"), audit.Visible(e.GetProvenance().GetAuthor()),
		audit.Visible(e.GetProvenance().GetPrincipal()), e.GetCreateTime().AsTime().Format(time.RFC3339),
	}
}

var headerColumns = []string{"NAMESPACE", "KEY", "VERSION", "INTEGRITY", "CONFIDENTIALITY", "AUTHOR", "FOR", "WRITTEN"}
