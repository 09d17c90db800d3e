package storage

import (
	"encoding/binary"
	"fmt"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"

	"keymesh/crypto/share"
)

const (
	// queueBytes bounds all Commits queued and under way, in bytes on disk.
	queueBytes = 32 << 20
	// minWeight is what the smallest Commit counts, so that at most 2,048 are
	// queued.
	minWeight = 16 << 10
	// groupBytes is the weight after which a transaction takes no more Commits.
	groupBytes = 16 << 20
	// fill is how full pages are made: nearly all writing is at the end.
	fill = 0.9
)

func recordsBucket() []byte { return []byte("r") }
func headBucket() []byte    { return []byte("h") }
func headKey() []byte       { return []byte("s") }

// seqKey is a sequence as a key of the file: big-endian, so that new records
// stand at the end.
func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// change is one record of a batch.
type change struct {
	place share.Place
	seq   uint64 // 0 deletes
	rec   []byte // sealed
}

// batch is one Commit on its way.
type batch struct {
	changes []change
	weight  int64
	done    chan error // holds one; the writer sends exactly once
}

// sealBatch seals in the caller's goroutine: the writer only writes.
func (db *DB) sealBatch(recs []share.Record, weight int64) *batch {
	b := &batch{changes: make([]change, len(recs)), weight: weight, done: make(chan error, 1)}
	for i, r := range recs {
		c := change{place: r.Place}
		if r.Value != nil {
			c.seq = db.next.Add(1)
			c.rec = db.s.sealRecord(c.seq, r.Place, r.Value)
		}
		b.changes[i] = c
	}
	return b
}

// oneTransaction is how many of the batches that wait are written together.
func oneTransaction(list []*batch) int {
	n, weight := 0, int64(0)
	for n < len(list) && weight < groupBytes {
		weight += list[n].weight
		n++
	}
	return n
}

// write commits groups until the queue is closed and empty. After a failure it
// answers what is queued with the error.
func (db *DB) write() {
	for {
		group := db.queue.take(oneTransaction)
		if group == nil {
			return
		}
		err := db.Err()
		if err == nil {
			db.commitGroup(group)
			err = db.Err()
		}
		for _, b := range group {
			b.done <- err
		}
	}
}

// commitGroup writes a group as one transaction and makes it visible. Any error
// stops the store.
func (db *DB) commitGroup(group []*batch) {
	if err := db.checkFile(); err != nil {
		db.fail(err)
		return
	}
	db.index.begin()
	changes, err := db.transact(group)
	if err == nil {
		// The file may have been moved away while we wrote to it.
		err = db.checkFile()
	}
	if err != nil {
		// Before readers go on: what they find now may not be on disk.
		db.fail(err)
		changes = nil
	} else {
		db.commits.Add(uint64(len(group)))
		db.groups.Add(1)
	}
	db.index.end(changes)
}

// transact is the transaction itself. It returns the new sequence of each
// place that changed.
func (db *DB) transact(group []*batch) (changes map[share.Place]uint64, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			db.wedged = true
			changes, err = nil, fmt.Errorf("writing %s failed: %.200v", dbName, r)
		}
	}()
	tx, err := db.bolt.Begin(true)
	if err != nil {
		return nil, fmt.Errorf("starting a transaction: %w", err)
	}
	w := groupWriter{db: db, head: db.head, seqs: map[share.Place]uint64{}}
	if err := w.apply(tx, group); err != nil {
		tx.Rollback() // the error that matters is the first
		return nil, err
	}
	size := tx.Size()
	if err := tx.Commit(); err != nil {
		return nil, fmt.Errorf("committing a transaction: %w", err)
	}
	db.head = w.head
	db.gen.Store(w.head.Generation)
	for _, seq := range w.dropped {
		db.bad.drop(seq)
	}
	db.size.Store(size)
	st := db.bolt.Stats()
	db.pages.Store(size/pageSize - int64(st.FreePageN+st.PendingPageN))
	return w.seqs, nil
}

// groupWriter applies one group to a transaction.
type groupWriter struct {
	db      *DB
	head    head // as it will be after the transaction
	seqs    map[share.Place]uint64
	dropped []uint64
}

func (w *groupWriter) apply(tx *bolt.Tx, group []*batch) error {
	records, heads := tx.Bucket(recordsBucket()), tx.Bucket(headBucket())
	if records == nil || heads == nil {
		return damaged("%s lost a bucket", dbName)
	}
	records.FillPercent = fill
	for _, b := range group {
		for i := range b.changes {
			if err := w.change(records, &b.changes[i]); err != nil {
				return err
			}
		}
	}
	w.head.Generation++
	return heads.Put(headKey(), w.head.encode(&w.db.k, w.db.s.id))
}

func (w *groupWriter) change(records *bolt.Bucket, c *change) error {
	old, here := w.seqs[c.place]
	if !here {
		old = w.db.index.lookup(c.place)
	}
	if old != 0 {
		if err := w.remove(records, old); err != nil {
			return err
		}
	}
	if old == 0 && c.seq == 0 {
		return nil
	}
	w.seqs[c.place] = c.seq
	if c.seq == 0 {
		return nil
	}
	if err := records.Put(seqKey(c.seq), c.rec); err != nil {
		return fmt.Errorf("writing a record: %w", err)
	}
	w.head.Count++
	w.head.Set.add(w.db.s.term(c.seq))
	w.head.Next = max(w.head.Next, c.seq+1)
	return nil
}

func (w *groupWriter) remove(records *bolt.Bucket, seq uint64) error {
	k := seqKey(seq)
	if records.Get(k) == nil {
		return damaged("record %d of %s is gone", seq, dbName)
	}
	if err := records.Delete(k); err != nil {
		return fmt.Errorf("deleting a record: %w", err)
	}
	w.head.Count--
	w.head.Set.remove(w.db.s.term(seq))
	w.dropped = append(w.dropped, seq)
	return nil
}
