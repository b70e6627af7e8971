// Package delegation decides whether a presenter may use the authority of a chain here and now: one grant signed by the
// authority, then one hop signed by each acting agent, each narrower than the one before and naming the next agent.
//
// A chain is no bearer token. It is usable only by the agent that signed its last hop, on that agent's own mTLS connection,
// towards the agent that the hop names. [Verifier.Verify] turns received bytes into a [Leaf], the verified facts of a chain;
// [Verifier.Recheck] holds a leaf against every single message; [Append] makes the next hop and refuses whatever Verify
// would refuse, with the same reason.
//
// A grant ends within minutes. Whoever holds a chain goes on with it at the authority, which verifies it with [Verifier.VerifyHeld] and
// signs what [NewRenewal] makes of it: never more authority, depth or time than the chain, its lineage and its members have left.
// That a delegate appears twice is refused within the statements of one chain; an agent of the history may be called again, at the
// price of a level of depth as for every hop.
//
// A connection proves who sends a message. Where that must hold without the connection, the caller adds an invocation proof,
// [NewInvocation], which signs leaf, callee, method and the [EnvelopeDigest] of the message, and is used once: [Verifier.VerifyInvocation].
// The callee's side of it is a signed receipt: [NewReceipt], [VerifyReceipt], and [VerifyStoredReceipt] for auditors.
//
// The package is pure: no network, no disk, no clock of its own. It signs and hashes exact bytes over the DSSE
// pre-authentication encoding and never marshals what it received. A strict profile of the wire format is checked on the raw
// bytes before anything is decoded, and everything that needs no signature is checked before the first signature is.
package delegation
