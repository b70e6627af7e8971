package intruder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
)

// Bounds of one run of Fire.
const (
	// DefaultTimeout and MaxTimeout bound one call.
	DefaultTimeout = 5 * time.Second
	MaxTimeout     = time.Minute
	// DefaultStuffing and MaxStuffing bound the random credentials of credential-stuffing.
	DefaultStuffing = 50
	MaxStuffing     = 1000
	// MaxRun bounds a whole run: a grant lives 15 minutes.
	MaxRun = 10 * time.Minute
	// MaxCalls bounds the calls of a whole run, whatever the violations would make; the most that they make now is about 2,100.
	MaxCalls = 4000
	// pause is kept between calls: 50 a second stay far below every default budget, also counted in signatures.
	pause = 20 * time.Millisecond
	// maxRetryAfter bounds the wait that a budget may ask for; it is kept once for each call.
	maxRetryAfter = 5 * time.Second
	// deafControls in a row that nobody answers end the run: the rest would only wait as well.
	deafControls = 3
	// minGrantLeft is what a grant must have left for the run to make sense.
	minGrantLeft = time.Minute
)

// Endpoint is what Fire attacks and what it holds to do so. All but the fields that say otherwise are required.
type Endpoint struct {
	// Source is the attacker's SVID with the private key. The caller closes it.
	Source identity.Source
	// Target serves at Address, one host and port. No other address is ever dialed.
	Target  identity.AgentID
	Address string
	// Grant names the attacker as its delegate and lets it call Method on the resource of Request for Purpose.
	Grant   *v1.SignedStatement
	Purpose string
	// Method is the unary method of the valid call that every violation is a change of, and Request its request. The call is made
	// for real, once or more for each violation, so it should be harmless to repeat.
	Method  protoreflect.MethodDescriptor
	Request proto.Message
	// ClosedGrant is another grant of the attacker for the same purpose, whose delegates leave Target out. It may be nil.
	ClosedGrant *v1.SignedStatement
	// StolenChain is a chain whose last hop another agent signed towards Target. It may be nil.
	StolenChain *v1.DelegationChain
	// Timeout bounds one call; 0 is DefaultTimeout.
	Timeout time.Duration
	// Stuffing is the number of random credentials to try; 0 is DefaultStuffing.
	Stuffing int
	// Now is the attacker's clock; nil is time.Now.
	Now func() time.Time
	// Dial opens the connections to Address; nil is TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// siege is one run against one endpoint.
type siege struct {
	*intruder
	at       Endpoint
	method   *interceptors.Method
	path     string // /pkg.Service/Method
	payload  []byte
	resource []string
	grant    *v1.GrantPayload
	held     *v1.Capability // of the grant, which covers the valid call
	label    *v1.Label

	last  time.Time // of the last call
	calls int
}

// newSiege checks everything that can be checked without sending. Errors wrap ErrInput.
func newSiege(e Endpoint) (*siege, error) {
	if e.Now == nil {
		e.Now = time.Now
	}
	if e.Timeout == 0 {
		e.Timeout = DefaultTimeout
	}
	if e.Stuffing == 0 {
		e.Stuffing = DefaultStuffing
	}
	switch {
	case e.Source == nil:
		return nil, missing("own SVID source")
	case e.Target.IsZero():
		return nil, missing("target's identity")
	case e.Timeout < 0 || e.Timeout > MaxTimeout:
		return nil, unfit("time-out %v, want up to %v", e.Timeout, MaxTimeout)
	case e.Stuffing < 0 || e.Stuffing > MaxStuffing:
		return nil, unfit("%d random credentials, want up to %d", e.Stuffing, MaxStuffing)
	}
	if err := CheckAddress(e.Address); err != nil {
		return nil, err
	}
	svid, err := e.Source.GetX509SVID()
	if err != nil {
		return nil, unfit("own SVID: %w", err)
	}
	self, err := identity.ParseAgentID(svid.ID)
	if err != nil || self.IsService() {
		return nil, unfit("own SVID is of %s, no agent", svid.ID)
	}
	s := &siege{at: e, intruder: &intruder{cfg: Config{
		Self: self, Source: e.Source, Target: e.Target, TargetAddr: e.Address, Purpose: e.Purpose, Grant: e.Grant, Now: e.Now,
		Dial: e.Dial,
	}}}
	if err := s.aim(); err != nil {
		return nil, err
	}
	return s, s.arm()
}

// CheckAddress refuses what is not exactly one host and one port. Errors wrap ErrInput.
func CheckAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return unfit("address %q: want one HOST:PORT", addr)
	}
	ip, notIP := netip.ParseAddr(host)
	n, noPort := strconv.ParseUint(port, 10, 16)
	switch {
	case noPort != nil || n == 0:
		return unfit("address %q: want one port by its number", addr)
	case notIP == nil && (ip.IsUnspecified() || ip.IsMulticast()):
		return unfit("address %q is no single host", addr)
	case notIP != nil && !validHost(host):
		return unfit("address %q: want one host, no list, range or pattern", addr)
	}
	return nil
}

