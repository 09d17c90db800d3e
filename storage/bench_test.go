package storage_test

import (
	"bytes"
	"context"
	"sync/atomic"
	"testing"

	"keymesh/crypto/share"
	"keymesh/storage"
)

// benchValue is what a holder stores for a secret of 32 bytes, roughly.
var benchValue = bytes.Repeat([]byte{7}, 1200)

func BenchmarkCommitOne(b *testing.B) {
	db, _ := open(b, store(b), storage.Options{})
	n := 0
	for b.Loop() {
		n++
		if err := db.Commit(context.Background(), share.Record{Place: place(n), Value: benchValue}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

func BenchmarkCommit64(b *testing.B) {
	db, _ := open(b, store(b), storage.Options{})
	var n atomic.Int64
	b.SetParallelism(32) // times GOMAXPROCS
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p := place(int(n.Add(1)))
			if err := db.Commit(context.Background(), share.Record{Place: p, Value: benchValue}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

// BenchmarkUpdate64 replaces one of 1,000 records each time.
func BenchmarkUpdate64(b *testing.B) {
	db, _ := open(b, store(b), storage.Options{})
	var n atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			p := place(int(n.Add(1)) * 7919 % 1000)
			if err := db.Commit(context.Background(), share.Record{Place: p, Value: benchValue}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

func BenchmarkLoad(b *testing.B) {
	db, _ := open(b, store(b), storage.Options{})
	for n := range 1000 {
		put(b, db, place(n), string(benchValue))
	}
	n := 0
	for b.Loop() {
		n++
		if _, err := db.Load(place(n % 1000)); err != nil {
			b.Fatal(err)
		}
	}
}
