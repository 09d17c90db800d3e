package storage_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/storage"
)

func TestValues(t *testing.T) {
	dir := store(t)
	db, stop := open(t, dir, storage.Options{})
	p, q := place(1), place(2)
	big := bytes.Repeat([]byte{9}, storage.MaxValue)
	if err := db.Commit(context.Background(), share.Record{Place: p, Value: []byte{}}, share.Record{Place: q, Value: big}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got, err := db.Load(p); err != nil || got == nil || len(got) != 0 {
			t.Fatalf("an empty value came back as %v, %v", got, err)
		}
		want(t, db, q, string(big))
		stop()
		db, stop = open(t, dir, storage.Options{})
	}
	got, _ := db.Load(q)
	got[0] = 1
	want(t, db, q, string(big))
	for name, rec := range map[string]share.Record{
		"too large":  {Place: p, Value: append(big, 1)},
		"no bucket":  {Place: share.Place{ID: p.ID}, Value: []byte("x")},
		"no bucket ": {Place: share.Place{ID: p.ID}},
	} {
		if err := db.Commit(context.Background(), rec); !errors.Is(err, storage.ErrInput) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	many := slices.Repeat([]share.Record{{Place: p, Value: big}}, 8)
	if err := db.Commit(context.Background(), many...); !errors.Is(err, storage.ErrInput) {
		t.Fatalf("too much at once: %v", err)
	}
	if err := db.Commit(context.Background(), share.Record{Place: p, Value: []byte("a")}, share.Record{Place: p}, share.Record{Place: q}, share.Record{Place: q, Value: []byte("b")}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Load(p); !db.NotFound(err) {
		t.Fatalf("set and deleted at once: %v", err)
	}
	want(t, db, q, "b")
	if err := db.Commit(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// TestCallerMayReuseValue changes a value right after Commit returned.
func TestCallerMayReuseValue(t *testing.T) {
	db, _ := open(t, store(t), storage.Options{})
	v := []byte("first")
	if err := db.Commit(context.Background(), share.Record{Place: place(1), Value: v}); err != nil {
		t.Fatal(err)
	}
	clear(v)
	want(t, db, place(1), "first")
}

// places are few, and differ in each field alone.
func fewPlaces() []share.Place {
	a := share.Place{Bucket: share.BucketState, ID: key.T("keymesh/v1/test")}
	b, c, d, e, f := a, a, a, a, a
	b.Bucket, c.ID, d.Gen, e.Epoch, f.X = share.BucketRow, key.Hash{1}, 1, 1, 1
	g := a
	g.Sub = key.Hash{1}
	h := g
	h.Sub = key.Hash{2}
	return []share.Place{a, b, c, d, e, f, g, h}
}

// TestModel compares a store with a map over random commits and reopenings.
func TestModel(t *testing.T) {
	all := fewPlaces()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "model")
		if err != nil {
			t.Fatal(err)
		}
		dir += "/node"
		if err := storage.Create(dir, testKey(1)); err != nil {
			t.Fatal(err)
		}
		db, stop := open(t, dir, storage.Options{})
		defer func() { stop() }()
		model := map[share.Place]string{}
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			if rapid.IntRange(0, 4).Draw(rt, "step") == 0 {
				stop()
				db, stop = open(t, dir, storage.Options{})
			}
			var recs []share.Record
			for range rapid.IntRange(0, 6).Draw(rt, "records") {
				p := all[rapid.IntRange(0, len(all)-1).Draw(rt, "place")]
				if rapid.IntRange(0, 2).Draw(rt, "delete") == 0 {
					recs = append(recs, share.Record{Place: p})
					delete(model, p)
					continue
				}
				v := bytes.Repeat([]byte{rapid.Byte().Draw(rt, "byte")}, rapid.IntRange(0, 6000).Draw(rt, "length"))
				recs = append(recs, share.Record{Place: p, Value: v})
				model[p] = string(v)
			}
			if err := db.Commit(context.Background(), recs...); err != nil {
				rt.Fatal(err)
			}
			compare(rt, db, model)
		}
	})
}

