package keystore

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// putBack stops a node, puts an earlier disk in, and starts it again; known says
// whether peers can tell.
func (n *fakeNode) putBack(disk map[share.Place][]byte, known bool) {
	n.stop()
	n.shelf.mu.Lock()
	n.shelf.recs = maps.Clone(disk)
	n.shelf.mu.Unlock()
	n.rolled = known
	n.start()
}

// TestRolledBackCatchesUp: a seat whose disk was put back asks the others,
// repairs its row, and serves again, also after another restart.
func TestRolledBackCatchesUp(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		mustPut(t, f.nodes[0].store, p, "a", []byte("one"), PutOptions{})
		mustPut(t, f.nodes[0].store, p, "gone", []byte("one"), PutOptions{})
		settle(t, f, p, "a", 1)
		settle(t, f, p, "gone", 1)
		old := f.nodes[4].shelf.dump()
		mustPut(t, f.nodes[0].store, p, "a", []byte("two"), PutOptions{})
		mustPut(t, f.nodes[0].store, p, "new", []byte("three"), PutOptions{})
		if _, err := f.nodes[0].store.Delete(context.Background(), p, "gone", DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		settle(t, f, p, "a", 2)
		settle(t, f, p, "new", 1)
		f.nodes[4].putBack(old, true)
		time.Sleep(2 * time.Hour)
		s := f.nodes[4].store
		for name, gen := range map[string]uint64{"a": 2, "new": 1} {
			v, err := f.nodes[1].store.Verify(context.Background(), p, name, 0)
			if err != nil || v.Gen != gen || v.Good != 5 {
				t.Errorf("%s: %+v %v", name, v, err)
			}
		}
		h, _ := s.secret(p, "gone")
		if st, err := s.cust.peek(context.Background(), h.id); err != nil || st.deletedUpTo() != 1 || st.committed != nil {
			t.Errorf("the deleted one: %+v %v", st, err)
		}
		if n := s.Recalling(); n != 0 {
			t.Errorf("%d secrets still wait", n)
		}
		f.nodes[4].rolled = false // the next run's peers have nothing new to show
		f.nodes[4].stop()
		f.nodes[4].start()
		time.Sleep(time.Minute)
		r := mustPut(t, f.nodes[0].store, p, "a", []byte("four"), PutOptions{})
		settle(t, f, p, "a", r.Gen)
	})
}

// TestRolledBackForgets is the attack: a seat promises A, forgets it with its
// disk, and is asked to promise B, which excludes A. Where nobody can tell that
// the disk is an older one it signs both.
func TestRolledBackForgets(t *testing.T) {
	for _, known := range []bool{false, true} {
		bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
			mustPut(t, f.nodes[0].store, p, "a", []byte("old"), PutOptions{})
			settle(t, f, p, "a", 1)
			time.Sleep(time.Minute)
			seat := f.nodes[3]
			old := seat.shelf.dump()
			first, second := f.client("first"), f.client("second")
			f.onlyReach(map[key.NodeID][]*fakeNode{first.id: f.nodes[1:4], second.id: f.nodes[3:]})
			vanish(t, first, p, "a", []byte("A"), PutOptions{IfGen: new(uint64(1))})
			seat.putBack(old, known)
			only := f.watch
			f.set(func(from, to key.NodeID, verb uint64) error {
				if verb == custody.VerbLocate && from == second.id && (to == f.nodes[1].id || to == f.nodes[2].id) {
					return errLost // who would tell the writer of A
				}
				return only(from, to, verb)
			}, nil)
			time.Sleep(20 * time.Second)
			_, err := second.store.Put(context.Background(), p, "a", []byte("B"), PutOptions{IfGen: new(uint64(1)), Timeout: 5 * time.Second})
			if err == nil {
				t.Fatal("B was stored")
			}
			h, _ := seat.store.secret(p, "a")
			st, err := seat.store.cust.peek(context.Background(), h.id)
			if err != nil {
				t.Fatal(err)
			}
			both := false
			for _, e := range st.pending {
				both = both || e.promised != 0
			}
			if both == known {
				t.Errorf("known=%v: it has a promise to B: %v", known, both)
			}
			if known && len(st.live()) != 1 {
				t.Errorf("it holds %d promises of others in mind", len(st.live()))
			}
		})
	}
}

