package storage

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

const (
	// lockWait is how long Open waits for another process to let go.
	lockWait = 2 * time.Second
	lockPoll = 20 * time.Millisecond
	// mapSize is how much of the address space store.db is mapped into from the
	// start, so that growing it need not wait for readers. It costs no memory.
	mapSize = 1 << 30
	// allocSize is by how much store.db grows at once; the rest is a hole.
	allocSize = 4 << 20
	// seqStep separates the sequences of one opening from those of the one
	// before, so that none is used twice even when a crash lost the last ones.
	seqStep = 1 << 32
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func boltOptions(open func() (*os.File, error)) *bolt.Options {
	return &bolt.Options{
		Timeout:         lockWait,
		FreelistType:    bolt.FreelistMapType,
		NoFreelistSync:  false,
		PageSize:        pageSize,
		InitialMmapSize: mapSize,
		OpenFile:        func(string, int, os.FileMode) (*os.File, error) { return open() },
	}
}

// Create makes an empty store in dir, under the storage key k. It makes dir
// (0700) when it is missing; its parent must exist. When a file of a store is
// there already it does nothing and returns [ErrExists]. On any error it removes
// what it made.
func Create(dir string, k *[32]byte) error {
	if err := makeDir(dir); err != nil {
		return fmt.Errorf("making the directory of the store: %w", err)
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	for _, name := range []string{markerName, dbName, keysName} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %s in %s", ErrExists, name, dir)
		}
	}
	var id storeID
	rand.Read(id[:]) // never fails (crypto/rand)
	keys := newEpochKeys()
	defer keys.erase()
	return createAll(dir, creation(k, id, keys))
}

// step makes one file.
type step struct {
	name string
	make func(path string) error
}

// creation lists the files of a new store. STORE comes last: without it the
// others are no store.
func creation(k *[32]byte, id storeID, keys epochKeys) []step {
	return []step{
		{keysName, func(path string) error { return writeNew(path, keys.encode(k, id)) }},
		{dbName, func(path string) error { return createDB(path, k, id) }},
		{markerName, func(path string) error { return writeNew(path, marker{id, 1}.encode(k)) }},
	}
}

// createAll does all steps, or removes what it made.
func createAll(dir string, steps []step) (err error) {
	var made []string
	defer func() {
		for _, path := range made {
			if err != nil {
				os.Remove(path) // ours, a moment old and without content
			}
		}
	}()
	for _, s := range steps {
		path := filepath.Join(dir, s.name)
		err := s.make(path)
		if !errors.Is(err, fs.ErrExist) {
			made = append(made, path)
		}
		if err != nil {
			return fmt.Errorf("making %s: %w", s.name, err)
		}
	}
	return syncDir(dir)
}

func createDB(path string, k *[32]byte, id storeID) error {
	db, err := bolt.Open(path, 0o600, boltOptions(func() (*os.File, error) { return createFile(path) }))
	if err != nil {
		return err
	}
	db.AllocSize = allocSize
	err = db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucket(recordsBucket()); err != nil {
			return err
		}
		b, err := tx.CreateBucket(headBucket())
		if err != nil {
			return err
		}
		h := head{Generation: 1, Next: 1, Epoch: 1}
		return b.Put(headKey(), h.encode(k, id))
	})
	return errors.Join(err, db.Close())
}

// Open opens the store in dir with its storage key. It checks every page and
// opens every record once before it returns. It waits two seconds for another
// process to let go ([ErrLocked] after). When there is no store the error wraps
// fs.ErrNotExist; files that are not the right ones are [ErrEmpty],
// [ErrForeign], [ErrOlder], [ErrDamaged], [ErrVersion] or [ErrUnsafe]. Nothing
// is created, and nothing but STORE and the head is written.
func Open(dir string, k *[32]byte, o Options) (*DB, error) {
	if o.MinFree == 0 {
		o.MinFree = DefaultMinFree
	}
	if o.Log == nil {
		o.Log = discard()
	}
	db := &DB{dir: dir, k: *k, opts: o, log: o.Log, ran: make(chan struct{}), admit: semaphore.NewWeighted(queueBytes)}
	db.queue.init()
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	err := db.openFile()
	if err == nil {
		err = db.verify()
	}
	if err == nil {
		err = db.openBolt()
	}
	if err == nil {
		err = db.begin()
	}
	if err != nil {
		db.release()
		return nil, fmt.Errorf("opening the store in %s: %w", dir, err)
	}
	return db, nil
}

