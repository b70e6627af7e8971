// Package interceptors is the enforcement core: every message that enters an agent passes it, whatever the transport.
//
// It ties the message to a verified peer, verifies the delegation chain, holds the invariants, spends the peer's budget, asks
// the policy, refuses replays, writes the audit intent before the effect and the outcome before the reply, and hands the
// handler a [policy.Permit]. Every doubt ends in a [Denial] with one stable reason.
//
// Two adapters, enforcegrpc and enforceconnect, and the dispatcher of runtime translate their transport into [Enforcer.Open],
// [Interaction.Admit], [Interaction.Emit] and [Interaction.Close], and do nothing else. The package imports no transport.
package interceptors
