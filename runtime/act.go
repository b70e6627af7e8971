package runtime

import (
	"context"
	"crypto/sha256"
	"fmt"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/policy"
)

// Act returns a context for work that no incoming call caused, under a grant that names this agent. Calls made with it are on
// behalf of the grant's principal, for this purpose only, in a conversation of their own; its label starts at ATTESTED or the
// agent's cap, whichever is lower, and worsens with what is read. A grant that does not verify is a [*Refusal].
//
// The work may last longer than the grant: calls renew it at the authority when two thirds of its life are over, up to the lineage limit
// of eight hours, after which the person authorises again. The same goes for what a handler was given and goes on with after its
// reply, under [context.WithoutCancel]; the context of a running handler ends with the chain of its call. An authority that is out
// of reach stops nothing before the grant ends; then calls are refused as CHAIN_EXPIRED. Renewing needs a call in the last third of
// the grant's life; see [Agent.Renew] for work that makes none.
func (a *Agent) Act(ctx context.Context, grant *v1.SignedStatement, purpose string) (context.Context, error) {
	leaf, err := a.verifier.VerifyGrant(grant)
	if err != nil {
		return ctx, refusalOf(err)
	}
	if leaf.PurposeDigest() != sha256.Sum256([]byte(purpose)) {
		return ctx, refusalOf(interceptors.Refuse(v1.Reason_REASON_CHAIN_PURPOSE, fmt.Errorf("the grant is for another purpose than %q", purpose)))
	}
	limit := v1.Integrity_INTEGRITY_UNTRUSTED
	if rec := a.trust.Agent(a.id); rec != nil {
		limit = v1.Integrity(rec.IntegrityCap)
	}
	ctx, _ = a.enforcer.Root(ctx, leaf, purpose, policy.OwnWords(limit, a.id.String()))
	return ctx, nil
}

// Label returns the label of the conversation that ctx belongs to: of everything read in it so far.
func Label(ctx context.Context) policy.Label {
	if in, ok := interceptors.From(ctx); ok && in.Conversation() != nil {
		return in.Conversation().Label()
	}
	return policy.Label{}
}

// Taint worsens the label of the conversation that ctx belongs to. An agent calls it before it lets a model or a parser see
// content that reached it by a way the runtime does not mediate, such as a file or a web page.
func Taint(ctx context.Context, l policy.Label) {
	if in, ok := interceptors.From(ctx); ok && in.Conversation() != nil {
		in.Conversation().Taint(l)
	}
}

// Peer returns the verified identity of the calling agent.
func Peer(ctx context.Context) (identity.AgentID, bool) {
	p, ok := interceptors.PeerFrom(ctx)
	return p.Agent, ok
}

// Principal returns on whose behalf the call is made, nil on an open method.
func Principal(ctx context.Context) *v1.Principal {
	in, ok := interceptors.From(ctx)
	if !ok || in.Leaf() == nil {
		return nil
	}
	return in.Leaf().Principal()
}

// Permit returns the proof of the decision that admitted the call; the zero Permit on an open method.
func Permit(ctx context.Context) policy.Permit {
	p, _ := interceptors.PermitFrom(ctx)
	return p
}
