package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	// watchEvery is how often store.db is compared with its path while nothing
	// is written. Every transaction compares too.
	watchEvery = 2 * time.Second
	// markEvery is how often STORE follows the database: an older copy of the
	// database than that is refused also after a crash.
	markEvery = time.Minute
)

// ErrRunning: Run was called twice, or after Close.
var ErrRunning = errors.New("the store runs already or was closed")

// Run writes what Commit queues, watches store.db and re-reads it in the
// background. It returns after all of that ended: when ctx ends or Close is
// called, with nil, after everything queued was answered; when the store fails,
// with the error of [DB.Err]. Commits are refused from the moment it ends, and
// records are served until Close. It is called once ([ErrRunning] after).
func (db *DB) Run(ctx context.Context) error {
	if !db.start() {
		return ErrRunning
	}
	defer close(db.ran)
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, db.queue.close)()
	var wg sync.WaitGroup
	wg.Go(func() { db.watch(ctx) })
	wg.Go(func() { db.scrub(ctx) })
	db.write()
	cancel()
	wg.Wait()
	return db.Err()
}

func (db *DB) start() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.runs || db.closed {
		return false
	}
	db.runs = true
	return true
}

// watch checks the file and moves the generation in STORE on.
func (db *DB) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	marked := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := db.checkFile(); err != nil {
			db.fail(err)
			return
		}
		if now := time.Now(); now.Sub(marked) >= markEvery {
			marked = now
			if err := db.follow(); err != nil {
				db.fail(err)
				return
			}
		}
	}
}

// follow writes STORE when the database has moved on.
func (db *DB) follow() error {
	if db.gen.Load() == db.mark.Generation {
		return nil
	}
	return db.writeMarker()
}

// checkFile reports an error when the path no longer leads to the open file, or
// the file was cut.
func (db *DB) checkFile() error {
	have, err := db.file.Stat()
	if err != nil {
		return fmt.Errorf("looking at %s: %w", dbName, err)
	}
	there, err := os.Lstat(db.path(dbName))
	if err != nil {
		return fmt.Errorf("looking at %s: %w", dbName, err)
	}
	if !os.SameFile(have, there) {
		return fmt.Errorf("%w: %s was replaced while it was open", ErrForeign, dbName)
	}
	if have.Size() < db.size.Load() {
		return damaged("%s was cut while it was open", dbName)
	}
	return nil
}

// Close ends Run and waits for it, writes STORE with the exact generation, so
// that no older copy passes for this database, and closes the files. Commits
// that were queued before a Run that never came get ErrStopped. It may be called
// more than once.
func (db *DB) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return nil
	}
	db.closed = true
	db.queue.close()
	if db.runs {
		<-db.ran
	}
	var err error
	if db.Err() == nil {
		err = db.follow()
	}
	db.fail(nil)
	db.write() // answers what nobody ran for
	return errors.Join(err, db.release())
}
