// Package archtest holds the house rules of this repository as data and checks them: which package may import which
// (floors), which package may touch guarded modules such as grpc, net/http and bbolt (guards), and the bars on globals, lengths
// and comments. Its tests run the rules over the real repository, and over small made-up ones that break each rule.
//
// The data is a statement of policy. It is not edited to make a build pass: a change to floors.go or guards.go is a change of
// architecture and is reviewed as one. A violation is a sentence that names the package or file and the arrow or line.
package archtest
