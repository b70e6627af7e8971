package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/delegation"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// Environment variables that stand in for empty fields of [Config].
const (
	EnvWorkloadAPI = "SPIFFE_ENDPOINT_SOCKET" // of the SPIFFE Workload Endpoint specification
	EnvAuthority   = "SAFECONDUCT_AUTHORITY"
	EnvAuditDir    = "SAFECONDUCT_AUDIT_DIR"
)

// startTimeout bounds how long New waits for an SVID and the first trust bundle.
const startTimeout = 30 * time.Second

// Config is what an agent starts with. The zero value takes everything from the environment.
type Config struct {
	// WorkloadAPI is the address of the SPIFFE Workload API, such as unix:///run/safeconduct/workload.sock.
	WorkloadAPI string
	// ID picks one SVID where the Workload API offers several, and is required to match where it offers one. Empty takes the only one.
	ID string
	// Authority is host:port of the authority, which publishes keys, the registry and the policy in force.
	Authority string
	// Listen is where agents call this one; empty is a free port on loopback.
	Listen string
	// Edge is where Connect and gRPC-Web clients call it; empty is nowhere.
	Edge string
	// AuditDir holds the agent's audit log. There is no option to run unaudited.
	AuditDir string

	AgentBudget, TenantBudget conduct.Budget

	// Replay is where spent invocation proofs stand, for all transports. Nil is a file in AuditDir, which one process uses: where
	// several processes are one agent, they need a store that they share. Its owner closes it after the agent.
	Replay delegation.ReplayStore

	// Source, Trust and Audit replace WorkloadAPI, Authority and AuditDir in processes that have their own, such as the authority's. Their owner
	// closes them after the agent.
	Source identity.Source
	Trust  Trust
	Audit  *audit.Log

	Now    func() time.Time
	Logger *slog.Logger
}

// Trust is what a runtime must know of others to verify them: keys, registry records, the policy in force, and where they serve.
// Implementations are safe for concurrent use. One that is a [Renewer] too lets work last longer than its grant.
type Trust interface {
	identity.Registry
	// Keys returns the keys that verify grants. Its generation moves when keys do, and not with the registry: verified chains are
	// cached under it.
	Keys() delegation.KeyView
	// Table returns the capability table in force, nil when there is none.
	Table() *policy.Table
	// Changed returns a channel that is closed at the next change.
	Changed() <-chan struct{}
	// Locate returns the host:port that a workload announced.
	Locate(ctx context.Context, id identity.AgentID) (string, error)
	// Announce says where this workload serves.
	Announce(ctx context.Context, address string) error
	Close() error
}

func (c Config) withDefaults() (Config, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	for _, f := range []struct {
		field *string
		env   string
		given bool
		what  string
	}{
		{&c.WorkloadAPI, EnvWorkloadAPI, c.Source != nil, "WorkloadAPI"},
		{&c.Authority, EnvAuthority, c.Trust != nil, "Authority"},
		{&c.AuditDir, EnvAuditDir, c.Audit != nil, "AuditDir"},
	} {
		if *f.field == "" && !f.given {
			*f.field = os.Getenv(f.env)
			if *f.field == "" {
				return c, fmt.Errorf("runtime: %s is required: set Config.%s or %s", f.what, f.what, f.env)
			}
		}
	}
	if c.Source != nil && c.ID == "" {
		svid, err := c.Source.GetX509SVID()
		if err != nil {
			return c, fmt.Errorf("runtime: own SVID: %w", err)
		}
		c.ID = svid.ID.String()
	}
	return c, nil
}

// ErrNoAuthority is returned for a call that needs a chain where the context carries none.
var ErrNoAuthority = errors.New("no authority in the context: call from a handler, or under Agent.Act with a grant")

// noAuthority is ErrNoAuthority as a status.
type noAuthority struct{}

func (noAuthority) Error() string { return ErrNoAuthority.Error() }
func (noAuthority) Unwrap() error { return ErrNoAuthority }
func (noAuthority) GRPCStatus() *status.Status {
	return status.New(codes.FailedPrecondition, ErrNoAuthority.Error())
}
