package intruder

import (
	"context"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// expiryMargin is how long after the end of a grant the attack waits: the receiver's clock may be this much behind.
const expiryMargin = 50 * time.Millisecond

// Attacks returns the attacks in a stable order.
func Attacks() []Attack {
	return []Attack{
		{
			Name: "cross-tenant", Want: "TENANT_MISMATCH", What: "claims in the envelope to be of another tenant",
			needs: []need{needTarget, needOtherTenant}, run: crossTenant,
		},
		{
			Name: "widened-scope", Want: "CHAIN_INVALID", What: "adds a capability to its own, properly signed hop",
			needs: []need{needTarget, needForeign}, run: widenedScope,
		},
		{
			Name: "stolen-chain", Want: "PRESENTER_MISMATCH", What: "presents a chain captured from another agent over its own mTLS",
			needs: []need{needTarget, needStolenChain}, run: stolenChain,
		},
		{
			Name: "replay", Want: "REPLAYED",
			What:  "sends an admitted message again: the same bytes, on a second connection, and its id on another route",
			needs: []need{needTarget}, run: replay,
		},
		{
			Name: "expired-grant", Want: "CHAIN_EXPIRED", What: "goes on with a chain whose grant has just ended",
			needs: []need{needTarget, needShortGrant}, run: expiredGrant, waits: true,
		},
		{
			Name: "foreign-namespace", Want: "SCOPE", What: "asks for a namespace that its chain does not cover",
			needs: []need{needTarget, needForeign}, run: foreignNamespace,
		},
		{
			Name: "forged-id", Want: peerUnverified, What: "connects with the victim's SPIFFE ID in a certificate of its own making",
			needs: []need{needTarget, needSibling}, run: forgedID,
		},
		{
			Name: "sibling-svid", Want: peerUnverified, What: "asks the authority to admit its process as its sibling",
			needs: []need{needSockets, needSibling}, run: siblingSVID,
		},
		{
			Name: "spliced-chain", Want: "CHAIN_INVALID", What: "hangs the hop of one chain under the grant of another, same agents",
			needs: []need{needTarget, needOtherGrant}, run: splicedChain,
		},
		{
			Name: "no-envelope", Want: "NO_ENVELOPE", What: "calls the service as plain gRPC without an envelope",
			needs: []need{needTarget}, run: noEnvelope,
		},
	}
}

// pair delivers the twin and, when it was admitted, the mutation, on one connection.
func (x *intruder) pair(ctx context.Context, twin, mutation []byte) (finding, error) {
	cc, err := x.dial()
	if err != nil {
		return finding{}, err
	}
	defer func() { _ = cc.Close() }()
	f := finding{twin: deliver(ctx, cc, twin)}
	if f.twin.admitted() {
		f.mutations = []answer{deliver(ctx, cc, mutation)}
	}
	return f, nil
}

// own is a valid chain under Grant and a valid message with it.
func (x *intruder) own() (chain *v1.DelegationChain, twin []byte, err error) {
	if chain, err = x.chain(x.cfg.Grant); err != nil {
		return nil, nil, err
	}
	twin, err = x.carrying(chain, x.cfg.Namespace)
	return chain, twin, err
}

func crossTenant(ctx context.Context, x *intruder) (finding, error) {
	chain, twin, err := x.own()
	if err != nil {
		return finding{}, err
	}
	mutation, err := x.carrying(chain, x.cfg.Namespace, func(e *v1.Envelope) { e.Tenant = x.cfg.OtherTenant })
	if err != nil {
		return finding{}, err
	}
	return x.pair(ctx, twin, mutation)
}

func widenedScope(ctx context.Context, x *intruder) (finding, error) {
	_, twin, err := x.own()
	if err != nil {
		return finding{}, err
	}
	wide, err := x.chain(x.cfg.Grant, &v1.Capability{Action: listAction, Resource: x.cfg.Foreign})
	if err != nil {
		return finding{}, err
	}
	mutation, err := x.carrying(wide, x.cfg.Foreign)
	if err != nil {
		return finding{}, err
	}
	return x.pair(ctx, twin, mutation)
}

func stolenChain(ctx context.Context, x *intruder) (finding, error) {
	_, twin, err := x.own()
	if err != nil {
		return finding{}, err
	}
	mutation, err := x.carrying(x.cfg.StolenChain, x.cfg.Namespace)
	if err != nil {
		return finding{}, err
	}
	return x.pair(ctx, twin, mutation)
}

func replay(ctx context.Context, x *intruder) (finding, error) {
	chain, err := x.chain(x.cfg.Grant)
	if err != nil {
		return finding{}, err
	}
	var id []byte
	message, err := x.carrying(chain, x.cfg.Namespace, func(e *v1.Envelope) { id = e.GetId() })
	if err != nil {
		return finding{}, err
	}
	f, err := x.pair(ctx, message, message)
	if err != nil || !f.twin.admitted() {
		return f, err
	}
	cc, err := x.dial()
	if err != nil {
		return finding{}, err
	}
	defer func() { _ = cc.Close() }()
	typed := x.beside(chain, x.cfg.Namespace)
	typed.Id = id
	f.mutations = append(f.mutations, deliver(ctx, cc, message), list(ctx, cc, x.cfg.Namespace, typed))
	f.note = "sent again on the same connection, on a second one, and with its id on another route"
	return f, nil
}

func expiredGrant(ctx context.Context, x *intruder) (finding, error) {
	chain, err := x.chain(x.cfg.ShortGrant)
	if err != nil {
		return finding{}, err
	}
	g, err := readGrant(x.cfg.ShortGrant)
	if err != nil {
		return finding{}, err
	}
	twin, err := x.carrying(chain, x.cfg.Namespace)
	if err != nil {
		return finding{}, err
	}
	cc, err := x.dial()
	if err != nil {
		return finding{}, err
	}
	defer func() { _ = cc.Close() }()
	f := finding{twin: deliver(ctx, cc, twin)}
	if !f.twin.admitted() {
		return f, nil
	}
	timer := time.NewTimer(time.UnixMilli(g.GetExpiresAtMs()).Sub(x.cfg.Now()) + expiryMargin)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return finding{}, ctx.Err()
	}
	// A new message: only the chain is old.
	mutation, err := x.carrying(chain, x.cfg.Namespace)
	if err != nil {
		return finding{}, err
	}
	f.mutations = []answer{deliver(ctx, cc, mutation)}
	return f, nil
}

