package intruder

import (
	"context"
	"crypto/tls"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// OwnChain makes the chain that cfg.Self sends to cfg.Target: what another agent can capture.
func OwnChain(cfg Config, grant *v1.SignedStatement) (*v1.DelegationChain, error) {
	return (&intruder{cfg: cfg}).chain(grant)
}

// Knock connects with cfg and says how the server took it.
func Knock(ctx context.Context, addr string, cfg *tls.Config) string {
	return (&intruder{cfg: Config{TargetAddr: addr}}).knock(ctx, cfg).got
}
