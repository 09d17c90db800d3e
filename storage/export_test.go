package storage

import "context"

// Scrub reads all records again, without pauses.
func (db *DB) Scrub(ctx context.Context) error { return db.scrubAll(ctx, 0) }
