package delegation

import (
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
)

// VerifyHeld verifies a chain that its holder shows to the authority in order to renew it: the last delegate is holder, the TLS peer.
// All of Verify applies but who signed the last statement and for whom, so the chain may be a grant without hops. No hop may leave its
// certificate to the connection, which is not that of any signer. The leaf goes into NewRenewal; it is authority for nothing else,
// since Recheck refuses it. Every refusal is an *Error.
func (v *Verifier) VerifyHeld(c *v1.DelegationChain, holder identity.Peer) (*Leaf, error) {
	var f frame
	if err := f.measure(c); err != nil {
		return nil, err
	}
	f.bind(c.GetCerts(), identity.Peer{})
	f.held, f.presenter = true, holder.Agent
	return v.verify(&f)
}

// checkHolder is step 8 for a chain that is renewed: it is shown by the agent that may act under it, whose trust domain is this one.
func (v *Verifier) checkHolder(x *Leaf, holder identity.AgentID) error {
	if x.delegate != holder && !mutant.Off(mutant.RenewalHolder) {
		return refusef(x.position, v1.Reason_REASON_CHAIN_PRESENTER, "%s shows what another holds", holder)
	}
	if x.delegate.TrustDomain() != v.cfg.Self.TrustDomain() {
		return refusef(x.position, v1.Reason_REASON_CHAIN_TRUST_DOMAIN, "held in another trust domain")
	}
	return nil
}

// Members returns everyone who has acted or may act under the leaf, oldest first: those of the chains that its grant renews, then the
// delegates of its statements, of which the last is the leaf's own. It is nil for the zero value. An enforcement point ends the
// chain with any of them, so that a renewal does not shake off an agent that was contained since.
func (x *Leaf) Members() []identity.AgentID {
	if x.owner == nil {
		return nil
	}
	members := make([]identity.AgentID, len(x.root.past)+x.position+1)
	copy(members, x.root.past)
	for at := x; at != nil; at = at.parent {
		members[len(x.root.past)+at.position] = at.delegate
	}
	return members
}

// fillHistory takes over what a renewed grant says of the chains before it. It is signed by the authority, and audit and containment
// read it, so what they could not read is refused.
func (d *draft) fillHistory(m *v1.GrantPayload) error {
	d.root.history, d.root.previous = m.GetHistory(), m.GetPreviousLeaf()
	for _, p := range d.root.history {
		actor, err := identity.ParseAgent(p.GetActor())
		if err != nil || len(p.GetLeafId()) != digestSize {
			return refusef(0, malformed, "the history names no agent or no statement")
		}
		d.root.past = append(d.root.past, actor)
	}
	return nil
}

// pastHandles are the handles of what a renewed grant goes back to: whoever revokes an agent or a statement of the chain before
// the renewal means what came of it too.
func (r *root) pastHandles() [][32]byte {
	var list [][32]byte
	for i, p := range r.history {
		list = append(list, AgentHandle(r.past[i]), [32]byte(p.GetLeafId()))
	}
	if len(r.previous) == digestSize {
		list = append(list, [32]byte(r.previous))
	}
	return list
}
