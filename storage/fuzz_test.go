package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/fnv"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"keymesh/crypto/share"
)

func goldenFile(f *testing.F, name string) []byte {
	b, err := os.ReadFile(filepath.Join(goldenDir, name))
	if err != nil {
		f.Fatal(err)
	}
	return b
}

// FuzzMarker: nobody makes a STORE without the key.
func FuzzMarker(f *testing.F) {
	good := goldenFile(f, markerName)
	f.Add(good)
	f.Add(bytes.ToUpper(good))
	f.Add([]byte("keymesh store 2\n"))
	f.Add([]byte("keymesh store 1\nid \ngeneration +1\nseal \n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decodeMarker(goldenKey(), b); err == nil && !bytes.Equal(b, good) {
			t.Fatalf("accepted %q", b)
		}
	})
}

// FuzzEpochKeys: accepted bytes re-encode to themselves.
func FuzzEpochKeys(f *testing.F) {
	good := goldenFile(f, keysName)
	one := append([]byte{0, 0, 0, 1}, make([]byte, 32)...)
	f.Add(one)
	f.Add(append(append([]byte{}, one...), append([]byte{0, 0, 0, 2}, make([]byte, 32)...)...))
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := parseEpochKeys(b); err == nil {
			var again []byte
			for i, n := range e.nums {
				again = append(binary.BigEndian.AppendUint32(again, n), e.keys[i][:]...)
			}
			if !bytes.Equal(again, b) {
				t.Fatalf("%x became %x", b, again)
			}
		}
		if _, err := decodeEpochKeys(goldenKey(), storeID(good[17:33]), b); err == nil && !bytes.Equal(b, good) {
			t.Fatalf("accepted %x", b)
		}
	})
}

// FuzzRecord: nobody makes a head or record without the key.
func FuzzRecord(f *testing.F) {
	goodHead, records := goldenContents(f)
	id := storeID(goodHead[1:headFixed])
	keys, err := decodeEpochKeys(goldenKey(), id, goldenFile(f, keysName))
	if err != nil {
		f.Fatal(err)
	}
	s := sealer{id: id, keys: keys}
	seqs := slices.Sorted(mapKeys(records))
	num, good := beUint64([]byte(seqs[1])), []byte(records[seqs[1]])
	f.Add(num, good)
	f.Add(num+1, good)
	f.Add(num, good[:Overhead])
	f.Add(num, goodHead)
	f.Fuzz(func(t *testing.T, seq uint64, b []byte) {
		for other, rec := range records {
			if string(b) == rec && other != seqs[1] {
				return // one of the other records, with its own number perhaps
			}
		}
		p, err := s.openPlace(seq, b)
		prefix := len(b) >= recordHead+placeBox && bytes.Equal(b[:recordHead+placeBox], good[:recordHead+placeBox])
		if err == nil && (seq != num || !prefix) {
			t.Fatalf("accepted a place: %d %x", seq, b)
		}
		if _, err := s.openValue(seq, p, b); err == nil && (seq != num || !bytes.Equal(b, good)) {
			t.Fatalf("accepted a value: %d %x", seq, b)
		}
		if _, err := decodeHead(goldenKey(), id, b); err == nil && !bytes.Equal(b, goodHead) {
			t.Fatalf("accepted a head: %x", b)
		}
	})
}

// FuzzDatabase writes anything anywhere into a good store.db, with the
// checksums of the meta pages made good again, and uses what Open accepts. A
// record is as it was, or damaged; and bbolt never crashes.
func FuzzDatabase(f *testing.F) {
	good := goldenFile(f, dbName)
	u64 := func(n uint64) []byte { return order.AppendUint64(nil, n) }
	f.Add(uint32(16+16), u64(2), uint32(0), []byte{})            // root of meta 0
	f.Add(uint32(16+32), u64(3), uint32(0), []byte{})            // free list of meta 0
	f.Add(uint32(4096+16+40), u64(1<<40), uint32(0), []byte{})   // high-water mark of meta 1
	f.Add(uint32(4096+16+48), u64(1<<60), uint32(64), []byte{0}) // transaction of meta 1
	for p := uint32(2); p < uint32(len(good)/pageSize); p++ {
		f.Add(p*pageSize+8, []byte{flagBranch}, p*pageSize+10, []byte{1}) // type and count
		f.Add(p*pageSize+12, []byte{1}, p*pageSize, u64(uint64(p)+1))     // overflow and number
		f.Add(p*pageSize+20, []byte{0xff, 0xff}, p*pageSize+24, []byte{0})
		f.Add(p*pageSize+24, u64(uint64(p)), p*pageSize+10, []byte{0xff, 0xff})
	}
	f.Fuzz(func(t *testing.T, at1 uint32, patch1 []byte, at2 uint32, patch2 []byte) {
		dir := copyGolden(t)
		b := bytes.Clone(good)
		copy(b[int(at1)%len(b):], patch1)
		copy(b[int(at2)%len(b):], patch2)
		for _, m := range [][]byte{b[pageHeader:], b[pageSize+pageHeader:]} {
			h := fnv.New64a()
			h.Write(m[:56])
			order.PutUint64(m[56:], h.Sum64())
		}
		if err := os.WriteFile(filepath.Join(dir, dbName), b, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(dir, goldenKey(), Options{})
		if err != nil {
			return
		}
		defer db.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go db.Run(ctx)
		use(t, db)
	})
}

func use(t *testing.T, db *DB) {
	for _, r := range goldenRecords() {
		got, err := db.Load(r.Place)
		if err == nil && !bytes.Equal(got, r.Value) || err != nil && !db.Corrupt(err) {
			t.Fatalf("%q, %v", got, err)
		}
		if err := db.Commit(t.Context(), share.Record{Place: r.Place, Value: []byte("new")}); err != nil {
			t.Fatalf("an accepted file cannot be written: %v", err)
		}
		if got, err = db.Load(r.Place); string(got) != "new" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}
