package storage_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/storage"
)

// refuses opens dir and wants this error.
func refuses(t *testing.T, dir string, want error) {
	t.Helper()
	db, err := storage.Open(dir, testKey(1), storage.Options{})
	if err == nil {
		db.Close()
	}
	if !errors.Is(err, want) {
		t.Fatalf("Open = %v; want %v", err, want)
	}
}

// edit changes a closed store.db as one who has the file but not the key can.
func edit(t *testing.T, dir string, f func(records, heads *bolt.Bucket) error) {
	t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "store.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bolt.Tx) error { return f(tx.Bucket([]byte("r")), tx.Bucket([]byte("h"))) })
	if err != nil {
		t.Fatal(err)
	}
}

// raw returns copies of all keys and values of the records.
func raw(t *testing.T, dir string) (keys, vals [][]byte) {
	edit(t, dir, func(records, _ *bolt.Bucket) error {
		return records.ForEach(func(k, v []byte) error {
			keys, vals = append(keys, bytes.Clone(k)), append(vals, bytes.Clone(v))
			return nil
		})
	})
	return keys, vals
}

// three makes a closed store with three records.
func three(t *testing.T) string {
	dir := store(t)
	db, stop := open(t, dir, storage.Options{})
	for n := range 3 {
		put(t, db, place(n), "value number "+string(rune('0'+n)))
	}
	stop()
	return dir
}

