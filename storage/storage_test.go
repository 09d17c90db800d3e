package storage_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/storage"
)

func testKey(b byte) *[32]byte {
	k := new([32]byte)
	for i := range k {
		k[i] = b + byte(i)
	}
	return k
}

// place is the place number n.
func place(n int) share.Place {
	return share.Place{Bucket: share.Bucket(1 + n%9), ID: key.T("keymesh/v1/test", key.U64(uint64(n)))}
}

// store makes a store in a new directory.
func store(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node")
	if err := storage.Create(dir, testKey(1)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// open opens and runs a store. The result stops and closes it, once.
func open(t testing.TB, dir string, o storage.Options) (*storage.DB, func()) {
	t.Helper()
	db, err := storage.Open(dir, testKey(1), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- db.Run(ctx) }()
	closed := false
	stop := func() {
		if closed {
			return
		}
		closed = true
		cancel()
		<-done
		db.Close()
	}
	t.Cleanup(stop)
	return db, stop
}

func put(t testing.TB, db *storage.DB, p share.Place, v string) {
	t.Helper()
	if err := db.Commit(context.Background(), share.Record{Place: p, Value: []byte(v)}); err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, db *storage.DB, p share.Place, v string) {
	t.Helper()
	got, err := db.Load(p)
	if err != nil || !bytes.Equal(got, []byte(v)) {
		t.Fatalf("Load = %.40q, %v; want %.40q", got, err, v)
	}
}

func TestKeepsRecords(t *testing.T) {
	dir := store(t)
	db, stop := open(t, dir, storage.Options{})
	put(t, db, place(1), "one")
	put(t, db, place(2), "two")
	put(t, db, place(1), "uno")
	if _, err := db.Load(place(3)); !db.NotFound(err) {
		t.Fatal(err)
	}
	stop()
	if _, err := db.Load(place(1)); !errors.Is(err, storage.ErrStopped) {
		t.Fatal(err)
	}
	db, _ = open(t, dir, storage.Options{})
	want(t, db, place(1), "uno")
	want(t, db, place(2), "two")
}

func TestOpenNeverCreates(t *testing.T) {
	if _, err := storage.Open(t.TempDir()+"/none", testKey(1), storage.Options{}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}
