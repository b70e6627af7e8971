package delegation

import (
	"crypto"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Table is a scanner table for tests.
type Table struct{ *message }

// Tables returns the table of every message that is scanned, by message name.
func Tables() map[string]Table {
	all := map[string]Table{}
	for _, m := range []*message{
		grantTable, hopTable, invocationTable, receiptTable, principalTable, valueTable, valueSetTable, rangeTable,
		constraintTable, capabilityTable, pastActorTable, originTable, certChainTable, statementTable, chainTable, proofTable,
	} {
		all[m.name] = Table{m}
	}
	return all
}

// Scan returns the reason a payload is refused for, 0 when it is not.
func (t Table) Scan(b []byte) v1.Reason { return t.scan(b, 0).reason }

// ScanAt scans as if b were nested.
func (t Table) ScanAt(b []byte, nesting int) v1.Reason { return t.scan(b, nesting).reason }

// Row describes a field for the comparison with the descriptors.
type Row struct {
	Kind               string
	Explicit, Repeated bool
	Sub                string
	Bounded            bool
}

// Rows returns the table by field number.
func (t Table) Rows() map[int]Row {
	names := map[kind]string{
		kindUint32: "uint32", kindVarint: "varint", kindBool: "bool", kindEnum: "enum",
		kindString: "string", kindIdent: "string", kindBytes: "bytes", kindMessage: "message",
	}
	rows := map[int]Row{}
	for n, f := range t.fields {
		if f.kind == 0 {
			continue
		}
		r := Row{Kind: names[f.kind], Explicit: f.explicit, Repeated: f.count > 0, Bounded: f.max > 0 || f.size > 0 || f.kind < kindEnum}
		if f.sub != nil {
			r.Sub, r.Bounded = f.sub.name, true
		}
		rows[n] = r
	}
	return rows
}

// BuildHop returns the payload that Append would sign, unchecked.
func BuildHop(parent *Leaf, s HopSpec, k Signer, now time.Time) *v1.HopPayload {
	return newHop(parent, s, k, now)
}

// AppendPayload is Append for a payload of the test's own.
func AppendPayload(parent *Leaf, payload []byte, k Signer, now time.Time) (*v1.DelegationChain, error) {
	return appendPayload(parent, payload, k, now.UnixMilli())
}

// Cached returns how many prefixes and certificates v holds.
func (v *Verifier) Cached() (links, certs int) {
	for i := range v.links.shards {
		links += len(v.links.shards[i].entries)
		certs += len(v.certs.shards[i].entries)
	}
	return links, certs
}

// Remembered returns how many chains t holds.
func (t *ConnTable) Remembered() int { return len(t.leaves) }

// Allows reports whether the leaf's authority reaches the intent.
func (x *Leaf) Allows(in Intent) bool { return x.allows(in) == none }

// ForgetLeaves empties the cache of whole prefixes, as if others had taken their place. Seals and certificates stay.
func (v *Verifier) ForgetLeaves() {
	for i := range v.links.shards {
		clear(v.links.shards[i].entries)
		v.links.shards[i].weight = 0
	}
}

// ForgetCertificates empties the certificate cache.
func (v *Verifier) ForgetCertificates() {
	for i := range v.certs.shards {
		clear(v.certs.shards[i].entries)
		v.certs.shards[i].weight = 0
	}
}

// Seals returns how many seals v holds.
func (v *Verifier) Seals() (n int) {
	for i := range v.seals.shards {
		n += len(v.seals.shards[i].entries)
	}
	return n
}

// ValidSignature is the check of one signature.
func ValidSignature(key crypto.PublicKey, pae, sig []byte) bool { return validSignature(key, pae, sig) }

// Transcript returns what EnvelopeDigest hashes.
func Transcript(e *v1.Envelope) []byte { return appendTranscript(nil, e) }
