package delegation

import (
	"bytes"
	"crypto/ed25519"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Leaf is the verified facts of a chain as of its last statement. Only a Verifier makes one; the zero value fails Recheck.
// It is immutable and safe for concurrent use. Accessors return copies, Links one that is kept for records only, so that no caller can
// widen what others share.
type Leaf struct {
	owner  *Verifier
	parent *Leaf // nil for a grant
	root   *root
	claims

	position   int // 0 for the grant
	statement  *v1.SignedStatement
	certs      [][]byte // DER of the signer, leaf first; nil for a grant
	link       [32]byte
	sealKey    [32]byte
	lastIssued int64 // latest issued_at of all statements
	certSince  int64 // the interval in which the certificates of all hops verify
	certUntil  int64
	generation generation
	handles    [][32]byte
	epoch      atomic.Uint64                   // revocation epoch of the last look; memory of a look, not a fact of the chain
	links      atomic.Pointer[[]*v1.ChainLink] // what Links made
}

// root is what only the grant says.
type root struct {
	principal   *v1.Principal
	taskID      string
	trustDomain string
	keyIssuer   string
	keyID       string
	key         ed25519.PublicKey
	lineage     int64
	previous    []byte             // of a renewal: the last statement of the chain before it
	history     []*v1.PastActor    // who acted before the renewals
	past        []identity.AgentID // the actors of history
}

// claims is what every statement says. They are verified in a Leaf and only claimed in a draft.
type claims struct {
	id        [32]byte
	chainID   [16]byte
	purpose   [32]byte
	tenant    string
	issuer    identity.AgentID
	delegate  identity.AgentID
	depth     uint32
	maxDepth  uint32
	caps      []*v1.Capability
	delegates []string
	issued    int64
	notBefore int64
	expires   int64
}

// generation names the state of keys and bundles that a chain was verified against.
type generation struct{ keys, bundles uint64 }

// ChainID returns the id of the chain, kept over renewals.
func (x *Leaf) ChainID() [16]byte { return x.chainID }

// weight is how many usual leaves x is as large as, in the bounds on what is remembered: a signer decides how much its hop says.
func (x *Leaf) weight() int { return 1 + len(x.statement.GetPayload())/usualPayload }

// ID returns the statement id of the last statement: the parent_id of the next hop and the handle of revocation and audit.
func (x *Leaf) ID() [32]byte { return x.id }

// Link returns the chain reference: it commits to every byte of every statement and signer certificate.
func (x *Leaf) Link() [32]byte { return x.link }

// Principal returns on whose behalf the chain acts, nil for the zero value.
func (x *Leaf) Principal() *v1.Principal {
	if x.root == nil {
		return nil
	}
	p := x.root.principal
	return &v1.Principal{Type: p.GetType(), Subject: p.GetSubject(), Issuer: p.GetIssuer()}
}

// TaskID returns the task that the grant was made for, empty when it names none.
func (x *Leaf) TaskID() string {
	if x.root == nil {
		return ""
	}
	return x.root.taskID
}

// Tenant returns the tenant that the whole chain lies in.
func (x *Leaf) Tenant() string { return x.tenant }

// Delegate returns who may act under the leaf: the callee of the last hop.
func (x *Leaf) Delegate() identity.AgentID { return x.delegate }

// Issuer returns who signed the last statement: the caller, or the authority for a grant without hops.
func (x *Leaf) Issuer() identity.AgentID { return x.issuer }

// Depth returns the absolute depth over all renewals.
func (x *Leaf) Depth() uint32 { return x.depth }

// MaxDepth returns the deepest absolute depth that a further hop may have.
func (x *Leaf) MaxDepth() uint32 { return x.maxDepth }

// Capabilities returns what the last statement carries.
func (x *Leaf) Capabilities() []*v1.Capability { return cloneCapabilities(x.caps) }

// NotBefore returns when the chain begins; Skew is granted on it.
func (x *Leaf) NotBefore() time.Time { return time.UnixMilli(x.notBefore).UTC() }

// Expires returns when the chain ends, exclusive.
func (x *Leaf) Expires() time.Time { return time.UnixMilli(x.expires).UTC() }

// PurposeDigest returns the SHA-256 of the purpose that the principal authorised.
func (x *Leaf) PurposeDigest() [32]byte { return x.purpose }

// Covers reports whether a capability of the leaf has this action and covers this resource. Constraints are left to
// Recheck, which knows the facts of the request.
func (x *Leaf) Covers(action string, resource []string) bool {
	for _, c := range x.caps {
		if c.GetAction() == action && CoversResource(c, resource) {
			return true
		}
	}
	return false
}

// Links returns the chain for the audit log, the grant first. It is made once and shared by all records of the chain: the caller
// must not change it. Nothing is decided by it.
func (x *Leaf) Links() []*v1.ChainLink {
	if made := x.links.Load(); made != nil {
		return *made
	}
	var links []*v1.ChainLink
	if x.owner != nil {
		links = make([]*v1.ChainLink, x.position+1)
		for at := x; at != nil; at = at.parent {
			links[at.position] = &v1.ChainLink{
				Delegator: at.issuer.String(), Delegate: at.delegate.String(), StatementId: bytes.Clone(at.id[:]),
				Depth: at.depth, ExpiresAtMs: at.expires, Capabilities: cloneCapabilities(at.caps),
			}
		}
		x.links.Store(&links)
	}
	return links
}

// Chain returns the statements as they were received, with the certificate of every signer inlined, so that it can be
// stored, relayed or sent over any connection. It is nil for the zero value.
func (x *Leaf) Chain() *v1.DelegationChain {
	if x.owner == nil {
		return nil
	}
	c := &v1.DelegationChain{Hops: make([]*v1.SignedStatement, x.position)}
	signers := make([][][]byte, x.position)
	for at := x; at != nil; at = at.parent {
		s := &v1.SignedStatement{Payload: bytes.Clone(at.statement.GetPayload()), Signature: bytes.Clone(at.statement.GetSignature())}
		if at.position == 0 {
			c.Grant = s
			continue
		}
		c.Hops[at.position-1] = s
		signers[at.position-1] = at.certs
	}
	for i, certs := range signers {
		c.Hops[i].CertRef = inline(c, certs)
	}
	return c
}

// inline adds a signer's certificates to c, unless they are there already, and returns their 1-based index.
func inline(c *v1.DelegationChain, certs [][]byte) uint32 {
	for i, have := range c.GetCerts() {
		if bytes.Equal(have.GetLeaf(), certs[0]) {
			return uint32(i + 1)
		}
	}
	added := &v1.CertChain{Leaf: bytes.Clone(certs[0])}
	for _, der := range certs[1:] {
		added.Intermediates = append(added.Intermediates, bytes.Clone(der))
	}
	c.Certs = append(c.Certs, added)
	return uint32(len(c.GetCerts())) //nolint:gosec // G115: at most one per hop, and hops are at most MaxHops.
}

func cloneCapabilities(caps []*v1.Capability) []*v1.Capability {
	out := make([]*v1.Capability, len(caps))
	for i, c := range caps {
		out[i] = proto.CloneOf(c)
	}
	return out
}
