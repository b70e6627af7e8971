package chaintext

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Statement is what the grant or a hop claims.
type Statement struct {
	Position     int          `json:"position"`
	Issuer       string       `json:"issuer"`
	Delegate     string       `json:"delegate"`
	Depth        uint32       `json:"depth"`
	MaxDepth     uint32       `json:"max_depth"`
	Issued       Moment       `json:"issued"`
	NotBefore    Moment       `json:"not_before"`
	Expires      Moment       `json:"expires"`
	Capabilities []Capability `json:"capabilities"`
	Dropped      []string     `json:"dropped,omitempty"` // of the statement before, and not passed on
	Delegates    []string     `json:"delegates"`
	KeyID        string       `json:"key_id,omitempty"` // of a grant
	Signer       *Signer      `json:"signer,omitempty"` // of a hop; nil is the presenter of the chain
	ID           string       `json:"statement_id"`
	Bytes        int          `json:"bytes"`
	// Notes say in words what does not fit: each is a reason for a verifier to refuse.
	Notes []string `json:"notes,omitempty"`

	caps    []*v1.Capability
	id      [digestSize]byte
	chainID string
	purpose string
	tenant  string
}

// Moment is a claimed time. Text is RFC 3339, or the number when it is no time.
type Moment struct {
	Ms   int64  `json:"ms"`
	Text string `json:"time"`
}

// endOfTime is where the format ends, 2100-01-01 in milliseconds: later times are mistakes or overflows.
const endOfTime = 4102444800000

