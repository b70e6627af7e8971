package chaintext

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	signatureSize = 64
	// maxHopsShown bounds what is decoded of a chain that is over the bounds of the format.
	maxHopsShown = delegation.MaxHops
)

// Options are what Describe holds a chain against.
type Options struct {
	// At is what lifetimes are told relative to.
	At time.Time
	// Purpose is compared with the purpose digests, unless it is nil.
	Purpose *string
	// GrantKey finds the key that the chain reference depends on; nil finds none.
	GrantKey func(issuer, keyID string) (ed25519.PublicKey, bool)
}

// View is what a chain claims. Nothing in it is verified, and claimed texts are bounded but not made visible: Text does that.
type View struct {
	Verified    bool        `json:"verified"` // always false
	Form        string      `json:"form"`
	At          time.Time   `json:"at"`
	ChainID     string      `json:"chain_id"`
	TrustDomain string      `json:"trust_domain"`
	Tenant      string      `json:"tenant"`
	Principal   Principal   `json:"principal"`
	TaskID      string      `json:"task_id,omitempty"`
	Purpose     string      `json:"purpose_sha256"`
	PurposeIs   string      `json:"purpose_given,omitempty"` // matches, differs, empty when none was given
	Reference   string      `json:"reference,omitempty"`
	Bytes       int         `json:"bytes"`
	CertBytes   int         `json:"certificate_bytes"`
	HopCount    int         `json:"hops"`
	CertCount   int         `json:"certificates"`
	Statements  []Statement `json:"statements"`
	Renewals    []Past      `json:"history,omitempty"`
	DepthUsed   uint32      `json:"depth_used,omitempty"`
	Origin      string      `json:"origin,omitempty"`
}

// Principal is on whose behalf the chain claims to act.
type Principal struct {
	Type    string `json:"type"`
	Subject string `json:"subject"`
	Issuer  string `json:"issuer"`
}

// Past is an actor of an earlier grant of the chain.
type Past struct {
	Actor string `json:"actor"`
	Depth uint32 `json:"depth"`
}

// Describe decodes what it can of the chain.
func Describe(f Found, o Options) View {
	c := f.Chain
	v := View{
		Form: f.Form, At: o.At.UTC(), Bytes: proto.Size(c), HopCount: len(c.GetHops()), CertCount: len(c.GetCerts()),
		Reference: hex.EncodeToString(clipBytes(f.Reference, digestSize)), Statements: []Statement{},
	}
	for _, cert := range c.GetCerts() {
		v.CertBytes += proto.Size(cert)
	}
	if f.Raw != nil {
		v.Bytes = len(f.Raw)
	}
	var last *Statement
	if s := c.GetGrant(); s != nil {
		g := new(v1.GrantPayload)
		broken := proto.Unmarshal(s.GetPayload(), g) != nil
		if broken {
			g = new(v1.GrantPayload)
		}
		v.fill(g, o)
		v.Statements = append(v.Statements, grantStatement(s, g, broken))
		last = &v.Statements[0]
		if v.Reference == "" && o.GrantKey != nil {
			if key, found := o.GrantKey(g.GetIssuer(), g.GetKeyId()); found {
				v.Reference = reference(c, key)
			}
		}
	}
	for i, h := range c.GetHops() {
		if i == maxHopsShown {
			break
		}
		v.Statements = append(v.Statements, hopStatement(c, i, h, last))
		last = &v.Statements[len(v.Statements)-1]
	}
	return v
}

// reference is empty when it depends on something that is not in the chain.
func reference(c *v1.DelegationChain, key ed25519.PublicKey) string {
	ref, err := delegation.ClaimedReference(c, key)
	if err != nil {
		return ""
	}
	return hex.EncodeToString(ref[:])
}

const digestSize = sha256.Size

// fill takes what only the grant says.
func (v *View) fill(g *v1.GrantPayload, o Options) {
	p := g.GetPrincipal()
	v.ChainID = hexOf(g.GetChainId())
	v.TrustDomain, v.Tenant, v.TaskID = clip(g.GetTrustDomain(), maxField), clip(g.GetTenant(), maxField), clip(g.GetTaskId(), maxField)
	v.Principal = Principal{principalType(p.GetType()), clip(p.GetSubject(), maxField), clip(p.GetIssuer(), maxField)}
	v.Purpose, v.DepthUsed = hexOf(g.GetPurposeDigest()), g.GetDepthUsed()
	if o.Purpose != nil && len(g.GetPurposeDigest()) > 0 {
		v.PurposeIs = "differs"
		if sum := sha256.Sum256([]byte(*o.Purpose)); string(sum[:]) == string(g.GetPurposeDigest()) {
			v.PurposeIs = "matches"
		}
	}
	for i, past := range g.GetHistory() {
		if i == delegation.MaxHistory {
			break
		}
		v.Renewals = append(v.Renewals, Past{clip(past.GetActor(), maxField), past.GetDepth()})
	}
	if origin := g.GetOrigin(); origin != nil {
		v.Origin = clip(origin.GetTrustDomain()+" tenant "+origin.GetTenant(), maxField)
	}
}

func principalType(t v1.Principal_Type) string {
	switch t {
	case v1.Principal_TYPE_USER:
		return "user"
	case v1.Principal_TYPE_SERVICE:
		return "service"
	case v1.Principal_TYPE_SELF:
		return "self"
	default:
		return "unknown"
	}
}

// hexOf bounds a claimed id, which is at most a digest.
func hexOf(b []byte) string {
	s := hex.EncodeToString(clipBytes(b, digestSize))
	if len(b) > digestSize {
		s += "..."
	}
	return s
}
