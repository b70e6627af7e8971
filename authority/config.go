package authority

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/safeconduct/safeconduct/audit"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Bounds of SVIDLifetime. Two seconds are for tests: NotAfter has whole seconds, so one of them may be lost.
const (
	DefaultSVIDLifetime = time.Hour
	MinSVIDLifetime     = 2 * time.Second
	MaxSVIDLifetime     = 24 * time.Hour
)

// ErrConfig is returned by Start for a Config that cannot work.
var ErrConfig = errors.New("authority config refused")

// Config says where an authority lives and whom it tells.
type Config struct {
	// Dir holds the registry and the four signing keys. It is made with mode 0700.
	Dir string
	// TrustDomain is the name without scheme, for example "dev.example".
	TrustDomain string
	// SocketDir holds the two sockets; it has or gets mode 0700 and a short path. Empty is a new folder, removed by Close.
	SocketDir string
	// SVIDLifetime is 0 for an hour, or MinSVIDLifetime to MaxSVIDLifetime.
	SVIDLifetime time.Duration
	// Audit takes the authority's records. Required: without a log there is no service.
	Audit audit.Recorder
	// Issuer returns whose roots the certificates in chains that are renewed must verify under, where another issuer than the
	// embedded CA makes the SVIDs. It is not called before the first renewal. Nil is the embedded CA.
	Issuer func() identity.Source
	// Lineage bounds the renewals of one chain: 0 is 8 h, at most 24 h. Endpoints with a lower limit refuse what lies above it.
	Lineage time.Duration
	// PeerFrom returns the verified peer of a call to AuthorityServer. Nil refuses all of them.
	PeerFrom func(context.Context) (identity.Peer, bool)
	// Describe adds to the operator's status what only the process knows: addresses, version, paths. May be nil.
	Describe func(*rpcv1.StatusResponse)
	// Now is time.Now when nil.
	Now func() time.Time
	// Logger is silent when nil.
	Logger *slog.Logger
}

func (c *Config) check() (spiffeid.TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(c.TrustDomain)
	switch {
	case err != nil:
		return td, fmt.Errorf("%w: %w", ErrConfig, err)
	case td.Name() != c.TrustDomain:
		return td, fmt.Errorf("%w: trust domain %q is not a plain name", ErrConfig, c.TrustDomain)
	case c.Dir == "":
		return td, fmt.Errorf("%w: no folder", ErrConfig)
	case c.Audit == nil:
		return td, fmt.Errorf("%w: no audit log", ErrConfig)
	}
	if c.SVIDLifetime == 0 {
		c.SVIDLifetime = DefaultSVIDLifetime
	}
	if c.SVIDLifetime < MinSVIDLifetime || c.SVIDLifetime > MaxSVIDLifetime {
		return td, fmt.Errorf("%w: SVID lifetime %s, want %s to %s", ErrConfig, c.SVIDLifetime, MinSVIDLifetime, MaxSVIDLifetime)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return td, nil
}
