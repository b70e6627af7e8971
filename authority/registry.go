package authority

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Bounds of a record. A bundle of the most agents with the largest table stays below the 4 MiB that gRPC lets through.
const (
	maxAgents    = 4096
	maxOwner     = 128
	maxPurpose   = 512
	maxModelWord = 128
	maxDigest    = 64
	maxSelectors = 8
)

// Names of the built-in services.
const (
	serviceAuthority = "authority"
	serviceMemory    = "memory"
	serviceClass     = "service"
)

// Selector types that AdmitWorkload checks.
const (
	selectorUID = "uid"
	selectorExe = "exe_sha256"
)

// Errors of the registry.
var (
	// ErrInvalid is returned for a request that no state of the authority would accept.
	ErrInvalid = errors.New("invalid request")
	// ErrConflict is returned for a second registration of a SPIFFE ID with other content.
	ErrConflict = errors.New("registered with other content")
	// ErrUnknownAgent is returned for an identity that is not registered.
	ErrUnknownAgent = errors.New("not registered")
)

// registrySnapshot is the registry at one moment. It is immutable and implements identity.Registry through registryView.
type registrySnapshot struct {
	records    map[identity.AgentID]*identity.Record
	agents     map[identity.AgentID]*v1.Agent
	order      []identity.AgentID       // of agents, sorted
	processes  map[identity.AgentID]int // of agents that have more than one live process
	generation uint64
	revision   uint64 // of the newest agent
}

// newSnapshot holds the built-in services only.
func newSnapshot(services []identity.AgentID) *registrySnapshot {
	s := &registrySnapshot{
		records: map[identity.AgentID]*identity.Record{}, agents: map[identity.AgentID]*v1.Agent{}, generation: 1,
	}
	for _, id := range services {
		s.records[id] = &identity.Record{
			ID: id, Class: serviceClass, State: identity.StateActive, IntegrityCap: int32(serviceIntegrity(id)),
		}
	}
	return s
}

// serviceIntegrity is what a service's own words may claim: policy comes from the authority alone.
func serviceIntegrity(id identity.AgentID) v1.Integrity {
	if id.Name() == serviceAuthority {
		return v1.Integrity_INTEGRITY_SYSTEM
	}
	return v1.Integrity_INTEGRITY_TRUSTED
}

// with returns a snapshot that also holds the agents.
func (s *registrySnapshot) with(agents ...*v1.Agent) (*registrySnapshot, error) {
	next := &registrySnapshot{
		records: maps.Clone(s.records), agents: maps.Clone(s.agents), processes: s.processes,
		generation: s.generation + 1, revision: s.revision,
	}
	for _, a := range agents {
		id, err := identity.ParseAgent(a.GetSpiffeId())
		if err != nil {
			return nil, fmt.Errorf("registry: %w", err)
		}
		next.agents[id] = a
		next.records[id] = &identity.Record{
			ID: id, Class: a.GetAgentClass(), State: stateOf(a.GetState()),
			IntegrityCap: int32(a.GetIntegrityCap()), NotBeforeMs: a.GetNotBeforeMs(),
			SingleProcess: a.GetSingleProcess(), Replicated: s.processes[id] > 1,
		}
	}
	next.order = slices.SortedFunc(maps.Keys(next.agents), func(a, b identity.AgentID) int {
		return cmp.Compare(a.String(), b.String())
	})
	return next, nil
}

// stateOf maps a state of the wire; what is not listed is refused.
func stateOf(s v1.AgentState) identity.State {
	switch s {
	case v1.AgentState_AGENT_STATE_PENDING:
		return identity.StatePending
	case v1.AgentState_AGENT_STATE_ACTIVE:
		return identity.StateActive
	case v1.AgentState_AGENT_STATE_SUSPENDED:
		return identity.StateSuspended
	case v1.AgentState_AGENT_STATE_QUARANTINED:
		return identity.StateQuarantined
	case v1.AgentState_AGENT_STATE_RETIRED:
		return identity.StateRetired
	default:
		return identity.StateUnknown
	}
}

// list returns copies of all agents, sorted by SPIFFE ID.
func (s *registrySnapshot) list() []*v1.Agent {
	out := make([]*v1.Agent, 0, len(s.order))
	for _, id := range s.order {
		out = append(out, proto.CloneOf(s.agents[id]))
	}
	return out
}

// registryView implements identity.Registry over the newest snapshot.
type registryView struct{ a *Authority }

// Agent returns the record of id, or nil.
func (v registryView) Agent(id identity.AgentID) *identity.Record {
	return v.a.snapshot.Load().records[id]
}

// Generation moves with every change.
func (v registryView) Generation() uint64 { return v.a.snapshot.Load().generation }

