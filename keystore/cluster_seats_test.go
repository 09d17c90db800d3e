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

// TestPassedSeatsAreTold: a writer dies when one seat of three has promised its
// first put. A plain put on other seats needs the receipts of all three, also of
// the two that have never heard of what it passes.
func TestPassedSeatsAreTold(t *testing.T) {
	bubble(t, 8, func(t *testing.T, f *fakeNet, p Person) {
		holders := func(nodes ...*fakeNode) (out []key.NodeID) {
			for _, n := range nodes {
				out = append(out, n.id)
			}
			return out
		}
		writer := f.nodes[7]
		f.set(loseTo(custody.VerbPrepare, f.nodes[4], f.nodes[5]), nil)
		go writer.store.Put(context.Background(), p, "a", []byte("1"), PutOptions{N: 3, K: 2, W: 3, Holders: holders(f.nodes[3:6]...), Timeout: time.Second})
		time.Sleep(500 * time.Millisecond)
		writer.stop()
		f.set(nil, nil)
		mustPut(t, f.nodes[0].store, p, "a", []byte("2"), PutOptions{N: 3, K: 2, Holders: holders(f.nodes[:3]...), Timeout: 20 * time.Second})
		mustGet(t, f.nodes[6].store, p, "a", []byte("2"))
	})
}

// TestDeletedForOthers: a name is deleted while a pending of it is only at seats
// that the tombstone was not for. They hear of it when they settle it.
func TestDeletedForOthers(t *testing.T) {
	bubble(t, 8, func(t *testing.T, f *fakeNet, p Person) {
		holders := func(nodes ...*fakeNode) (out []key.NodeID) {
			for _, n := range nodes {
				out = append(out, n.id)
			}
			return out
		}
		writer := f.nodes[7]
		f.set(loseTo(custody.VerbPrepare, f.nodes[2]), nil)
		go writer.store.Put(context.Background(), p, "a", []byte("1"), PutOptions{N: 3, K: 2, W: 3, Holders: holders(f.nodes[2:5]...), Timeout: time.Second})
		time.Sleep(500 * time.Millisecond)
		writer.stop()
		f.set(nil, nil)
		f.set(loseTo(custody.VerbDelete, f.nodes[3], f.nodes[4]), nil)
		d, err := f.nodes[0].store.Delete(context.Background(), p, "a", DeleteOptions{Timeout: time.Second})
		if err != nil {
			t.Logf("delete: %v", explain(err))
		}
		time.Sleep(3 * time.Minute)
		for _, n := range f.nodes[2:5] {
			if s := n.state(t, d.ID); len(s.live()) != 0 || s.deletedUpTo() == 0 {
				t.Errorf("%x has %d pendings and nothing is deleted up to %d", n.id[:4], len(s.live()), s.deletedUpTo())
			}
		}
	})
}
