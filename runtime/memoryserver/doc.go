// Package memoryserver serves a memory.Store to agents. Its handlers contain no checks of their own: they turn the Permit of the
// call and the message into one View call, and the label of what they read into the label of the reply.
package memoryserver
