package delegation

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// draft is a decoded statement whose signature is not verified. It can only be refused, and what refuses it quotes none of its
// claims, since refusals are logged: the leaf in it has no owner, so no
// verifier accepts it, and it leaves the package in no other way than Verify and VerifyGrant.
type draft struct {
	*Leaf

	pae      []byte
	parentID []byte
	origin   bool
}

// parseGrant runs steps 5 and 6 on a grant: the strict profile, decoding, version, and what the profile cannot see.
func parseGrant(s *v1.SignedStatement) (*draft, error) {
	m := new(v1.GrantPayload)
	if err := decode(s, 0, grantTable, m); err != nil {
		return nil, err
	}
	if err := checkVersion(0, m.GetVersion(), m.GetCritical()); err != nil {
		return nil, err
	}
	d := newDraft(s, TypeGrant, nil)
	d.root = &root{
		principal: m.GetPrincipal(), taskID: m.GetTaskId(), trustDomain: m.GetTrustDomain(),
		keyIssuer: m.GetIssuer(), keyID: m.GetKeyId(), lineage: m.GetLineageStartMs(),
	}
	d.origin = m.GetOrigin() != nil
	d.depth, d.maxDepth, d.tenant = m.GetDepthUsed(), m.GetMaxDepth(), m.GetTenant()
	d.caps, d.delegates = m.GetCapabilities(), m.GetDelegates()
	d.issued, d.notBefore, d.expires = m.GetIssuedAtMs(), m.GetNotBeforeMs(), m.GetExpiresAtMs()
	d.lastIssued = d.issued
	err := d.fill(m.GetChainId(), m.GetPurposeDigest(), m.GetStatementNonce(), m.GetIssuer(), m.GetDelegate())
	if err != nil {
		return nil, err
	}
	if err := d.fillHistory(m); err != nil {
		return nil, err
	}
	p := m.GetPrincipal()
	if p.GetType() == v1.Principal_TYPE_UNSPECIFIED || p.GetSubject() == "" || p.GetIssuer() == "" {
		return nil, refusef(0, malformed, "the principal is incomplete")
	}
	if _, err := identity.ParseAgent("spiffe://" + m.GetTrustDomain() + "/tenant/" + m.GetTenant() + "/agent/a"); err != nil {
		return nil, refusef(0, malformed, "trust domain or tenant is no name")
	}
	return d, nil
}

// parseHop runs steps 5 and 6 on the hop below parent.
func parseHop(s *v1.SignedStatement, parent *Leaf) (*draft, error) {
	position := parent.position + 1
	m := new(v1.HopPayload)
	if err := decode(s, position, hopTable, m); err != nil {
		return nil, err
	}
	if err := checkVersion(position, m.GetVersion(), m.GetCritical()); err != nil {
		return nil, err
	}
	d := newDraft(s, TypeHop, parent)
	d.root, d.parentID = parent.root, m.GetParentId()
	d.depth, d.maxDepth, d.tenant = m.GetDepth(), m.GetMaxDepth(), m.GetTenant()
	d.caps, d.delegates = m.GetCapabilities(), m.GetDelegates()
	d.issued, d.notBefore, d.expires = m.GetIssuedAtMs(), m.GetNotBeforeMs(), m.GetExpiresAtMs()
	d.lastIssued = max(d.issued, parent.lastIssued)
	err := d.fill(m.GetChainId(), m.GetPurposeDigest(), m.GetStatementNonce(), m.GetIssuer(), m.GetDelegate())
	if err != nil {
		return nil, err
	}
	if len(d.delegates) == 0 && d.maxDepth > d.depth {
		return nil, refusef(position, malformed, "no delegates above the maximum depth")
	}
	return d, nil
}

// newDraft copies the statement, which the caller of the package may change later.
func newDraft(s *v1.SignedStatement, payloadType string, parent *Leaf) *draft {
	pae := PAE(payloadType, s.GetPayload())
	d := &draft{pae: pae, Leaf: &Leaf{
		parent: parent,
		statement: &v1.SignedStatement{
			Payload: pae[len(pae)-len(s.GetPayload()):], Signature: bytes.Clone(s.GetSignature()),
		},
	}}
	d.id = idOf(pae)
	if parent != nil {
		d.position = parent.position + 1
	}
	return d
}

// decode scans before it decodes. What the scanner accepts does decode; malformed stands for a gap between the two.
func decode(s *v1.SignedStatement, position int, table *message, m proto.Message) error {
	bad := table.scan(s.GetPayload(), 0)
	if bad.reason != 0 || proto.Unmarshal(s.GetPayload(), m) != nil {
		return refuse(position, cmp.Or(bad.reason, malformed), bad)
	}
	return nil
}

// checkVersion is step 6. This build knows version 1 and no extension.
func checkVersion(position int, version uint32, critical []string) error {
	if version != wireVersion || len(critical) > 0 {
		return refusef(position, v1.Reason_REASON_CHAIN_VERSION, "a version or extension that is not known")
	}
	return nil
}

// fill converts the claims that are bytes or names on the wire, and checks capabilities and delegates for sense.
func (d *draft) fill(chainID, purpose, nonce []byte, issuer, delegate string) error {
	if len(chainID) != nonceSize || len(purpose) != digestSize || len(nonce) != nonceSize {
		return refusef(d.position, malformed, "chain id, purpose digest or nonce is missing")
	}
	d.chainID, d.purpose = [16]byte(chainID), [32]byte(purpose)
	var issuerErr, delegateErr error
	d.issuer, issuerErr = identity.ParseAgent(issuer)
	d.delegate, delegateErr = identity.ParseAgent(delegate)
	if issuerErr != nil || delegateErr != nil {
		return refusef(d.position, malformed, "issuer or delegate is no agent or service")
	}
	for _, c := range d.caps {
		if reason, err := checkCapability(c); reason != none {
			return refuse(d.position, reason, err)
		}
	}
	if !all(d.delegates, identity.ValidDelegatePattern) {
		return refuse(d.position, malformed, errors.New("delegates: not an identity or a tenant's agents"))
	}
	return nil
}

func all(list []string, valid func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !valid(s) })
}
