package intruder

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// ErrInput is returned when what an attack needs is missing or would make another attack of it. An attack that cannot be made is
// an error: a skipped one would look like a refused one.
var ErrInput = errors.New("attack cannot be made")

// maxShortLife bounds what is left of ShortGrant when the attack begins, and so the wait for its end.
const maxShortLife = 5 * time.Second

// Config is what the intruder holds and whom it attacks. It needs only what the chosen attacks use; Run says what is missing.
type Config struct {
	// Self is the intruder's registered identity and Source its SVID with the private key. The caller closes Source.
	Self   identity.AgentID
	Source identity.Source
	// Target serves MemoryService by Deliver and as guarded gRPC at TargetAddr, host:port.
	Target     identity.AgentID
	TargetAddr string
	// Namespace is one that the grants let memory.list reach and the capability table permits; it may be empty. Foreign is one
	// that no grant reaches.
	Namespace, Foreign []string
	// OtherTenant is a tenant that Self is not of.
	OtherTenant string
	// Purpose is that of all grants.
	Purpose string
	// Grant, ShortGrant and OtherGrant name Self as their delegate and Target among the delegates below. ShortGrant ends a
	// moment after Run begins, at most 5 s; OtherGrant is another one with the same content as Grant.
	Grant, ShortGrant, OtherGrant *v1.SignedStatement
	// StolenChain is a chain whose last hop another agent signed, with the certificates inlined.
	StolenChain *v1.DelegationChain
	// OperatorSocket and WorkloadSocket are the paths of the authority's unix sockets; a prefix of unix:// is allowed.
	OperatorSocket, WorkloadSocket string
	// Sibling is the registered agent of the same tenant that the intruder wants to be.
	Sibling identity.AgentID
	// Now is the intruder's clock; nil is time.Now.
	Now func() time.Time
	// Dial opens connections to TargetAddr; nil is TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// need is one input of an attack, checked before anything is sent.
type need func(*Config) error

func missing(what string) error { return fmt.Errorf("%w: no %s", ErrInput, what) }

func unfit(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInput, fmt.Errorf(format, args...))
}

// needTarget is what every attack on the target needs: enough to make a valid call.
func needTarget(c *Config) error {
	switch {
	case c.Self.IsZero() || c.Self.IsService():
		return missing("own identity of an agent")
	case c.Source == nil:
		return missing("own SVID source")
	case c.Target.IsZero() || c.TargetAddr == "":
		return missing("target")
	case len(c.Namespace) == 0:
		return missing("namespace")
	case c.Purpose == "":
		return missing("purpose")
	}
	svid, err := c.Source.GetX509SVID()
	if err != nil {
		return unfit("own SVID: %w", err)
	}
	if svid.ID != c.Self.ID() {
		return unfit("the source is of %s, not of %s", svid.ID, c.Self)
	}
	return c.fits("grant", c.Grant)
}

// fits holds a grant against what its twin is going to do with it.
func (c *Config) fits(name string, s *v1.SignedStatement) error {
	if s == nil {
		return missing(name)
	}
	g, err := readGrant(s)
	if err != nil {
		return unfit("%s: %w", name, err)
	}
	sum := sha256.Sum256([]byte(c.Purpose))
	switch {
	case g.GetDelegate() != c.Self.String():
		return unfit("%s is of %s, not of %s", name, g.GetDelegate(), c.Self)
	case string(g.GetPurposeDigest()) != string(sum[:]):
		return unfit("%s is for another purpose", name)
	case !covers(g, c.Namespace):
		return unfit("%s does not let the next agent run %s on %q", name, listAction, c.Namespace)
	}
	return nil
}

func needForeign(c *Config) error {
	if len(c.Foreign) == 0 {
		return missing("foreign namespace")
	}
	if g, err := readGrant(c.Grant); err != nil || covers(g, c.Foreign) {
		return unfit("the grant reaches the foreign namespace %q", c.Foreign)
	}
	return nil
}

func needOtherTenant(c *Config) error {
	if c.OtherTenant == "" || c.OtherTenant == c.Self.Tenant().Name() {
		return missing("other tenant")
	}
	return nil
}

func needStolenChain(c *Config) error {
	hops := c.StolenChain.GetHops()
	if len(hops) == 0 {
		return missing("stolen chain with a hop")
	}
	var last v1.HopPayload
	if err := proto.Unmarshal(hops[len(hops)-1].GetPayload(), &last); err != nil {
		return unfit("stolen chain: %w", err)
	}
	if last.GetIssuer() == c.Self.String() {
		return unfit("the stolen chain is the intruder's own")
	}
	return nil
}

func needShortGrant(c *Config) error {
	if err := c.fits("short grant", c.ShortGrant); err != nil {
		return err
	}
	g, err := readGrant(c.ShortGrant)
	if err != nil {
		return unfit("short grant: %w", err)
	}
	if left := time.UnixMilli(g.GetExpiresAtMs()).Sub(c.Now()); left <= 0 || left > maxShortLife {
		return unfit("the short grant ends in %v, want up to %v", left.Round(time.Millisecond), maxShortLife)
	}
	return nil
}

func needOtherGrant(c *Config) error {
	if err := c.fits("other grant", c.OtherGrant); err != nil {
		return err
	}
	if grantID(c.OtherGrant) == grantID(c.Grant) {
		return unfit("the other grant is the same grant")
	}
	return nil
}

func needSibling(c *Config) error {
	if c.Sibling.IsZero() || c.Sibling == c.Self {
		return missing("sibling")
	}
	return nil
}

func needSockets(c *Config) error {
	switch {
	case c.Self.IsZero():
		return missing("own identity of an agent")
	case c.OperatorSocket == "":
		return missing("operator socket")
	case c.WorkloadSocket == "":
		return missing("workload socket")
	}
	return nil
}

func readGrant(s *v1.SignedStatement) (*v1.GrantPayload, error) {
	g := new(v1.GrantPayload)
	if err := proto.Unmarshal(s.GetPayload(), g); err != nil {
		return nil, err
	}
	return g, nil
}

func grantID(s *v1.SignedStatement) [32]byte {
	return delegation.StatementID(delegation.TypeGrant, s.GetPayload())
}

// covers reports whether the first hop below g may carry memory.list on ns.
func covers(g *v1.GrantPayload, ns []string) bool {
	for _, c := range g.GetCapabilities() {
		if c.GetAction() == listAction && c.GetReach() > g.GetDepthUsed() && delegation.CoversResource(c, ns) {
			return true
		}
	}
	return false
}