// TestRolledBackAlone: while too few seats can be asked nothing is signed, of
// secrets that are here and of those that are not, and nothing is released to
// others than the owner.
func TestRolledBackAlone(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		mustPut(t, f.nodes[0].store, p, "a", []byte("old"), PutOptions{})
		settle(t, f, p, "a", 1)
		seat := f.nodes[4]
		for _, o := range f.nodes[1:4] {
			f.separate(seat, o)
		}
		seat.putBack(seat.shelf.dump(), true)
		time.Sleep(time.Minute)
		f.nodes[3].stop() // now w needs its promise
		for _, name := range []string{"a", "b"} {
			if r, err := f.nodes[0].store.Put(context.Background(), p, name, []byte("new"), PutOptions{New: true, Timeout: 5 * time.Second}); err == nil {
				t.Errorf("%s: %+v", name, r)
			}
		}
		if seat.store.Recalling() == 0 {
			t.Error("nothing waits")
		}
		mustGet(t, f.nodes[0].store, p, "a", []byte("old"))
		h, _ := seat.store.secret(p, "a")
		st, _ := seat.store.cust.peek(context.Background(), h.id)
		facts := seat.store.cust.facts(f.nodes[0].id)
		for _, other := range []bool{false, true} {
			who := &consent{SignedRequest: &share.SignedRequest{Request: share.Request{ID: h.id, Person: p.Key.Public()}}}
			if other {
				st = st.clone() // a secret that this person has a say in and somebody else owns
				st.owner = newPerson().Key.Public()
			}
			if _, _, why := st.release(facts, who); (why == whyRestored) != other {
				t.Errorf("other=%v: %q", other, why)
			}
		}
		f.nodes[3].start()
		f.heal()
		time.Sleep(30 * time.Minute)
		settle(t, f, p, "a", 2)
		settle(t, f, p, "b", 1)
	})
}

// TestRecallIsForSeats: others hear nothing, the same as of an unknown secret.
func TestRecallIsForSeats(t *testing.T) {
	f := newFakeNet(t, 4)
	p := newPerson()
	to := []key.NodeID{f.nodes[0].id, f.nodes[1].id, f.nodes[2].id}
	r := mustPut(t, f.nodes[0].store, p, "a", []byte("v"), PutOptions{Holders: to, N: 3, K: 2})
	ask := func(from int, id key.Hash) custody.RecallReply {
		t.Helper()
		b, err := f.nodes[1].store.Answer(context.Background(), f.nodes[from].id, custody.VerbRecall, key.Marshal(&custody.Recall{ID: id}))
		var out custody.RecallReply
		if err = errors.Join(err, key.Unmarshal(b, &out)); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := ask(0, r.ID); got.Outcome != custody.OK || len(got.State.Manifest) == 0 {
		t.Errorf("a seat: %d", got.Outcome)
	}
	stranger, unknown := ask(3, r.ID), ask(3, key.Hash{9})
	if stranger.Outcome != custody.Denied || string(key.Marshal(&stranger)) != string(key.Marshal(&unknown)) {
		t.Errorf("a stranger: %+v", stranger)
	}
}

// TestRecalledRefusal: what others have signed Refused for is neither promised
// nor refused by a seat that may have done either.
func TestRecalledRefusal(t *testing.T) {
	s := &secretState{id: key.Hash{1}, floor: custody.Floor{Gen: 3}}
	r := s.heardNever(key.Hash{9}, 4)
	if r.next == nil || r.next.markOf(key.Hash{9}).State != markDead {
		t.Fatalf("%+v", r)
	}
	m := &version{SignedManifest: &share.SignedManifest{Manifest: share.Manifest{Gen: 4}, Hash: key.Hash{9}}}
	if got, ok := r.next.settling(m); !ok || got.outcome != custody.Refused || got.sign != nil {
		t.Errorf("a PREPARE: %+v %v", got, ok)
	}
	if got := r.next.settleWord(holderFacts{}, settleMsg{m: m}); got.sign != nil || got.word == custody.WordRefused || got.word == custody.WordPrepared {
		t.Errorf("a SETTLE: %+v", got)
	}
	if r := s.heardNever(key.Hash{9}, 3); r.next != nil {
		t.Error("of what is there already")
	}
}
