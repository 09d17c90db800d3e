package keystore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// client adds a node that holds nothing, for a writer that vanishes.
func (f *fakeNet) client(name string) *fakeNode {
	c := f.add(name, "op "+name, "z "+name)
	c.member.Holder = false
	c.start()
	time.Sleep(2 * rosterAge) // in a bubble
	return c
}

// onlyReach loses every PREPARE of the node but those to these, and all its
// COMMITs.
func (f *fakeNet) onlyReach(writers map[key.NodeID][]*fakeNode) {
	f.set(func(from, to key.NodeID, verb uint64) error {
		allowed, ok := writers[from]
		if !ok || verb != custody.VerbPrepare && verb != custody.VerbCommit {
			return nil
		}
		for _, n := range allowed {
			if n.id == to && verb == custody.VerbPrepare {
				return nil
			}
		}
		return errLost
	}, nil)
}

// vanish lets the node begin a put that reaches these seats only, and ends it.
func vanish(t *testing.T, w *fakeNode, p Person, name string, value []byte, o PutOptions) {
	t.Helper()
	o.Timeout, o.New = 5*time.Second, true
	if _, err := w.store.Put(context.Background(), p, name, value, o); err == nil {
		t.Fatal("the put was stored")
	}
	w.stop()
	w.shelf.recs = map[share.Place][]byte{} // and its disk with it
}

// pendings counts the seats that hold a promise, and rows of every generation.
func (f *fakeNet) pendings(id key.Hash) (pending, rows int) {
	for _, n := range f.nodes {
		s := n.up()
		if s == nil {
			continue
		}
		st, err := s.cust.peek(context.Background(), id)
		if err != nil {
			f.t.Fatal(err)
		}
		pending += len(st.live())
		rows += len(n.shelf.dump(share.BucketRow))
	}
	return pending, rows
}

// TestWriterVanishes: a writer that is lost with its disk after any number of
// its PREPAREs leaves nothing in doubt for longer than minutes: with k rows the
// seats complete its write, with fewer they let go of it, and the next put is
// held up by neither and forces nothing.
func TestWriterVanishes(t *testing.T) {
	for _, update := range []bool{false, true} {
		for reached := range 6 {
			t.Run(fmt.Sprintf("update=%v/%d", update, reached), func(t *testing.T) {
				bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
					w := f.client("writer")
					old := []byte(nil)
					if update {
						old = []byte("old")
						mustPut(t, f.nodes[0].store, p, "s", old, PutOptions{})
						settle(t, f, p, "s", 1)
					}
					f.onlyReach(map[key.NodeID][]*fakeNode{w.id: f.nodes[:reached]})
					vanish(t, w, p, "s", []byte("new"), PutOptions{})
					time.Sleep(3 * time.Minute)
					h, _ := f.nodes[0].store.secret(p, "s")
					if n, _ := f.pendings(h.id); n != 0 {
						t.Fatalf("%d seats still hold a promise", n)
					}
					want := []byte("new")
					if reached < 3 {
						want = old
					}
					if want == nil {
						if _, err := f.nodes[1].store.Recover(context.Background(), p, "s", RecoverOptions{}); !errors.Is(err, ErrNotFound) {
							t.Fatalf("not dead: %v", explain(err))
						}
					} else {
						mustGet(t, f.nodes[1].store, p, "s", want)
					}
					start := time.Now()
					gen := uint64(btoi(update) + btoi(reached >= 3))
					r := mustPut(t, f.nodes[2].store, p, "s", []byte("next"), PutOptions{IfGen: &gen})
					if d := time.Since(start); d > 5*time.Second || r.Gen != gen+1 {
						t.Errorf("the next put took %v and has generation %d after %d", d, r.Gen, gen)
					}
					mustGet(t, f.nodes[4].store, p, "s", []byte("next"))
				})
			})
		}
	}
}

// TestEvenSplit: two writers meet and both vanish: what has k rows is completed
// where the others let go, and at most one of them.
func TestEvenSplit(t *testing.T) {
	for one := range 6 {
		for two := range 6 - one {
			t.Run(fmt.Sprintf("%d+%d", one, two), func(t *testing.T) {
				bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
					mustPut(t, f.nodes[0].store, p, "s", []byte("old"), PutOptions{})
					settle(t, f, p, "s", 1)
					a, b := f.client("a"), f.client("b")
					mustGet(t, a.store, p, "s", []byte("old"))
					mustGet(t, b.store, p, "s", []byte("old"))
					f.onlyReach(map[key.NodeID][]*fakeNode{a.id: f.nodes[:one], b.id: f.nodes[5-two : 5]})
					gen := uint64(1)
					var g sync.WaitGroup
					for i, w := range []*fakeNode{a, b} {
						g.Go(func() { vanish(t, w, p, "s", []byte{'a' + byte(i)}, PutOptions{IfGen: &gen}) })
					}
					g.Wait()
					time.Sleep(5 * time.Minute)
					h, _ := f.nodes[0].store.secret(p, "s")
					if n, _ := f.pendings(h.id); n != 0 {
						t.Fatalf("%d seats still hold a promise", n)
					}
					want := "old"
					switch {
					case one >= 3:
						want = "a"
					case two >= 3:
						want = "b"
					}
					mustGet(t, f.nodes[1].store, p, "s", []byte(want))
					mustPut(t, f.nodes[2].store, p, "s", []byte("next"), PutOptions{})
				})
			})
		}
	}
}

