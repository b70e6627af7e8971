// Package identity says who an agent is: its SPIFFE ID, its tenant, the verified peer of a connection, and the registry
// record that verified peers are looked up in.
//
// A tenant is derived from a verified X.509-SVID and from nothing else: [Tenant] has no constructor that takes a request
// field. Everything that is not exactly one of the two path shapes of [AgentID] is no identity and is refused.
package identity
