package keystore

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// TestReplayShowsNothing: a member without rights that sends an old manifest of
// somebody else's again learns only that something as high is there.
func TestReplayShowsNothing(t *testing.T) {
	m := newHMesh(t, 5, Limits{})
	w := m.hWorld
	one := w.deal(t, hSpec{gen: 1, tag: "one"})
	first := m.put(w, one, nil, 0, 1, 2)
	m.commitAll(first, 0, 1, 2)
	two := w.deal(t, hSpec{gen: 2, tag: "two", prev: one})
	m.commitAll(m.put(w, two, []*hDeal{one}, 0, 1, 2), 0, 1, 2)
	three := w.deal(t, hSpec{gen: 3, tag: "three", prev: two})
	m.prepareAt(w, 0, 1, three)

	nothing := key.Encode(custody.State{Floor: custody.Floor{Gen: 2}})
	for from, want := range map[int]bool{0: true, 2: true, 3: false, 4: false} {
		prepared := m.prepareAt(w, from, 1, one)
		committed := m.commitAt(from, 1, first)
		for _, there := range []custody.State{prepared.There, committed.There} {
			if got := !bytes.Equal(key.Encode(there), nothing); got != want {
				t.Errorf("from node %d: shown %v: %+v", from, got, there)
			}
		}
		if prepared.Outcome != custody.Conflict || committed.Outcome != custody.Conflict {
			t.Fatalf("outcomes %d %d", prepared.Outcome, committed.Outcome)
		}
	}
	// What its owner has just signed is above all of it: a writer at node 4.
	other := w.deal(t, hSpec{gen: 9, tag: "other", prev: two})
	if r := m.prepareAt(w, 4, 1, other); r.Outcome != custody.Conflict || len(r.There.Pending) != 1 {
		t.Fatalf("%d: %+v", r.Outcome, r.There)
	}
}

// TestForcedSeatOfWhatIsCommitted: a seat of what force names signs for its
// successor also where that is committed, not only pending.
func TestForcedSeatOfWhatIsCommitted(t *testing.T) {
	w := newHWorld(t, 7)
	one := w.deal(t, hSpec{gen: 1, tag: "one"})
	twin := w.deal(t, hSpec{gen: 1, tag: "twin", seats: []int{3, 4, 5}})
	s := w.must(t, w.fresh(), w.fresh().prepare(w.facts(3), w.msg(twin, 3)))
	s = w.must(t, s, s.commit(w.facts(3), w.cert(twin, nil, 3, 4, 5)))
	heal := w.deal(t, hSpec{gen: 2, tag: "heal", prev: one, force: []*hDeal{twin}, seats: []int{0, 1, 2}})
	msg := w.msg(heal, 3)
	c := w.cert(one, nil, 0, 1, 2).certificate
	msg.prev = &c
	s = w.must(t, s, s.prepare(w.facts(3), msg))
	if len(s.pending) != 1 || s.pending[0].x != 0 {
		t.Fatalf("%+v", s.pending)
	}
	stranger := w.deal(t, hSpec{gen: 2, tag: "stranger", prev: twin})
	msg = w.msg(stranger, 6)
	refused(t, w.fresh().prepare(w.facts(6), msg), custody.Refused)
}

// TestDawdlerDelaysItsOwnNoticesOnly: a node that takes all the time there is
// for each notice does not hold up what others are told.
func TestDawdlerDelaysItsOwnNoticesOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, boxes := newNWorld(t)
		slow := &fakeInbox{}
		w.nodes[2].inbox = func(ctx context.Context, from key.NodeID, q *custody.Notify) (*custody.NotifyReply, error) {
			slow.take(ctx, from, q)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { defer close(ended); w.nodes[1].tell(ctx) }()
		for i := range 6 { // each takes the slow node notifyTimeout
			r, _ := w.asks(w.a, nil)
			w.mustAt(1, r, custody.Denied)
			time.Sleep(100 * time.Millisecond)
			if len(boxes[0].stages()) != i+1 {
				t.Errorf("request %d: the owner has %d notices while another node dawdles", i, len(boxes[0].stages()))
			}
		}
		if len(slow.stages()) == 0 {
			t.Error("the slow node was not told")
		}
		cancel()
		<-ended
	})
}

// TestWriterWithoutSeat: a writer at a node without a seat that is behind finds
// out what is there by asking, and goes on.
func TestWriterWithoutSeat(t *testing.T) {
	bubble(t, 5, func(t *testing.T, f *fakeNet, p Person) {
		for _, name := range []string{"one", "two"} {
			c := f.add(name, "op "+name, "z "+name)
			c.member.Holder = false
			c.start()
		}
		a, b := f.nodes[5].store, f.nodes[6].store
		for i := range 3 {
			mustPut(t, a, p, "s", []byte{byte(i)}, PutOptions{})
			mustPut(t, b, p, "s", []byte{byte(i), 1}, PutOptions{})
			mustPut(t, b, p, "s", []byte{byte(i), 2}, PutOptions{})
		}
		gen := uint64(1)
		_, err := a.Put(context.Background(), p, "s", []byte("late"), PutOptions{IfGen: &gen})
		if _, ok := asConflict(err); !ok {
			t.Errorf("a compare-and-set that is behind: %v", explain(err))
		}
		mustGet(t, a, p, "s", []byte{2, 2})
		// Nothing of theirs stays in their journals for ever.
		time.Sleep(20 * time.Minute)
		for _, n := range f.nodes[5:] {
			if c := n.shelf.count(share.BucketJournal); c != 0 {
				t.Errorf("%s: %d records in the journal", n.member.Name, c)
			}
		}
	})
}

func asConflict(err error) (*ConflictError, bool) {
	e, ok := err.(*ConflictError)
	return e, ok
}