func foreignNamespace(ctx context.Context, x *intruder) (finding, error) {
	chain, twin, err := x.own()
	if err != nil {
		return finding{}, err
	}
	mutation, err := x.carrying(chain, x.cfg.Foreign)
	if err != nil {
		return finding{}, err
	}
	return x.pair(ctx, twin, mutation)
}

func splicedChain(ctx context.Context, x *intruder) (finding, error) {
	one, twin, err := x.own()
	if err != nil {
		return finding{}, err
	}
	other, err := x.chain(x.cfg.OtherGrant)
	if err != nil {
		return finding{}, err
	}
	second, err := x.carrying(other, x.cfg.Namespace)
	if err != nil {
		return finding{}, err
	}
	mutation, err := x.carrying(&v1.DelegationChain{Grant: other.GetGrant(), Hops: one.GetHops(), Certs: one.GetCerts()}, x.cfg.Namespace)
	if err != nil {
		return finding{}, err
	}
	cc, err := x.dial()
	if err != nil {
		return finding{}, err
	}
	defer func() { _ = cc.Close() }()
	// Both chains are good by themselves: only their mixture is refused.
	for _, whole := range [][]byte{twin, second} {
		if a := deliver(ctx, cc, whole); !a.admitted() {
			return finding{twin: a}, nil
		}
	}
	return finding{twin: ok(), mutations: []answer{deliver(ctx, cc, mutation)}}, nil
}

func noEnvelope(ctx context.Context, x *intruder) (finding, error) {
	chain, err := x.chain(x.cfg.Grant)
	if err != nil {
		return finding{}, err
	}
	cc, err := x.dial()
	if err != nil {
		return finding{}, err
	}
	defer func() { _ = cc.Close() }()
	f := finding{twin: list(ctx, cc, x.cfg.Namespace, x.beside(chain, x.cfg.Namespace))}
	if f.twin.admitted() {
		f.mutations = []answer{list(ctx, cc, x.cfg.Namespace, nil)}
	}
	return f, nil
}
