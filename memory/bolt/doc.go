// Package bolt is the embedded memory driver: one bbolt file, one nested bucket per tenant, one goroutine that writes.
//
// Writers queue batches; the goroutine takes the first and whatever else is queued, evaluates each against the state that those
// before it left, commits once and answers each. There is no timer, so a lone writer waits for nothing but its own fsync. After a
// failed commit the driver refuses writes until the file is opened again: a retry could report success for bytes that the kernel
// has dropped. Every value starts with the revision that wrote it. Bytes are copied out of transactions here and nowhere else.
//
// Deleted bytes stay readable in free pages of the file. The owner of the file is one process.
package bolt
