package keystore

import (
	"context"
	"fmt"
	"testing"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// BenchmarkCustodianPut is the work of one holder for one put, 3 of 5, without
// disk and network: PREPARE and COMMIT with a certificate of 4 receipts.
func BenchmarkCustodianPut(b *testing.B) {
	m := newHMesh(b, 5, Limits{Secrets: 1 << 30, Bytes: 1 << 50})
	from := m.hWorld.nodes[0].ID()
	type pair struct{ prepare, commit []byte }
	var bodies []pair
	for i := range b.N {
		w := m.secret(fmt.Sprint(i))
		d := w.deal(b, hSpec{gen: 1, k: 3, seats: []int{0, 1, 2, 3, 4}})
		c := w.cert(d, nil, 0, 1, 2, 3)
		bodies = append(bodies, pair{
			key.Marshal(&custody.Prepare{Manifest: d.Bytes(), Row: d.rows[m.hWorld.nodes[1].ID()], Payload: d.payload}),
			key.Marshal(&custody.Commit{Manifest: d.Bytes(), Cert: c.bytes}),
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for _, p := range bodies {
		if _, err := m.nodes[1].answer(context.Background(), from, custody.VerbPrepare, p.prepare); err != nil {
			b.Fatal(err)
		}
		if _, err := m.nodes[1].answer(context.Background(), from, custody.VerbCommit, p.commit); err != nil {
			b.Fatal(err)
		}
	}
}
