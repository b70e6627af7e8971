package identity

// Level is the adaptive enforcement level of an agent, 0 (normal) to 4 (quarantine), computed by policy/conduct.
type Level uint8

// State is where an agent stands in its life; only StateActive is served. The numbers are those of AgentState on the wire.
type State uint8

// The five states. The zero value is refused.
const (
	StateUnknown State = iota
	StatePending
	StateActive
	StateSuspended
	StateQuarantined
	StateRetired
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case StatePending:
		return "pending"
	case StateActive:
		return "active"
	case StateSuspended:
		return "suspended"
	case StateQuarantined:
		return "quarantined"
	case StateRetired:
		return "retired"
	case StateUnknown:
	}
	return "unknown"
}

// Record is what every endpoint knows of a registered agent. It is immutable.
type Record struct {
	ID    AgentID
	Class string
	State State
	// IntegrityCap bounds what the agent's labels may claim; the numbers are those of Integrity on the wire, 0 is UNTRUSTED.
	IntegrityCap int32
	// NotBeforeMs is when the id was registered anew: nothing issued for it earlier is meant to be valid. Nothing compares it yet,
	// as no id can be registered anew.
	NotBeforeMs int64
	// SingleProcess says that at most one process may be this agent at a time: a second one is refused. Without it a second one is
	// recorded only.
	SingleProcess bool
	// Replicated says that the authority knows of more than one live process of this agent now.
	Replicated bool
}

// Registry looks up verified peers. Implementations are safe for concurrent use and never block.
type Registry interface {
	// Agent returns the record of an agent or service, or nil when it is not registered.
	Agent(AgentID) *Record
	// Generation moves with every change, so that a pinned record can be recognised as stale.
	Generation() uint64
}