func compare(t *rapid.T, db *storage.DB, model map[share.Place]string) {
	ids := map[share.Bucket]map[key.Hash]int{}
	for _, p := range fewPlaces() {
		v, there := model[p]
		got, err := db.Load(p)
		if there && (err != nil || string(got) != v) || !there && !db.NotFound(err) {
			t.Fatalf("%v: %d bytes, %v", p, len(got), err)
		}
		if there {
			if ids[p.Bucket] == nil {
				ids[p.Bucket] = map[key.Hash]int{}
			}
			ids[p.Bucket][p.ID]++
			if !slices.Contains(db.Places(p.Bucket, p.ID), p) {
				t.Fatalf("Places lacks %v", p)
			}
		}
	}
	for _, b := range []share.Bucket{share.BucketState, share.BucketRow, share.BucketPayload} {
		want := slices.SortedFunc(maps.Keys(ids[b]), func(a, b key.Hash) int { return bytes.Compare(a[:], b[:]) })
		if got := db.IDs(b); !slices.Equal(got, want) {
			t.Fatalf("IDs of %d: %v, want %v", b, got, want)
		}
		for id, n := range ids[b] {
			if got := db.Places(b, id); len(got) != n {
				t.Fatalf("Places of %v: %v, want %d", id, got, n)
			}
		}
	}
	if s := db.Stats(); s.Records != len(model) || s.Corrupt != 0 {
		t.Fatalf("%+v, want %d records", s, len(model))
	}
}

