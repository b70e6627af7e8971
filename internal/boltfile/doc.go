// Package boltfile opens bbolt files the one way this product opens them: private to the user, locked by one process, never
// without fsync, and mapped large enough that growth does not stall readers. It has no buckets of its own and reads none;
// each owner of a file lays out its own.
package boltfile
