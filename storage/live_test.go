package storage_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/share"
	"keymesh/storage"
)

// TestFileTakenAway deletes, replaces and cuts store.db under a running store,
// with and without a write that would notice at once.
func TestFileTakenAway(t *testing.T) {
	attacks := map[string]func(t *testing.T, path string){
		"deleted": func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		},
		"replaced by a copy": func(t *testing.T, path string) {
			move(t, path, path+".copy")
			if err := os.Rename(path+".copy", path); err != nil {
				t.Fatal(err)
			}
		},
		"directory renamed": func(t *testing.T, path string) {
			dir := filepath.Dir(path)
			if err := os.Rename(dir, dir+".away"); err != nil {
				t.Fatal(err)
			}
		},
		"cut to nothing": func(t *testing.T, path string) {
			if err := os.Truncate(path, 0); err != nil {
				t.Fatal(err)
			}
		},
	}
	for name, attack := range attacks {
		t.Run(name+", writing", func(t *testing.T) {
			dir := three(t)
			db, _ := open(t, dir, storage.Options{})
			attack(t, filepath.Join(dir, "store.db"))
			if err := db.Commit(context.Background(), share.Record{Place: place(9), Value: []byte("x")}); !errors.Is(err, storage.ErrStopped) {
				t.Fatalf("a write that would be lost: %v", err)
			}
			if err := allStopped(db); err != nil {
				t.Fatal(err)
			}
		})
		t.Run(name+", idle", func(t *testing.T) {
			dir := three(t)
			synctest.Test(t, func(t *testing.T) {
				db, stop := open(t, dir, storage.Options{})
				defer stop()
				attack(t, filepath.Join(dir, "store.db"))
				time.Sleep(5 * time.Second)
				if err := allStopped(db); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// TestPagesOverwritten zeroes all pages but the meta pages under a running
// store: bbolt panics within a transaction, with its locks held.
func TestPagesOverwritten(t *testing.T) {
	dir := three(t)
	path := filepath.Join(dir, "store.db")
	backup := t.TempDir() + "/backup"
	db, stop := open(t, dir, storage.Options{})
	if err := copyStore(dir, backup); err != nil {
		t.Fatal(err)
	}
	pages, err := pagesOf(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, (pages-2)*4096), 8192); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Load(place(0)); !db.Corrupt(err) {
		t.Fatalf("Load from zeroed pages: %v", err)
	}
	if err := db.Commit(context.Background(), share.Record{Place: place(9), Value: []byte("x")}); !errors.Is(err, storage.ErrStopped) {
		t.Fatal(err)
	}
	if err := allStopped(db); err != nil {
		t.Fatal(err)
	}
	stop() // neither hangs nor keeps the lock
	refuses(t, dir, storage.ErrDamaged)
	db, _ = open(t, backup, storage.Options{})
	want(t, db, place(0), "value number 0")
}

// TestScrubFinds overwrites one record under a running store, and then all.
func TestScrubFinds(t *testing.T) {
	dir := three(t)
	_, vals := raw(t, dir)
	db, _ := open(t, dir, storage.Options{})
	if err := db.Scrub(context.Background()); err != nil || db.Stats().Corrupt != 0 || db.Stats().Scrubbed.IsZero() {
		t.Fatalf("%v, %+v", err, db.Stats())
	}
	path := filepath.Join(dir, "store.db")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; ; at++ { // it may stand in free pages too
		i := bytes.Index(b[at:], vals[1])
		if i < 0 {
			break
		}
		at += i
		if err := flip(path, int64(at+len(vals[1])-1), 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Scrub(context.Background()); err != nil || db.Stats().Corrupt != 1 {
		t.Fatalf("%v, %+v", err, db.Stats())
	}
	if _, err := db.Load(place(1)); !db.Corrupt(err) {
		t.Fatal(err)
	}
	pages, err := pagesOf(path)
	if err != nil {
		t.Fatal(err)
	}
	for p := int64(2); p < pages; p++ {
		if err := flip(path, p*4096+8, 0xff); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Scrub(context.Background()); !errors.Is(err, storage.ErrDamaged) {
		t.Fatalf("a tree in ruins: %v", err)
	}
}

// TestCutWhileReading reads the mapped file where it no longer is.
func TestCutWhileReading(t *testing.T) {
	dir := fillSample(t)
	db, _ := open(t, dir, storage.Options{})
	if err := os.Truncate(filepath.Join(dir, "store.db"), 8192); err != nil {
		t.Fatal(err)
	}
	for n := range samples {
		got, err := db.Load(place(n))
		if err == nil && string(got) != sample(n) {
			t.Fatalf("a wrong record %d", n)
		}
		if db.NotFound(err) {
			t.Fatalf("record %d is called not found", n)
		}
	}
}
