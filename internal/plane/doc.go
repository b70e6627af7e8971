// Package plane runs a whole control plane in one process, for development: the authority with its embedded trust domain, the
// shared memory, and their audit logs. It wires what the packages below it provide and decides nothing. cmd and the examples
// use it.
package plane
