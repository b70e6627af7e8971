package incident

import (
	"encoding/json"
	"io"
	"sync"
)

// Event is one line that a child process tells the demo. Strings that came from a log are escaped by whoever made the event.
type Event struct {
	Role string          `json:"role"`
	Kind string          `json:"kind"`
	Text string          `json:"text,omitempty"`
	Data json.RawMessage `json:"data,omitempty"`
}

// Kinds of events.
const (
	kindReady   = "ready"   // serving; Data is a readyData
	kindStep    = "step"    // one line of the story
	kindHolding = "holding" // the planner waits to be killed
	kindReport  = "report"  // the analyst's logs.Report
	kindApplied = "applied" // the executor's effect; Data is an appliedData
	kindBlocked = "blocked" // the injected instruction was refused; Data is a blockedData
	kindBreach  = "breach"  // it was not
	kindLost    = "lost"    // a callee died; Data is a blockedData without decision
	kindDone    = "done"    // the on-call engineer has the answer
	kindFailed  = "failed"
	kindAttacks = "attacks" // Data is []intruder.Result
	kindLeak    = "leak"    // Data is the chain that the agent was given, as a careless agent would log it
)

type readyData struct {
	SpiffeID string `json:"spiffe_id"`
	Serial   string `json:"svid_serial"`
	Expires  string `json:"svid_expires"`
	Address  string `json:"address,omitempty"`
	Pid      int    `json:"pid"`
}

type appliedData struct {
	Rules      []string `json:"rules"`
	Stopped    int      `json:"stopped"`
	Offending  int      `json:"offending"`
	Collateral int      `json:"collateral"`
	Note       string   `json:"note,omitempty"`
}

type blockedData struct {
	Asked    string `json:"asked"`
	Code     string `json:"code,omitempty"`
	Reason   string `json:"reason"`
	Decision string `json:"decision_id"`
}

// emitter writes events, one line each. It is safe for concurrent use.
type emitter struct {
	mu   sync.Mutex
	w    io.Writer
	role string
}

func (e *emitter) emit(kind, text string, data any) {
	ev := Event{Role: e.role, Kind: kind, Text: text}
	if data != nil {
		if raw, err := json.Marshal(data); err == nil {
			ev.Data = raw
		}
	}
	line, err := json.Marshal(ev)
	if err != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	_, _ = e.w.Write(append(line, '\n')) // the demo has gone when this fails; its children end with their stdin
}