// TestReadersSeeAcknowledged reads and scrubs what is being replaced: never
// "not found", never damaged, never older than acknowledged before.
func TestReadersSeeAcknowledged(t *testing.T) {
	db, _ := open(t, store(t), storage.Options{})
	var acked [4]atomic.Uint64
	commit := func(n int, v uint64) error {
		return db.Commit(context.Background(), share.Record{Place: place(n), Value: binary.BigEndian.AppendUint64(make([]byte, 0, 2000), v)})
	}
	for n := range acked {
		if err := commit(n, 0); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for n := range acked {
		wg.Go(func() {
			for v := uint64(1); v < 400; v++ {
				if err := commit(n, v); err != nil {
					t.Error(err)
					return
				}
				acked[n].Store(v)
			}
		})
	}
	var readers sync.WaitGroup
	readers.Go(func() {
		for ctx.Err() == nil {
			if err := db.Scrub(ctx); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for r := range 3 {
		readers.Go(func() {
			for i := r; ctx.Err() == nil; i++ {
				n := i % len(acked)
				least := acked[n].Load()
				v, err := db.Load(place(n))
				if err != nil || binary.BigEndian.Uint64(v) < least {
					t.Errorf("after %d: %x, %v", least, v, err)
					return
				}
			}
		})
	}
	wg.Wait()
	cancel()
	readers.Wait()
	if s := db.Stats(); s.Corrupt != 0 || s.Records != len(acked) || s.Commits != 1600 {
		t.Fatalf("%+v", s)
	}
}

// TestDrain ends Run while 300 Commits are under way.
func TestDrain(t *testing.T) {
	dir := store(t)
	db, err := storage.Open(dir, testKey(1), storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- db.Run(ctx) }()
	var wg sync.WaitGroup
	errs := make([]error, 300)
	for n := range errs {
		wg.Go(func() {
			errs[n] = db.Commit(context.Background(), share.Record{Place: place(n), Value: []byte("v")})
			if n == 20 {
				cancel()
			}
		})
	}
	wg.Wait()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	if err := db.Run(context.Background()); !errors.Is(err, storage.ErrRunning) {
		t.Fatalf("a second Run: %v", err)
	}
	if err := db.Commit(context.Background(), share.Record{Place: place(0), Value: []byte("w")}); !errors.Is(err, storage.ErrStopped) {
		t.Fatalf("a Commit after Run: %v", err)
	}
	if err := errors.Join(db.Close(), db.Close()); err != nil {
		t.Fatal(err)
	}
	db, _ = open(t, dir, storage.Options{})
	for n, err := range errs {
		switch {
		case err == nil:
			want(t, db, place(n), "v")
		case !errors.Is(err, storage.ErrStopped):
			t.Fatal(err)
		default:
			if _, err := db.Load(place(n)); !db.NotFound(err) {
				t.Fatalf("refused, and there: %v", err)
			}
		}
	}
}

// TestCommitWithoutRun fills the queue of a store that nobody runs.
func TestCommitWithoutRun(t *testing.T) {
	dir := store(t)
	synctest.Test(t, func(t *testing.T) {
		db, err := storage.Open(dir, testKey(1), storage.Options{})
		if err != nil {
			t.Fatal(err)
		}
		results := make(chan error, 2)
		rec := share.Record{Place: place(1), Value: make([]byte, storage.MaxValue)}
		full := slices.Repeat([]share.Record{rec}, 7)
		for range 2 {
			go func() { results <- db.Commit(context.Background(), full...) }()
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := db.Commit(ctx, full...); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a Commit that finds the queue full: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := <-results; !errors.Is(err, storage.ErrStopped) {
				t.Fatal(err)
			}
		}
		if err := db.Run(context.Background()); !errors.Is(err, storage.ErrRunning) {
			t.Fatalf("Run after Close: %v", err)
		}
	})
}

// TestCommitContextEndsLater cancels the context of a Commit that is queued: it
// still tells the outcome.
func TestCommitContextEndsLater(t *testing.T) {
	dir := store(t)
	synctest.Test(t, func(t *testing.T) {
		db, err := storage.Open(dir, testKey(1), storage.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error, 1)
		go func() { result <- db.Commit(ctx, share.Record{Place: place(1), Value: []byte("v")}) }()
		synctest.Wait()
		cancel()
		synctest.Wait()
		run, stop := context.WithCancel(context.Background())
		go db.Run(run)
		if err := <-result; err != nil {
			t.Fatal(err)
		}
		want(t, db, place(1), "v")
		stop()
	})
}

func TestRoom(t *testing.T) {
	dir := store(t)
	db, stop := open(t, dir, storage.Options{MaxBytes: 1 << 20})
	if err := db.Room(500_000); err != nil {
		t.Fatal(err)
	}
	if err := db.Room(950_000); !errors.Is(err, storage.ErrFull) {
		t.Fatal(err)
	}
	for n := range 10 {
		put(t, db, place(n), string(make([]byte, 90_000)))
	}
	if err := db.Room(50_000); !errors.Is(err, storage.ErrFull) {
		t.Fatalf("at 90 %%: %v, %+v", err, db.Stats())
	}
	used := db.Stats().Bytes
	stop()
	db, stop = open(t, dir, storage.Options{MaxBytes: 1 << 20})
	if err := db.Room(50_000); !errors.Is(err, storage.ErrFull) {
		t.Fatalf("at 90 %% after opening: %v, %+v", err, db.Stats())
	}
	if again := db.Stats().Bytes; again < used-64<<10 || again > used+64<<10 {
		t.Fatalf("%d bytes in use, %d after opening", used, again)
	}
	put(t, db, place(11), "writes that nobody asked about go on")
	var gone []share.Record
	for n := range 10 {
		gone = append(gone, share.Record{Place: place(n)})
	}
	if err := db.Commit(context.Background(), gone...); err != nil {
		t.Fatal(err)
	}
	if err := db.Room(50_000); err != nil {
		t.Fatalf("after deleting: %v, %+v", err, db.Stats())
	}
	stop()
	db, _ = open(t, dir, storage.Options{MinFree: 1 << 60})
	if err := db.Room(0); !errors.Is(err, storage.ErrFull) {
		t.Fatal(err)
	}
}

// TestMemory holds what 10,000 secrets cost in memory.
func TestMemory(t *testing.T) {
	dir := store(t)
	db, stop := open(t, dir, storage.Options{})
	const secrets = 10_000
	for n := 0; n < secrets; n += 1000 {
		var recs []share.Record
		for i := n; i < n+1000; i++ {
			id := key.T("keymesh/v1/test", key.U64(uint64(i)))
			for _, b := range []share.Bucket{share.BucketState, share.BucketRow, share.BucketPayload} {
				recs = append(recs, share.Record{Place: share.Place{Bucket: b, ID: id, Gen: 1, X: 1}, Value: benchValue[:300]})
			}
		}
		if err := db.Commit(context.Background(), recs...); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	start := time.Now()
	db, stop = open(t, dir, storage.Options{})
	defer stop()
	opened := time.Since(start)
	used := int64(heap()) - int64(before)
	t.Logf("%d records: %d bytes of heap, opened in %v", db.Stats().Records, used, opened)
	if used > 8<<20 {
		t.Fatalf("%d bytes of heap", used)
	}
}
