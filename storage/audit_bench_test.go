package storage

import (
	"context"
	"testing"
)

func BenchmarkAuditAppendOne(b *testing.B) {
	a, _ := openAudit(b, newAudit(b), 0)
	e := auditEntry(1)
	for b.Loop() {
		if _, err := a.Append(context.Background(), e); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkAuditAppend64(b *testing.B) {
	a, _ := openAudit(b, newAudit(b), 0)
	e := auditEntry(1)
	b.SetParallelism(32) // times GOMAXPROCS
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := a.Append(context.Background(), e); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(a.end)/float64(a.pos.seq), "B/entry")
}
