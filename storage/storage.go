package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/semaphore"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// DefaultMinFree is how much disk is left alone, in bytes (security.md).
const DefaultMinFree = 64 << 20

// Options say how a store is opened. The zero value is usable.
type Options struct {
	// MaxBytes is the configured size of store.db in bytes; at 90 % of it Room
	// refuses. 0: only the disk limits it.
	MaxBytes int64
	// MinFree is how many bytes must stay free on the disk; 0:
	// [DefaultMinFree].
	MinFree int64
	// Log gets a line for each damaged record and for the end of the store; nil
	// discards.
	Log *slog.Logger
}

// Stats describe an open store.
type Stats struct {
	Records    int    // records that are there, damaged ones with a known place included
	Corrupt    int    // damaged records, those of unknown place included
	Unplaced   int    // of these, records whose place is unknown
	Bytes      int64  // bytes of store.db in use
	Generation uint64 // of the last transaction on disk
	Commits    uint64 // successful Commits since Open
	Groups     uint64 // transactions that carried them
	Epoch      uint32 // number of the current epoch key
	Scrubbed   time.Time
}

// DB is an open store. It is safe for concurrent use. The caller calls Run once
// and, after it returned, Close.
type DB struct {
	dir  string
	k    [32]byte // storage key
	opts Options
	log  *slog.Logger
	s    sealer
	file *os.File // store.db, locked; bbolt uses the same one
	bolt *bolt.DB

	next  atomic.Uint64 // the next sequence
	queue queue[*batch]
	admit *semaphore.Weighted // bytes of Commits queued and under way
	room  room

	index    index
	bad      badSet
	stopped  atomic.Pointer[error] // why the store stopped; nil: it has not
	gen      atomic.Uint64         // of the last transaction on disk
	pages    atomic.Int64          // in use after it
	size     atomic.Int64          // bytes that store.db must have at least
	commits  atomic.Uint64
	groups   atomic.Uint64
	scrubbed atomic.Int64 // unix nanoseconds

	// Owned by Open, then by the writer.
	head   head
	wedged bool // bbolt panicked: its locks may be held for ever

	mu     sync.Mutex // guards what follows
	runs   bool
	ran    chan struct{} // closed when Run returned
	closed bool
	mark   marker // what STORE holds; owned by Open, Run's watch, Close in turn
}

// badSet holds the sequences of damaged records.
type badSet struct {
	mu       sync.Mutex
	seqs     map[uint64]bool // true: its place is unknown
	unplaced atomic.Int64
}

// add returns how many damaged records there are and whether seq is a new one.
func (s *badSet) add(seq uint64, unplaced bool) (n int, isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.seqs[seq]; ok {
		return len(s.seqs), false
	}
	if s.seqs == nil {
		s.seqs = map[uint64]bool{}
	}
	s.seqs[seq] = unplaced
	if unplaced {
		s.unplaced.Add(1)
	}
	return len(s.seqs), true
}

// drop forgets a record that was replaced or deleted.
func (s *badSet) drop(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seqs, seq)
}

func (s *badSet) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seqs)
}

// Err returns nil while the store serves, and else an error that wraps
// [ErrStopped] and says why.
func (db *DB) Err() error {
	if p := db.stopped.Load(); p != nil {
		return *p
	}
	return nil
}

// fail stops the store for good. The first cause stays.
func (db *DB) fail(cause error) {
	err := ErrStopped
	if cause != nil {
		err = fmt.Errorf("%w: %w", ErrStopped, cause)
	}
	if db.stopped.CompareAndSwap(nil, &err) && cause != nil {
		db.log.Error("the store has stopped", "dir", db.dir, "err", cause)
	}
	db.queue.close()
}

// Load returns a copy of the record at p. Errors: [ErrNotFound]; [ErrCorrupt]
// when it is damaged, or when it is not there and there are damaged records
// whose place is unknown; [ErrStopped].
func (db *DB) Load(p share.Place) ([]byte, error) {
	var last uint64
	for same := 0; ; {
		if err := db.Err(); err != nil {
			return nil, err
		}
		seq, flight := db.index.get(p)
		if seq == 0 {
			if db.bad.unplaced.Load() > 0 {
				return nil, ErrCorrupt
			}
			return nil, ErrNotFound
		}
		rec, err := db.read(seq)
		if err != nil {
			return nil, db.readFailed(seq, err)
		}
		if rec != nil {
			v, err := db.s.openValue(seq, p, rec)
			if err != nil {
				return nil, db.readFailed(seq, err)
			}
			return v, nil
		}
		// The record was replaced after we asked the index, or is being
		// replaced by the transaction under way: see what that leaves.
		if seq != last {
			last, same = seq, 0
		}
		if same++; same > 3 {
			return nil, db.readFailed(seq, errors.New("it is not in the file"))
		}
		if flight != nil {
			<-flight
		}
	}
}