func moment(ms int64) Moment {
	if ms <= 0 || ms >= endOfTime {
		return Moment{ms, fmt.Sprintf("%d ms (no time)", ms)}
	}
	return Moment{ms, time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.999Z07:00")}
}

func (m Moment) valid() bool { return m.Ms > 0 && m.Ms < endOfTime }

// Signer is the certificate that a hop refers to.
type Signer struct {
	ID       string    `json:"id"`
	NotAfter time.Time `json:"not_after"`
	Serial   string    `json:"serial"`
	Key      string    `json:"key"`
	CertID   string    `json:"cert_sha256"`
	Bytes    int       `json:"bytes"`
}

func grantStatement(s *v1.SignedStatement, g *v1.GrantPayload, broken bool) Statement {
	out := Statement{
		Issuer: clip(g.GetIssuer(), maxField), Delegate: clip(g.GetDelegate(), maxField), Depth: g.GetDepthUsed(), MaxDepth: g.GetMaxDepth(),
		Issued: moment(g.GetIssuedAtMs()), NotBefore: moment(g.GetNotBeforeMs()), Expires: moment(g.GetExpiresAtMs()),
		KeyID: clip(g.GetKeyId(), maxField), caps: g.GetCapabilities(), chainID: string(g.GetChainId()),
		purpose: string(g.GetPurposeDigest()), tenant: g.GetTenant(),
	}
	out.Delegates = delegates(g.GetDelegates())
	out.Capabilities = granted(out.caps)
	out.common(s, delegation.TypeGrant, g, broken, g.GetVersion(), g.GetCritical())
	return out
}

func hopStatement(c *v1.DelegationChain, i int, s *v1.SignedStatement, parent *Statement) Statement {
	h := new(v1.HopPayload)
	broken := proto.Unmarshal(s.GetPayload(), h) != nil
	if broken {
		h = new(v1.HopPayload)
	}
	out := Statement{
		Position: i + 1, Issuer: clip(h.GetIssuer(), maxField), Delegate: clip(h.GetDelegate(), maxField), Depth: h.GetDepth(), MaxDepth: h.GetMaxDepth(),
		Issued: moment(h.GetIssuedAtMs()), NotBefore: moment(h.GetNotBeforeMs()), Expires: moment(h.GetExpiresAtMs()),
		caps: h.GetCapabilities(), chainID: string(h.GetChainId()), purpose: string(h.GetPurposeDigest()), tenant: h.GetTenant(),
	}
	out.Delegates = delegates(h.GetDelegates())
	out.Capabilities, out.Dropped = passed(parentCaps(parent), out.caps, h.GetDepth())
	out.common(s, delegation.TypeHop, h, broken, h.GetVersion(), h.GetCritical())
	if !broken {
		out.continues(h, parent)
	}
	out.signer(c.GetCerts(), s.GetCertRef())
	return out
}

func parentCaps(parent *Statement) []*v1.Capability {
	if parent == nil {
		return nil
	}
	return parent.caps
}

func (s *Statement) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

// common is what the bytes of any statement say.
func (s *Statement) common(signed *v1.SignedStatement, payloadType string, m proto.Message, broken bool, version uint32, critical []string) {
	s.Bytes = len(signed.GetPayload())
	s.id = delegation.StatementID(payloadType, signed.GetPayload())
	s.ID = hex.EncodeToString(s.id[:])
	if n := len(signed.GetSignature()); n != signatureSize {
		s.note("the signature has %d bytes, not %d", n, signatureSize)
	}
	switch {
	case broken:
		s.note("the payload does not decode")
		return
	case len(m.ProtoReflect().GetUnknown()) > 0:
		s.note("the payload has fields that are not known")
	}
	if version != 1 || len(critical) > 0 {
		s.note("version %d, with %s that a verifier must know", version, count(len(critical), "extension"))
	}
}

// continues says where a hop does not hang on the statement before it.
func (s *Statement) continues(h *v1.HopPayload, parent *Statement) {
	if parent == nil {
		s.note("nothing comes before it")
		return
	}
	if string(h.GetParentId()) != string(parent.id[:]) {
		s.note("names another statement than the one before as its parent")
	}
	if s.chainID != parent.chainID {
		s.note("is of another chain id: %s", hexOf(h.GetChainId()))
	}
	if s.Issuer != parent.Delegate {
		s.note("its issuer is not the delegate of the statement before")
	}
	if uint64(s.Depth) != uint64(parent.Depth)+1 {
		s.note("its depth is not one more than the depth before it")
	}
	if s.MaxDepth > parent.MaxDepth {
		s.note("raises the maximum depth from %d", parent.MaxDepth)
	}
	if s.tenant != parent.tenant {
		s.note("is of another tenant: %s", word(s.tenant))
	}
	if s.purpose != parent.purpose {
		s.note("is for another purpose: sha256 %s", hexOf(h.GetPurposeDigest()))
	}
	if s.NotBefore.Ms < parent.NotBefore.Ms || s.Expires.Ms > parent.Expires.Ms {
		s.note("lives outside the life of the statement before")
	}
}

// signer reads the certificate that ref names, 1-based; 0 is the certificate of the connection.
func (s *Statement) signer(certs []*v1.CertChain, ref uint32) {
	if ref == 0 {
		return
	}
	if uint64(ref) > uint64(len(certs)) {
		s.note("refers to certificate %d of %d", ref, len(certs))
		return
	}
	der := certs[ref-1].GetLeaf()
	sum := sha256.Sum256(der)
	s.Signer = &Signer{CertID: hex.EncodeToString(sum[:]), Bytes: len(der)}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		s.note("the certificate of its signer does not parse")
		return
	}
	s.Signer.NotAfter, s.Signer.Key = cert.NotAfter.UTC(), cert.PublicKeyAlgorithm.String()
	s.Signer.Serial = clip(fmt.Sprintf("%x", cert.SerialNumber), maxSerial)
	var ids []string
	for i, uri := range cert.URIs {
		if i == maxNames {
			break
		}
		ids = append(ids, uri.String())
	}
	s.Signer.ID = clip(strings.Join(ids, " "), maxField)
	if s.Signer.ID != s.Issuer {
		s.note("the certificate is not its issuer's")
	}
}

const (
	// maxNames bounds the names of one certificate; an SVID has one.
	maxNames = 3
	// maxSerial bounds a serial number in hex: RFC 5280 allows 20 bytes.
	maxSerial = 40
)

func delegates(patterns []string) []string {
	out := []string{}
	for i, p := range patterns {
		if i == delegation.MaxDelegates {
			return append(out, fmt.Sprintf("(%d more)", len(patterns)-i))
		}
		out = append(out, clip(p, maxField))
	}
	return out
}
