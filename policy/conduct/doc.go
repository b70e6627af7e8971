// Package conduct bounds what an identity may spend: call rate and calls in flight, per agent and per tenant. Keys are
// authenticated identities only, so that strangers allocate nothing. It has no clock of its own.
package conduct
