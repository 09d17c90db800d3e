package storage

import (
	"errors"
	"fmt"
)

// Errors of this package. Test with errors.Is.
var (
	// ErrNotFound: there is no record at this place.
	ErrNotFound = errors.New("no such record")
	// ErrCorrupt: the record is damaged, or may be among those that are.
	ErrCorrupt = errors.New("the record is damaged")
	// ErrStopped: the store was closed or has failed, and serves nothing.
	ErrStopped = errors.New("the store has stopped")
	// ErrForeign: a file belongs to another store, or the storage key does.
	ErrForeign = errors.New("the files belong to another store or key")
	// ErrOlder: store.db or epochkey is an older copy.
	ErrOlder = errors.New("the database is older than its STORE file")
	// ErrEmpty: there is a STORE file, but store.db is missing or empty.
	ErrEmpty = errors.New("the database is missing or empty")
	// ErrDamaged: a file is truncated, damaged, or lacks records.
	ErrDamaged = errors.New("the store is damaged")
	// ErrLocked: another process has the store open.
	ErrLocked = errors.New("another process has the store open")
	// ErrFull: the store's size or the disk leaves no room.
	ErrFull = errors.New("the store has no room")
	// ErrVersion: the store was written in a format that this build lacks.
	ErrVersion = errors.New("unknown format of a store")
	// ErrExists: Create found a file of a store and left it alone.
	ErrExists = errors.New("there is a store already")
	// ErrUnsafe: a file or the directory is a link, is not the user's, or is
	// open to others.
	ErrUnsafe = errors.New("the files are not private to this user")
	// ErrInput: a record is too large or names no bucket; nothing was done.
	ErrInput = errors.New("not a record")
)

func damaged(format string, a ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, a...))
}
