// Package intruder attacks one endpoint of a mesh, to show that the receiver refuses: an agent that has gone over and holds what a
// real agent holds, its own SVID with the private key, grants that name it, perhaps a chain it has seen. It speaks plain gRPC with
// hand-made statements, so nothing of our client library stands in its way.
//
// Run makes the ten attacks of the demo on shared memory, some of them with more than one grant. Fire makes the Violations, every row
// of the conformance table that a client can express with its own key and the rules of the envelope, at any agent that the attacker
// may call: it is behind the command attack.
//
// Every attack first sends its valid twin, which must be admitted, and then the change that makes it an attack, which must be
// refused with exactly the expected wire reason. Without the twin a refusal says nothing: an endpoint that is down, or that
// refuses everything, would pass. The demo, the command and tests call the package; no production package does.
package intruder
