package chaintext

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// readJSON goes by the names of the members: protobuf JSON says nothing of its type.
func readJSON(text []byte) (Found, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return Found{}, fmt.Errorf("%w: no JSON object", ErrNoChain)
	}
	has := func(names ...string) bool {
		for _, n := range names {
			if _, found := members[n]; found {
				return true
			}
		}
		return false
	}
	switch {
	case has("event"):
		return readEvent(members["event"])
	case has("presented"):
		return readEvent(text)
	case has("envelope"):
		return readEnvelope(members["envelope"])
	case isText(members["grant"]):
		return readIssued(members["grant"])
	case has("grant", "hops"):
		c := new(v1.DelegationChain)
		if err := unmarshalJSON(text, c); err != nil || !looksLikeChain(c) {
			return Found{}, noJSON("a chain")
		}
		return Found{Chain: c, Form: "JSON of a chain"}, nil
	case has("signature"):
		s := new(v1.SignedStatement)
		if err := unmarshalJSON(text, s); err != nil || !looksLikeGrant(s) {
			return Found{}, noJSON("a grant")
		}
		return grantFound(s, "JSON of a grant"), nil
	case has("chain", "chainRef", "chain_ref"):
		return readEnvelope(text)
	}
	return Found{}, fmt.Errorf("%w: a JSON object without a member that could hold one", ErrNoChain)
}

func unmarshalJSON(text []byte, m proto.Message) error {
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(text, m)
}

func noJSON(what string) error {
	return fmt.Errorf("%w: the JSON does not decode as %s", ErrNoChain, what)
}

func isText(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '"' }

func readEnvelope(text []byte) (Found, error) {
	e := new(v1.Envelope)
	if err := unmarshalJSON(text, e); err != nil {
		return Found{}, noJSON("an envelope")
	}
	return envelopeFound(e, "JSON of an envelope")
}

// readEvent reads the event of an audit record.
func readEvent(text []byte) (Found, error) {
	ev := new(v1.AuditEvent)
	if err := unmarshalJSON(text, ev); err != nil {
		return Found{}, noJSON("an audit record")
	}
	if ev.GetPresented() == nil {
		return Found{}, fmt.Errorf("%w: the audit record only names it; give its folder and number: --audit DIR --seq N", ErrNoChain)
	}
	return Found{Chain: ev.GetPresented(), Form: "JSON of an audit record", Reference: ev.GetChainRef()}, nil
}

// readIssued reads the member grant of what "grant --json" prints: base64 of the statement.
func readIssued(text []byte) (Found, error) {
	var encoded string
	if err := json.Unmarshal(text, &encoded); err != nil {
		return Found{}, noJSON("a grant")
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return Found{}, fmt.Errorf("%w: the member grant is no base64", ErrNoChain)
	}
	return readBinary(raw, "JSON")
}
