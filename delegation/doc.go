// Package delegation decides whether a presenter may use the authority of a chain here and now: one grant signed by the
// authority, then one hop signed by each acting agent, each narrower than the one before and naming the next agent.
//
// A chain is no bearer token. It is usable only by the agent that signed its last hop, on that agent's own mTLS connection,
// towards the agent that the hop names. [Verifier.Verify] turns received bytes into a [Leaf], the verified facts of a chain;
// [Verifier.Recheck] holds a leaf against every single message; [Append] makes the next hop and refuses whatever Verify
// would refuse, with the same reason.
//
// The package is pure: no network, no disk, no clock of its own. It signs and hashes exact bytes over the DSSE
// pre-authentication encoding and never marshals what it received. A strict profile of the wire format is checked on the raw
// bytes before anything is decoded, and everything that needs no signature is checked before the first signature is.
package delegation
