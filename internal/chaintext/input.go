package chaintext

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// MaxInput bounds what Read looks at: the 16 KiB of a chain are 32 KiB as hex; the rest is for line ends and for the fields of an
// envelope around the chain. A chain over its own bound is still read, so that the verifier can say so.
const MaxInput = 3 * delegation.MaxChainBytes

var (
	// ErrNoChain is wrapped when the input holds no chain in any form that Read knows.
	ErrNoChain = errors.New("no delegation chain")
	// ErrTooLarge is wrapped for input over MaxInput.
	ErrTooLarge = errors.New("too large for a delegation chain")
)

// Found is a chain as it was found. Nothing in it is verified.
type Found struct {
	Chain *v1.DelegationChain
	// Raw is the chain's own bytes, nil where they were not kept: in JSON, and inside other messages.
	Raw []byte
	// Form says in a few words what the chain was found as.
	Form string
	// Reference is the chain reference that a record names, empty when nothing names one.
	Reference []byte
}

// IsGrant reports whether there are no hops: the authority of one agent, which nobody presents.
func (f Found) IsGrant() bool { return f.Chain.GetGrant() != nil && len(f.Chain.GetHops()) == 0 }

// Read finds the chain in raw. It knows a DelegationChain, a grant as "safeconduct grant" writes it, and an Envelope, each as
// protobuf, hex, base64 (standard or URL, padded or not), PEM or protobuf JSON, the JSON of "safeconduct grant --json", of "agent
// envelope" and a line of "audit show --json". Errors wrap ErrNoChain or ErrTooLarge.
func Read(raw []byte) (Found, error) {
	if len(raw) > MaxInput {
		return Found{}, fmt.Errorf("%w: over %d bytes", ErrTooLarge, MaxInput)
	}
	if f, err := readBinary(raw, ""); err == nil || !printable(raw) {
		return f, err
	}
	text := bytes.TrimSpace(raw)
	switch {
	case len(text) == 0:
		return Found{}, fmt.Errorf("%w: the input is empty", ErrNoChain)
	case text[0] == '{' || text[0] == '[':
		return readJSON(text)
	case bytes.HasPrefix(text, []byte("-----BEGIN ")):
		return readPEM(text)
	}
	return readText(text)
}

// printable tells text from binary: what a person can have copied and pasted.
func printable(raw []byte) bool {
	return !bytes.ContainsFunc(raw, func(r rune) bool { return r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == 0x7f || r == 0xfffd })
}

func readPEM(text []byte) (Found, error) {
	block, _ := pem.Decode(text)
	switch {
	case block == nil:
		return Found{}, fmt.Errorf("%w: the PEM block is damaged", ErrNoChain)
	case strings.Contains(block.Type, "KEY") || strings.Contains(block.Type, "CERTIFICATE"):
		return Found{}, fmt.Errorf("%w: the PEM block is a key or a certificate", ErrNoChain)
	}
	return readBinary(block.Bytes, "PEM")
}

// readText tries hex before base64: every hex text is a base64 text too, but never of a chain.
func readText(text []byte) (Found, error) {
	compact := strings.Join(strings.Fields(string(text)), "")
	if raw, err := hex.DecodeString(strings.TrimPrefix(compact, "0x")); err == nil {
		if f, err := readBinary(raw, "hex"); err == nil {
			return f, nil
		}
	}
	plain := strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(compact), "=")
	raw, err := base64.RawStdEncoding.DecodeString(plain)
	if err != nil {
		return Found{}, fmt.Errorf("%w: text that is neither JSON, PEM, hex nor base64", ErrNoChain)
	}
	return readBinary(raw, "base64")
}

// readBinary tells the three messages apart. A decoder takes almost anything for any message and keeps the rest as unknown fields,
// so each must hold something that looks like a statement.
func readBinary(raw []byte, encoding string) (Found, error) {
	form := func(what string) string {
		if encoding == "" {
			return what
		}
		return encoding + " of " + what
	}
	c := new(v1.DelegationChain)
	if proto.Unmarshal(raw, c) == nil && looksLikeChain(c) {
		return Found{Chain: c, Raw: raw, Form: form("a chain")}, nil
	}
	s := new(v1.SignedStatement)
	if proto.Unmarshal(raw, s) == nil && looksLikeGrant(s) {
		return grantFound(s, form("a grant")), nil
	}
	e := new(v1.Envelope)
	if proto.Unmarshal(raw, e) == nil && (e.GetChain() != nil || len(e.GetChainRef()) == len([32]byte{})) {
		return envelopeFound(e, form("an envelope"))
	}
	return Found{}, fmt.Errorf("%w: %d bytes%s that are neither a chain, a grant nor an envelope, or cut short", ErrNoChain, len(raw), from(encoding))
}

func from(encoding string) string {
	if encoding == "" {
		return ""
	}
	return " out of " + encoding
}

// grantFound is a grant as the chain of no hops that it begins.
func grantFound(s *v1.SignedStatement, form string) Found {
	return Found{Chain: &v1.DelegationChain{Grant: s}, Form: form}
}

func envelopeFound(e *v1.Envelope, form string) (Found, error) {
	if c := e.GetChain(); c != nil {
		return Found{Chain: c, Form: form, Reference: e.GetChainRef()}, nil
	}
	return Found{}, fmt.Errorf("%w: the envelope names it by reference %x; it was presented earlier on that connection, and the receiver's audit log may hold it",
		ErrNoChain, clipBytes(e.GetChainRef(), len([32]byte{})))
}

// looksLikeChain wants one statement that has the form of one, whatever state the others are in.
func looksLikeChain(c *v1.DelegationChain) bool {
	if looksLikeGrant(c.GetGrant()) {
		return true
	}
	for i, h := range c.GetHops() {
		if i == maxHopsShown {
			break
		}
		if len(h.GetPayload()) > 0 && len(h.GetSignature()) == signatureSize {
			return true
		}
		p := new(v1.HopPayload)
		if len(h.GetPayload()) > 0 && proto.Unmarshal(h.GetPayload(), p) == nil && p.GetIssuer() != "" && p.GetDelegate() != "" {
			return true
		}
	}
	return false
}

// looksLikeGrant forgives a damaged payload under a signature of the right size, and a damaged signature over a whole payload.
func looksLikeGrant(s *v1.SignedStatement) bool {
	if len(s.GetPayload()) == 0 {
		return false
	}
	if len(s.GetSignature()) == signatureSize {
		return true
	}
	p := new(v1.GrantPayload)
	return proto.Unmarshal(s.GetPayload(), p) == nil && p.GetIssuer() != "" && p.GetDelegate() != ""
}
