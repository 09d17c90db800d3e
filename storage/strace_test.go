package storage_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"keymesh/crypto/share"
	"keymesh/storage"
)

// straced prepares a child under strace with an injected fault.
func straced(t *testing.T, name, arg, calls, inject string) *exec.Cmd {
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if out, err := exec.Command(strace, "-f", "-o", "/dev/null", "true").CombinedOutput(); err != nil {
		t.Skipf("strace does not work here: %s", out)
	}
	c := exec.Command(strace, "-f", "-o", "/dev/null", "-e", "trace="+calls, "-e", "inject="+calls+":"+inject, os.Args[0])
	c.Env = append(os.Environ(), childEnv+"="+name+" "+arg)
	return c
}

// childFault commits until a sync fails; everything must be refused from then
// on.
func childFault(dir string) error {
	db, err := storage.Open(dir, testKey(1), storage.Options{})
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- db.Run(context.Background()) }()
	acked := 0
	for ; acked < 100 && err == nil; acked++ {
		err = db.Commit(context.Background(), share.Record{Place: place(acked), Value: []byte("v")})
	}
	if !errors.Is(err, storage.ErrStopped) || !strings.Contains(err.Error(), "input/output error") {
		return fmt.Errorf("commit %d: %v", acked, err)
	}
	if err := allStopped(db); err != nil {
		return err
	}
	if err := <-ran; !errors.Is(err, storage.ErrStopped) {
		return err
	}
	fmt.Println("acknowledged", acked-1)
	return nil
}

// TestSyncFailureStops fails one fdatasync and lets all later ones succeed.
func TestSyncFailureStops(t *testing.T) {
	for when := 10; when < 14; when++ { // syncs of pages and of the meta page
		dir := store(t)
		c := straced(t, "fault", dir, "fdatasync", "error=EIO:when="+strconv.Itoa(when))
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		_, said, _ := strings.Cut(strings.TrimSpace(string(out)), "acknowledged ")
		acked, err := strconv.Atoi(said)
		if err != nil {
			t.Fatalf("%s", out)
		}
		db, stop := open(t, dir, storage.Options{})
		for n := range acked {
			want(t, db, place(n), "v")
		}
		stop()
	}
}

// childSteps makes, fills and reopens a store, and says what was acknowledged.
func childSteps(dir string) error {
	if err := storage.Create(dir, testKey(1)); err != nil {
		return err
	}
	fmt.Println("created")
	for n := 0; n < 6; {
		db, err := storage.Open(dir, testKey(1), storage.Options{})
		if err != nil {
			return err
		}
		go db.Run(context.Background())
		for range 3 {
			v := []byte(strconv.Itoa(n))
			if err := db.Commit(context.Background(), share.Record{Place: place(0), Value: v}, share.Record{Place: place(1), Value: v}); err != nil {
				return err
			}
			fmt.Println(n)
			n++
		}
		if err := db.Close(); err != nil {
			return err
		}
	}
	return nil
}

// TestKilledBetween kills a process at each call that changes a file, from
// Create to Close, and opens what is left. (strace counts the calls of each
// thread by itself, so that one kind of call at a time reaches more of them.)
func TestKilledBetween(t *testing.T) {
	kills := 0
	for _, call := range []string{"pwrite64", "write", "fdatasync", "fsync", "ftruncate", "renameat", "unlinkat"} {
		for when := 1; ; when++ {
			dir := filepath.Join(t.TempDir(), "node")
			c := straced(t, "steps", dir, call, "signal=SIGKILL:when="+strconv.Itoa(when))
			c.Env = append(c.Env, "GOMAXPROCS=1")
			out, err := c.Output()
			if lines := strings.Fields(string(out)); len(lines) > 0 {
				afterKill(t, dir, lines[len(lines)-1])
			}
			if err == nil {
				break // no thread makes that many calls
			}
			kills++
		}
	}
	t.Logf("%d kills", kills)
	if kills < 30 {
		t.Fatalf("only %d calls were hit", kills)
	}
}

// afterKill opens a store whose process said this last, "created" or a number.
func afterKill(t *testing.T, dir, said string) {
	t.Helper()
	last, err := strconv.Atoi(said)
	if err != nil {
		last = -1
	}
	db, stop := open(t, dir, storage.Options{})
	defer stop()
	a, errA := db.Load(place(0))
	b, errB := db.Load(place(1))
	if errA == nil && errB == nil {
		n, err := strconv.Atoi(string(a))
		if err != nil || string(a) != string(b) || n != last && n != last+1 {
			t.Fatalf("killed after %q: %q and %q", said, a, b)
		}
	} else if last >= 0 || !db.NotFound(errA) || !db.NotFound(errB) {
		t.Fatalf("killed after %q: %v, %v", said, errA, errB)
	}
}
