// Package storage keeps a node's records in one bbolt file, each sealed under
// the node's storage key and bound to its place, and refuses a file that is
// not the one it wrote last. SPEC.md in this directory gives the bytes.
//
// A directory, mode 0700, holds
//
//	store.db   the bbolt file: sealed records in order of writing
//	STORE      id, format and generation of the store: tells an empty, foreign
//	           or older store.db from the right one
//	epochkey   the keys that seal the records, sealed under the storage key
//
// all mode 0600. [Create] makes them and never overwrites; [Open] opens them
// and never creates.
//
// Durability: [DB.Commit] returns nil after the records are on disk (two
// fdatasync of store.db) and never before. One goroutine writes and commits
// all that waits as one transaction, with no timer. After any failed write or
// sync, after a panic of the database below, and when store.db was deleted or
// replaced, the store stops: nothing more is served, and every call returns
// [ErrStopped].
//
// Locking: store.db is held with flock(2) from Open to Close; a second opener
// gets [ErrLocked].
//
// Damage: a file whose structure is damaged, or that lacks a record, is refused
// by Open with [ErrDamaged]. A single record that does not open stays where it
// is and is reported as [ErrCorrupt], while others are served. While there are
// damaged records whose place cannot be told, a Load that finds nothing returns
// ErrCorrupt too: what may have been lost is never called "not found".
package storage
