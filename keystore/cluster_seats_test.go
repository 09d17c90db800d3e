package keystore

import (
	"context"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/keystore/custody"
)

// A generation on other seats whose writer is killed after only old seats had
// its certificate: they let go of their rows on its word, so they must not let
// go of it. One more disk may be lost.
func TestOldSeatsPassItOn(t *testing.T) {
	bubble(t, 8, func(t *testing.T, f *fakeNet, p Person) {
		holders := func(nodes ...*fakeNode) (out []key.NodeID) {
			for _, n := range nodes {
				out = append(out, n.id)
			}
			return out
		}
		old, writer := f.nodes[:5], f.nodes[7]
		mustPut(t, writer.store, p, "a", []byte("1"), PutOptions{N: 5, K: 3, Holders: holders(old...)})
		settle(t, f, p, "a", 1)
		// n1 and n2 lose their seats; of the COMMITs only theirs arrive.
		f.set(loseTo(custody.VerbCommit, f.nodes[2], f.nodes[3], f.nodes[4]), nil)
		go writer.store.Put(context.Background(), p, "a", []byte("2"), PutOptions{N: 3, K: 2, Holders: holders(f.nodes[2:5]...), Timeout: time.Second})
		time.Sleep(500 * time.Millisecond)
		writer.stop()
		f.set(nil, nil)
		f.nodes[4].stop() // and its disk is lost
		time.Sleep(5 * time.Minute)
		for _, n := range f.nodes[:4] {
			mustGet(t, n.store, p, "a", []byte("2"))
		}
	})
}
