package keystore

import (
	"context"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
)

// benchNet also reports the processor time of all five nodes an operation.
func benchNet(b *testing.B) (*fakeNet, Person) {
	var from, to syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &from)
	b.Cleanup(func() {
		syscall.Getrusage(syscall.RUSAGE_SELF, &to)
		used := to.Utime.Nano() + to.Stime.Nano() - from.Utime.Nano() - from.Stime.Nano()
		b.ReportMetric(float64(used)/float64(b.N)/1e3, "cpu-µs/op")
	})
	return newFakeNet(b, 5), newPerson()
}

func BenchmarkPutNew(b *testing.B) {
	f, p := benchNet(b)
	v := make([]byte, 256)
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			if _, err := f.nodes[i%5].store.Put(context.Background(), p, fmt.Sprint("k", i), v, PutOptions{}); err != nil {
				b.Fatal(explain(err))
			}
		}
	})
}

func BenchmarkPutOver(b *testing.B) {
	f, p := benchNet(b)
	v := make([]byte, 256)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := f.nodes[0].store.Put(context.Background(), p, fmt.Sprint("k", i%10), v, PutOptions{}); err != nil {
			b.Fatal(explain(err))
		}
	}
}

func BenchmarkGet(b *testing.B) {
	f, p := benchNet(b)
	v := make([]byte, 256)
	for i := range 50 {
		if _, err := f.nodes[0].store.Put(context.Background(), p, fmt.Sprint("k", i), v, PutOptions{}); err != nil {
			b.Fatal(explain(err))
		}
	}
	b.ReportAllocs()
	b.ResetTimer()
	var n atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			if _, err := f.nodes[i%5].store.Recover(context.Background(), p, fmt.Sprint("k", i%50), RecoverOptions{}); err != nil {
				b.Fatal(explain(err))
			}
		}
	})
}

func BenchmarkGetAlone(b *testing.B) {
	f, p := benchNet(b)
	v := make([]byte, 256)
	if _, err := f.nodes[0].store.Put(context.Background(), p, "k", v, PutOptions{}); err != nil {
		b.Fatal(explain(err))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.nodes[1].store.Recover(context.Background(), p, "k", RecoverOptions{}); err != nil {
			b.Fatal(explain(err))
		}
	}
}