// checkAgent validates what an operator may say of a new agent. Errors wrap ErrInvalid.
func checkAgent(a *v1.Agent, trustDomain string) (identity.AgentID, error) {
	bad := func(format string, args ...any) (identity.AgentID, error) {
		return identity.AgentID{}, fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	id, err := identity.ParseAgent(a.GetSpiffeId())
	if err != nil {
		return bad("spiffe_id: %v", err)
	}
	switch {
	case id.IsService() || id.TrustDomain().Name() != trustDomain:
		return bad("spiffe_id is no agent of trust domain %s", trustDomain)
	case len(id.DNSName()) > maxDNSName:
		return bad("spiffe_id: the DNS name %s is over %d bytes", id.DNSName(), maxDNSName)
	case a.GetTenant() != "" && a.GetTenant() != id.Tenant().Name(), a.GetName() != "" && a.GetName() != id.Name():
		return bad("tenant and name follow from the spiffe_id")
	case !validLabel(a.GetAgentClass()) || a.GetAgentClass() == serviceClass:
		return bad("agent_class must be a DNS label other than %q", serviceClass)
	case !validText(a.GetOwner(), 1, maxOwner):
		return bad("owner is required: 1 to %d bytes of text", maxOwner)
	case !validText(a.GetSponsor(), 0, maxOwner):
		return bad("sponsor: at most %d bytes of text", maxOwner)
	case !validText(a.GetPurpose(), 1, maxPurpose):
		return bad("purpose is required: 1 to %d bytes of text", maxPurpose)
	case a.GetIntegrityCap() < v1.Integrity_INTEGRITY_UNTRUSTED || a.GetIntegrityCap() > v1.Integrity_INTEGRITY_TRUSTED:
		return bad("integrity_cap is required: UNTRUSTED, ATTESTED or TRUSTED")
	case a.GetUnmediatedTools() && a.GetIntegrityCap() != v1.Integrity_INTEGRITY_UNTRUSTED:
		return bad("an agent with unmediated tools is UNTRUSTED")
	case a.GetState() != v1.AgentState_AGENT_STATE_UNSPECIFIED && a.GetState() != v1.AgentState_AGENT_STATE_ACTIVE:
		return bad("a new agent is ACTIVE in this authority")
	case len(a.GetCapabilities()) > 0 || a.GetReviewDueMs() != 0:
		return bad("capabilities and review dates are not enforced by this authority; use the capability table")
	case a.GetStateReason() != "" || a.GetStateActor() != "" || a.GetStateSinceMs() != 0 || a.GetGeneration() != 0 ||
		a.GetNotBeforeMs() != 0 || a.GetCreatedMs() != 0 || a.GetUpdatedMs() != 0 || a.GetRevision() != 0:
		return bad("state, times, generation and revision are set by the authority")
	case len(a.ProtoReflect().GetUnknown()) > 0:
		return bad("unknown fields")
	}
	if err := checkSoftware(a); err != nil {
		return bad("%v", err)
	}
	return id, nil
}

func checkSoftware(a *v1.Agent) error {
	m := a.GetModel()
	for _, s := range []string{m.GetProvider(), m.GetName(), m.GetVersion(), a.GetSoftwareVersion()} {
		if !validText(s, 0, maxModelWord) {
			return fmt.Errorf("model and software words have at most %d bytes of text", maxModelWord)
		}
	}
	if len(m.GetDigest()) > maxDigest || len(a.GetSoftwareDigest()) > maxDigest {
		return fmt.Errorf("digests have at most %d bytes", maxDigest)
	}
	if len(a.GetSelectors()) > maxSelectors {
		return fmt.Errorf("at most %d selectors", maxSelectors)
	}
	for _, s := range a.GetSelectors() {
		switch s.GetType() {
		case selectorUID:
			if _, err := strconv.ParseUint(s.GetValue(), 10, 32); err != nil {
				return fmt.Errorf("selector uid: %q is no user number", s.GetValue())
			}
		case selectorExe:
			if raw, err := hex.DecodeString(s.GetValue()); err != nil || len(raw) != 32 || hex.EncodeToString(raw) != s.GetValue() {
				return errors.New("selector exe_sha256: want 64 lower-case hex digits")
			}
		default:
			return fmt.Errorf("selector %q is not one this authority checks", s.GetType())
		}
	}
	return nil
}

// checkSelectors reports whether a process is what the record demands. All selectors of the record must hold.
func checkSelectors(a *v1.Agent, w *workload) error {
	for _, s := range a.GetSelectors() {
		var is string
		switch s.GetType() {
		case selectorUID:
			is = strconv.FormatUint(uint64(w.uid), 10)
		case selectorExe:
			is = hex.EncodeToString(w.exe[:])
		}
		if is == "" || is != s.GetValue() {
			return fmt.Errorf("%w: selector %s of %s does not hold", ErrUnattested, s.GetType(), a.GetSpiffeId())
		}
	}
	return nil
}

// complete fills what the authority sets on a new record.
func complete(a *v1.Agent, id identity.AgentID, nowMs int64, revision uint64) *v1.Agent {
	out := proto.CloneOf(a)
	out.Tenant, out.Name = id.Tenant().Name(), id.Name()
	out.State, out.StateActor, out.StateSinceMs = v1.AgentState_AGENT_STATE_ACTIVE, "operator", nowMs
	out.Generation, out.CreatedMs, out.UpdatedMs, out.Revision = 1, nowMs, nowMs, revision
	return out
}

// sameContent reports whether a registered record came from the same request.
func sameContent(old, request *v1.Agent, id identity.AgentID) bool {
	return proto.Equal(old, complete(request, id, old.GetCreatedMs(), old.GetRevision()))
}

// validText reports whether s is UTF-8 without control characters, of least to most bytes.
func validText(s string, least, most int) bool {
	if len(s) < least || len(s) > most || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return false
		}
	}
	return true
}

// validLabel reports whether s is a DNS label in lower case.
func validLabel(s string) bool {
	if s == "" || len(s) > identity.MaxName || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}
