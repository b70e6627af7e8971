// Package memorytest has the conformance suite that every memory driver passes, and the model: a driver in plain maps that says
// what the contract means, and into which tests inject faults.
package memorytest
