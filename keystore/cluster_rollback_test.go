package keystore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// rollBack makes nodes what they were at an earlier backup, cut off from all
// but the reader and quicker than the honest.
func rollBack(f *fakeNet, reader *fakeNode, liars []*fakeNode, backup []map[share.Place][]byte) {
	lies := func(id key.NodeID) bool {
		return slices.ContainsFunc(liars, func(n *fakeNode) bool { return n.id == id })
	}
	f.set(func(from, to key.NodeID, _ uint64) error {
		if lies(from) || lies(to) && from != reader.id {
			return errLost
		}
		if !lies(to) {
			time.Sleep(400 * time.Millisecond)
		}
		return nil
	}, nil)
	for i, l := range liars {
		l.stop()
		l.shelf.mu.Lock()
		l.shelf.recs = backup[i]
		l.shelf.mu.Unlock()
		l.start()
	}
}

// As many liars as a shape allows cannot give a reader that has nothing of its
// own an older generation, even when their rows alone would be enough; nor can
// they after a try that failed.
func TestLiarsCannotRollBack(t *testing.T) {
	for _, shape := range [][2]int{{5, 3}, {5, 2}, {4, 2}, {6, 2}} {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprint(shape, away), func(t *testing.T) {
				bubble(t, shape[0], func(t *testing.T, f *fakeNet, p Person) {
					o := PutOptions{N: shape[0], K: shape[1]}
					r := mustPut(t, f.nodes[0].store, p, "a", []byte("old"), o)
					settle(t, f, p, "a", 1)
					liars := f.nodes[:r.W-r.K]
					var backup []map[share.Place][]byte
					for _, l := range liars {
						backup = append(backup, l.shelf.dump())
					}
					mustPut(t, f.nodes[0].store, p, "a", []byte("new"), o)
					settle(t, f, p, "a", 2)
					time.Sleep(time.Minute)
					reader := f.add("reader", "op9", "z9")
					reader.member.Holder = false
					rollBack(f, reader, liars, backup)
					if away {
						for _, n := range f.nodes[len(liars):shape[0]] {
							n.stop()
						}
					}
					reader.start()
					for range 3 {
						time.Sleep(time.Second)
						g, err := reader.store.Recover(context.Background(), p, "a", RecoverOptions{})
						var q *QuorumError
						if away && !errors.As(err, &q) || !away && (err != nil || string(g.Value) != "new") {
							t.Fatalf("%q of generation %d, %v", g.Value, g.Gen, explain(err))
						}
					}
				})
			})
		}
	}
}

// Where n-k holders are lost, the k that are left are enough for whoever has
// put or read the generation before, also after a restart, and for everybody
// who names it; others are told that.
func TestRowsOfFewHolders(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		reader := f.add("reader", "op9", "z9")
		reader.member.Holder = false
		reader.start()
		mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{N: 5, K: 2})
		settle(t, f, p, "a", 1)
		mustGet(t, f.nodes[1].store, p, "a", []byte("v"))
		time.Sleep(time.Second)
		for _, n := range f.nodes[2:5] {
			n.stop()
		}
		for _, n := range f.nodes[:2] {
			mustGet(t, n.store, p, "a", []byte("v"))
			n.stop()
			n.start()
		}
		for _, n := range f.nodes[:2] {
			mustGet(t, n.store, p, "a", []byte("v"))
		}
		for range 2 {
			_, err := reader.store.Recover(context.Background(), p, "a", RecoverOptions{})
			var q *QuorumError
			if !errors.As(err, &q) || q.Need != 4 || q.Have != 2 {
				t.Fatalf("%v", explain(err))
			}
		}
		r, err := reader.store.Recover(context.Background(), p, "a", RecoverOptions{Gen: 1})
		if err != nil || string(r.Value) != "v" {
			t.Fatalf("%q %v", r.Value, explain(err))
		}
	})
}

// One holder that says "denied" while all others are away proves nothing.
func TestOneDenial(t *testing.T) {
	for _, liars := range []int{1, 2} {
		bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
			reader := f.add("reader", "op9", "z9")
			reader.member.Holder = false
			reader.start()
			mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{})
			settle(t, f, p, "a", 1)
			for i, n := range f.nodes[:5] {
				if i >= liars {
					n.stop()
					continue
				}
				n.lies(func(_ context.Context, _ key.NodeID, verb uint64, _ []byte, call func() ([]byte, error)) ([]byte, error) {
					if verb == custody.VerbRecover {
						return key.Marshal(&custody.RecoverReply{Outcome: custody.Denied}), nil
					}
					return call()
				})
			}
			_, err := reader.store.Recover(context.Background(), p, "a", RecoverOptions{})
			var q *QuorumError
			if liars == 1 && (!errors.As(err, &q) || errors.Is(err, ErrDenied)) || liars > 1 && !errors.Is(err, ErrDenied) {
				t.Fatalf("%d deny: %v", liars, explain(err))
			}
		})
	}
}
