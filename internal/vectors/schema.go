package vectors

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Format is the value of every file's format field.
const Format = "safeconduct-conformance/1"

// Allow is the code of a step that must pass. Refuse is the code of a step that must be refused, for whatever reason.
const (
	Allow  = "ALLOW"
	Refuse = "DENY"
)

// Hex is bytes that are lower-case hex in JSON.
type Hex []byte

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil {
		return fmt.Errorf("reading hex: %w", err)
	}
	*h = b
	return nil
}

// File is one file of vectors. What several of its vectors may use is in its tables, and vectors name it.
type File struct {
	Format     string                `json:"format"`
	Group      string                `json:"group"`
	Trust      map[string]*Trust     `json:"trust"`
	Presenters map[string]*Presenter `json:"presenters"`
	Blobs      map[string]Hex        `json:"blobs"`
	Chains     map[string]Pieces     `json:"chains"`
	Envelopes  map[string]*Digested  `json:"envelopes,omitempty"`
	Vectors    []*Vector             `json:"vectors"`
}

// Pieces are bytes in pieces, to be joined: hex, hex and how often it repeats behind a *, or the name of a blob behind an @.
type Pieces []string

// Join returns the bytes.
func (p Pieces) Join(blobs map[string]Hex) ([]byte, error) {
	var out []byte
	for _, piece := range p {
		if name, isBlob := strings.CutPrefix(piece, "@"); isBlob {
			if blobs[name] == nil {
				return nil, fmt.Errorf("joining a chain: no blob %q", name)
			}
			out = append(out, blobs[name]...)
			continue
		}
		text, times, repeats := strings.Cut(piece, "*")
		n := 1
		b, err := hex.DecodeString(text)
		if err == nil && repeats {
			n, err = strconv.Atoi(times)
		}
		if err != nil {
			return nil, fmt.Errorf("joining a chain: %w", err)
		}
		out = append(out, bytes.Repeat(b, n)...)
	}
	return out, nil
}

// Trust is what a verifier is configured with besides its own identity.
type Trust struct {
	Bundles   []*Bundle   `json:"bundles"`
	GrantKeys []*GrantKey `json:"grant_keys"`
}

// Bundle is the roots of one trust domain, DER. It may be empty.
type Bundle struct {
	TrustDomain string `json:"trust_domain"`
	Roots       []Hex  `json:"roots"`
}

// GrantKey is an Ed25519 key of an authority. It is valid from NotBeforeMs, inclusive, to NotAfterMs, exclusive.
type GrantKey struct {
	Issuer      string `json:"issuer"`
	KeyID       string `json:"key_id"`
	PublicKey   Hex    `json:"public_key"`
	NotBeforeMs int64  `json:"not_before_ms"`
	NotAfterMs  int64  `json:"not_after_ms"`
}

// Presenter is the verified other end of a connection. Leaf is empty when there is no connection.
type Presenter struct {
	ID     string `json:"spiffe_id"`
	Tenant string `json:"tenant"`
	Leaf   Hex    `json:"leaf"`
}

// Vector is one case: a fresh verifier that takes the steps in order.
type Vector struct {
	ID      string  `json:"id"`
	Row     int     `json:"row"`
	Title   string  `json:"title"`
	Control string  `json:"control,omitempty"`
	Trust   string  `json:"trust"`
	Self    string  `json:"self"`
	Steps   []*Step `json:"steps"`
}

// The operations of a step.
const (
	OpPresent = "present"
	OpResolve = "resolve"
)

// Step is one message. Every field that is empty is left out, apart from those that each step has.
type Step struct {
	Op         string   `json:"op"`
	NowMs      int64    `json:"now_ms"`
	Presenter  string   `json:"presenter"`
	Trust      string   `json:"trust,omitempty"`
	Restart    bool     `json:"restart,omitempty"`
	Revoked    []Hex    `json:"revoked,omitempty"`
	Connection string   `json:"connection,omitempty"`
	Chain      string   `json:"chain,omitempty"`
	Reference  Hex      `json:"reference,omitempty"`
	Sweep      *Sweep   `json:"sweep,omitempty"`
	Intent     *Intent  `json:"intent,omitempty"`
	Proof      *Proof   `json:"proof,omitempty"`
	Message    *Message `json:"message,omitempty"`
	Times      int      `json:"times,omitempty"`
	Expect     string   `json:"expect"`
	Leaf       *Leaf    `json:"leaf,omitempty"`
}

// Sweep stands for one chain for each bit of the bytes From to To, exclusive, of the step's chain, with that bit flipped.
type Sweep struct {
	From int `json:"from"`
	To   int `json:"to"`
}

// Intent is what the enforcement point derived from a request.
type Intent struct {
	Action   string   `json:"action"`
	Resource []string `json:"resource"`
	Purpose  string   `json:"purpose"`
	Facts    []*Fact  `json:"facts,omitempty"`
}

// Fact is one typed field of a request.
type Fact struct {
	Key   string `json:"key"`
	Value *Value `json:"value"`
}

// Value has one member, or none when it has no kind. Number is decimal, since JSON numbers above 2^53 are not exact everywhere.
type Value struct {
	Text   *string `json:"text,omitempty"`
	Number *string `json:"number,omitempty"`
	Flag   *bool   `json:"flag,omitempty"`
}

// Message is the replay part of a direct message. Key is what its id becomes in the replay store.
type Message struct {
	EnvelopeID Hex    `json:"envelope_id"`
	DeadlineMs int64  `json:"deadline_ms"`
	Via        string `json:"via,omitempty"`
	Key        Hex    `json:"key"`
}

// Leaf is what a verifier must find in a chain that it accepts.
type Leaf struct {
	StatementID Hex    `json:"statement_id"`
	Link        Hex    `json:"link"`
	ChainID     Hex    `json:"chain_id"`
	Issuer      string `json:"issuer"`
	Delegate    string `json:"delegate"`
	Depth       uint32 `json:"depth"`
	ExpiresMs   int64  `json:"expires_at_ms"`
}

// NotRun lists the rows of the matrix that no vector covers.
type NotRun struct {
	Format string    `json:"format"`
	Rows   []*Absent `json:"rows"`
}

// Absent is a row, or a part of one, that is run elsewhere, and why.
type Absent struct {
	Row      int    `json:"row"`
	Part     string `json:"part,omitempty"`
	WaitsFor string `json:"waits_for"`
}
