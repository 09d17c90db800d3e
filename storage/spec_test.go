package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/crypto/chacha20poly1305"
	"pgregory.net/rapid"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

var update = flag.Bool("update", false, "write the vectors of SPEC.md anew: a change of format")

// goldenDir is the vector of SPEC.md: a store under the key 00 01 .. 1f.
const goldenDir = "testdata/store1"

func goldenKey() *[32]byte {
	k := new([32]byte)
	for i := range k {
		k[i] = byte(i)
	}
	return k
}

// goldenRecords are what it holds.
func goldenRecords() []share.Record {
	id := key.Hash(bytes.Repeat([]byte{0xA1}, 32))
	return []share.Record{
		{Place: share.Place{Bucket: share.BucketState, ID: id}, Value: []byte("a state")},
		{Place: share.Place{Bucket: share.BucketRow, ID: id, Gen: 0x0102030405060708, Epoch: 0x090a0b0c, X: 0x0d, Sub: key.Hash(bytes.Repeat([]byte{0xB2}, 32))}, Value: []byte("a row")},
		{Place: share.Place{Bucket: share.BucketPass, ID: key.Hash{31: 1}}, Value: []byte{}},
	}
}

// running opens dir and runs it until the test or benchmark ends.
func running(t testing.TB, dir string, k *[32]byte) *DB {
	t.Helper()
	db, err := Open(dir, k, Options{})
	if err != nil {
		t.Fatal(err)
	}
	go db.Run(context.Background())
	t.Cleanup(func() { db.Close() })
	return db
}

