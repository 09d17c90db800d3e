package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"keymesh/storage"
)

// TestStoreCreate: a store is made only where there is none, by a node of a
// network, and it can be opened by the node that it is for.
func TestStoreCreate(t *testing.T) {
	dir, id := foundedNode(t)
	defer id.Erase()
	if err := createStore(t.Context(), dir, ""); !errors.Is(err, storage.ErrExists) {
		t.Fatalf("over a store: %v", err)
	}
	for _, name := range []string{"store.db", "STORE", "epochkey"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := createStore(t.Context(), dir, ""); err != nil {
		t.Fatal(err)
	}
	db, err := storage.Open(dir, (*[32]byte)(id.StorageKey), storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n := db.Stats().Records; n != 1 {
		t.Errorf("%d records instead of the mark that the disk was put back", n)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := createStore(t.Context(), filepath.Join(dir, "none"), ""); err == nil {
		t.Error("without an identity")
	}
}
