// Package spiretest runs agents and the control plane against a real SPIRE server and agent. It has tests only, which run when
// SPIRE_BIN names the folder with the programs spire-server and spire-agent; make spire runs them.
//
// The agents of the tests are the test binary under other names: the same file serves first under the embedded Workload API and
// then under SPIRE's. Everything listens on loopback or on unix sockets in a temporary folder.
package spiretest
