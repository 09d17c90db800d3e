package storage_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"keymesh/crypto/share"
	"keymesh/storage"
)

func TestUnsafeFiles(t *testing.T) {
	for _, name := range []string{"store.db", "STORE", "epochkey", "."} {
		dir := three(t)
		path := filepath.Join(dir, name)
		mode := os.FileMode(0o640)
		if name == "." {
			mode = 0o750
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		refuses(t, dir, storage.ErrUnsafe)
		if name == "." {
			continue
		}
		if err := errors.Join(os.Chmod(path, 0o600), os.Rename(path, dir+".real"), os.Symlink(dir+".real", path)); err != nil {
			t.Fatal(err)
		}
		refuses(t, dir, storage.ErrUnsafe)
		if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		refuses(t, dir, storage.ErrUnsafe)
	}
	dir := t.TempDir() + "/open"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := storage.Create(dir, testKey(1)); !errors.Is(err, storage.ErrUnsafe) {
		t.Fatalf("Create in an open directory: %v", err)
	}
}

func TestCreate(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	dir := store(t)
	for _, name := range []string{"store.db", "STORE", "epochkey"} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil || fi.Mode() != 0o600 {
			t.Fatalf("%s: %v, %v", name, fi.Mode(), err)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, "epochkey"))
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.Create(dir, testKey(1)); !errors.Is(err, storage.ErrExists) {
		t.Fatalf("a second Create: %v", err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "epochkey")); !bytes.Equal(before, after) {
		t.Fatal("the second Create wrote")
	}
	link := t.TempDir() + "/link"
	if err := errors.Join(os.Mkdir(link, 0o700), os.Symlink("/nowhere", link+"/store.db")); err != nil {
		t.Fatal(err)
	}
	if err := storage.Create(link, testKey(1)); !errors.Is(err, storage.ErrExists) {
		t.Fatalf("Create over a dangling link: %v", err)
	}
}

// TestCannotReplaceSTORE makes the last write of Open fail.
func TestCannotReplaceSTORE(t *testing.T) {
	dir := three(t)
	if err := os.MkdirAll(filepath.Join(dir, "STORE.new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if db, err := storage.Open(dir, testKey(1), storage.Options{}); err == nil {
		db.Close()
		t.Fatal("opened")
	}
	if err := os.RemoveAll(filepath.Join(dir, "STORE.new")); err != nil {
		t.Fatal(err)
	}
	db, _ := open(t, dir, storage.Options{})
	want(t, db, place(1), "value number 1")
}

func TestReadOnlyDirectory(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("the superuser writes to read-only directories")
	}
	dir := three(t)
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	if db, err := storage.Open(dir, testKey(1), storage.Options{}); err == nil {
		db.Close()
		t.Fatal("opened")
	}
}

func TestSecondOpener(t *testing.T) {
	dir := three(t)
	open(t, dir, storage.Options{})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		refuses(t, dir, storage.ErrLocked)
		if d := time.Since(start); d < time.Second || d > 5*time.Second {
			t.Fatalf("waited %v", d)
		}
	})
}

// TestDiskFull fills a small file system.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only the superuser may mount a small file system")
	}
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=3m,mode=700"); err != nil {
		t.Skipf("no file system may be mounted here: %v", err)
	}
	defer unix.Unmount(disk, unix.MNT_DETACH)
	dir := disk + "/node"
	if err := storage.Create(dir, testKey(1)); err != nil {
		t.Fatal(err)
	}
	db, stop := open(t, dir, storage.Options{})
	if err := db.Room(1); !errors.Is(err, storage.ErrFull) {
		t.Fatalf("Room on a disk of 3 MiB: %v", err)
	}
	n, err := 0, error(nil)
	for ; n < 100 && err == nil; n++ {
		err = db.Commit(context.Background(), share.Record{Place: place(n), Value: make([]byte, 100_000)})
	}
	if !errors.Is(err, storage.ErrStopped) || !strings.Contains(err.Error(), "no space left") {
		t.Fatalf("commit %d on a full disk: %v", n, err)
	}
	if err := allStopped(db); err != nil {
		t.Fatal(err)
	}
	stop()
}
