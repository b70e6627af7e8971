// Package policy decides whether a verified peer may do one action on one resource, and is the only place where the proof of
// such a decision, a [Permit], is minted.
//
// A decision has two parts. Invariants (invariant.go) are Go code over verified values; no file can switch them off. Below
// them stands the policy of the trust domain: a signed, versioned capability table (table.go) in which everything that is not
// listed is denied. The zero value of [Decision], [Permit] and [Label] denies. The package holds no clock and no file of its own.
package policy
