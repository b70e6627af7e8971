package authority

import (
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// SetState changes the state of a registered agent, for which there is no request yet.
func (a *Authority) SetState(id identity.AgentID, state v1.AgentState) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	agent := proto.CloneOf(a.snapshot.Load().agents[id])
	agent.State = state
	next, err := a.snapshot.Load().with(agent)
	if err != nil {
		return err
	}
	a.publish(next, a.table.Load(), a.trust.Load())
	return nil
}
