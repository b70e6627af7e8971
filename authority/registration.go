package authority

import (
	"context"
	"fmt"
	"os"

	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// RegisterAgent registers an agent, ACTIVE at once, and returns its record. The same content again returns the record that
// stands; other content is ErrConflict. Further errors wrap ErrInvalid, ErrLimit or ErrAudit.
func (a *Authority) RegisterAgent(ctx context.Context, agent *v1.Agent) (*v1.Agent, error) {
	return a.registerAgent(ctx, agent, inProcess)
}

func (a *Authority) registerAgent(ctx context.Context, request *v1.Agent, by string) (*v1.Agent, error) {
	id, err := checkAgent(request, a.td.Name())
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.open(); err != nil {
		return nil, err
	}
	current := a.snapshot.Load()
	if old := current.agents[id]; old != nil {
		if !sameContent(old, request, id) {
			return nil, fmt.Errorf("%s: %w", id, ErrConflict)
		}
		return proto.CloneOf(old), nil
	}
	if len(current.agents) >= maxAgents {
		return nil, fmt.Errorf("%w: %d agents", ErrLimit, maxAgents)
	}
	agent := complete(request, id, a.cfg.Now().UnixMilli(), current.revision+1)
	next, err := current.with(agent)
	if err != nil {
		return nil, err
	}
	next.revision = agent.GetRevision()
	table := a.table.Load()
	trust, err := a.sealTrust(a.trust.Load().serial+1, next, table)
	if err != nil {
		return nil, err
	}
	err = a.trail.allow(ctx, &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_REGISTRY_CHANGED, Tenant: id.Tenant().Name(), Purpose: clip(agent.GetPurpose()),
		Peer:   &v1.Party{SpiffeId: id.String(), AgentClass: agent.GetAgentClass()},
		Detail: clip(by + " registers it, owner " + agent.GetOwner() + ", " + agent.GetIntegrityCap().String()),
	})
	if err != nil {
		return nil, err
	}
	if err := a.store.putAgent(agent, trust.serial); err != nil {
		return nil, err
	}
	a.publish(next, table, trust)
	return proto.CloneOf(agent), nil
}

// Status returns counts, serials and paths, with what Config.Describe adds.
func (a *Authority) Status() *rpcv1.StatusResponse {
	out := &rpcv1.StatusResponse{
		TrustDomain: a.td.Name(), WorkloadSocket: a.WorkloadSocket(), BundleSerial: a.trust.Load().serial,
		TableSerial: a.table.Load().highest,
		Agents:      uint32(len(a.snapshot.Load().agents)), //nolint:gosec // G115: at most maxAgents
		Workloads:   uint32(a.workloads.count()),           //nolint:gosec // G115: at most maxWorkloads
		Pid:         int32(os.Getpid()),                    //nolint:gosec // G115: the kernel bounds process numbers
	}
	if a.cfg.Describe != nil {
		a.cfg.Describe(out)
	}
	return out
}

// Agents returns copies of all records, sorted by SPIFFE ID, without the built-in services.
func (a *Authority) Agents() []*v1.Agent { return a.snapshot.Load().list() }
