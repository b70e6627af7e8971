"""A verifier of Safeconduct delegation chains, written from ../README.md.

Modules, by the section of the README of conformance/ that they implement:
  refusal      14       codes, and the name of every check that refuses
  wire         2, 3     tables and the strict scanner
  names        4        identities, patterns, ids and links
  signature    5        Ed25519 and ECDSA over PAE
  statement    2, 6.6   grants and hops as values, and their sense
  capability   7        sense and covering of capabilities
  certificate  8        certificates and paths
  chain        6        a whole chain
  revocation   11       handles
  envelope     12       the transcript of an envelope
  proof        12       invocation proofs
  verifier     6.5, 9, 10, 13   the state that lives between messages
"""
