package chaintext_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/chaintext"
)

func protoJSON(t *testing.T, m proto.Message) []byte {
	t.Helper()
	raw, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// folded breaks text as people's mail programs do.
func folded(s string) []byte {
	var b strings.Builder
	for len(s) > 70 {
		b.WriteString(s[:70] + "\r\n  ")
		s = s[70:]
	}
	return []byte(b.String() + s + "\n")
}

func TestRead(t *testing.T) {
	w := newWorld(t)
	chain := w.good().c
	grant := w.grant().c.GetGrant()
	raw, rawGrant := marshal(t, chain), marshal(t, grant)
	envelope := &v1.Envelope{
		Kind: v1.FrameKind_FRAME_KIND_OPEN, Call: 3, Payload: []byte("payload"), Id: make([]byte, 16), Method: "/a.B/C", Chain: chain,
	}
	event := &v1.AuditEvent{Kind: v1.EventKind_EVENT_KIND_CALL, ChainRef: digest("ref"), Presented: chain}
	issued, err := json.Marshal(map[string]string{"grant": base64.StdEncoding.EncodeToString(rawGrant), "chain_id": "00", "expires_at": "2026-03-01T12:15:00Z"})
	if err != nil {
		t.Fatal(err)
	}
	record := append(append([]byte(`{"log_id":"00","seq":4,"event":`), protoJSON(t, event)...), '}')
	only := &v1.DelegationChain{Grant: grant}
	tests := []struct {
		name string
		in   []byte
		want *v1.DelegationChain
		form string
	}{
		{"binary chain", raw, chain, "a chain"},
		{"binary grant", rawGrant, only, "a grant"},
		{"chain of a grant only", marshal(t, only), only, "a chain"},
		{"binary envelope", marshal(t, envelope), chain, "an envelope"},
		{"base64", []byte(base64.StdEncoding.EncodeToString(raw)), chain, "base64 of a chain"},
		{"base64, folded", folded(base64.StdEncoding.EncodeToString(raw)), chain, "base64 of a chain"},
		{"base64, no padding", []byte(base64.RawStdEncoding.EncodeToString(rawGrant)), only, "base64 of a grant"},
		{"base64url", []byte(base64.URLEncoding.EncodeToString(raw)), chain, "base64 of a chain"},
		{"base64url, no padding", []byte(base64.RawURLEncoding.EncodeToString(raw)), chain, "base64 of a chain"},
		{"hex", []byte(hex.EncodeToString(raw)), chain, "hex of a chain"},
		{"hex, upper case, folded, 0x", append([]byte("0x"), folded(strings.ToUpper(hex.EncodeToString(raw)))...), chain, "hex of a chain"},
		{"hex of an envelope", []byte(hex.EncodeToString(marshal(t, envelope))), chain, "hex of an envelope"},
		{"PEM", pem.EncodeToMemory(&pem.Block{Type: "SAFECONDUCT CHAIN", Bytes: raw}), chain, "PEM of a chain"},
		{"JSON chain", protoJSON(t, chain), chain, "JSON of a chain"},
		{"JSON grant", protoJSON(t, grant), only, "JSON of a grant"},
		{"JSON envelope", protoJSON(t, envelope), chain, "JSON of an envelope"},
		{"JSON request beside an envelope", append(append([]byte(`{"ns":{}, "envelope":`), protoJSON(t, envelope)...), '}'), chain, "JSON of an envelope"},
		{"JSON of grant --json", issued, only, "JSON of a grant"},
		{"JSON of an audit record", record, chain, "JSON of an audit record"},
		{"JSON of an audit event", protoJSON(t, event), chain, "JSON of an audit record"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := chaintext.Read(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if !proto.Equal(f.Chain, tt.want) || f.Form != tt.form {
				t.Errorf("form %q, chain %v", f.Form, f.Chain)
			}
			if f.IsGrant() != (len(tt.want.GetHops()) == 0) {
				t.Errorf("is a grant: %t", f.IsGrant())
			}
		})
	}
}

func TestReadRefuses(t *testing.T) {
	w := newWorld(t)
	raw := marshal(t, w.good().c)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: w.ca.Raw})
	tests := []struct {
		name string
		in   []byte
		want error
		says string
	}{
		{"nothing", nil, chaintext.ErrNoChain, "empty"},
		{"white space", []byte(" \n\t"), chaintext.ErrNoChain, "empty"},
		{"prose", []byte("dear authority, please"), chaintext.ErrNoChain, "neither JSON"},
		{"base64 of prose", []byte(base64.StdEncoding.EncodeToString([]byte("dear authority"))), chaintext.ErrNoChain, "out of base64"},
		{"cut short", raw[:len(raw)/2], chaintext.ErrNoChain, "cut short"},
		{"a certificate", certificate, chaintext.ErrNoChain, "certificate"},
		{"damaged PEM", []byte("-----BEGIN CHAIN-----\nnonsense"), chaintext.ErrNoChain, "damaged"},
		{"an envelope with a reference", marshal(t, &v1.Envelope{ChainRef: digest("x")}), chaintext.ErrNoChain, "by reference"},
		{"an envelope without a chain", marshal(t, &v1.Envelope{Id: make([]byte, 16)}), chaintext.ErrNoChain, "neither"},
		{"random bytes", bytes.Repeat([]byte{0xff, 0x00, 0x0a}, 99), chaintext.ErrNoChain, "neither"},
		{"another JSON object", []byte(`{"a":1}`), chaintext.ErrNoChain, "without a member"},
		{"a JSON list", []byte(`[1,2]`), chaintext.ErrNoChain, "no JSON object"},
		{"JSON that is no chain", []byte(`{"hops":[7]}`), chaintext.ErrNoChain, "as a chain"},
		{"JSON of an empty chain", []byte(`{"hops":[]}`), chaintext.ErrNoChain, "as a chain"},
		{"JSON that is no grant", []byte(`{"payload":"AA==","signature":"AA=="}`), chaintext.ErrNoChain, "as a grant"},
		{"JSON that is no envelope", []byte(`{"chain":7}`), chaintext.ErrNoChain, "as an envelope"},
		{"JSON that is no record", []byte(`{"event":7}`), chaintext.ErrNoChain, "as an audit record"},
		{"a record that names a chain", []byte(`{"event":{"chainRef":"AAAA"}}`), chaintext.ErrNoChain, "--seq"},
		{"grant --json without base64", []byte(`{"grant":"?"}`), chaintext.ErrNoChain, "no base64"},
		{"too large", make([]byte, chaintext.MaxInput+1), chaintext.ErrTooLarge, "bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := chaintext.Read(tt.in)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("got %v, %v; want %v that says %q", f, err, tt.want, tt.says)
			}
		})
	}
}
