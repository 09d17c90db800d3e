package keystore

import (
	"context"
	"testing"
	"testing/synctest"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

func mustVerify(t *testing.T, s *Store, p Person, name string) *Verified {
	t.Helper()
	v, err := s.Verify(context.Background(), p, name, 0)
	if err != nil {
		t.Fatal(explain(err))
	}
	return v
}

func (v *Verified) state(name string) string {
	for _, st := range v.Seats {
		if st.Name == name {
			return st.State
		}
	}
	return "none"
}

// wipe removes the records of some buckets from the node's disk while it is
// stopped, as a damaged or new disk would.
func (n *fakeNode) wipe(buckets ...share.Bucket) {
	n.stop()
	n.shelf.mu.Lock()
	for pl := range n.shelf.recs {
		for _, b := range buckets {
			if pl.Bucket == b {
				delete(n.shelf.recs, pl)
			}
		}
	}
	n.shelf.mu.Unlock()
	n.start()
}

// flip damages every record of a bucket while the node is stopped.
func (n *fakeNode) flip(b share.Bucket) {
	n.stop()
	n.shelf.mu.Lock()
	for pl, v := range n.shelf.recs {
		if pl.Bucket == b {
			v[len(v)/2] ^= 1
		}
	}
	n.shelf.mu.Unlock()
	n.start()
}

// Each state of a seat is told apart, and none that lacks its row is good.
func TestVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeNet(t, 6)
		p := newPerson()
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{N: 6, K: 2, W: 5})
		settle(t, f, p, "a", put.Gen)
		v := mustVerify(t, f.nodes[0].store, p, "a")
		if v.Good != 6 || v.N != 6 || v.K != 2 || v.W != 5 || v.Gen != 1 || v.Manifest != put.Manifest {
			t.Fatalf("%+v", v)
		}
		f.nodes[1].flip(share.BucketPayload)
		f.nodes[2].flip(share.BucketRow)
		f.nodes[3].wipe(share.BucketRow, share.BucketPayload, share.BucketState)
		f.nodes[4].stop()
		f.nodes[5].lies(func(_ context.Context, _ key.NodeID, verb uint64, body []byte, call func() ([]byte, error)) ([]byte, error) {
			out, err := call()
			var q custody.RecoverReply
			if verb == custody.VerbRecover && key.Unmarshal(out, &q) == nil && len(q.Box) > 0 {
				q.Box[len(q.Box)-1] ^= 1
				return key.Marshal(&q), nil
			}
			return out, err
		})
		v = mustVerify(t, f.nodes[0].store, p, "a")
		want := map[string]string{"n1": "good", "n2": "corrupt", "n3": "corrupt", "n4": "missing", "n5": "unreachable", "n6": "corrupt"}
		for name, state := range want {
			if v.state(name) != state {
				t.Fatalf("%s is %s instead of %s: %+v", name, v.state(name), state, v.Seats)
			}
		}
		if v.Good != 1 {
			t.Fatalf("%d good", v.Good)
		}
	})
}

// One seat alone, of which two are needed to compare, is not called good.
func TestVerifyTooFew(t *testing.T) {
	bubble(t, 3, func(t *testing.T, f *fakeNet, p Person) {
		put := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
		settle(t, f, p, "a", put.Gen)
		f.nodes[2].lies(func(_ context.Context, _ key.NodeID, verb uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
			if verb == custody.VerbRecover {
				return nil, errFakeLink
			}
			return call()
		})
		f.nodes[1].flip(share.BucketRow)
		v := mustVerify(t, f.nodes[0].store, p, "a")
		if v.Good != 0 || v.state("n1") != "unproven" || v.state("n2") != "corrupt" || v.state("n3") != "unreachable" {
			t.Fatalf("%+v", v)
		}
	})
}