func move(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSwappedRecords(t *testing.T) {
	dir := three(t)
	keys, vals := raw(t, dir)
	edit(t, dir, func(r, _ *bolt.Bucket) error {
		return errors.Join(r.Put(keys[0], vals[1]), r.Put(keys[1], vals[0]))
	})
	db, stop := open(t, dir, storage.Options{})
	defer stop()
	for n := range 2 {
		if _, err := db.Load(place(n)); !db.Corrupt(err) || db.NotFound(err) {
			t.Fatalf("swapped record %d: %v", n, err)
		}
	}
	want(t, db, place(2), "value number 2")
	if _, err := db.Load(place(77)); !db.Corrupt(err) {
		t.Fatalf("what may have been lost was called %v", err)
	}
	if s := db.Stats(); s.Corrupt != 2 || s.Unplaced != 2 || s.Records != 1 {
		t.Fatalf("%+v", s)
	}
	put(t, db, place(0), "again")
	want(t, db, place(0), "again")
}

// TestForeignValue puts the sealed value of one place behind the sealed place
// of another.
func TestForeignValue(t *testing.T) {
	dir := three(t)
	keys, vals := raw(t, dir)
	head := storage.Overhead - 41 // what precedes the sealed value
	edit(t, dir, func(r, _ *bolt.Bucket) error {
		return r.Put(keys[0], slices.Concat(vals[0][:head], vals[1][head:]))
	})
	db, stop := open(t, dir, storage.Options{})
	defer stop()
	if _, err := db.Load(place(0)); !db.Corrupt(err) {
		t.Fatal(err)
	}
	want(t, db, place(1), "value number 1")
	if _, err := db.Load(place(77)); !db.NotFound(err) {
		t.Fatalf("the damaged record has a place, so this one is not there: %v", err)
	}
	if p := db.Places(place(0).Bucket, place(0).ID); len(p) != 1 {
		t.Fatalf("places of the damaged record: %v", p)
	}
	put(t, db, place(0), "repaired")
	want(t, db, place(0), "repaired")
	if s := db.Stats(); s.Corrupt != 0 {
		t.Fatalf("%+v", s)
	}
	stop()
	db, _ = open(t, dir, storage.Options{})
	want(t, db, place(0), "repaired")
}

func TestEditedSets(t *testing.T) {
	for name, f := range map[string]func(r, h *bolt.Bucket, keys, vals [][]byte) error{
		"record removed": func(r, _ *bolt.Bucket, keys, _ [][]byte) error { return r.Delete(keys[1]) },
		"all removed": func(r, _ *bolt.Bucket, keys, _ [][]byte) error {
			return errors.Join(r.Delete(keys[0]), r.Delete(keys[1]), r.Delete(keys[2]))
		},
		"record copied": func(r, _ *bolt.Bucket, keys, vals [][]byte) error {
			return r.Put(append(keys[2][:7:7], 0xff), vals[2])
		},
		"record moved": func(r, _ *bolt.Bucket, keys, vals [][]byte) error {
			return errors.Join(r.Delete(keys[1]), r.Put(append(keys[1][:7:7], 0), vals[1]))
		},
		"short key":    func(r, _ *bolt.Bucket, _, vals [][]byte) error { return r.Put([]byte("k"), vals[0]) },
		"nested":       func(r, _ *bolt.Bucket, _, _ [][]byte) error { _, err := r.CreateBucket([]byte("x")); return err },
		"head removed": func(_, h *bolt.Bucket, _, _ [][]byte) error { return h.Delete([]byte("s")) },
		"head doubled": func(_, h *bolt.Bucket, _, _ [][]byte) error { return h.Put([]byte("t"), h.Get([]byte("s"))) },
		"head cut":     func(_, h *bolt.Bucket, _, _ [][]byte) error { return h.Put([]byte("s"), h.Get([]byte("s"))[:40]) },
		"head changed": func(_, h *bolt.Bucket, _, _ [][]byte) error {
			b := bytes.Clone(h.Get([]byte("s")))
			b[len(b)-1] ^= 1
			return h.Put([]byte("s"), b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := three(t)
			keys, vals := raw(t, dir)
			edit(t, dir, func(r, h *bolt.Bucket) error { return f(r, h, keys, vals) })
			refuses(t, dir, storage.ErrDamaged)
		})
	}
}

// TestDeletedRecordPutBack restores a record that was deleted, with the right
// key and bytes.
func TestDeletedRecordPutBack(t *testing.T) {
	dir := three(t)
	keys, vals := raw(t, dir)
	db, stop := open(t, dir, storage.Options{})
	if err := db.Commit(context.Background(), share.Record{Place: place(1)}); err != nil {
		t.Fatal(err)
	}
	stop()
	edit(t, dir, func(r, _ *bolt.Bucket) error { return r.Put(keys[1], vals[1]) })
	refuses(t, dir, storage.ErrDamaged)
}

// TestOldHeadPutBack removes the newest record together with what tells of it.
func TestOldHeadPutBack(t *testing.T) {
	dir := three(t)
	var old []byte
	edit(t, dir, func(_, h *bolt.Bucket) error { old = bytes.Clone(h.Get([]byte("s"))); return nil })
	before, _ := raw(t, dir)
	db, stop := open(t, dir, storage.Options{})
	put(t, db, place(5), "new")
	stop()
	edit(t, dir, func(r, h *bolt.Bucket) error {
		c := r.Cursor()
		last, _ := c.Last()
		if bytes.Equal(last, before[2]) {
			return errors.New("no new record")
		}
		return errors.Join(r.Delete(last), h.Put([]byte("s"), old))
	})
	refuses(t, dir, storage.ErrOlder)
}

func TestForeignFiles(t *testing.T) {
	a, b := three(t), three(t)
	for _, name := range []string{"store.db", "STORE", "epochkey"} {
		dir := t.TempDir() + "/mixed"
		if err := copyStore(a, dir); err != nil {
			t.Fatal(err)
		}
		move(t, filepath.Join(b, name), filepath.Join(dir, name))
		refuses(t, dir, storage.ErrForeign)
	}
	if _, err := storage.Open(a, testKey(2), storage.Options{}); !errors.Is(err, storage.ErrForeign) {
		t.Fatalf("another storage key: %v", err)
	}
	other := filepath.Join(t.TempDir(), "other.db")
	db, err := bolt.Open(other, 0o600, &bolt.Options{PageSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	dir := t.TempDir() + "/fresh"
	if err := copyStore(a, dir); err != nil {
		t.Fatal(err)
	}
	move(t, other, filepath.Join(dir, "store.db"))
	refuses(t, dir, storage.ErrEmpty)
}

func TestMissingFiles(t *testing.T) {
	for name, want := range map[string]error{"store.db": storage.ErrEmpty, "STORE": storage.ErrDamaged, "epochkey": storage.ErrDamaged} {
		dir := three(t)
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		refuses(t, dir, want)
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Fatalf("Open created %s", name)
		}
		if err := storage.Create(dir, testKey(1)); !errors.Is(err, storage.ErrExists) {
			t.Fatalf("Create beside the rest of a store: %v", err)
		}
	}
}

// TestSmallFilesDamaged flips every bit of STORE and epochkey, and cuts them.
func TestSmallFilesDamaged(t *testing.T) {
	dir := three(t)
	for _, name := range []string{"STORE", "epochkey"} {
		path := filepath.Join(dir, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		try := func(b []byte) {
			t.Helper()
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			db, err := storage.Open(dir, testKey(1), storage.Options{})
			if err == nil {
				db.Close()
			}
			if !refused(err) {
				t.Fatalf("%s of %q: %v", name, b, err)
			}
		}
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << (i % 8)
			try(bad)
			try(good[:i])
		}
		try(append(bytes.Clone(good), '\n'))
		try(bytes.Repeat(good, 20))
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db, _ := open(t, dir, storage.Options{})
	want(t, db, place(1), "value number 1")
}

func TestOlderCopyPutBack(t *testing.T) {
	dir, old := three(t), t.TempDir()+"/old"
	if err := copyStore(dir, old); err != nil {
		t.Fatal(err)
	}
	db, stop := open(t, dir, storage.Options{})
	put(t, db, place(1), "newer")
	stop()
	newest := t.TempDir() + "/newest"
	if err := copyStore(dir, newest); err != nil {
		t.Fatal(err)
	}
	move(t, filepath.Join(old, "store.db"), filepath.Join(dir, "store.db"))
	refuses(t, dir, storage.ErrOlder)
	move(t, filepath.Join(newest, "store.db"), filepath.Join(dir, "store.db"))
	db, stop = open(t, dir, storage.Options{})
	want(t, db, place(1), "newer")
	stop()
	// A copy from the same opening is older too, once that was closed.
	db, stop = open(t, dir, storage.Options{})
	if err := copyStore(dir, newest); err != nil {
		t.Fatal(err)
	}
	put(t, db, place(1), "newest")
	stop()
	good := t.TempDir() + "/good"
	if err := copyStore(dir, good); err != nil {
		t.Fatal(err)
	}
	move(t, filepath.Join(newest, "store.db"), filepath.Join(dir, "store.db"))
	refuses(t, dir, storage.ErrOlder)
	if err := copyStore(good, dir); err != nil {
		t.Fatal(err)
	}
	db, stop = open(t, dir, storage.Options{})
	want(t, db, place(1), "newest")
	stop()
	// Opening alone makes the copy from before it an older one.
	move(t, filepath.Join(good, "store.db"), filepath.Join(dir, "store.db"))
	refuses(t, dir, storage.ErrOlder)
}

// TestOlderCopyAfterCrash puts back, after a crash, a copy that was a good
// minute old, and then the newest.
func TestOlderCopyAfterCrash(t *testing.T) {
	dir, old, crashed := store(t), t.TempDir()+"/old", t.TempDir()+"/crashed"
	synctest.Test(t, func(t *testing.T) {
		db, stop := open(t, dir, storage.Options{})
		defer stop()
		put(t, db, place(1), "older")
		if err := copyStore(dir, old); err != nil {
			t.Fatal(err)
		}
		put(t, db, place(1), "newer")
		time.Sleep(2 * time.Minute)
		if err := copyStore(dir, crashed); err != nil {
			t.Fatal(err)
		}
	})
	newest := filepath.Join(t.TempDir(), "newest")
	move(t, filepath.Join(crashed, "store.db"), newest)
	move(t, filepath.Join(old, "store.db"), filepath.Join(crashed, "store.db"))
	refuses(t, crashed, storage.ErrOlder)
	move(t, newest, filepath.Join(crashed, "store.db"))
	db, _ := open(t, crashed, storage.Options{})
	want(t, db, place(1), "newer")
}

func TestNothingInClear(t *testing.T) {
	dir := store(t)
	db, stop := open(t, dir, storage.Options{})
	marker := []byte("a marker that is easy to find")
	p := share.Place{Bucket: 2, ID: key.Hash(bytes.Repeat([]byte{0xA7, 0x13}, 16)), Gen: 0x1122334455667788, Sub: key.T("keymesh/v1/test")}
	for range 20 {
		if err := db.Commit(context.Background(), share.Record{Place: p, Value: marker}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	gen := key.U64(p.Gen)
	for _, name := range []string{"store.db", "STORE", "epochkey"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range [][]byte{marker, p.ID[:8], p.Sub[:8], gen, testKey(1)[:8]} {
			for _, form := range [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte(base64.StdEncoding.EncodeToString(secret))} {
				if bytes.Contains(b, form) {
					t.Fatalf("%s holds %q in clear", name, form)
				}
			}
		}
	}
}
