// Package vectors generates the conformance vectors of conformance/vectors: files that a verifier in any language is run
// against, with nothing but conformance/README.md to explain them.
//
// Generation is deterministic: keys come from fixed seeds, signatures are Ed25519 or RFC 6979, and serial numbers, nonces and
// times are constants. The package shares no code with the verifier that it tests: identifiers, signatures and encodings are
// made here a second time, from the specification. Its keys are public and protect nothing.
package vectors
