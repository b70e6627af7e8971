// Package mutanttest switches the refusals of a package off, one at a time, and demands that a test of that package notices. It has
// something in it only in builds with the tag `mutants`.
package mutanttest
