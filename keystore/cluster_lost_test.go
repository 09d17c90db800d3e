package keystore

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// lostAnswers loses the first answer of the last two seats to a PREPARE of w,
// the first of them only after meanwhile has run.
func lostAnswers(f *fakeNet, w *fakeNode, meanwhile func()) {
	var mu sync.Mutex
	lost := make(map[key.NodeID]bool)
	done := make(chan struct{})
	f.set(nil, func(from, to key.NodeID, v uint64) error {
		if from != w.id || v != custody.VerbPrepare || to != f.nodes[3].id && to != f.nodes[4].id {
			return nil
		}
		mu.Lock()
		first := !lost[to]
		lost[to] = true
		mu.Unlock()
		if !first {
			return nil
		}
		if to == f.nodes[3].id {
			time.Sleep(time.Second) // the others have promised
			meanwhile()
			close(done)
		}
		<-done
		return errLost
	})
}

// A compare-and-set whose receipts others made a certificate, and then another
// generation followed: it was stored, whatever its writer's seats say by then.
// A retry is told the same, so that nobody applies it twice.
func TestOvertakenConditionIsStored(t *testing.T) {
	for _, later := range []int{1, 2} {
		bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
			w, other := f.nodes[0], f.add("other", "op6", "z6")
			other.member.Holder = false
			other.start()
			mustPut(t, w.store, p, "a", []byte("old"), PutOptions{})
			settle(t, f, p, "a", 1)
			lostAnswers(f, w, func() {
				mustGet(t, other.store, p, "a", []byte("mine"))
				for range later {
					mustPut(t, other.store, p, "a", []byte("theirs"), PutOptions{})
				}
			})
			gen := uint64(1)
			r, err := w.store.Put(context.Background(), p, "a", []byte("mine"), PutOptions{IfGen: &gen})
			if err != nil || r.Gen != 2 || !slices.Contains(r.Notes, "another write has already followed this one") {
				t.Fatalf("%d later: %+v %v", later, r, explain(err))
			}
			mustGet(t, w.store, p, "a", []byte("theirs"))
		})
	}
}

// With more generations in between than anybody shows, or a tombstone, nothing
// proves either: that is in doubt, now and for the retry, also after a restart.
func TestOvertakenConditionInDoubt(t *testing.T) {
	long(t)
	for name, then := range map[string]func(t *testing.T, s *Store, p Person){
		"three generations": func(t *testing.T, s *Store, p Person) {
			for range 3 {
				mustPut(t, s, p, "a", []byte("theirs"), PutOptions{})
				time.Sleep(time.Second)
			}
		},
		"a tombstone": func(t *testing.T, s *Store, p Person) {
			if _, err := s.Delete(context.Background(), p, "a", DeleteOptions{}); err != nil {
				t.Error(explain(err))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
				w, other := f.nodes[0], f.add("other", "op6", "z6")
				other.member.Holder = false
				other.start()
				mustPut(t, w.store, p, "a", []byte("old"), PutOptions{})
				settle(t, f, p, "a", 1)
				lostAnswers(f, w, func() {
					mustGet(t, other.store, p, "a", []byte("mine"))
					then(t, other.store, p)
				})
				gen := uint64(1)
				for i := range 3 {
					_, err := w.store.Put(context.Background(), p, "a", []byte("mine"), PutOptions{IfGen: &gen})
					var d *InDoubtError
					if !errors.As(err, &d) || d.Gen != 2 {
						t.Fatalf("try %d: %v", i, explain(err))
					}
					time.Sleep(10 * time.Minute)
					w.stop()
					w.start()
				}
				time.Sleep(25 * time.Hour)
				if n := w.shelf.count(share.BucketJournal); n != 0 {
					t.Errorf("%d journal records left", n)
				}
			})
		})
	}
}

// Who loses a compare-and-set against a certified one hears of a conflict, and
// nothing of it stays.
func TestLostConditionIsConflict(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		w, other := f.nodes[0], f.nodes[4]
		mustPut(t, w.store, p, "a", []byte("old"), PutOptions{})
		settle(t, f, p, "a", 1)
		f.set(func(from, to key.NodeID, _ uint64) error {
			if from == other.id && to == w.id {
				return errLost // w does not hear of it
			}
			return nil
		}, nil)
		mustPut(t, other.store, p, "a", []byte("theirs"), PutOptions{})
		gen := uint64(1)
		_, err := w.store.Put(context.Background(), p, "a", []byte("mine"), PutOptions{IfGen: &gen})
		var c *ConflictError
		var d *InDoubtError
		if !errors.As(err, &c) || errors.As(err, &d) {
			t.Fatalf("%v", explain(err))
		}
		time.Sleep(time.Minute)
		if n := w.shelf.count(share.BucketJournal); n != 0 {
			t.Errorf("%d journal records left", n)
		}
	})
}

// A put that passed an earlier attempt of its own and then cannot go on says
// that the earlier one is still on its way.
func TestEarlierAttemptInDoubt(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		w, x := f.nodes[0], f.nodes[4]
		mustPut(t, w.store, p, "a", []byte("old"), PutOptions{})
		settle(t, f, p, "a", 1)
		f.set(loseTo(custody.VerbPrepare, f.nodes[0], f.nodes[1], f.nodes[2]), nil)
		if _, err := x.store.Put(context.Background(), p, "a", []byte("other"), PutOptions{Timeout: time.Second}); err == nil {
			t.Fatal("stored at two seats")
		}
		f.set(func(from, to key.NodeID, v uint64) error {
			if from == x.id {
				return errLost
			}
			if from == w.id && v == custody.VerbLocate {
				for _, n := range f.nodes[1:4] {
					n.shelf.setFull(true)
				}
			}
			return nil
		}, nil)
		_, err := w.store.Put(context.Background(), p, "a", []byte("mine"), PutOptions{})
		var d *InDoubtError
		if !errors.As(err, &d) || d.Gen != 2 {
			t.Fatalf("%v", explain(err))
		}
	})
}
