// Package meshtest is a mesh in memory for tests: a certificate authority and a rogue one, a registry, a grant key, a capability
// table, and for each agent what its process would hold.
//
// Everything in a [World] is real but the places that would need a network or a disk: certificates are signed and verified, chains
// are appended hop by hop, tables are signed and activated, Permits come from a policy.Engine. Tests and runtime/agenttest import
// it; production code does not.
//
// The stubs in meshpb come from testproto; in the root of the repository, with the tools of tools/go.mod on the path:
//
//	buf generate internal/meshtest/testproto --config internal/meshtest/testproto/workspace.yaml \
//		--template internal/meshtest/testproto/buf.gen.yaml
package meshtest
