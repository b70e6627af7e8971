package authority

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// MaxBundleBytes bounds a signed trust bundle: the largest capability table plus 4096 agents of half a KiB. Clients of WatchTrust
// allow messages of this size.
const MaxBundleBytes = policy.MaxTableBytes + (4 << 20)

// trustState is one published trust bundle. It is immutable.
type trustState struct {
	bundle *v1.Dsse
	serial uint64
}

// sealTrust signs the bundle of serial. The holder of Authority.mu makes the serial durable before it publishes the result.
func (a *Authority) sealTrust(serial uint64, s *registrySnapshot, t *tableState) (*trustState, error) {
	out := &v1.TrustBundle{
		Version: 1, TrustDomain: a.td.Name(), Serial: serial, IssuedAtMs: a.cfg.Now().UnixMilli(), Table: t.signed,
		Keys: append(a.grants.Load().published(), a.published...),
	}
	for _, id := range []identity.AgentID{a.self, a.memory} {
		out.Agents = append(out.Agents, &v1.Agent{
			SpiffeId: id.String(), Name: id.Name(), AgentClass: serviceClass, State: v1.AgentState_AGENT_STATE_ACTIVE,
			IntegrityCap: serviceIntegrity(id),
		})
	}
	for _, id := range s.order {
		full := s.agents[id]
		// Named one by one: what is added to a record later stays home until somebody decides otherwise.
		out.Agents = append(out.Agents, &v1.Agent{
			SpiffeId: full.GetSpiffeId(), Tenant: full.GetTenant(), Name: full.GetName(), AgentClass: full.GetAgentClass(),
			State: full.GetState(), Generation: full.GetGeneration(), NotBeforeMs: full.GetNotBeforeMs(),
			UnmediatedTools: full.GetUnmediatedTools(), Revision: full.GetRevision(), IntegrityCap: full.GetIntegrityCap(),
			SingleProcess: full.GetSingleProcess(), Processes: s.live(id),
		})
	}
	payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("encoding trust bundle: %w", err)
	}
	if len(payload) > MaxBundleBytes {
		return nil, fmt.Errorf("%w: trust bundle of %d bytes", ErrLimit, len(payload))
	}
	signed, err := delegation.SealDsse(delegation.TypeBundle, payload, a.feed.private)
	if err != nil {
		return nil, fmt.Errorf("signing trust bundle: %w", err)
	}
	return &trustState{bundle: signed, serial: serial}, nil
}

// publish puts a change in force and wakes every watcher.
func (a *Authority) publish(s *registrySnapshot, t *tableState, trust *trustState) {
	a.snapshot.Store(s)
	a.table.Store(t)
	a.trust.Store(trust)
	a.changed.fire()
}

// keyView implements delegation.KeyView over the newest keys.
type keyView struct{ a *Authority }

// GrantKey returns the key when issuer is this authority and the key verifies at the time.
func (v keyView) GrantKey(issuer, keyID string, at time.Time) (ed25519.PublicKey, bool) {
	if issuer != v.a.self.String() {
		return nil, false
	}
	return v.a.grants.Load().find(keyID, at.UnixMilli())
}

// Generation moves with every rotation and withdrawal.
func (v keyView) Generation() uint64 { return v.a.grants.Load().generation }
