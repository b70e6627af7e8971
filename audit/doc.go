// Package audit writes one tamper-evident log per process and answers questions over several of them.
//
// A [Log] is a segmented write-ahead log with group commit. Producers hand over an [Event]; the log gives it a position (seq,
// leaf hash, log id, boot id) and, for the classes [Effect] and [Reply], returns only when the record is on stable storage.
// Each frame carries a CRC-32C and a hash chained over all records before it, so that [Verify] names the first bad record.
// A log that cannot write is poisoned: it refuses every later record, and with it every later call.
//
// The interceptors append an intent before the effect and an outcome before the reply. Open refuses a log that was changed
// ([ErrTampered]), belongs to someone else ([ErrForeign]) or is open elsewhere ([ErrLocked]), and writes an UNKNOWN record for
// every call that the last process did not finish. The queries ([BuildGraph], [BuildTree], [Explain]) are pure functions over
// records of one or several logs, with bounded memory.
//
// In the records of a call, on both sides, Actor is the caller and Peer is the callee.
//
// Records say things once: a chain is spelled out, with the evidence for it, at first sight in a segment ([ChainRecorder]), and an
// outcome holds what its intent does not. [Log.Read] and [ReadDir] yield records as they are stored; [Expanded] makes each of them say
// everything, and all queries do so by themselves.
//
// What the chain cannot show: removal of the newest records, and a rewrite of the whole log by whoever holds the directory.
package audit
