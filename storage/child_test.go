package storage_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"keymesh/crypto/share"
	"keymesh/storage"
)

// Some attacks would crash the process if the defence failed, and some need
// limits of a process. They run in a child: this binary with childEnv set.
const childEnv = "KEYMESH_STORAGE_CHILD"

func TestMain(m *testing.M) {
	if name, arg, ok := strings.Cut(os.Getenv(childEnv), " "); ok {
		children := map[string]func(string) error{
			"truncate": childTruncate, "flip": childFlip, "write": childWrite, "limit": childLimit,
			"fault": childFault, "steps": childSteps,
		}
		if err := children[name](arg); err != nil {
			fmt.Println("FAILED:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child prepares a child process that runs the function name.
func child(t *testing.T, name, arg string) *exec.Cmd {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childEnv+"="+name+" "+arg)
	return c
}

func runChild(t *testing.T, name, arg string) {
	t.Helper()
	out, err := child(t, name, arg).CombinedOutput()
	if err != nil {
		t.Fatalf("%v; the last it said: %s", err, out[max(0, len(out)-2000):])
	}
}

// sample is the value that a sample store has at place(n): 0 to 9,000 bytes.
func sample(n int) string {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	b := make([]byte, []int{0, 40, 300, 1200, 2400, 9000}[r.IntN(6)])
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

const samples = 150

// fillSample makes a closed store with records written, replaced and deleted.
func fillSample(t testing.TB) string {
	dir := store(t)
	db, stop := open(t, dir, storage.Options{})
	for n := range samples {
		put(t, db, place(n), "to be replaced "+strings.Repeat("x", n))
		if n%3 == 0 {
			put(t, db, place(n), sample(n))
		}
	}
	var recs []share.Record
	for n := range samples {
		recs = append(recs, share.Record{Place: place(n), Value: []byte(sample(n))})
		recs = append(recs, share.Record{Place: place(samples + n)})
	}
	if err := db.Commit(context.Background(), recs...); err != nil {
		t.Fatal(err)
	}
	stop()
	return dir
}

func copyStore(from, to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"STORE", "epochkey", "store.db"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// refusals are the errors that say what is wrong with a store.
var refusals = []error{storage.ErrDamaged, storage.ErrEmpty, storage.ErrForeign, storage.ErrOlder, storage.ErrVersion, storage.ErrStopped}

func refused(err error) bool {
	for _, r := range refusals {
		if errors.Is(err, r) {
			return true
		}
	}
	return false
}

// judge opens a store that was damaged. It must be refused, or serve each
// record as it was or as damaged, and take a write. whole forbids the latter.
func judge(dir string, whole bool) (opened bool, err error) {
	db, err := storage.Open(dir, testKey(1), storage.Options{})
	if err != nil {
		if !refused(err) {
			return false, fmt.Errorf("the error names no kind: %w", err)
		}
		return false, nil
	}
	defer db.Close()
	for n := range samples {
		got, err := db.Load(place(n))
		switch {
		case err == nil && string(got) == sample(n):
		case err == nil:
			return true, fmt.Errorf("a wrong record %d", n)
		case whole || !db.Corrupt(err):
			return true, fmt.Errorf("record %d: %w", n, err)
		}
	}
	return true, write(db)
}

func write(db *storage.DB) error {
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- db.Run(ctx) }()
	err := db.Scrub(ctx)
	for n := 0; n < samples && err == nil; n += 30 {
		err = db.Commit(ctx, share.Record{Place: place(n), Value: []byte("new")})
		if err == nil {
			var got []byte
			if got, err = db.Load(place(n)); err == nil && string(got) != "new" {
				err = errors.New("a wrong new record")
			}
		}
	}
	cancel()
	return errors.Join(err, <-ran)
}

// childTruncate cuts store.db to many lengths.
func childTruncate(dir string) error {
	damaged := dir + ".cut"
	fi, err := os.Stat(filepath.Join(dir, "store.db"))
	if err != nil {
		return err
	}
	size := fi.Size()
	pages, err := pagesOf(filepath.Join(dir, "store.db"))
	if err != nil {
		return err
	}
	sizes := []int64{0, 1, 15, 80, 511, 512, 4095, 4096, 4097, 8191, 8192, 8193, size / 2, size - 1, size - 4096, pages*4096 - 1, pages * 4096, pages*4096 + 1}
	for p := int64(2); p < pages; p++ {
		sizes = append(sizes, p*4096)
	}
	for range 20 {
		sizes = append(sizes, rand.Int64N(pages*4096))
	}
	for _, n := range sizes {
		fmt.Println("truncated to", n)
		if err := copyStore(dir, damaged); err != nil {
			return err
		}
		if err := os.Truncate(filepath.Join(damaged, "store.db"), n); err != nil {
			return err
		}
		opened, err := judge(damaged, true)
		if err != nil {
			return err
		}
		if complete := n >= pages*4096 && n%4096 == 0; opened != complete {
			return fmt.Errorf("opened: %v, complete: %v", opened, complete)
		}
	}
	return nil
}

// pagesOf reads the high-water mark of the newer meta page.
func pagesOf(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	p := max(binary.NativeEndian.Uint64(b[16+40:]), binary.NativeEndian.Uint64(b[4096+16+40:]))
	return int64(p), nil
}

// childFlip flips single bits of store.db: in headers, keys, the tree, values.
func childFlip(dir string) error {
	damaged, path := dir+".flip", dir+".flip/store.db"
	pages, err := pagesOf(filepath.Join(dir, "store.db"))
	if err != nil {
		return err
	}
	opens := 0
	for i := range 200 {
		off := rand.Int64N(pages * 4096)
		if i%2 == 0 { // the first bytes of pages hold the tree
			off = off/4096*4096 + rand.Int64N(200)
		}
		bit := byte(1) << rand.IntN(8)
		fmt.Printf("bit %#02x of byte %d of %d pages\n", bit, off, pages)
		if err := copyStore(dir, damaged); err != nil {
			return err
		}
		if err := flip(path, off, bit); err != nil {
			return err
		}
		opened, err := judge(damaged, false)
		if err != nil {
			return err
		}
		if opened {
			opens++
		}
	}
	if opens == 0 {
		return errors.New("no damage was ever tolerated: the test is too harsh to mean anything")
	}
	return nil
}

func flip(path string, off int64, bit byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], off); err != nil {
		return err
	}
	b[0] ^= bit
	_, err = f.WriteAt(b[:], off)
	return err
}

// childWrite commits until it is killed and says what was acknowledged.
func childWrite(dir string) error {
	db, err := storage.Open(dir, testKey(1), storage.Options{})
	if err != nil {
		return err
	}
	go db.Run(context.Background())
	for n := 0; ; n++ {
		v := strconv.Itoa(n)
		err := db.Commit(context.Background(),
			share.Record{Place: place(n % 50), Value: []byte(v)},
			share.Record{Place: place(100 + n%50), Value: []byte(v)})
		if err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// childLimit writes until the file may not grow any more.
func childLimit(dir string) error {
	signal.Ignore(unix.SIGXFSZ)
	db, err := storage.Open(dir, testKey(1), storage.Options{})
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- db.Run(context.Background()) }()
	var old syscall.Rlimit
	if err := syscall.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	limit := syscall.Rlimit{Cur: 6 << 20, Max: old.Max}
	if err := syscall.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	n := 0
	for ; n < 200 && err == nil; n++ {
		err = db.Commit(context.Background(), share.Record{Place: place(n), Value: make([]byte, 100_000)})
	}
	if !errors.Is(err, storage.ErrStopped) || !errors.Is(err, syscall.EFBIG) && !strings.Contains(err.Error(), "too large") {
		return fmt.Errorf("commit %d past the limit: %v", n, err)
	}
	if err := syscall.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := allStopped(db); err != nil {
		return err
	}
	if err := <-ran; !errors.Is(err, storage.ErrStopped) {
		return fmt.Errorf("Run returned %v", err)
	}
	if err := db.Close(); err != nil {
		return fmt.Errorf("closing: %w", err)
	}
	db, err = storage.Open(dir, testKey(1), storage.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	for i := range n - 1 {
		if _, err := db.Load(place(i)); err != nil {
			return fmt.Errorf("acknowledged record %d: %w", i, err)
		}
	}
	return nil
}

// allStopped wants ErrStopped of everything, again and again.
func allStopped(db *storage.DB) error {
	for range 3 {
		_, loadErr := db.Load(place(0))
		for what, err := range map[string]error{
			"Load":   loadErr,
			"Commit": db.Commit(context.Background(), share.Record{Place: place(0), Value: []byte("x")}),
			"Room":   db.Room(1),
			"Err":    db.Err(),
		} {
			if !errors.Is(err, storage.ErrStopped) {
				return fmt.Errorf("%s of a stopped store returned %v", what, err)
			}
			if db.NotFound(err) || db.Corrupt(err) {
				return fmt.Errorf("%s of a stopped store is taken for another error", what)
			}
		}
	}
	return nil
}

func TestTruncatedIsRefused(t *testing.T) { runChild(t, "truncate", fillSample(t)) }

func TestBitFlips(t *testing.T) { runChild(t, "flip", fillSample(t)) }

func TestWriteFailureStops(t *testing.T) { runChild(t, "limit", store(t)) }

// TestKilled kills a writer three times and looks for all it acknowledged.
func TestKilled(t *testing.T) {
	dir := store(t)
	for range 3 {
		c := child(t, "write", dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		said := make([]byte, 2000+rand.IntN(2000))
		if _, err := io.ReadFull(out, said); err != nil {
			t.Fatalf("%v after %s", err, said)
		}
		c.Process.Kill()
		rest, _ := io.ReadAll(out)
		c.Wait()
		lines := strings.Split(string(said)+string(rest), "\n")
		last, err := strconv.Atoi(lines[len(lines)-2])
		if err != nil {
			t.Fatal(err)
		}
		checkKilled(t, dir, last)
	}
}

func checkKilled(t *testing.T, dir string, last int) {
	db, stop := open(t, dir, storage.Options{})
	defer stop()
	for n := max(0, last-49); n <= last; n++ {
		a, err1 := db.Load(place(n % 50))
		b, err2 := db.Load(place(100 + n%50))
		if err1 != nil || err2 != nil {
			t.Fatalf("record %d of %d: %v, %v", n, last, err1, err2)
		}
		got, err := strconv.Atoi(string(a))
		// The one after the last may be there, unacknowledged, but whole.
		if err != nil || string(a) != string(b) || got != n && got != n+50 {
			t.Fatalf("records %d of %d: %q and %q", n, last, a, b)
		}
	}
}