// read returns a copy of what stands at seq, nil when nothing does. A fault of
// the mapped file and a panic of bbolt become errors.
func (db *DB) read(seq uint64) (rec []byte, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			rec, err = nil, fmt.Errorf("reading it failed: %.200v", r)
		}
	}()
	err = db.bolt.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket(recordsBucket()); b != nil {
			rec = append(rec, b.Get(seqKey(seq))...)
		}
		return nil
	})
	return rec, err
}

// readFailed reports a damaged record once and returns ErrCorrupt, or
// ErrStopped when the store was closed meanwhile.
func (db *DB) readFailed(seq uint64, cause error) error {
	if err := db.Err(); err != nil {
		return err
	}
	db.report(seq, false, cause)
	return ErrCorrupt
}

// maxReports is how many damaged records get a line each in the log.
const maxReports = 20

// report counts a damaged record and logs it, the first time it is seen.
func (db *DB) report(seq uint64, unplaced bool, cause error) {
	n, isNew := db.bad.add(seq, unplaced)
	switch {
	case !isNew || n > maxReports:
	case n == maxReports:
		db.log.Error("records are damaged; further ones are only counted", "dir", db.dir, "count", n)
	default:
		db.log.Error("a record is damaged", "dir", db.dir, "seq", seq, "unplaced", unplaced, "err", cause)
	}
}

// Places returns the places of one id in a bucket, in no order, damaged records
// included. It is told from memory and works after the store stopped, too;
// records counted by Stats.Unplaced are missing.
func (db *DB) Places(b share.Bucket, id key.Hash) []share.Place { return db.index.places(b, id) }

// IDs returns the distinct ids of a bucket, sorted; see Places.
func (db *DB) IDs(b share.Bucket) []key.Hash { return db.index.ids(b) }

// NotFound reports whether an error of Load says that there is no record.
func (db *DB) NotFound(err error) bool { return errors.Is(err, ErrNotFound) }

// Corrupt reports whether an error of Load says that the record is damaged, or
// may be.
func (db *DB) Corrupt(err error) bool { return errors.Is(err, ErrCorrupt) }

// Stats returns figures of this moment.
func (db *DB) Stats() Stats {
	s := Stats{
		Records:    db.index.len(),
		Corrupt:    db.bad.len(),
		Unplaced:   int(db.bad.unplaced.Load()),
		Bytes:      db.pages.Load() * pageSize,
		Generation: db.gen.Load(),
		Commits:    db.commits.Load(),
		Groups:     db.groups.Load(),
	}
	s.Epoch, _ = db.s.keys.current()
	if ns := db.scrubbed.Load(); ns != 0 {
		s.Scrubbed = time.Unix(0, ns)
	}
	return s
}

// Commit applies all records or none, and returns nil once they are on disk. A
// nil Value deletes; deleting what is not there does nothing; of two records of
// one place the later one counts. Values are copied before it returns.
//
// ctx bounds only the wait for a place in the queue (32 MiB); once queued,
// Commit waits for the outcome, which takes a transaction or two. Until Run has
// been called nothing is written and Commit waits. Errors: [ErrInput] (nothing
// was done, at most [MaxValue] a record and [MaxCommit] in all), the error of
// ctx (nothing was done), and [ErrStopped]: the outcome is unknown until the
// store has been opened again.
func (db *DB) Commit(ctx context.Context, recs ...share.Record) error {
	weight, err := checkRecords(recs)
	if err != nil {
		return err
	}
	if err := db.Err(); err != nil || len(recs) == 0 {
		return err
	}
	weight = max(weight, minWeight)
	if err := db.admit.Acquire(ctx, weight); err != nil {
		return fmt.Errorf("waiting for the queue of the store: %w", err)
	}
	defer db.admit.Release(weight)
	b := db.sealBatch(recs, weight)
	if !db.queue.push(b) {
		return db.stopErr()
	}
	return <-b.done
}

func (db *DB) stopErr() error {
	if err := db.Err(); err != nil {
		return err
	}
	return ErrStopped
}

func (db *DB) path(name string) string { return filepath.Join(db.dir, name) }