// openFile opens and locks store.db.
func (db *DB) openFile() error {
	_, storeErr := os.Lstat(db.path(markerName))
	f, err := openPrivate(db.path(dbName), os.O_RDWR)
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.Is(storeErr, fs.ErrNotExist):
		return err // there is no store
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: there is no %s", ErrEmpty, dbName)
	case err != nil:
		return err
	}
	db.file = f
	if errors.Is(storeErr, fs.ErrNotExist) {
		return damaged("there is a %s and no %s", dbName, markerName)
	}
	if err := lockFile(f); err != nil {
		return err
	}
	return db.checkFile() // it may have been replaced while we waited
}

// lockFile takes the lock that bbolt takes too; both go with the descriptor.
func lockFile(f *os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("locking %s: %w", dbName, err)
		}
		select {
		case <-ctx.Done():
			return ErrLocked
		case <-poll.C:
		}
	}
}

// readFiles reads STORE and epochkey.
func (db *DB) readFiles() error {
	b, err := readSmall(db.path(markerName), maxMarker)
	if err != nil {
		return err
	}
	if db.mark, err = decodeMarker(&db.k, b); err != nil {
		return err
	}
	b, err = readSmall(db.path(keysName), maxKeysFile)
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("there is no %s", keysName)
	}
	if err != nil {
		return err
	}
	db.s.id = db.mark.ID
	if db.s.keys, err = decodeEpochKeys(&db.k, db.mark.ID, b); err != nil {
		return err
	}
	db.s.set, err = setKey(&db.k, db.mark.ID)
	return err
}

// verify reads all files, checks the whole of store.db and fills the index.
func (db *DB) verify() error {
	if err := db.readFiles(); err != nil {
		return err
	}
	fi, err := db.file.Stat()
	if err != nil {
		return err
	}
	if fi.Size() == 0 {
		return fmt.Errorf("%w: %s has no bytes", ErrEmpty, dbName)
	}
	m, _, err := readMetas(db.file)
	if err != nil {
		return err
	}
	if err := m.check(fi.Size()); err != nil {
		return err
	}
	w := &walker{r: db.file, m: m, seen: make([]uint64, m.pages/64+1)}
	v := verifier{db: db}
	if err := v.run(w); err != nil {
		return err
	}
	used := w.used + 2
	if err := w.free(); err != nil {
		return err
	}
	db.pages.Store(int64(used))
	db.size.Store(int64(m.pages) * pageSize)
	return nil
}

// verifier checks the contents of store.db against its head and STORE.
type verifier struct {
	db    *DB
	count uint64
	set   digest
}

func (v *verifier) run(w *walker) error {
	db := v.db
	buckets, err := w.buckets()
	if err != nil {
		return err
	}
	heads, records := buckets[string(headBucket())], buckets[string(recordsBucket())]
	if heads == nil && records == nil && len(buckets) == 0 {
		return fmt.Errorf("%w: %s holds nothing", ErrEmpty, dbName)
	}
	if heads == nil {
		return fmt.Errorf("%w: %s is no store", ErrForeign, dbName)
	}
	var raw []byte
	if err := w.bucket(heads, func(e element) error {
		if raw != nil || string(e.key) != string(headKey()) {
			return damaged("the head of %s is not alone", dbName)
		}
		raw = append(raw, e.val...)
		return nil
	}); err != nil {
		return err
	}
	if db.head, err = decodeHead(&db.k, db.mark.ID, raw); err != nil {
		return err
	}
	if err := v.checkHead(); err != nil {
		return err
	}
	if records == nil || len(buckets) != 2 {
		return damaged("%s has %d parts instead of 2", dbName, len(buckets))
	}
	if err := w.bucket(records, v.record); err != nil {
		return err
	}
	if v.count != db.head.Count || v.set != db.head.Set {
		return damaged("%s holds %d records, and not the %d that were written", dbName, v.count, db.head.Count)
	}
	return nil
}

