package keystore

import (
	"context"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// A seat that has the certificate and not its row refuses the row, but its word
// that nothing is newer counts: found by the simulation, where a reader of a
// 2-of-5 was one word short.
func TestRefusalIsAWord(t *testing.T) {
	bubble(t, 7, func(t *testing.T, f *fakeNet, p Person) {
		var seats []key.NodeID
		for _, n := range f.nodes[:5] {
			seats = append(seats, n.id)
		}
		writer, reader := f.nodes[5], f.nodes[6]
		f.set(loseTo(custody.VerbPrepare, f.nodes[4]), nil)
		f.nodes[4].store.PauseRepair(context.Background(), true)
		mustPut(t, writer.store, p, "a", []byte("v"), PutOptions{N: 5, K: 2, Holders: seats})
		writer.stop() // nobody brings the row any more
		f.set(nil, nil)
		time.Sleep(time.Minute) // the others pass the certificate on
		s, err := f.nodes[4].store.cust.peek(context.Background(), f.nodes[4].shelf.IDs(share.BucketState)[0])
		if err != nil || s.kept == nil || s.committed != nil {
			t.Fatalf("%+v %v", s, err)
		}
		f.nodes[3].stop()
		mustGet(t, reader.store, p, "a", []byte("v"))
	})
}
