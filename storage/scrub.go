package storage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// scrubEvery is how often all records are read again. Open reads them too.
	scrubEvery = 24 * time.Hour
	// scrubSlice and scrubPause make that 16 MiB/s at most.
	scrubSlice = 4 << 20
	scrubPause = 250 * time.Millisecond
)

// scrub re-reads the database in the background, with reads of the file and not
// through the mapping, so that it does not become resident.
func (db *DB) scrub(ctx context.Context) {
	tick := time.NewTicker(scrubEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := db.scrubAll(ctx, scrubPause); err != nil {
			db.fail(err)
			return
		}
	}
}

// scrubAll reads every record once and reports the damaged ones. It returns an
// error when the tree itself is damaged, and nil when ctx ends.
func (db *DB) scrubAll(ctx context.Context, pause time.Duration) error {
	s := scrubber{db: db, expect: db.index.sequences()}
	for !s.done {
		err := s.slice()
		if err != nil {
			s.done, err = false, s.slice() // once more, in a new transaction
		}
		if err != nil {
			return fmt.Errorf("reading %s again: %w", dbName, err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
	for _, seq := range s.expect {
		s.recheck(seq)
	}
	db.scrubbed.Store(time.Now().UnixNano())
	return nil
}

// scrubber is one pass over the records in order of sequence.
type scrubber struct {
	db     *DB
	expect []uint64 // sequences that were there at the start and are to come
	from   uint64
	done   bool
}

var errSlice = errors.New("end of a slice")

// slice reads the next records. A read transaction keeps bbolt from using their
// pages again meanwhile.
func (s *scrubber) slice() error {
	tx, err := s.db.bolt.Begin(false)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	m, err := s.db.metaOf(uint64(tx.ID()))
	if err != nil {
		return err
	}
	w := &walker{r: s.db.file, m: m}
	buckets, err := w.buckets()
	if err != nil {
		return err
	}
	records := buckets[string(recordsBucket())]
	if records == nil {
		return damaged("%s lost a bucket", dbName)
	}
	w.from = seqKey(s.from)
	read := 0
	err = w.bucket(records, func(e element) error {
		if read > scrubSlice {
			return errSlice
		}
		read += len(e.val)
		return s.record(e)
	})
	if err == errSlice {
		return nil
	}
	s.done = err == nil
	return err
}

// metaOf returns the meta page of a transaction that is being read. The two
// newest are there; when the writer was faster, a new transaction finds its own.
func (db *DB) metaOf(txid uint64) (meta, error) {
	newer, older, err := readMetas(db.file)
	for range 100 {
		if err == nil {
			break
		}
		newer, older, err = readMetas(db.file) // the writer was at it
	}
	switch {
	case err != nil:
		return meta{}, err
	case newer.txid == txid:
		return newer, nil
	case older.txid == txid:
		return older, nil
	}
	return meta{}, damaged("transaction %d of %s is gone", txid, dbName)
}

func (s *scrubber) record(e element) error {
	if len(e.key) != 8 {
		return damaged("a record of %s has a key of %d bytes", dbName, len(e.key))
	}
	seq := beUint64(e.key)
	s.from = seq + 1
	for len(s.expect) > 0 && s.expect[0] < seq {
		s.recheck(s.expect[0]) // it was passed over
		s.expect = s.expect[1:]
	}
	if len(s.expect) > 0 && s.expect[0] == seq {
		s.expect = s.expect[1:]
	}
	p, err := s.db.s.openPlace(seq, e.val)
	if err != nil {
		s.recheck(seq)
		return nil
	}
	value, err := s.db.s.openValue(seq, p, e.val)
	if err != nil {
		s.recheck(seq)
		return nil
	}
	clear(value)
	return nil
}

// recheck loads what is at seq by its place, which reports it when it is still
// there and damaged or missing.
func (s *scrubber) recheck(seq uint64) {
	if p, ok := s.db.index.placeOf(seq); ok {
		s.db.Load(p) // only to have it reported
	}
}
