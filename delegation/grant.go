package delegation

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// NewGrant signs a grant. It fills in, inside p, what is empty of version, key_id, statement_nonce, chain_id and
// lineage_start_ms. It refuses with an *Error what Verify would refuse at any time: only the clock, revocation and the lineage
// limit of a deployment are left to the verifier.
func NewGrant(p *v1.GrantPayload, key ed25519.PrivateKey) (*v1.SignedStatement, error) {
	id, err := KeyID(publicKey(key))
	if err != nil {
		return nil, fmt.Errorf("new grant: %w", err)
	}
	fillGrant(p, id)
	if p.GetKeyId() != id {
		return nil, refusef(0, v1.Reason_REASON_CHAIN_KEY, "the key id is not the key's, %s", id)
	}
	payload, err := proto.Marshal(p)
	if err != nil {
		return nil, refuse(0, v1.Reason_REASON_CHAIN_NON_CANONICAL, err)
	}
	s := &v1.SignedStatement{Payload: payload, Signature: ed25519.Sign(key, PAE(TypeGrant, payload))}
	if _, err := measureStatement(s, 0); err != nil {
		return nil, err
	}
	d, err := parseGrant(s)
	if err != nil {
		return nil, err
	}
	if err := d.checkStructure(); err != nil {
		return nil, err
	}
	if err := d.checkLifetime(MaxLineage); err != nil {
		return nil, err
	}
	if err := d.checkNarrowing(); err != nil {
		return nil, err
	}
	if !isAuthority(d.issuer, d.root.trustDomain) {
		return nil, refusef(0, v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT, "the issuer is not the authority of the trust domain")
	}
	return s, nil
}

func fillGrant(p *v1.GrantPayload, keyID string) {
	if p.Version == 0 {
		p.Version = wireVersion
	}
	if p.KeyId == "" {
		p.KeyId = keyID
	}
	if len(p.StatementNonce) == 0 {
		p.StatementNonce = newNonce()
	}
	if len(p.ChainId) == 0 {
		p.ChainId = newNonce()
	}
	if p.LineageStartMs == 0 {
		p.LineageStartMs = p.IssuedAtMs
	}
}

func newNonce() []byte {
	b := make([]byte, nonceSize)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	return b
}