func (v *verifier) checkHead() error {
	h, m := v.db.head, v.db.mark
	if h.Generation < m.Generation {
		return fmt.Errorf("%w: generation %d, and %d was on disk", ErrOlder, h.Generation, m.Generation)
	}
	if now, _ := v.db.s.keys.current(); now < h.Epoch {
		return fmt.Errorf("%w: %s ends at epoch %d of %d", ErrOlder, keysName, now, h.Epoch)
	}
	if v.db.s.keys.find(h.Epoch) == nil {
		return fmt.Errorf("%w: %s no longer has the key of epoch %d", ErrOlder, dbName, h.Epoch)
	}
	return nil
}

// record opens one record and enters it into the index. A damaged record is no
// error here, but one in a place it was never written to is.
func (v *verifier) record(e element) error {
	if len(e.key) != 8 {
		return damaged("a record of %s has a key of %d bytes", dbName, len(e.key))
	}
	db, seq := v.db, beUint64(e.key)
	if seq == 0 {
		return damaged("record %d of %s was never written", seq, dbName)
	}
	v.count++
	v.set.add(db.s.term(seq))
	p, err := db.s.openPlace(seq, e.val)
	if err != nil {
		db.report(seq, true, err)
		return nil
	}
	if db.index.find(&p) != 0 {
		return damaged("two records of %s stand for one place", dbName)
	}
	db.index.set(p, seq)
	value, err := db.s.openValue(seq, p, e.val)
	if err != nil {
		db.report(seq, false, err)
		return nil
	}
	clear(value)
	return nil
}

// openBolt gives the checked file to bbolt.
func (db *DB) openBolt() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = damaged("bbolt refuses %s: %.200v", dbName, r)
		}
	}()
	b, err := bolt.Open(db.path(dbName), 0o600, boltOptions(func() (*os.File, error) { return db.file, nil }))
	if err != nil {
		return damaged("bbolt refuses %s: %v", dbName, err)
	}
	b.AllocSize = allocSize
	db.bolt = b
	return nil
}

// begin writes the first transaction of this opening, which makes every older
// copy of the database recognisable, and STORE after it.
func (db *DB) begin() error {
	if db.head.Next > 1<<63 {
		return damaged("%s has used up its sequences", dbName)
	}
	db.head.Next = (db.head.Next/seqStep + 1) * seqStep
	db.next.Store(db.head.Next)
	db.head.Epoch, _ = db.s.keys.current()
	if _, err := db.transact(nil); err != nil {
		return err
	}
	return db.writeMarker()
}

// writeMarker writes STORE with the generation on disk.
func (db *DB) writeMarker() error {
	m := marker{ID: db.mark.ID, Generation: db.gen.Load()}
	if err := replaceFile(db.path(markerName), m.encode(&db.k)); err != nil {
		return fmt.Errorf("writing %s: %w", markerName, err)
	}
	db.mark = m
	return nil
}

// release closes what is open and forgets the keys.
func (db *DB) release() error {
	var err error
	switch {
	case db.bolt != nil && !db.wedged:
		err = db.bolt.Close()
	case db.file != nil:
		// After a panic of bbolt the mapping stays until the process ends, and
		// would keep the lock.
		err = errors.Join(unix.Flock(int(db.file.Fd()), unix.LOCK_UN), db.file.Close())
	}
	clear(db.k[:])
	return err
}
