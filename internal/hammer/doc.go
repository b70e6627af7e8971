// Package hammer measures what an enforced call costs beside a raw grpc-go call over mTLS.
//
// The parent runs a control plane, starts a server and a client process for each variant, and lets one pair after the other
// work for a short round, in a new random order every time. Cost is the processor time of both processes divided by the calls.
// The floor runs twice under two names: when the two differ by more than [MaxControl], the machine is too busy to judge. A
// round with an error, or whose audit records do not agree with the calls, counts for nothing and fails the sweep.
//
// [Main] is the command. Everything listens on loopback, and calls, rounds and time are bounded.
package hammer
