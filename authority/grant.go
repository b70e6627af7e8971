package authority

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Bounds of a grant; the first four are those of the wire format.
const (
	maxGrantLife    = 15 * time.Minute
	maxCapabilities = 32
	maxDelegates    = 16
	maxDepth        = 8
	defaultDepth    = 4
	maxPrincipal    = 256
	maxTask         = 128
	// maxGrantPurpose is what an envelope can carry: the purpose of a task travels with every call.
	maxGrantPurpose = 128
)

// ErrCeiling is returned for a grant of more than the capability table allows anyone in the tenant.
var ErrCeiling = errors.New("beyond what the capability table allows the tenant")

// IssueGrant signs the root of a delegation chain for a person. Errors wrap ErrInvalid, ErrUnknownAgent, ErrCeiling or ErrAudit.
func (a *Authority) IssueGrant(ctx context.Context, r *rpcv1.IssueGrantRequest) (*rpcv1.IssueGrantResponse, error) {
	return a.issueGrant(ctx, r, inProcess)
}

func (a *Authority) issueGrant(ctx context.Context, r *rpcv1.IssueGrantRequest, by string) (*rpcv1.IssueGrantResponse, error) {
	if err := a.open(); err != nil {
		return nil, err
	}
	delegate, err := a.checkGrant(r)
	if err != nil {
		return nil, err
	}
	table := a.table.Load()
	for _, c := range r.GetCapabilities() {
		if table.parsed == nil || !table.parsed.Ceiling(delegate.Tenant().Name(), c) {
			return nil, fmt.Errorf("%w: %s on %q for tenant %s", ErrCeiling, c.GetAction(), c.GetResource(), delegate.Tenant().Name())
		}
	}
	p := a.grantPayload(r, delegate, table.highest)
	signed, err := delegation.NewGrant(p, a.grantSigner())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	// What was signed, not what was asked: NewGrant fills ids.
	var made v1.GrantPayload
	if err := proto.Unmarshal(signed.GetPayload(), &made); err != nil {
		return nil, fmt.Errorf("reading grant: %w", err)
	}
	id := delegation.StatementID(delegation.TypeGrant, signed.GetPayload())
	err = a.trail.allow(ctx, &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_GRANT_ISSUED, Tenant: made.GetTenant(), Peer: a.party(delegate), Origin: made.GetPrincipal(),
		ChainId: made.GetChainId(), MaxDepth: made.GetMaxDepth(), Purpose: r.GetPurpose(), TaskId: made.GetTaskId(),
		PolicySerial: made.GetPolicyEpoch(), Detail: by,
		Chain: []*v1.ChainLink{{
			Delegator: made.GetIssuer(), Delegate: made.GetDelegate(), StatementId: id[:],
			ExpiresAtMs: made.GetExpiresAtMs(), Capabilities: made.GetCapabilities(),
		}},
	})
	if err != nil {
		return nil, err
	}
	return &rpcv1.IssueGrantResponse{Grant: signed, ChainId: made.GetChainId(), ExpiresAtMs: made.GetExpiresAtMs()}, nil
}

// checkGrant validates the request up to what the table says and returns the delegate.
func (a *Authority) checkGrant(r *rpcv1.IssueGrantRequest) (identity.AgentID, error) {
	bad := func(format string, args ...any) (identity.AgentID, error) {
		return identity.AgentID{}, fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	delegate, err := identity.ParseAgent(r.GetDelegate())
	if err != nil || delegate.IsService() || delegate.TrustDomain() != a.td {
		return bad("delegate is no agent of trust domain %s", a.td.Name())
	}
	switch {
	case !validText(r.GetPrincipal(), 1, maxPrincipal):
		return bad("principal is required: 1 to %d bytes of text", maxPrincipal)
	case !validText(r.GetPurpose(), 1, maxGrantPurpose):
		return bad("purpose is required: 1 to %d bytes of text", maxGrantPurpose)
	case !validText(r.GetTaskId(), 0, maxTask):
		return bad("task_id: at most %d bytes of text", maxTask)
	case len(r.GetCapabilities()) == 0 || len(r.GetCapabilities()) > maxCapabilities:
		return bad("1 to %d capabilities are required", maxCapabilities)
	case len(r.GetDelegates()) > maxDelegates:
		return bad("at most %d delegates", maxDelegates)
	case r.GetMaxDepth() > maxDepth:
		return bad("max_depth is at most %d", maxDepth)
	case r.GetTtlS() < 0 || r.GetTtlS() > int64(maxGrantLife/time.Second):
		return bad("ttl_s is 1 to %d, or 0 for the most", int64(maxGrantLife/time.Second))
	}
	for _, d := range r.GetDelegates() {
		if !a.mayFollow(d, delegate.Tenant()) {
			return bad("delegate pattern %q is neither of tenant %s nor a service", d, delegate.Tenant().Name())
		}
	}
	return delegate, a.active(delegate)
}

// mayFollow reports whether a delegates pattern stays within the tenant and the services of the trust domain.
func (a *Authority) mayFollow(pattern string, t identity.Tenant) bool {
	if pattern == tenantPattern(t) {
		return true
	}
	id, err := identity.ParseAgent(pattern)
	return err == nil && id.TrustDomain() == a.td && (id.IsService() || id.Tenant() == t)
}

func tenantPattern(t identity.Tenant) string {
	return t.TrustDomain().IDString() + "/tenant/" + t.Name() + "/agent/*"
}

func (a *Authority) grantPayload(r *rpcv1.IssueGrantRequest, delegate identity.AgentID, epoch uint64) *v1.GrantPayload {
	now := a.cfg.Now()
	life := maxGrantLife
	if r.GetTtlS() > 0 {
		life = time.Duration(r.GetTtlS()) * time.Second
	}
	depth := r.GetMaxDepth()
	if depth == 0 {
		depth = defaultDepth
	}
	delegates := r.GetDelegates()
	if len(delegates) == 0 {
		delegates = []string{tenantPattern(delegate.Tenant()), a.memory.String()}
	}
	purpose := sha256.Sum256([]byte(r.GetPurpose()))
	return &v1.GrantPayload{
		Version: 1, Issuer: a.self.String(), TrustDomain: a.td.Name(), Tenant: delegate.Tenant().Name(),
		Principal: &v1.Principal{Type: v1.Principal_TYPE_USER, Subject: r.GetPrincipal(), Issuer: a.self.String()},
		Delegate:  delegate.String(), Capabilities: r.GetCapabilities(), Delegates: delegates, MaxDepth: depth,
		IssuedAtMs: now.UnixMilli(), NotBeforeMs: now.UnixMilli(), ExpiresAtMs: now.Add(life).UnixMilli(),
		LineageStartMs: now.UnixMilli(), PurposeDigest: purpose[:], TaskId: r.GetTaskId(), PolicyEpoch: epoch,
	}
}

// party names a registered agent in a record.
func (a *Authority) party(id identity.AgentID) *v1.Party {
	out := &v1.Party{SpiffeId: id.String()}
	if r := a.Registry().Agent(id); r != nil {
		out.AgentClass = r.Class
	}
	return out
}
