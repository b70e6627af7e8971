// Package operator is the client of the operator's unix socket: what a person who runs a trust domain asks of its authority. It
// decides nothing and holds no state; the authority knows its caller by the credentials of the socket. cmd uses it.
package operator
