package identity

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Bounds on identifiers. A name is a DNS label because the CA derives a DNS SAN from it; go-spiffe checks no length.
const (
	MaxName = 63
	MaxID   = 2048
)

// ErrNotAnIdentity is returned for a SPIFFE ID that is neither an agent's nor a service's.
var ErrNotAnIdentity = errors.New("not an agent or service identity")

// Tenant is a wall between agents. The zero value is no tenant. It is comparable and minted only from a verified peer, an
// AgentID, or, for processes that hold the registry, by [RegisteredTenant].
type Tenant struct {
	td   spiffeid.TrustDomain
	name string
}

// RegisteredTenant names a tenant that the caller has read from the registry. Only the authority, cmd and tests call it.
func RegisteredTenant(td spiffeid.TrustDomain, name string) (Tenant, error) {
	if td.IsZero() {
		return Tenant{}, fmt.Errorf("tenant %q: %w: no trust domain", name, ErrNotAnIdentity)
	}
	if !validName(name) {
		return Tenant{}, fmt.Errorf("tenant %q: %w: want a DNS label", name, ErrNotAnIdentity)
	}
	return Tenant{td: td, name: name}, nil
}

// Name returns the tenant's name inside its trust domain, empty for the zero value.
func (t Tenant) Name() string { return t.name }

// TrustDomain returns the trust domain that the tenant belongs to.
func (t Tenant) TrustDomain() spiffeid.TrustDomain { return t.td }

// IsZero reports whether t is no tenant.
func (t Tenant) IsZero() bool { return t == Tenant{} }

// String returns "trust-domain/name", or "-" for no tenant.
func (t Tenant) String() string {
	if t.IsZero() {
		return "-"
	}
	return t.td.Name() + "/" + t.name
}

// AgentID is a parsed SPIFFE ID of one of the two shapes spiffe://td/tenant/T/agent/N and spiffe://td/service/N.
// It is comparable; the zero value is nobody.
type AgentID struct {
	id     spiffeid.ID
	tenant Tenant
	name   string
}

// NewAgentID returns the id of agent name of a tenant. It returns an error that wraps ErrNotAnIdentity for invalid names.
func NewAgentID(t Tenant, name string) (AgentID, error) {
	if t.IsZero() || !validName(name) {
		return AgentID{}, fmt.Errorf("agent %q of tenant %s: %w", name, t, ErrNotAnIdentity)
	}
	id, err := spiffeid.FromSegments(t.td, "tenant", t.name, "agent", name)
	if err != nil {
		return AgentID{}, fmt.Errorf("agent %q of tenant %s: %w", name, t, err)
	}
	return AgentID{id: id, tenant: t, name: name}, nil
}

// NewServiceID returns the id of a control-plane service. A service has no tenant.
func NewServiceID(td spiffeid.TrustDomain, name string) (AgentID, error) {
	if td.IsZero() || !validName(name) {
		return AgentID{}, fmt.Errorf("service %q: %w", name, ErrNotAnIdentity)
	}
	id, err := spiffeid.FromSegments(td, "service", name)
	if err != nil {
		return AgentID{}, fmt.Errorf("service %q: %w", name, err)
	}
	return AgentID{id: id, name: name}, nil
}

// ParseAgentID accepts exactly the two shapes, segment by segment; anything else wraps ErrNotAnIdentity.
func ParseAgentID(id spiffeid.ID) (AgentID, error) {
	if id.IsZero() || len(id.String()) > MaxID {
		return AgentID{}, fmt.Errorf("%w: empty or over %d bytes", ErrNotAnIdentity, MaxID)
	}
	kind, rest, _ := strings.Cut(strings.TrimPrefix(id.Path(), "/"), "/")
	switch kind {
	case "service":
		if validName(rest) {
			return AgentID{id: id, name: rest}, nil
		}
	case "tenant":
		tenant, rest, _ := strings.Cut(rest, "/")
		word, name, _ := strings.Cut(rest, "/")
		if validName(tenant) && word == "agent" && validName(name) {
			return AgentID{id: id, tenant: Tenant{td: id.TrustDomain(), name: tenant}, name: name}, nil
		}
	}
	return AgentID{}, fmt.Errorf("%q: %w", id.String(), ErrNotAnIdentity)
}

// ParseAgent is ParseAgentID of a string.
func ParseAgent(s string) (AgentID, error) {
	if len(s) > MaxID {
		return AgentID{}, fmt.Errorf("%w: over %d bytes", ErrNotAnIdentity, MaxID)
	}
	id, err := spiffeid.FromString(s)
	if err != nil {
		return AgentID{}, fmt.Errorf("%q: %w: %w", s, ErrNotAnIdentity, err)
	}
	return ParseAgentID(id)
}

// ID returns the SPIFFE ID.
func (a AgentID) ID() spiffeid.ID { return a.id }

// String returns the SPIFFE ID as a string, empty for the zero value.
func (a AgentID) String() string { return a.id.String() }

// Tenant returns the tenant of an agent, the zero value for a service.
func (a AgentID) Tenant() Tenant { return a.tenant }

// TrustDomain returns the trust domain.
func (a AgentID) TrustDomain() spiffeid.TrustDomain { return a.id.TrustDomain() }

// Name returns the last path segment.
func (a AgentID) Name() string { return a.name }

// IsService reports whether a is a control-plane service.
func (a AgentID) IsService() bool { return !a.IsZero() && a.tenant.IsZero() }

// IsZero reports whether a is nobody.
func (a AgentID) IsZero() bool { return a == AgentID{} }

// DNSName returns the DNS SAN that stands beside the URI SAN, because TLS stacks outside Go refuse a server certificate
// without one: name.tenant.td for an agent, name.service.td for a service.
func (a AgentID) DNSName() string {
	if a.IsService() {
		return a.name + ".service." + a.id.TrustDomain().Name()
	}
	return a.name + "." + a.tenant.name + "." + a.id.TrustDomain().Name()
}

// MatchDelegate reports whether a pattern of a delegates list covers id: an exact SPIFFE ID, or one that ends in "/*" and
// covers every agent of one tenant. Services are covered by their exact ID only. Comparison is segment by segment.
func MatchDelegate(pattern string, id AgentID) bool {
	prefix, wild := strings.CutSuffix(pattern, "/*")
	if !wild {
		return pattern == id.String()
	}
	if id.tenant.IsZero() {
		return false
	}
	// Policy asks this for every row on every call, so the prefix is taken apart and not built.
	rest, scheme := strings.CutPrefix(prefix, "spiffe://")
	rest, domain := strings.CutPrefix(rest, id.TrustDomain().Name())
	rest, word := strings.CutPrefix(rest, "/tenant/")
	rest, tenant := strings.CutPrefix(rest, id.tenant.name)
	return scheme && domain && word && tenant && rest == "/agent"
}

// ValidDelegatePattern reports whether pattern is one that MatchDelegate can match.
func ValidDelegatePattern(pattern string) bool {
	if prefix, wild := strings.CutSuffix(pattern, "/*"); wild {
		id, err := ParseAgent(prefix + "/x")
		return err == nil && !id.IsService()
	}
	_, err := ParseAgent(pattern)
	return err == nil
}

// CoversDelegate reports whether every identity that child matches is matched by parent.
func CoversDelegate(parent, child string) bool {
	if parent == child {
		return true
	}
	if strings.HasSuffix(child, "/*") {
		return false
	}
	id, err := ParseAgent(child)
	return err == nil && MatchDelegate(parent, id)
}

func validName(s string) bool {
	if s == "" || len(s) > MaxName || s[0] == '-' || s[len(s)-1] == '-' {
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
