package delegation

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// ParseChain decodes a DelegationChain and refuses what the strict wire profile refuses of its frame. Statements are scanned
// by Verify, when they are not known already.
func ParseChain(raw []byte) (*v1.DelegationChain, error) {
	if len(raw) > MaxChainBytes {
		return nil, refusef(whole, v1.Reason_REASON_CHAIN_TOO_LARGE, "a chain of %d bytes", len(raw))
	}
	c := new(v1.DelegationChain)
	if err := decode(&v1.SignedStatement{Payload: raw}, whole, chainTable, c); err != nil {
		return nil, err
	}
	return c, nil
}

// frame is one chain as received. It lives on the stack of Verify.
type frame struct {
	presenter identity.AgentID
	own       bool // a grant of this process: nobody presents it, nobody pays for it
	held      bool // the presenter is the last delegate, who renews it
	grant     *v1.SignedStatement
	hops      []*v1.SignedStatement
	signers   [MaxHops]signer
	badRefs   error // found early because the cache compares certificates, reported in step 7
}

// signer is the claimed certificate of one hop.
type signer struct {
	leaf          []byte
	parsed        *x509.Certificate // of a TLS peer
	intermediates [][]byte
	id            [32]byte // set by hash, like key
	key           [32]byte // of the certificate cache
}

// measure is step 1: sizes and counts, before anything is parsed or hashed. It also refuses what a decoder kept without
// understanding it.
func (f *frame) measure(c *v1.DelegationChain) error {
	tooLarge := v1.Reason_REASON_CHAIN_TOO_LARGE
	if len(c.GetHops()) > MaxHops || len(c.GetCerts()) > maxCerts {
		return refusef(whole, tooLarge, "%d hops and %d certificates", len(c.GetHops()), len(c.GetCerts()))
	}
	if c.GetGrant() == nil {
		return refusef(0, v1.Reason_REASON_CHAIN_UNTRUSTED_ROOT, "no grant")
	}
	f.grant, f.hops = c.GetGrant(), c.GetHops()
	size, err := measureStatement(f.grant, 0)
	for i, h := range f.hops {
		if err != nil {
			return err
		}
		var n int
		n, err = measureStatement(h, i+1)
		size += n
	}
	for _, cert := range c.GetCerts() {
		if err != nil {
			return err
		}
		var n int
		n, err = measureCerts(cert)
		size += n
	}
	switch {
	case err != nil:
		return err
	case size > MaxChainBytes:
		return refusef(whole, tooLarge, "a chain of %d bytes", size)
	case hasUnknown(c):
		return refusef(whole, v1.Reason_REASON_CHAIN_NON_CANONICAL, "unknown fields")
	}
	return nil
}

// measureStatement returns the size of a statement as a field of its chain.
func measureStatement(s *v1.SignedStatement, position int) (int, error) {
	switch {
	case len(s.GetPayload()) > MaxPayloadBytes:
		return 0, refusef(position, v1.Reason_REASON_CHAIN_TOO_LARGE, "a payload of %d bytes", len(s.GetPayload()))
	case len(s.GetSignature()) != sigSize || len(s.GetPayload()) == 0 || (position == 0 && s.GetCertRef() != 0):
		return 0, refusef(position, malformed, "not a signed statement")
	case hasUnknown(s):
		return 0, refusef(position, v1.Reason_REASON_CHAIN_NON_CANONICAL, "unknown fields")
	}
	size := fieldSize(len(s.GetPayload())) + fieldSize(sigSize)
	if ref := s.GetCertRef(); ref != 0 {
		size += 1 + protowire.SizeVarint(uint64(ref))
	}
	return fieldSize(size), nil
}

func measureCerts(c *v1.CertChain) (int, error) {
	size := fieldSize(len(c.GetLeaf()))
	large := len(c.GetLeaf()) > MaxCertBytes || len(c.GetIntermediates()) > MaxIntermediates
	empty := len(c.GetLeaf()) == 0
	for _, der := range c.GetIntermediates() {
		large = large || len(der) > MaxCertBytes
		empty = empty || len(der) == 0
		size += fieldSize(len(der))
	}
	switch {
	case large:
		return 0, refusef(whole, v1.Reason_REASON_CHAIN_TOO_LARGE, "certificates")
	case empty:
		return 0, refusef(whole, malformed, "an empty certificate")
	case hasUnknown(c):
		return 0, refusef(whole, v1.Reason_REASON_CHAIN_NON_CANONICAL, "unknown fields")
	}
	return fieldSize(size), nil
}

// fieldSize is the size of a length-delimited field with a number below 16.
func fieldSize(n int) int { return 1 + protowire.SizeBytes(n) }

func hasUnknown(m proto.Message) bool { return len(m.ProtoReflect().GetUnknown()) > 0 }

// bind finds the certificate of every hop. Reference 0 is the leaf of the TLS peer, who can have signed the last
// hop only: the signers of a chain are all different. Every certificate is some hop's, and none is there twice.
func (f *frame) bind(certs []*v1.CertChain, p identity.Peer) {
	used := 0
	for i, h := range f.hops {
		s := &f.signers[i]
		ref := h.GetCertRef()
		switch {
		case ref == 0 && p.Leaf != nil && i == len(f.hops)-1:
			s.leaf, s.parsed = p.Leaf.Raw, p.Leaf
		case ref == 0 || uint64(ref) > uint64(len(certs)):
			f.badRefs = refusef(i+1, malformed, "a certificate reference that is none")
			return
		default:
			used |= 1 << ref
			s.leaf, s.intermediates = certs[ref-1].GetLeaf(), certs[ref-1].GetIntermediates()
			for j := range i {
				if bytes.Equal(f.signers[j].leaf, s.leaf) {
					f.badRefs = refuse(i+1, malformed, errors.New("a certificate twice"))
				}
			}
		}
	}
	if used != 1<<(len(certs)+1)-2 {
		f.badRefs = refuse(whole, malformed, errors.New("a certificate that no hop refers to"))
	}
}

// statement returns the d-th statement, the grant first.
func (f *frame) statement(d int) *v1.SignedStatement {
	if d == 0 {
		return f.grant
	}
	return f.hops[d-1]
}

// startsWith reports whether the chain begins with the statements of x, byte for byte, signed under the same certificates.
func (f *frame) startsWith(x *Leaf) bool {
	if x.position > len(f.hops) {
		return false
	}
	for at := x; at != nil; at = at.parent {
		s := f.statement(at.position)
		if !bytes.Equal(s.GetPayload(), at.statement.GetPayload()) || !bytes.Equal(s.GetSignature(), at.statement.GetSignature()) {
			return false
		}
		if at.position > 0 && !f.signers[at.position-1].is(at.certs) {
			return false
		}
	}
	return true
}

// is reports whether s presents these certificates, leaf first.
func (s *signer) is(certs [][]byte) bool {
	return bytes.Equal(s.leaf, certs[0]) && slices.EqualFunc(s.intermediates, certs[1:], bytes.Equal)
}

func (s *signer) hash() {
	s.id = sha256.Sum256(s.leaf)
	s.key = certsKey(s.id, s.intermediates)
}

// certs returns copies of what the hop's signer presented.
func (s *signer) certs() [][]byte {
	list := make([][]byte, 0, 1+len(s.intermediates))
	list = append(list, bytes.Clone(s.leaf))
	for _, der := range s.intermediates {
		list = append(list, bytes.Clone(der))
	}
	return list
}