// validHost accepts one DNS name.
func validHost(host string) bool {
	if host == "" || len(host) > 253 || host[0] == '-' || host[0] == '.' {
		return false
	}
	return !slices.ContainsFunc([]byte(host), func(c byte) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_'
	})
}

// aim reads what the method means from its descriptor, as the receiver does.
func (s *siege) aim() error {
	md, req := s.at.Method, s.at.Request
	switch {
	case md == nil || req == nil:
		return missing("method with a request")
	case md.IsStreamingClient() || md.IsStreamingServer():
		return unfit("%s is a stream; name a unary method", md.FullName())
	case md.Input().FullName() != req.ProtoReflect().Descriptor().FullName():
		return unfit("%s takes a %s", md.FullName(), md.Input().FullName())
	}
	s.path = fmt.Sprintf("/%s/%s", md.Parent().FullName(), md.Name())
	in, declared := proto.GetExtension(md.Options(), v1.E_Intent).(*v1.MethodIntent)
	if !declared || in.GetAction() == "" {
		return unfit("%s has no (safeconduct.v1.intent) option with an action: there is no authority to go beyond", s.path)
	}
	s.method = &interceptors.Method{Procedure: s.path, Intent: proto.CloneOf(in), Input: req.ProtoReflect().Descriptor()}
	if err := new(interceptors.Methods).Add(s.method); err != nil {
		return unfit("%w", err)
	}
	var err error
	if s.resource, err = s.method.ResourceOf(req, interceptors.DefaultResource(s.at.Target)); err != nil {
		return unfit("resource of the request: %w", err)
	}
	if s.payload, err = proto.Marshal(req); err != nil {
		return unfit("the request: %w", err)
	}
	s.label = ownWords(s.cfg.Self, in.GetMinIntegrity())
	return nil
}

// arm holds the grants against what the valid call is going to do with them.
func (s *siege) arm() error {
	g, err := s.checkGrant("grant", s.at.Grant)
	if err != nil {
		return err
	}
	s.grant = g
	if end := time.UnixMilli(g.GetExpiresAtMs()); end.Sub(s.at.Now()) < minGrantLeft {
		return unfit("the grant ends at %s, in less than %v; use a fresh one", end.UTC().Format(time.RFC3339), minGrantLeft)
	}
	for _, c := range g.GetCapabilities() {
		if c.GetAction() == s.method.Intent.GetAction() && c.GetReach() > g.GetDepthUsed() && coversPath(c, s.resource) {
			s.held = c
			break
		}
	}
	if s.held == nil {
		return unfit("the grant does not let this agent ask for %s on %q one hop below", s.method.Intent.GetAction(), s.resource)
	}
	if s.at.ClosedGrant != nil {
		if _, err := s.checkGrant("closed grant", s.at.ClosedGrant); err != nil {
			return err
		}
	}
	if s.at.StolenChain != nil {
		return needStolenChain(&Config{Self: s.cfg.Self, StolenChain: s.at.StolenChain})
	}
	return nil
}

func (s *siege) checkGrant(name string, statement *v1.SignedStatement) (*v1.GrantPayload, error) {
	if statement == nil {
		return nil, missing(name)
	}
	g, err := readGrant(statement)
	sum := sha256.Sum256([]byte(s.at.Purpose))
	switch {
	case err != nil:
		return nil, unfit("%s: %w", name, err)
	case g.GetDelegate() != s.cfg.Self.String():
		return nil, unfit("the %s is of %s, not of %s", name, g.GetDelegate(), s.cfg.Self)
	case !bytes.Equal(g.GetPurposeDigest(), sum[:]):
		return nil, unfit("the %s is for another purpose", name)
	}
	return g, nil
}

// coversPath is the subset rule for one exact resource, written again so that a fault in the receiver's own does not decide what
// is a violation.
func coversPath(c *v1.Capability, path []string) bool {
	parent := c.GetResource()
	if !c.GetSubtree() {
		return slices.Equal(parent, path)
	}
	return len(path) > len(parent) && slices.Equal(path[:len(parent)], parent)
}

// covered reports whether a capability of the grant covers c, in action and resource.
func (s *siege) covered(c *v1.Capability) bool {
	for _, p := range s.grant.GetCapabilities() {
		if p.GetAction() != c.GetAction() {
			continue
		}
		below := p.GetSubtree() && len(c.GetResource()) >= len(p.GetResource()) &&
			slices.Equal(c.GetResource()[:len(p.GetResource())], p.GetResource())
		if c.GetSubtree() && below || !c.GetSubtree() && coversPath(p, c.GetResource()) {
			return true
		}
	}
	return false
}

var errTooManyCalls = errors.New("the run has made as many calls as it may")
