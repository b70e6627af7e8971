package hammer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// What the parent orders a child to do, one JSON object per line on its standard input. It answers each with one line.
const (
	doStart = "start"
	doRun   = "run"
	doUsage = "usage"
)

// order is one line to a child.
type order struct {
	Do    string     `json:"do"`
	Start *startSpec `json:"start,omitempty"`
	Run   *runSpec   `json:"run,omitempty"`
}

// Roles of a child.
const (
	roleServer = "server"
	roleClient = "client"
)

// startSpec says what the child is.
type startSpec struct {
	Role      string `json:"role"`
	Kind      kind   `json:"kind"`
	Hops      int    `json:"hops"`
	FailEvery uint64 `json:"fail_every,omitempty"`
	Payload   int    `json:"payload"`
	// Peer is the SPIFFE ID of the server, and Address where it listens when it does not announce it to the authority.
	Peer    string `json:"peer,omitempty"`
	Address string `json:"address,omitempty"`
	Profile string `json:"profile,omitempty"`
}

// runSpec is one spell of calls.
type runSpec struct {
	InFlight   int      `json:"in_flight"`
	DurationNs int64    `json:"duration_ns"`
	Mandate    *mandate `json:"mandate,omitempty"`
}

// mandate is what the client acts under: a grant, or a chain of hops that another agent presented to it.
type mandate struct {
	Purpose string `json:"purpose"`
	Grant   []byte `json:"grant,omitempty"`
	Chain   []byte `json:"chain,omitempty"`
	// Presenter is the certificate of the agent that signed the last hop.
	Presenter []byte `json:"presenter,omitempty"`
	// Key is the grant key of the trust domain's authority, which a client of an earlier hop knows from its trust bundle.
	Key   []byte `json:"key,omitempty"`
	KeyID string `json:"key_id,omitempty"`
}

// answer is one line from a child.
type answer struct {
	Error   string  `json:"error,omitempty"`
	Address string  `json:"address,omitempty"`
	Usage   *usage  `json:"usage,omitempty"`
	Result  *result `json:"result,omitempty"`
}

// usage is what a process has used since it started.
type usage struct {
	CPUNs  int64  `json:"cpu_ns"`
	Allocs uint64 `json:"allocs"`
	Bytes  uint64 `json:"bytes"`
	// Records is how many audit records are durable, and Handled how many calls reached the handler.
	Records uint64 `json:"records"`
	Handled uint64 `json:"handled"`
}

func (u usage) since(before usage) usage {
	return usage{u.CPUNs - before.CPUNs, u.Allocs - before.Allocs, u.Bytes - before.Bytes, u.Records - before.Records, u.Handled - before.Handled}
}

// result is what a client saw of one spell.
type result struct {
	Calls     uint64 `json:"calls"`
	Errors    uint64 `json:"errors"`
	FirstErr  string `json:"first_error,omitempty"`
	ElapsedNs int64  `json:"elapsed_ns"`
	P50Ns     int64  `json:"p50_ns"`
	P99Ns     int64  `json:"p99_ns"`
	// Request is the size of one request in bytes where the client builds it, else 0.
	Request int `json:"request_bytes,omitempty"`
}

// errGone is returned when the other end of the pipe has ended.
var errGone = errors.New("the other process has ended")

func read[T any](d *json.Decoder) (*T, error) {
	v := new(T)
	if err := d.Decode(v); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, errGone
	} else if err != nil {
		return nil, fmt.Errorf("reading from the other process: %w", err)
	}
	return v, nil
}
