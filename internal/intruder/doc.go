// Package intruder attacks one endpoint of a mesh, to show that the receiver refuses: ten attacks by an agent that has gone over
// and holds what a real agent holds, its own SVID with the private key, grants that name it, and a chain it has seen. It speaks
// plain gRPC with hand-made statements, so nothing of our client library stands in its way.
//
// Every attack first sends its valid twin, which must be admitted, and then the one change that makes it an attack, which must be
// refused with exactly the expected wire reason. Without the twin a refusal says nothing: an endpoint that is down, or that
// refuses everything, would pass. The demo and the tests call it; no production package does.
package intruder