// copyGolden makes a private copy.
func copyGolden(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{markerName, keysName, dbName} {
		b, err := os.ReadFile(filepath.Join(goldenDir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func writeGolden(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	if err := Create(dir, goldenKey()); err != nil {
		t.Fatal(err)
	}
	db := running(t, dir, goldenKey())
	old := goldenRecords()
	old[0].Value = []byte("an older state")
	for _, recs := range [][]share.Record{old[:1], goldenRecords()} {
		if err := db.Commit(context.Background(), recs...); err != nil {
			t.Fatal(err)
		}
	}
	size := db.size.Load()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, dbName), size); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{markerName, keysName, dbName} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = errors.Join(os.MkdirAll(goldenDir, 0o755), os.WriteFile(filepath.Join(goldenDir, name), b, 0o644))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestGoldenStore opens a store that an earlier build wrote.
func TestGoldenStore(t *testing.T) {
	if *update {
		writeGolden(t)
	}
	db := running(t, copyGolden(t), goldenKey())
	for _, r := range goldenRecords() {
		got, err := db.Load(r.Place)
		if err != nil || !bytes.Equal(got, r.Value) {
			t.Fatalf("%v: %q, %v", r.Place, got, err)
		}
	}
	if s := db.Stats(); s.Records != len(goldenRecords()) || s.Corrupt != 0 {
		t.Fatalf("%+v", s)
	}
}

// unbox opens a box as SPEC.md has it, without the code under test.
func unbox(t *testing.T, k []byte, box []byte, aad ...[]byte) []byte {
	t.Helper()
	if len(box) < 41 || box[0] != 1 {
		t.Fatalf("no box: %x", box)
	}
	a, err := chacha20poly1305.NewX(k)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := a.Open(nil, box[1:25], box[25:], bytes.Join(aad, nil))
	if err != nil {
		t.Fatalf("%v with aad %q", err, aad)
	}
	return plain
}

// TestSpec reads the golden store by the words of SPEC.md alone.
func TestSpec(t *testing.T) {
	k := goldenKey()[:]
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(goldenDir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	text, sealed, _ := strings.Cut(string(read("STORE")), "seal ")
	lines := strings.Split(text, "\n")
	id, _ := hex.DecodeString(strings.TrimPrefix(lines[1], "id "))
	gen, _ := strconv.ParseUint(strings.TrimPrefix(lines[2], "generation "), 10, 64)
	box, _ := hex.DecodeString(strings.TrimSuffix(sealed, "\n"))
	if lines[0] != "keymesh store 1" || len(unbox(t, k, box, []byte("keymesh/v1/store/marker"), []byte(text))) != 0 {
		t.Fatalf("STORE: %q", lines)
	}
	file := read("epochkey")
	epochs := unbox(t, k, file[33:], file[:33])
	if string(file[:17]) != "keymesh epochkey\x01" || !bytes.Equal(file[17:33], id) || len(epochs) != 36 || !bytes.Equal(epochs[:4], []byte{0, 0, 0, 1}) {
		t.Fatalf("epochkey: %q", file[:33])
	}
	head, records := goldenContents(t)
	plain := unbox(t, k, head[17:], []byte("keymesh/v1/store/head"), head[:17])
	if head[0] != 1 || !bytes.Equal(head[1:17], id) || binary.BigEndian.Uint64(plain) != gen {
		t.Fatalf("head: %x, generation %d", head, gen)
	}
	if n := binary.BigEndian.Uint64(plain[16:]); n != uint64(len(records)) || binary.BigEndian.Uint32(plain[56:]) != 1 {
		t.Fatalf("head: %x", plain)
	}
	want := goldenRecords()
	for i, seq := range slices.Sorted(mapKeys(records)) {
		rec, aad := []byte(records[seq]), append([]byte(seq), 0, 0, 0, 1)
		if rec[0] != 1 || !bytes.Equal(rec[1:5], []byte{0, 0, 0, 1}) {
			t.Fatalf("record %x: %x", seq, rec[:5])
		}
		p := unbox(t, epochs[4:], rec[5:124], []byte("keymesh/v1/store/place"), id, aad)
		v := unbox(t, epochs[4:], rec[124:], []byte("keymesh/v1/store/value"), id, aad, p)
		if !bytes.Equal(p, specPlace(want[i].Place)) || !bytes.Equal(v, want[i].Value) {
			t.Fatalf("record %x: %x, %q", seq, p, v)
		}
	}
}

func mapKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// specPlace is the place as SPEC.md has it.
func specPlace(p share.Place) []byte {
	return slices.Concat([]byte{byte(p.Bucket)}, p.ID[:], key.U64(p.Gen), binary.BigEndian.AppendUint32(nil, p.Epoch), []byte{p.X}, p.Sub[:])
}

// goldenContents reads the golden file with bbolt.
func goldenContents(t testing.TB) (head []byte, records map[string]string) {
	db, err := bolt.Open(filepath.Join(copyGolden(t), dbName), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	records = map[string]string{}
	err = db.View(func(tx *bolt.Tx) error {
		head = bytes.Clone(tx.Bucket([]byte("h")).Get([]byte("s")))
		return tx.Bucket([]byte("r")).ForEach(func(k, v []byte) error {
			records[string(k)] = string(v)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return head, records
}

// TestDigestVector holds the terms of the set digest to values computed with
// Python's hashlib and hmac.
func TestDigestVector(t *testing.T) {
	var s sealer
	var err error
	id := storeID(bytes.Repeat([]byte{0xC3}, 16))
	if s.set, err = setKey(goldenKey(), id); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(s.set[:]); got != setKeyVector {
		t.Fatalf("key of the set: %s", got)
	}
	var sum digest
	sum.add(s.term(1))
	sum.add(s.term(1 << 32))
	var b []byte
	for _, lane := range sum {
		b = binary.BigEndian.AppendUint64(b, lane)
	}
	if got := hex.EncodeToString(b); got != sumVector {
		t.Fatalf("sum: %s", got)
	}
	sum.remove(s.term(1))
	if sum != s.term(1<<32) {
		t.Fatal("removing is not the opposite of adding")
	}
}

// rekey changes the epoch keys of a closed store.
func rekey(t *testing.T, dir string, change func(e *epochKeys)) {
	t.Helper()
	db := &DB{dir: dir, k: *goldenKey()}
	if err := db.readFiles(); err != nil {
		t.Fatal(err)
	}
	change(&db.s.keys)
	if err := replaceFile(db.path(keysName), db.s.keys.encode(goldenKey(), db.s.id)); err != nil {
		t.Fatal(err)
	}
}

// holds wants the first n golden records and this epoch.
func holds(t *testing.T, dir string, n int, epoch uint32) {
	t.Helper()
	db := running(t, dir, goldenKey())
	defer db.Close()
	for _, r := range goldenRecords()[:n] {
		if got, err := db.Load(r.Place); err != nil || !bytes.Equal(got, r.Value) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if s := db.Stats(); s.Epoch != epoch || s.Records != n {
		t.Fatalf("%+v, want epoch %d", s, epoch)
	}
}

// TestEpochs opens a store whose epoch keys moved on, and then lost the old one.
func TestEpochs(t *testing.T) {
	dir, recs := filepath.Join(t.TempDir(), "node"), goldenRecords()
	if err := Create(dir, goldenKey()); err != nil {
		t.Fatal(err)
	}
	write := func(r share.Record) {
		db := running(t, dir, goldenKey())
		defer db.Close()
		if err := db.Commit(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	write(recs[0])
	holds(t, dir, 1, 1)
	file := filepath.Join(dir, keysName)
	first, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	rekey(t, dir, func(e *epochKeys) { e.nums, e.keys = append(e.nums, 7), append(e.keys, [32]byte{7}) })
	write(recs[1])
	holds(t, dir, 2, 7)
	rekey(t, dir, func(e *epochKeys) { e.nums, e.keys = e.nums[1:], e.keys[1:] })
	db := running(t, dir, goldenKey())
	if _, err := db.Load(recs[0].Place); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a record whose key is gone: %v", err)
	}
	if got, err := db.Load(recs[1].Place); err != nil || !bytes.Equal(got, recs[1].Value) {
		t.Fatalf("%q, %v", got, err)
	}
	db.Close()
	if err := os.WriteFile(file, first, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, goldenKey(), Options{}); !errors.Is(err, ErrOlder) {
		t.Fatalf("an older epochkey: %v", err)
	}
}

// TestPlaceEncoding: all places have different encodings, which parse back.
func TestPlaceEncoding(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := share.Place{
			Bucket: share.Bucket(rapid.Uint8().Draw(rt, "bucket")), Gen: rapid.Uint64().Draw(rt, "gen"),
			Epoch: rapid.Uint32().Draw(rt, "epoch"), X: rapid.Uint8().Draw(rt, "x"),
		}
		copy(p.ID[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(rt, "id"))
		copy(p.Sub[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(rt, "sub"))
		b := appendPlace(nil, p)
		if len(b) != placeSize || parsePlace(b) != p || !bytes.Equal(b, specPlace(p)) {
			rt.Fatalf("%v became %x", p, b)
		}
	})
}

// TestCreateCleansUp leaves nothing behind after a failure, so that the next
// attempt succeeds.
func TestCreateCleansUp(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, dbName)
	steps := creation(goldenKey(), storeID{1}, newEpochKeys())
	steps[2].make = func(string) error { return fs.ErrInvalid }
	if err := createAll(dir, steps); !errors.Is(err, fs.ErrInvalid) {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s stayed: %v", dbName, err)
	}
	if err := Create(dir, goldenKey()); err != nil {
		t.Fatal(err)
	}
}

const (
	setKeyVector = "59679dc3c1bab377f7af7afec23c471d9426f1b0f119caae61c345b883b61734"
	sumVector    = "0912aa765ec07a5c8ed17cabd798a5a3a98a4ae86e45fac9b0176eed6f867acd"
)

// TestLaterFormats: a format to come is told from damage.
func TestLaterFormats(t *testing.T) {
	later := bytes.Replace(mustRead(t, markerName), []byte("store 1"), []byte("store 2"), 1)
	if _, err := decodeMarker(goldenKey(), later); !errors.Is(err, ErrVersion) {
		t.Fatal(err)
	}
	keys := mustRead(t, keysName)
	keys[len(keysMagic)] = 2
	if _, err := decodeEpochKeys(goldenKey(), storeID(keys[17:33]), keys); !errors.Is(err, ErrVersion) {
		t.Fatal(err)
	}
	head, _ := goldenContents(t)
	id := storeID(head[1:headFixed])
	head[0] = 2
	if _, err := decodeHead(goldenKey(), id, head); !errors.Is(err, ErrVersion) {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(goldenDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}
