// Package replaybolt is a delegation.ReplayStore in one bbolt file: what was spent stays spent when the process dies. A key is on
// the disk before Insert says that it is fresh; inserts that arrive together share one sync of the disk.
//
// The file belongs to one process, which a lock on it enforces. It never forgets early: a key goes only when the clock is past its
// end, the moment of the last key that went is kept in the file, and whatever ends earlier than that is refused. After a write that
// failed, every insert is refused until the file is opened again.
package replaybolt
