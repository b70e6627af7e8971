// Package chaintext writes delegation chains for people. It finds a chain in whatever form somebody has it (a file, base64, hex,
// JSON, an envelope, a grant, an audit record), says what the chain claims, asks the verifier of package delegation whether it
// holds, and tells at which of the verifier's steps it fails, why, and what would have had to be different.
//
// It decides nothing: every verdict is the verifier's. What it reads was made by strangers, so everything it writes is
// printable, at most [Width] columns wide and bounded, and what nobody has verified is marked as such.
package chaintext
