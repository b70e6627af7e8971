// Package enforcegrpc puts the enforcement core in front of a grpc-go server. It translates handshakes, messages and errors, and
// decides nothing: what both adapters would need stands in the core.
//
// ExchangeService is passed to its handler with the session and without an interaction, because its calls are interactions of
// their own; the handler reads the session with [SessionFrom].
package enforcegrpc