// TestSettleMoved: a write that moves to other seats is completed only where
// both its seats and those before it have promised enough, and dies otherwise;
// the old value is there until then and not afterwards.
func TestSettleMoved(t *testing.T) {
	for from := range 8 {
		for to := from; to <= 8; to++ {
			t.Run(fmt.Sprintf("%d-%d", from, to), func(t *testing.T) {
				bubble(t, 8, func(t *testing.T, f *fakeNet, p Person) {
					ids := make([]key.NodeID, 8)
					for i := range ids {
						ids[i] = f.nodes[i].id
					}
					w := f.client("writer")
					old := PutOptions{N: 5, K: 3, Holders: ids[:5]}
					mustPut(t, f.nodes[0].store, p, "s", []byte("old"), old)
					settle(t, f, p, "s", 1)
					f.onlyReach(map[key.NodeID][]*fakeNode{w.id: f.nodes[from:to]})
					vanish(t, w, p, "s", []byte("new"), PutOptions{N: 5, K: 3, Holders: ids[3:]})
					time.Sleep(4 * time.Minute)
					before, after := max(0, min(to, 5)-from), max(0, to-max(from, 3))
					want := "old"
					if before >= 3 && after >= 3 {
						want = "new"
					}
					h, _ := f.nodes[0].store.secret(p, "s")
					if n, _ := f.pendings(h.id); n != 0 {
						t.Fatalf("%d seats still hold a promise", n)
					}
					mustGet(t, f.nodes[1].store, p, "s", []byte(want))
					mustPut(t, f.nodes[2].store, p, "s", []byte("next"), old)
					mustGet(t, f.nodes[7].store, p, "s", []byte("next"))
				})
			})
		}
	}
}

// TestEvenSplitOfFour: where 2k <= n a split in halves stays as it is, whatever
// the time, neither half is lost or taken for stored, and a put that may passes
// both by force.
func TestEvenSplitOfFour(t *testing.T) {
	bubble(t, 4, func(t *testing.T, f *fakeNet, p Person) {
		shape := PutOptions{N: 4, K: 2}
		mustPut(t, f.nodes[0].store, p, "s", []byte("old"), shape)
		settle(t, f, p, "s", 1)
		a, b := f.client("a"), f.client("b")
		mustGet(t, a.store, p, "s", []byte("old"))
		mustGet(t, b.store, p, "s", []byte("old"))
		f.onlyReach(map[key.NodeID][]*fakeNode{a.id: f.nodes[:2], b.id: f.nodes[2:4]})
		gen := uint64(1)
		shape.IfGen = &gen
		var g sync.WaitGroup
		for i, w := range []*fakeNode{a, b} {
			g.Go(func() { vanish(t, w, p, "s", []byte{'a' + byte(i)}, shape) })
		}
		g.Wait()
		time.Sleep(time.Hour)
		h, _ := f.nodes[0].store.secret(p, "s")
		if n, _ := f.pendings(h.id); n != 4 {
			t.Fatalf("%d promises are left of 4", n)
		}
		mustGet(t, f.nodes[1].store, p, "s", []byte("old"))
		mustPut(t, f.nodes[1].store, p, "s", []byte("forced"), PutOptions{N: 4, K: 2})
		time.Sleep(time.Minute)
		mustGet(t, f.nodes[3].store, p, "s", []byte("forced"))
		if n, _ := f.pendings(h.id); n != 0 {
			t.Errorf("%d promises are left", n)
		}
	})
}

// TestCertificateToTheOldSeatsOnly: a writer that tells only the seats that let
// go of the old value, and vanishes, loses neither: they pass the certificate on
// to the seats that have the new one, though they keep none.
func TestCertificateToTheOldSeatsOnly(t *testing.T) {
	bubble(t, 10, func(t *testing.T, f *fakeNet, p Person) {
		ids := make([]key.NodeID, 10)
		for i := range ids {
			ids[i] = f.nodes[i].id
		}
		w := f.client("writer")
		mustPut(t, f.nodes[0].store, p, "s", []byte("old"), PutOptions{N: 5, K: 3, Holders: ids[:5]})
		settle(t, f, p, "s", 1)
		f.set(func(from, to key.NodeID, verb uint64) error {
			for _, n := range f.nodes[5:10] {
				if from == w.id && to == n.id && verb == custody.VerbCommit {
					return errLost
				}
			}
			return nil
		}, nil)
		vanish(t, w, p, "s", []byte("new"), PutOptions{N: 5, K: 3, Holders: ids[5:]})
		time.Sleep(2 * passEvery)
		mustGet(t, f.nodes[1].store, p, "s", []byte("new"))
		settle(t, f, p, "s", 2)
		for _, n := range f.nodes[:5] {
			x := n.store.cust.passing
			x.mu.Lock()
			if len(x.items) != 0 || x.seatless != 0 {
				t.Errorf("%d items are still passed on, %d counted", len(x.items), x.seatless)
			}
			x.mu.Unlock()
		}
	})
}
